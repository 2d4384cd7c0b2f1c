"""Hair as geometry: locks and masses in head coordinates, built once for an identity.

A lock is a centre line with a width that closes to a point; a mass is a plain outline. Which
lock hangs where is what makes a hairstyle. No colours, no pixels here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.data.painter.curves import Array, normals, spline
from pipeline.data.painter.identity import Hair
from pipeline.data.painter.pose import Frame

HAIR_FLAT = 0.12  # a head of hair is round: it hardly narrows when turned


@dataclass(frozen=True)
class Lock:
    """A strand of hair: centre line (n×2), full width at each point, depth at each point."""

    line: Array
    width: Array
    depth: Array
    flatness: float = 0.6

    def edges(self, frame: Frame) -> tuple[Array, Array]:
        """Both long edges from root to tip (px); they meet at the tip of a pointed lock."""
        side = normals(self.line) * (0.5 * self.width)[:, None]
        return (
            frame.head(self.line + side, self.depth, self.flatness),
            frame.head(self.line - side, self.depth, self.flatness),
        )


@dataclass(frozen=True)
class Mass:
    """A closed outline (n×2) at one depth: the skull's cap or the hair behind the head."""

    outline: Array
    depth: float


@dataclass(frozen=True)
class HairShapes:
    """All hair of an identity, back to front."""

    back_masses: tuple[Mass, ...]
    back_locks: tuple[Lock, ...]
    tails: tuple[Lock, ...]  # bound hair, painted behind the shoulders
    ties: tuple[tuple[float, float], ...]  # where tails are bound
    cap: Mass
    sides: tuple[Lock, ...]  # before the ears
    fringe: tuple[Lock, ...]
    ahoge: tuple[Lock, ...]


def _lock(
    knots: list[tuple[float, float]],
    width: float,
    depth: tuple[float, float],
    *,
    blunt: bool = False,
    curl: float = 0.0,
    flatness: float = 0.6,
    samples: int = 5,
    swell: float = 0.35,
) -> Lock:
    line = spline(np.array(knots), samples)
    t = np.linspace(0, 1, len(line))
    if curl:
        wave = curl * 0.07 * np.sin(2 * np.pi * (1.6 * t + 0.1)) * t
        line = line + normals(line) * wave[:, None]
    if blunt:
        shape = 0.92 + 0.08 * np.sin(np.pi * t)
    else:
        shape = (0.8 + swell * np.sin(np.pi * np.minimum(1.0, t * 1.15))) * (1 - t**2.3) ** 0.9
    return Lock(line, width * shape, np.interp(t, [0, 1], depth), flatness)


def _mirrored(lock: Lock) -> Lock:
    return Lock(lock.line * (-1, 1), lock.width, lock.depth, lock.flatness)


@lru_cache(maxsize=64)
def build_hair(hair: Hair) -> HairShapes:
    """The hair of one identity; the same for every pose and expression."""
    rng = np.random.default_rng(hair.seed)
    cap = _cap(hair)
    fringe = _FRINGES[hair.fringe](hair, rng)
    sides = _sides(hair, rng)
    masses, locks, tails, ties = _back(hair, rng)
    ahoge = _ahoge(hair, rng)
    if hair.mirrored:
        fringe = [_mirrored(lock) for lock in fringe]
        ahoge = [_mirrored(lock) for lock in ahoge]
    return HairShapes(
        tuple(masses), tuple(locks), tuple(tails), tuple(ties), cap, tuple(sides), tuple(fringe),
        tuple(ahoge),
    )  # fmt: skip


def _cap(hair: Hair) -> Mass:
    v = hair.volume
    right = [
        (0.50 * v, -1.50 * v), (0.90 * v, -1.20 * v), (1.12 * v, -0.72), (1.15 * v, -0.30),
        (1.08 * v, 0.02),
    ]  # fmt: skip
    crown = (0.0, -1.60 * v)
    left = [(-x, y) for x, y in right]
    top = spline(np.array([*left[::-1], crown, *right]), 6)
    hairline = spline(
        np.array([(0.98, 0.0), (0.94, -0.45), (0.70, -0.78), (0.0, -0.90), (-0.70, -0.78),
                  (-0.94, -0.45), (-0.98, 0.0)]), 5)  # fmt: skip
    return Mass(np.concatenate([top, hairline]), 0.08)


# --- fringes -------------------------------------------------------------------------------------


def _strand(
    hair: Hair,
    root: tuple[float, float],
    tip: tuple[float, float],
    width: float,
    bow: float,
    *,
    blunt: bool = False,
) -> Lock:
    """A fringe lock from the parting to its tip; `bow` pushes its middle sideways."""
    (x0, y0), (x1, y1) = root, tip
    middle = (0.45 * x0 + 0.55 * x1 + bow, 0.5 * (y0 + y1) - 0.06)
    near_tip = (0.14 * x0 + 0.86 * x1 + 0.75 * bow, 0.2 * y0 + 0.8 * y1)
    return _lock(
        [root, middle, near_tip, tip], width, (0.42, 0.72 - 0.30 * x1 * x1), blunt=blunt,
        curl=0.5 * hair.curl,
    )  # fmt: skip


def _root(part: float, u: float) -> tuple[float, float]:
    """Where the lock of place u (-1..1) leaves the parting."""
    return (part * 0.8 + 0.55 * u, -1.34 + 0.20 * u * u)


def _tufts(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """Separate pointed tufts, the classic: outer ones first, the middle one in front."""
    places = np.array([-0.86, -0.52, -0.18, 0.16, 0.5, 0.84])
    locks = []
    for place in places:
        u = float(place + rng.uniform(-0.05, 0.05))
        tip_y = -0.30 + 0.26 * u * u + hair.fringe_length + float(rng.uniform(-0.07, 0.07))
        lean = 0.10 + 0.05 * float(rng.uniform(-1, 1))
        locks.append(
            (
                abs(u),
                _strand(
                    hair,
                    _root(hair.part * 0.4, u * 0.9),
                    (0.98 * u + lean, tip_y),
                    0.46,
                    0.06 * np.sign(u),
                ),
            )
        )
    locks.sort(key=lambda item: -item[0])
    return [lock for _, lock in locks]


def _swept(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """All hair combed to one side from a parting on the other."""
    locks = []
    part = -0.45
    for index, u in enumerate(np.linspace(0.95, -0.35, 6)):
        tip_y = -0.32 + 0.30 * u * u + hair.fringe_length + float(rng.uniform(-0.05, 0.05))
        root = (part + 0.32 * (u + 0.35), -1.36 + 0.05 * abs(u))
        locks.append(_strand(hair, root, (float(u) + 0.14, tip_y), 0.50, 0.16 - 0.02 * index))
    # The short side.
    for u in (-0.92, -0.66):
        locks.append(
            _strand(
                hair,
                (part - 0.12, -1.28),
                (u, -0.06 + 0.2 * (abs(u) - 0.66) + hair.fringe_length),
                0.42,
                -0.12,
            )
        )
    return locks


def _parted(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """Two curtains that leave a wedge of forehead, with one thin lock across the gap."""
    part = hair.part * 0.5
    locks = []
    for side in (-1, 1):
        for u, length in ((0.92, 0.12), (0.66, -0.06), (0.40, -0.26)):
            tip = (
                side * u + part * 0.3,
                length + hair.fringe_length + float(rng.uniform(-0.05, 0.05)),
            )
            locks.append(
                _strand(hair, (part + side * 0.13 * (1 + u), -1.34), tip, 0.47, side * 0.16)
            )
    locks.append(
        _strand(hair, (part, -1.30), (part + 0.10, -0.02 + hair.fringe_length), 0.24, -0.10)
    )
    return locks


def _blunt(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """Cut straight above the eyes."""
    locks = []
    for u in (-0.80, 0.80, -0.48, 0.48, -0.16, 0.16):
        tip_y = -0.36 + 0.05 * u * u + 0.6 * hair.fringe_length + float(rng.uniform(-0.012, 0.012))
        locks.append(
            _strand(hair, _root(0.0, u * 0.8), (0.98 * u, tip_y), 0.36, 0.05 * u, blunt=True)
        )
    for side in (-1, 1):
        locks.append(_strand(hair, _root(0.0, side * 0.9), (side * 0.99, 0.14), 0.30, side * 0.14))
    return locks


def _messy(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """Many narrow spikes in changing directions."""
    locks = []
    for u in rng.permutation(np.linspace(-0.92, 0.92, 9)):
        tip_y = -0.26 + 0.22 * u * u + hair.fringe_length + float(rng.uniform(-0.14, 0.10))
        lean = float(rng.uniform(-0.14, 0.14))
        root = _root(hair.part * 0.3, float(u) * 0.8)
        locks.append(
            _strand(hair, root, (float(u) + lean, tip_y), 0.38, float(rng.uniform(-0.08, 0.08)))
        )
    return locks


def _centre(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """A long lock between the eyes, shorter ones beside it."""
    locks = []
    for u, y in (
        (-0.88, 0.02),
        (0.88, 0.02),
        (-0.60, -0.16),
        (0.60, -0.16),
        (-0.32, -0.32),
        (0.32, -0.32),
    ):
        tip_y = y + hair.fringe_length + float(rng.uniform(-0.04, 0.04))
        locks.append(_strand(hair, _root(0.0, u * 0.8), (u * 1.06, tip_y), 0.42, 0.09 * np.sign(u)))
    locks.append(_strand(hair, (0.0, -1.36), (0.05, 0.10 + hair.fringe_length), 0.42, -0.05))
    return locks


def _wispy(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """Thin, light strands in pairs that show the forehead."""
    locks = []
    for u in (-0.9, 0.9, -0.62, 0.62, -0.30, 0.34, 0.02):
        for offset, width in ((0.0, 0.36), (0.13, 0.17)):
            v = u + offset * (1 if u <= 0 else -1)
            tip_y = -0.30 + 0.24 * v * v + hair.fringe_length + float(rng.uniform(-0.10, 0.06))
            root = _root(hair.part * 0.5, v * 0.8)
            locks.append(_strand(hair, root, (v + 0.05, tip_y + 0.5 * offset), width, 0.07))
    return locks


_FRINGES = {
    "tufts": _tufts,
    "swept": _swept,
    "parted": _parted,
    "blunt": _blunt,
    "messy": _messy,
    "centre": _centre,
    "wispy": _wispy,
}


# --- before the ears -----------------------------------------------------------------------------


def _sides(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    length = hair.side_length
    if hair.back == "short":
        length = min(length, 0.75)
    locks = []
    for side in (-1, 1):
        wobble = float(rng.uniform(-0.04, 0.04))
        outer = [
            (side * 0.98, -0.85), (side * 1.10, -0.25), (side * 1.07, 0.30 * length),
            (side * (0.97 + wobble), 0.15 + 0.95 * length),
        ]  # fmt: skip
        inner = [
            (side * 0.86, -0.80), (side * 0.99, -0.25), (side * 0.955, 0.22 * length),
            (side * (0.86 + wobble), 0.02 + 0.62 * length),
        ]  # fmt: skip
        if hair.back == "hime":
            # The princess cut's cheek-long, straight-cut side pieces.
            blunt = [
                (side * 0.98, -0.85),
                (side * 1.04, -0.2),
                (side * 1.02, 0.3),
                (side * 1.0, 0.78),
            ]
            locks.append(_lock(blunt, 0.34, (0.12, 0.16), blunt=True, flatness=0.3))
            continue
        locks.append(
            _lock(outer, 0.30, (0.10, 0.10), curl=1.5 * hair.curl, flatness=0.25, samples=6)
        )
        locks.append(_lock(inner, 0.20, (0.20, 0.22), curl=hair.curl, flatness=0.35))
    return locks


# --- behind the head -----------------------------------------------------------------------------

_Back = tuple[list[Mass], list[Lock], list[Lock], list[tuple[float, float]]]


def _dome(hair: Hair, sides: list[tuple[float, float]], bottom: list[tuple[float, float]]) -> Mass:
    """A mass from the crown down both sides (x ≥ 0, mirrored) with a given lower edge."""
    v = hair.volume
    right = [(0.55 * v, -1.48 * v), (0.98 * v, -1.16 * v), (1.18 * v, -0.70), *sides]
    top = spline(np.array([*[(-x, y) for x, y in right[::-1]], (0.0, -1.60 * v), *right]), 6)
    return Mass(np.concatenate([top, np.array(bottom).reshape(-1, 2)]), -0.30)


def _hanging(
    hair: Hair,
    rng: np.random.Generator,
    xs: np.ndarray,
    top: float,
    tip: float,
    width: float,
    spread: float,
) -> list[Lock]:
    """Pointed locks hanging side by side behind the shoulders."""
    locks = []
    for x in xs:
        end = tip + float(rng.uniform(-0.10, 0.10))
        out = float(x) * spread
        knots = [(0.85 * float(x), top), (float(x), 0.5 * (top + end)), (out, end)]
        locks.append(_lock(knots, width, (-0.30, -0.30), curl=1.4 * hair.curl, flatness=HAIR_FLAT))
    return locks


def _back(hair: Hair, rng: np.random.Generator) -> _Back:
    style, v = hair.back, hair.volume
    masses: list[Mass] = []
    locks: list[Lock] = []
    tails: list[Lock] = []
    ties: list[tuple[float, float]] = []
    if style == "bob":
        masses.append(
            _dome(
                hair,
                [(1.26 * v, -0.2), (1.28 * v, 0.35), (1.16 * v, 0.85)],
                [(0.6, 0.9), (-0.6, 0.9)],
            )
        )
        locks += _hanging(
            hair, rng, np.array([-1.06, 1.06, -0.72, 0.72, -0.3, 0.3]), 0.1, 1.14, 0.50, 0.93
        )
    elif style == "short":
        masses.append(
            _dome(
                hair, [(1.20 * v, -0.25), (1.14 * v, 0.2), (0.95, 0.5)], [(0.5, 0.6), (-0.5, 0.6)]
            )
        )
        for side in (-1, 1):
            for y, out in ((-0.25, 1.36), (0.10, 1.36), (0.42, 1.22)):
                knots = [
                    (side * 0.9, y - 0.35),
                    (side * 1.12, y - 0.1),
                    (side * (out + float(rng.uniform(-0.05, 0.05))), y + 0.26),
                ]
                locks.append(_lock(knots, 0.34, (-0.2, -0.25), flatness=HAIR_FLAT))
        locks += _hanging(hair, rng, np.array([-0.6, 0.6, -0.2, 0.2]), 0.2, 0.98, 0.40, 0.9)
    elif style in ("long", "hime", "wavy"):
        curl = 1.0 if style == "wavy" else 0.0
        spread = 1.5 if style == "wavy" else 1.3
        y = np.array([-0.2, 0.35, 0.9, 1.5, 2.1, 2.7])
        wave = 0.06 * curl * np.sin(y * 4.2)
        x = (1.22 + 0.10 * (y + 0.2) * (spread - 1) / 0.3 * 0.5) * v + wave
        side_line = list(zip(x.tolist(), y.tolist(), strict=True))
        masses.append(_dome(hair, side_line, [(0.5, 2.9), (-0.5, 2.9)]))
        wavy = Hair(**{**hair.__dict__, "curl": max(hair.curl, curl)})
        locks += _hanging(wavy, rng, np.array([-1.12, 1.12, -0.84, 0.84]), 0.2, 2.7, 0.46, 1.25)
    elif style in ("twintails", "low_tails", "buns", "ponytail", "braids"):
        masses.append(
            _dome(
                hair,
                [(1.18 * v, -0.25), (1.10 * v, 0.25), (0.92, 0.6)],
                [(0.5, 0.75), (-0.5, 0.75)],
            )
        )
        _bound(hair, rng, tails, ties)
    return masses, locks, tails, ties


def _bound(
    hair: Hair, rng: np.random.Generator, tails: list[Lock], ties: list[tuple[float, float]]
) -> None:
    """Hair that is tied: adds its locks to `tails` and its bindings to `ties`."""
    style = hair.back
    depth = (-0.15, -0.25)
    curl = 0.5 + hair.curl
    if style == "twintails":
        for side in (-1, 1):
            ties.append((side * 1.10, -0.82))
            for out, end, width in ((1.98, 1.35, 0.36), (1.55, 2.15, 0.40), (1.75, 1.85, 0.50)):
                knots = [
                    (side * 1.06, -0.84),
                    (side * (0.35 + 0.66 * out), -0.62),
                    (side * out, 0.25),
                    (side * (out - 0.1), end),
                ]
                tails.append(
                    _lock(knots, width, depth, curl=curl, flatness=HAIR_FLAT, samples=7, swell=0.6)
                )
    elif style == "low_tails":
        for side in (-1, 1):
            ties.append((side * 1.02, 0.72))
            for out, end, width in ((1.42, 1.75, 0.30), (1.12, 2.25, 0.34), (1.24, 2.05, 0.40)):
                knots = [
                    (side * 0.98, 0.62),
                    (side * (out - 0.06), 0.95),
                    (side * out, 1.45),
                    (side * (out - 0.12), end),
                ]
                tails.append(
                    _lock(knots, width, depth, curl=curl, flatness=HAIR_FLAT, samples=6, swell=0.6)
                )
    elif style == "buns":
        for side in (-1, 1):
            ties.append((side * 0.84, -1.20))
            for turn in range(2):
                knots = [
                    (side * (0.80 + 0.02 * turn), -1.05),
                    (side * 1.12, -1.22),
                    (side * (1.06 - 0.1 * turn), -1.56),
                ]
                tails.append(_lock(knots, 0.44, (-0.1, -0.1), flatness=HAIR_FLAT, blunt=True))
    elif style == "ponytail":
        side = -1 if hair.mirrored else 1
        ties.append((side * 0.55, -1.38))
        for out, end, width in ((1.85, 0.75, 0.34), (1.45, 1.65, 0.44), (1.68, 1.35, 0.52)):
            knots = [
                (side * 0.45, -1.36),
                (side * (0.45 + 0.55 * out), -1.42),
                (side * out, -0.35),
                (side * (out - 0.22), end),
            ]
            tails.append(
                _lock(knots, width, depth, curl=curl, flatness=HAIR_FLAT, samples=7, swell=0.6)
            )
    else:  # braids: a chain of overlapping knots on each side
        for side in (-1, 1):
            ties.append((side * 1.20, 2.02))
            for index, y in enumerate(np.arange(0.55, 2.0, 0.23)):
                x = side * (1.08 + 0.05 * np.sin(3 * y))
                lean = 0.10 * (1 if index % 2 else -1)
                knots = [(x - lean, y - 0.10), (x - 0.2 * lean, y + 0.06), (x + lean, y + 0.26)]
                tails.append(_lock(knots, 0.30, depth, flatness=HAIR_FLAT, samples=4))
            knots = [(side * 1.18, 2.0), (side * 1.22, 2.2), (side * 1.2, 2.5)]
            tails.append(_lock(knots, 0.26, depth, flatness=HAIR_FLAT))


def _ahoge(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    if hair.ahoge <= 0:
        return []
    size = hair.ahoge
    lean = float(rng.uniform(0.25, 0.55))
    knots = [(0.02, -1.50), (0.06, -1.50 - 0.30 * size), (lean * size + 0.05, -1.58 - 0.34 * size),
             (lean * size + 0.24, -1.46 - 0.12 * size)]  # fmt: skip
    return [_lock(knots, 0.13, (0.1, 0.1), flatness=HAIR_FLAT)]

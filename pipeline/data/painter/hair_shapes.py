"""Hair as geometry: locks and masses in head coordinates, built once for an identity.

A lock is a centre line with a width that closes to a point; a mass is a plain outline. Which
lock hangs where is what makes a hairstyle. No colours, no pixels here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
    """A closed outline (n×2) with each point's depth: the skull's cap, the hair behind the head."""

    outline: Array
    depth: Array
    silhouette: int  # how many points, from the first, are its outer edge


@dataclass
class BackHair:
    """What hangs behind and beside the head, collected by one style's function."""

    masses: list[Mass] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    tails: list[Lock] = field(default_factory=list)  # bound hair behind the shoulders
    drapes: list[Lock] = field(default_factory=list)  # bound hair over the chest
    buns: list[tuple[float, float]] = field(default_factory=list)
    ties: list[tuple[float, float]] = field(default_factory=list)  # where hair is bound


@dataclass(frozen=True)
class HairShapes:
    """All hair of an identity, back to front."""

    back: BackHair
    cap: Mass
    cap_strands: tuple[Array, ...]
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
    slim_root: bool = False,
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
    if slim_root:  # slips out from under other hair without a corner
        shape = shape * np.minimum(1.0, 0.15 + 3.2 * t)
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
    back = _BACKS[hair.back](hair, rng)
    ahoge = _ahoge(hair, rng)
    if hair.mirrored:
        fringe = [_mirrored(lock) for lock in fringe]
        ahoge = [_mirrored(lock) for lock in ahoge]
    return HairShapes(back, cap, _cap_strands(hair), tuple(sides), tuple(fringe), tuple(ahoge))


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
        [(0.93, 0.08), (0.86, -0.40), (0.64, -0.76), (0.0, -0.90), (-0.64, -0.76), (-0.86, -0.40),
         (-0.93, 0.08)], 5)  # fmt: skip
    depth = np.concatenate([np.full(len(top), 0.08), 0.50 - 0.32 * hairline[:, 0] ** 2])
    return Mass(np.concatenate([top, hairline]), depth, len(top))


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
        if hair.back == "hime":
            # The princess cut's cheek-long, straight-cut side pieces.
            knots = [(side * 0.88, -1.0), (side * 1.05, -0.3), (side * 1.03, 0.3), (side, 0.78)]
            locks.append(_lock(knots, 0.34, (0.12, 0.16), blunt=True, flatness=0.3, slim_root=True))
            continue
        wobble = float(rng.uniform(-0.04, 0.04))
        outer = [(side * 0.88, -1.0), (side * 1.09, -0.3), (side * 1.07, 0.30 * length),
                 (side * (0.97 + wobble), 0.15 + 0.95 * length)]  # fmt: skip
        inner = [(side * 0.82, -0.9), (side * 0.99, -0.25), (side * 0.955, 0.22 * length),
                 (side * (0.86 + wobble), 0.02 + 0.62 * length)]  # fmt: skip
        locks.append(
            _lock(outer, 0.30, (0.10, 0.10), curl=1.5 * hair.curl, flatness=0.25, samples=6,
                  slim_root=True)
        )  # fmt: skip
        locks.append(
            _lock(inner, 0.20, (0.20, 0.22), curl=hair.curl, flatness=0.35, slim_root=True)
        )
    return locks


# --- behind the head -----------------------------------------------------------------------------


def _dome(hair: Hair, sides: list[tuple[float, float]], bottom: list[tuple[float, float]]) -> Mass:
    """A mass from the crown down both sides (x ≥ 0, mirrored) with a given lower edge."""
    v = hair.volume
    right = [(0.55 * v, -1.48 * v), (0.98 * v, -1.16 * v), (1.18 * v, -0.70), *sides]
    top = spline(np.array([*[(-x, y) for x, y in right[::-1]], (0.0, -1.60 * v), *right]), 6)
    outline = np.concatenate([top, np.array(bottom).reshape(-1, 2)])
    # At the crown it turns with the cap; further down it hangs behind.
    depth = np.interp(outline[:, 1], [-1.6, -0.9, 0.3], [0.07, -0.05, -0.30])
    return Mass(outline, depth, len(top))


def _hanging(
    rng: np.random.Generator,
    xs: tuple[float, ...],
    ends: tuple[float, float],
    width: float,
    spread: float,
    curl: float,
) -> list[Lock]:
    """Pointed locks side by side from height ends[0] to about ends[1], fanning out by `spread`."""
    locks = []
    for x in xs:
        tip = ends[1] + float(rng.uniform(-0.10, 0.10))
        knots = [(0.85 * x, ends[0]), (x, 0.5 * (ends[0] + tip)), (x * spread, tip)]
        locks.append(_lock(knots, width, (-0.30, -0.30), curl=1.4 * curl, flatness=HAIR_FLAT))
    return locks


def _bob(hair: Hair, rng: np.random.Generator) -> BackHair:
    v = hair.volume
    sides = [(1.26 * v, -0.2), (1.28 * v, 0.35), (1.16 * v, 0.85)]
    xs = (-1.06, 1.06, -0.72, 0.72, -0.3, 0.3)
    return BackHair(
        masses=[_dome(hair, sides, [(0.6, 0.9), (-0.6, 0.9)])],
        locks=_hanging(rng, xs, (0.1, 1.14), 0.50, 0.93, hair.curl) + _flyaways(rng, 0.55, 1.36),
    )


def _short(hair: Hair, rng: np.random.Generator) -> BackHair:
    v = hair.volume
    mass = _dome(hair, [(1.20 * v, -0.25), (1.14 * v, 0.2), (0.95, 0.5)], [(0.5, 0.6), (-0.5, 0.6)])
    locks = _flyaways(rng, -0.10, 1.40) + _flyaways(rng, 0.22, 1.38) + _flyaways(rng, 0.52, 1.2)
    locks += _hanging(rng, (-0.6, 0.6, -0.2, 0.2), (0.2, 0.98), 0.40, 0.9, hair.curl)
    return BackHair(masses=[mass], locks=locks)


def _flyaways(rng: np.random.Generator, y: float, reach: float) -> list[Lock]:
    """A pair of short locks that stick out at the sides and break the silhouette."""
    locks = []
    for side in (-1, 1):
        out = side * (reach + float(rng.uniform(-0.05, 0.05)))
        knots = [(side * 0.9, y - 0.45), (side * 1.13, y - 0.2), (out, y + 0.18)]
        locks.append(_lock(knots, 0.34, (-0.2, -0.25), flatness=HAIR_FLAT))
    return locks


def _flowing(hair: Hair, rng: np.random.Generator, *, wave: float, spread: float) -> BackHair:
    """Long loose hair over the back; `wave` undulates it, `spread` fans it out."""
    y = np.array([-0.2, 0.35, 0.9, 1.5, 2.1, 2.7])
    x: Array = (1.22 + spread * (y + 0.2)) * hair.volume + 0.06 * wave * np.sin(y * 4.2)
    sides = list(zip(x.tolist(), y.tolist(), strict=True))
    curl = max(hair.curl, wave)
    locks = _hanging(rng, (-1.14, 1.14, -0.86, 0.86), (0.2, 2.7), 0.46, 1.25, curl)
    return BackHair(
        masses=[_dome(hair, sides, [(0.5, 2.9), (-0.5, 2.9)])],
        locks=locks + _flyaways(rng, 1.0 + 0.4 * float(rng.random()), 1.36),
    )


def _long(hair: Hair, rng: np.random.Generator) -> BackHair:
    return _flowing(hair, rng, wave=0.0, spread=0.05)


def _wavy(hair: Hair, rng: np.random.Generator) -> BackHair:
    return _flowing(hair, rng, wave=1.0, spread=0.09)


def _tied_up(hair: Hair) -> BackHair:
    """The short mass left behind the head when the hair is bound."""
    v = hair.volume
    sides = [(1.16 * v, -0.25), (1.03 * v, 0.2), (0.70, 0.52)]
    return BackHair(masses=[_dome(hair, sides, [(0.3, 0.62), (-0.3, 0.62)])])


_TAIL_DEPTH = (-0.15, -0.25)


def _tail(knots: list[tuple[float, float]], width: float, hair: Hair) -> Lock:
    curl = 0.5 + hair.curl
    return _lock(
        knots, width, _TAIL_DEPTH, curl=curl, flatness=HAIR_FLAT, samples=7, swell=0.6
    )  # fmt: skip


def _twintails(hair: Hair, rng: np.random.Generator) -> BackHair:
    back = _tied_up(hair)
    for side in (-1, 1):
        back.ties.append((side * 1.10, -0.82))
        for out, end, width in ((1.98, 1.35, 0.36), (1.55, 2.15, 0.40), (1.75, 1.85, 0.50)):
            knots = [(side * 1.06, -0.84), (side * (0.35 + 0.66 * out), -0.62),
                     (side * out, 0.25), (side * (out - 0.1), end)]  # fmt: skip
            back.tails.append(_tail(knots, width, hair))
    return back


def _low_tails(hair: Hair, rng: np.random.Generator) -> BackHair:
    back = _tied_up(hair)
    for side in (-1, 1):
        back.ties.append((side * 1.02, 0.74))
        for out, end, width in ((1.36, 1.75, 0.28), (0.98, 2.3, 0.30), (1.16, 2.1, 0.40)):
            knots = [(side * 0.96, 0.62), (side * (0.94 + 0.2 * out), 0.98), (side * out, 1.45),
                     (side * (out - 0.12), end)]  # fmt: skip
            back.drapes.append(_tail(knots, width, hair))
    return back


def _ponytail(hair: Hair, rng: np.random.Generator) -> BackHair:
    back = _tied_up(hair)
    side = -1 if hair.mirrored else 1
    back.ties.append((side * 0.55, -1.38))
    for out, end, width in ((1.85, 0.75, 0.34), (1.45, 1.65, 0.44), (1.68, 1.35, 0.52)):
        knots = [(side * 0.45, -1.36), (side * (0.45 + 0.55 * out), -1.42), (side * out, -0.35),
                 (side * (out - 0.22), end)]  # fmt: skip
        back.tails.append(_tail(knots, width, hair))
    return back


def _buns(hair: Hair, rng: np.random.Generator) -> BackHair:
    back = _tied_up(hair)
    back.buns += [(-0.94, -1.34), (0.94, -1.34)]
    back.ties += [(-0.90, -1.08), (0.90, -1.08)]
    return back


def _braids(hair: Hair, rng: np.random.Generator) -> BackHair:
    """A plait on each side, hanging over the chest: leaves leaning in and out by turns."""
    back = _tied_up(hair)
    for side in (-1, 1):
        heights = np.arange(0.62, 2.0, 0.19)[::-1]
        for index, y in enumerate(heights.tolist()):
            x = side * (1.04 - 0.10 * (y - 0.6))
            lean = 0.11 if index % 2 else -0.11
            knots = [(x + lean, y - 0.14), (x + 0.75 * lean, y + 0.08), (x - 0.5 * lean, y + 0.26)]
            back.drapes.append(
                _lock(knots, 0.24, _TAIL_DEPTH, flatness=HAIR_FLAT, samples=4, swell=0.7)
            )
        end = side * 0.90
        knots = [(end, 2.12), (end + side * 0.03, 2.3), (end + side * 0.02, 2.6)]
        back.drapes.append(_lock(knots, 0.22, _TAIL_DEPTH, flatness=HAIR_FLAT))
        back.ties.append((end, 2.14))
    return back


_BACKS = {
    "bob": _bob,
    "short": _short,
    "long": _long,
    "hime": _long,
    "wavy": _wavy,
    "twintails": _twintails,
    "low_tails": _low_tails,
    "ponytail": _ponytail,
    "buns": _buns,
    "braids": _braids,
}


def _cap_strands(hair: Hair) -> tuple[Array, ...]:
    """Lines that fall from the parting over the crown, outside the fringe."""
    part = 0.4 * hair.part * (-1 if hair.mirrored else 1)
    lines = []
    for side in (-1, 1):
        knots = [(part + 0.10 * side, -1.46), (part + 0.45 * side, -1.38), (0.86 * side, -0.86)]
        lines.append(spline(knots, 6))
    lines.append(spline([(part, -1.52), (part - 0.02, -1.40), (part + 0.03, -1.26)], 5))
    return tuple(lines)


def _ahoge(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    if hair.ahoge <= 0:
        return []
    size = hair.ahoge
    lean = float(rng.uniform(0.25, 0.55))
    knots = [(0.02, -1.50), (0.06, -1.50 - 0.30 * size), (lean * size + 0.05, -1.58 - 0.34 * size),
             (lean * size + 0.24, -1.46 - 0.12 * size)]  # fmt: skip
    return [_lock(knots, 0.13, (0.1, 0.1), flatness=HAIR_FLAT)]

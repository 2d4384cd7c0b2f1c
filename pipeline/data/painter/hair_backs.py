"""Hair behind and beside the head, for each style of `identity.BACK_HAIR`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.data.painter.curves import Array, spline
from pipeline.data.painter.hair_locks import HAIR_FLAT, BackHair, Lock, Mass, make_lock
from pipeline.data.painter.identity import Hair


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
        locks.append(make_lock(knots, width, (-0.30, -0.30), curl=1.4 * curl, flatness=HAIR_FLAT))
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


def _spiky(hair: Hair, rng: np.random.Generator) -> BackHair:
    """Short hair that stands out in spikes all round, a boy's cut."""
    v = hair.volume
    mass = _dome(hair, [(1.12 * v, -0.25), (1.02 * v, 0.2), (0.86, 0.5)], [(0.5, 0.6), (-0.5, 0.6)])
    locks = []
    for side in (-1, 1):
        for angle in (64, 36, 10, -16):
            a = np.radians(angle + float(rng.uniform(-9, 9)))
            out = 1.70 * v + float(rng.uniform(-0.14, 0.16))
            inner = np.array([side * 0.80 * np.cos(a + 0.5), -0.40 - 0.85 * np.sin(a + 0.5)])
            tip = np.array([side * out * np.cos(a), -0.34 - 0.90 * out * np.sin(a)])
            # Each spike curves downwards like a flame.
            middle = 0.50 * inner + 0.50 * tip + np.array((side * 0.02, -0.10))
            knots = [(float(x), float(y)) for x, y in (inner, middle, tip)]
            locks.append(make_lock(knots, 0.52, (-0.05, -0.12), flatness=HAIR_FLAT, samples=6))
    locks += _hanging(rng, (-0.55, 0.55, -0.2, 0.2), (0.2, 0.92), 0.36, 0.9, 0.0)
    return BackHair(masses=[mass], locks=locks)


def _flyaways(rng: np.random.Generator, y: float, reach: float) -> list[Lock]:
    """A pair of short locks that stick out at the sides and break the silhouette."""
    locks = []
    for side in (-1, 1):
        out = side * (reach + float(rng.uniform(-0.05, 0.05)))
        knots = [(side * 0.9, y - 0.45), (side * 1.13, y - 0.2), (out, y + 0.18)]
        locks.append(make_lock(knots, 0.34, (-0.2, -0.25), flatness=HAIR_FLAT))
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
    return make_lock(
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
                make_lock(knots, 0.24, _TAIL_DEPTH, flatness=HAIR_FLAT, samples=4, swell=0.7)
            )
        end = side * 0.90
        knots = [(end, 2.12), (end + side * 0.03, 2.3), (end + side * 0.02, 2.6)]
        back.drapes.append(make_lock(knots, 0.22, _TAIL_DEPTH, flatness=HAIR_FLAT))
        back.ties.append((end, 2.14))
    return back


BACK_STYLES: dict[str, Callable[[Hair, np.random.Generator], BackHair]] = {
    "bob": _bob,
    "short": _short,
    "spiky": _spiky,
    "long": _long,
    "hime": _long,
    "wavy": _wavy,
    "twintails": _twintails,
    "low_tails": _low_tails,
    "ponytail": _ponytail,
    "buns": _buns,
    "braids": _braids,
}

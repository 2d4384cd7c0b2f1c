"""A whole head of hair as geometry, built once for an identity: cap, fringe, sides, back."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pipeline.data.painter.curves import Array, spline
from pipeline.data.painter.hair_backs import BACK_STYLES
from pipeline.data.painter.hair_fringes import FRINGE_STYLES
from pipeline.data.painter.hair_locks import HAIR_FLAT, HairShapes, Lock, Mass, make_lock
from pipeline.data.painter.identity import Hair


def _mirrored(lock: Lock) -> Lock:
    return Lock(lock.line * (-1, 1), lock.width, lock.depth, lock.flatness)


@lru_cache(maxsize=64)
def build_hair(hair: Hair, stretch: float = 0.0) -> HairShapes:
    """The hair of one identity; the same for every pose and expression. `stretch` lengthens what
    hangs below the eyes with a longer face (head units at the chin)."""
    rng = np.random.default_rng(hair.seed)
    cap = _cap(hair)
    fringe = FRINGE_STYLES[hair.fringe](hair, rng)
    sides = _sides(hair, rng)
    back = BACK_STYLES[hair.back](hair, rng)
    ahoge = _ahoge(hair, rng)
    if hair.mirrored:
        fringe = [_mirrored(lock) for lock in fringe]
        ahoge = [_mirrored(lock) for lock in ahoge]
    sides = [_stretched(lock, stretch) for lock in sides]
    back.masses = [
        Mass(_lower(mass.outline, stretch), mass.depth, mass.silhouette) for mass in back.masses
    ]
    back.locks = [_stretched(lock, stretch) for lock in back.locks]
    back.tails = [_stretched(lock, stretch) for lock in back.tails]
    back.drapes = [_stretched(lock, stretch) for lock in back.drapes]
    ties = _lower(np.array(back.ties).reshape(-1, 2), stretch).tolist()
    back.ties = [(x, y) for x, y in ties]
    loose = [*ahoge, *_loose(hair)]
    return HairShapes(
        back, cap, _cap_strands(hair), _cap_wedges(hair), tuple(sides), tuple(fringe), tuple(loose)
    )


def _loose(hair: Hair) -> list[Lock]:
    """Small strands that stand off the crown's silhouette."""
    rng = np.random.default_rng([hair.seed, 4])
    locks = []
    for _ in range(int(rng.integers(1, 5))):
        side = float(rng.choice([-1, 1]))
        a = float(rng.uniform(0.1, 1.15))
        foot = np.array([side * 1.02 * np.cos(a), -0.42 - 1.10 * np.sin(a)]) * hair.volume
        reach = float(rng.uniform(0.16, 0.34))
        along = np.array([side * np.sin(a), np.cos(a)]) * reach  # falls outwards, down the head
        tip = foot + along + np.array([side * np.cos(a), -np.sin(a)]) * 0.45 * reach
        middle = foot + 0.45 * along + np.array([side * np.cos(a), -np.sin(a)]) * 0.38 * reach
        knots = [(float(x), float(y)) for x, y in (foot - 0.4 * along, middle, tip)]
        locks.append(make_lock(knots, 0.15 * float(rng.uniform(0.6, 1.3)), (0.05, 0.05),
                           flatness=HAIR_FLAT, samples=4))  # fmt: skip
    return locks


def _lower(points: Array, stretch: float) -> Array:
    """Points below the eyes let down by up to `stretch`, reached at the height of a chin."""
    lowered = points.copy()
    lowered[:, 1] += stretch * np.clip(points[:, 1] / 1.03, 0.0, 1.0)
    return lowered


def _stretched(lock: Lock, stretch: float) -> Lock:
    return Lock(_lower(lock.line, stretch), lock.width, lock.depth, lock.flatness)


def _cap(hair: Hair) -> Mass:
    v = hair.volume
    right = [
        (0.50 * v, -1.50 * v), (0.90 * v, -1.20 * v), (1.12 * v, -0.72), (1.15 * v, -0.30),
        (1.08 * v, 0.02),
    ]  # fmt: skip
    crown = (0.0, -1.60 * v)
    left = [(-x, y) for x, y in right]
    rng = np.random.default_rng([hair.seed, 3])
    knots = np.array([*left[::-1], crown, *right])
    # No head of hair is a dome: it bulges here and dips there.
    knots[1:-1] *= 1 + rng.uniform(-0.022, 0.022, len(knots) - 2)[:, None]
    top = spline(knots, 6)
    hairline = spline(
        [(0.93, 0.08), (0.86, -0.40), (0.64, -0.76), (0.0, -0.90), (-0.64, -0.76), (-0.86, -0.40),
         (-0.93, 0.08)], 5)  # fmt: skip
    depth = np.concatenate([np.full(len(top), 0.08), 0.50 - 0.32 * hairline[:, 0] ** 2])
    return Mass(np.concatenate([top, hairline]), depth, len(top))


def _sides(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    length = hair.side_length
    if hair.back in ("short", "spiky"):
        length = min(length, 0.62)
    locks = []
    for side in (-1, 1):
        if hair.back == "hime":
            # The princess cut's cheek-long, straight-cut side pieces.
            knots = [(side * 0.88, -1.0), (side * 1.05, -0.3), (side * 1.03, 0.3), (side, 0.78)]
            locks.append(
                make_lock(knots, 0.34, (0.12, 0.16), blunt=True, flatness=0.3, slim_root=True)
            )
            continue
        wobble = float(rng.uniform(-0.04, 0.04))
        outer = [(side * 0.88, -1.0), (side * 1.09, -0.3), (side * 1.07, 0.30 * length),
                 (side * (0.97 + wobble), 0.15 + 0.95 * length)]  # fmt: skip
        inner = [(side * 0.82, -0.9), (side * 0.99, -0.25), (side * 0.955, 0.22 * length),
                 (side * (0.86 + wobble), 0.02 + 0.62 * length)]  # fmt: skip
        locks.append(
            make_lock(outer, 0.30, (0.10, 0.10), curl=1.5 * hair.curl, flatness=0.25, samples=6,
                  slim_root=True)
        )  # fmt: skip
        locks.append(
            make_lock(inner, 0.20, (0.22, 0.30), curl=hair.curl, flatness=0.30, slim_root=True)
        )
    return locks


def _cap_strands(hair: Hair) -> tuple[Array, ...]:
    """Lines that fall from the parting over the crown, outside the fringe."""
    rng = np.random.default_rng([hair.seed, 2])
    part = 0.4 * hair.part * (-1 if hair.mirrored else 1)
    lines = []
    for side in (-1, 1):
        for reach in rng.uniform(0.35, 1.0, 2).tolist():
            end = (side * (0.30 + 0.62 * reach), -1.02 + 0.30 * reach)
            start = (part + side * 0.12 * reach, -1.50 + 0.04 * reach)
            bend = (0.5 * (start[0] + end[0]) + side * 0.10, 0.62 * start[1] + 0.38 * end[1])
            lines.append(spline([start, bend, end], 6))
    lines.append(spline([(part, -1.54), (part - 0.02, -1.42), (part + 0.03, -1.28)], 5))
    return tuple(lines)


def _cap_wedges(hair: Hair) -> tuple[tuple[Array, float], ...]:
    """Shadows that open downwards between the strands on both sides of the crown."""
    rng = np.random.default_rng([hair.seed, 7])
    part = 0.4 * hair.part * (-1 if hair.mirrored else 1)
    wedges = []
    for side in (-1, 1):
        for place in rng.uniform(0.0, 1.0, 4).tolist():
            foot = (side * (0.72 + 0.40 * place), -0.72 + 0.70 * place)
            start = (part + side * (0.35 + 0.30 * place), -1.30 + 0.20 * place)
            bend = (
                0.35 * start[0] + 0.65 * foot[0] + side * 0.07,
                0.55 * start[1] + 0.45 * foot[1],
            )
            line = spline([start, bend, foot], 5)
            wedges.append((line, float(rng.uniform(0.04, 0.12))))
    return tuple(wedges)


def _ahoge(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    if hair.ahoge <= 0:
        return []
    size = hair.ahoge
    lean = float(rng.uniform(0.25, 0.55))
    knots = [(0.02, -1.50), (0.06, -1.50 - 0.30 * size), (lean * size + 0.05, -1.58 - 0.34 * size),
             (lean * size + 0.24, -1.46 - 0.12 * size)]  # fmt: skip
    return [make_lock(knots, 0.13, (0.1, 0.1), flatness=HAIR_FLAT)]

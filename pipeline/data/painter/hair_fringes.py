"""Fringes: which locks hang over the brow, for each style of `identity.FRINGES`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.data.painter.hair_locks import Lock, make_lock
from pipeline.data.painter.identity import Hair


def _strand(
    hair: Hair,
    root: tuple[float, float],
    tip: tuple[float, float],
    width: float,
    bow: float,
    *,
    blunt: bool = False,
    hook: float = 0.0,
) -> Lock:
    """A fringe lock from the parting to its tip; `bow` pushes its middle sideways, `hook` turns
    its tip."""
    (x0, y0), (x1, y1) = root, tip
    middle = (0.45 * x0 + 0.55 * x1 + bow, 0.5 * (y0 + y1) - 0.06)
    near_tip = (0.14 * x0 + 0.86 * x1 + 0.75 * bow - hook, 0.2 * y0 + 0.8 * y1)
    return make_lock(
        [root, middle, near_tip, tip], width, (0.42, 0.72 - 0.30 * x1 * x1), blunt=blunt,
        curl=0.4 * hair.curl, swell=0.30,
    )  # fmt: skip


def _root(part: float, u: float) -> tuple[float, float]:
    """Where the lock of place u (-1..1) leaves the parting."""
    return (part * 0.8 + 0.55 * u, -1.34 + 0.20 * u * u)


def _uneven(rng: np.random.Generator, start: float, end: float, count: int) -> list[float]:
    """`count` places from start to end at uneven steps: locks are never of one breadth."""
    steps = rng.uniform(0.55, 1.45, count - 1)
    places = start + (end - start) * np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
    return [float(place) for place in places]


def _tufts(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """Separate pointed tufts, the classic: outer ones first, the middle one in front."""
    places = _uneven(rng, -0.88, 0.88, int(rng.integers(4, 7)))
    breadth = 2.6 / len(places)
    locks = []
    lean = float(rng.uniform(-0.12, 0.16))
    for u in places:
        tip_y = -0.28 + 0.34 * u * u + hair.fringe_length + float(rng.uniform(-0.12, 0.10))
        root = _root(hair.part * 0.4, u * 0.9)
        width = breadth * float(rng.uniform(0.85, 1.15))
        tip = (0.98 * u + lean, tip_y)
        locks.append((abs(u), _strand(hair, root, tip, width, 0.07 * np.sign(u), hook=0.5 * lean)))
        if rng.random() < 0.45:  # a thin strand beside it
            beside = (tip[0] + float(rng.choice([-1, 1])) * 0.17, tip_y - 0.05)
            locks.append((abs(u) + 0.01, _strand(hair, root, beside, 0.20, 0.05 * np.sign(u))))
    locks.sort(key=lambda item: -item[0])
    return [lock for _, lock in locks]


def _swept(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """All hair combed to one side from a parting on the other."""
    locks = []
    part = -0.45
    for index, u in enumerate(_uneven(rng, 0.96, -0.30, 5)):
        tip_y = -0.34 + 0.38 * u * u + hair.fringe_length + float(rng.uniform(-0.08, 0.06))
        root = (part + 0.32 * (u + 0.35), -1.36 + 0.05 * abs(u))
        width = 0.56 * float(rng.uniform(0.8, 1.2))
        locks.append(_strand(hair, root, (u + 0.16, tip_y), width, 0.17 - 0.02 * index, hook=0.06))
    # The short side.
    for u in (-0.94, -0.68):
        tip = (u, 0.0 + 0.3 * (abs(u) - 0.66) + hair.fringe_length)
        locks.append(_strand(hair, (part - 0.12, -1.28), tip, 0.40, -0.14))
    return locks


def _parted(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """Two curtains that leave a wedge of forehead, with one thin lock across the gap."""
    part = hair.part * 0.5
    locks = []
    for side in (-1, 1):
        for u, length in ((0.94, 0.20), (0.70, -0.02), (0.42, -0.28)):
            tip = (
                side * u + part * 0.3,
                length + hair.fringe_length + float(rng.uniform(-0.07, 0.07)),
            )
            width = 0.48 * float(rng.uniform(0.8, 1.15))
            root = (part + side * 0.13 * (1 + u), -1.34)
            locks.append(_strand(hair, root, tip, width, side * 0.18, hook=-side * 0.05))
    if rng.random() < 0.6:
        locks.append(
            _strand(hair, (part, -1.30), (part + 0.10, -0.04 + hair.fringe_length), 0.22, -0.10)
        )
    return locks


def _open(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """Combed back off the forehead to both sides from a parting."""
    part = hair.part * 0.9
    locks = []
    for side in (-1, 1):
        for u, y in ((0.90, -0.62), (0.99, -0.26), (1.00, 0.16 + hair.fringe_length)):
            root = (part + side * 0.03, -1.36)
            middle = (0.35 * part + side * 0.62 * u, -1.02 + 0.2 * (y + 0.6))
            knots = [root, middle, (side * u * 0.98, 0.5 * (y - 0.75)), (side * u, y)]
            locks.append(make_lock(knots, 0.42, (0.42, 0.30), curl=0.3 * hair.curl, swell=0.3))
    if rng.random() < 0.5:
        across = float(rng.choice([-1, 1]))
        tip = (part + across * 0.34, -0.20 + hair.fringe_length)
        locks.append(_strand(hair, (part, -1.32), tip, 0.15, across * 0.16, hook=across * 0.05))
    return locks


def _blunt(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """Cut straight above the eyes, nicked here and there."""
    locks = []
    for u in (-0.80, 0.80, -0.48, 0.48, -0.16, 0.16):
        tip_y = -0.34 + 0.06 * u * u + 0.6 * hair.fringe_length + float(rng.uniform(-0.025, 0.025))
        width = 0.36 * float(rng.uniform(0.86, 1.0))
        root = _root(0.0, u * 0.8)
        locks.append(_strand(hair, root, (0.98 * u, tip_y), width, 0.05 * u, blunt=True))
    for side in (-1, 1):
        locks.append(_strand(hair, _root(0.0, side * 0.9), (side * 0.99, 0.20), 0.30, side * 0.14))
    return locks


def _messy(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """Many spikes in changing directions and of two sizes."""
    locks = []
    for u in rng.permutation(_uneven(rng, -0.94, 0.94, 8)).tolist():
        tip_y = -0.24 + 0.28 * u * u + hair.fringe_length + float(rng.uniform(-0.20, 0.10))
        lean = float(rng.uniform(-0.18, 0.18))
        root = _root(hair.part * 0.3, u * 0.8)
        width = float(rng.uniform(0.26, 0.50))
        bow = float(rng.uniform(-0.08, 0.08))
        locks.append(_strand(hair, root, (u + lean, tip_y), width, bow, hook=0.5 * lean))
    return locks


def _centre(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """A long lock between the eyes, shorter ones beside it."""
    locks = []
    for u, y in (
        (-0.90, 0.10),
        (0.90, 0.10),
        (-0.62, -0.14),
        (0.62, -0.14),
        (-0.34, -0.34),
        (0.34, -0.34),
    ):
        tip_y = y + hair.fringe_length + float(rng.uniform(-0.06, 0.06))
        width = 0.42 * float(rng.uniform(0.85, 1.15))
        locks.append(
            _strand(hair, _root(0.0, u * 0.8), (u * 1.06, tip_y), width, 0.09 * np.sign(u))
        )
    locks.append(_strand(hair, (0.0, -1.36), (0.06, 0.14 + hair.fringe_length), 0.38, -0.06))
    return locks


def _wispy(hair: Hair, rng: np.random.Generator) -> list[Lock]:
    """Thin, light strands in pairs that show the forehead."""
    locks = []
    for u in (-0.92, 0.92, -0.62, 0.62, -0.28, 0.34, 0.02):
        for offset, width in ((0.0, 0.34), (0.13, 0.15)):
            v = u + offset * (1 if u <= 0 else -1) + float(rng.uniform(-0.04, 0.04))
            tip_y = -0.30 + 0.30 * v * v + hair.fringe_length + float(rng.uniform(-0.14, 0.06))
            root = _root(hair.part * 0.5, v * 0.8)
            locks.append(_strand(hair, root, (v + 0.05, tip_y + 0.5 * offset), width, 0.07))
    return locks


FRINGE_STYLES: dict[str, Callable[[Hair, np.random.Generator], list[Lock]]] = {
    "tufts": _tufts,
    "swept": _swept,
    "parted": _parted,
    "blunt": _blunt,
    "messy": _messy,
    "centre": _centre,
    "wispy": _wispy,
    "open": _open,
}

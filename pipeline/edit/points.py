"""Handles written out: "x,y>x,y; x,y>x,y radius 6". Light: settings are checked by it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import DataError

Point = tuple[float, float]  # continuous pixels, x right, y down

# A face has 28 landmarks; far more handles than that are a mistake, and each costs time.
MAX_HANDLES = 256


@dataclass(frozen=True)
class Move:
    """One handle: the point to take and where it goes; with a radius, a whole disc of pixels."""

    start: Point
    target: Point
    radius: float | None = None


def parse_points(text: str) -> tuple[Move, ...]:
    """Handles written as "x,y>x,y; x,y>x,y radius 6": from, to; several parted by semicolons.

    Raises:
        DataError: naming the part that cannot be read.
    """
    moves = []
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        places, word, size = part.partition("radius")
        ends = [_point_of_text(end) for end in places.split(">")]
        points = [end for end in ends if end is not None]
        radius = _positive_of_text(size) if word else None
        if len(points) != 2 or len(ends) != 2 or (word and radius is None):
            raise DataError(
                f'points: "{part}" cannot be read; write from-x,from-y>to-x,to-y as in '
                '"120,160>126,152", several parted by semicolons; "120,160>126,152 radius 6" takes '
                "hold of a whole disc."
            )
        moves.append(Move(points[0], points[1], radius))
    if not moves:
        raise DataError('points is empty; write at least one handle as in "120,160>126,152".')
    return tuple(moves)


def check_moves(moves: Iterable[Move], width: int, height: int, of: str = "face") -> None:
    """DataError for what no recipe may hold: a point that does not lie on a picture of width ×
    height, a disc wider than it, more than `MAX_HANDLES`."""
    moves = tuple(moves)
    if len(moves) > MAX_HANDLES:
        raise DataError(f"{len(moves)} points are more than a drag takes: {MAX_HANDLES}.")
    for number, move in enumerate(moves, 1):
        largest = max(width, height) / 2
        if move.radius is not None and move.radius > largest:
            raise DataError(
                f"The radius of point {number}, {move.radius:g}, is more than half the {of}, which "
                f"is {width}×{height} px; make it at most {largest:g}."
            )
        for end, (x, y) in (("handle", move.start), ("target", move.target)):
            if not (0 <= x <= width and 0 <= y <= height):
                raise DataError(
                    f"The {end} of point {number}, ({x:g}, {y:g}), lies outside the {of}, which is "
                    f"{width}×{height} px; move it inside."
                )


def _positive_of_text(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _point_of_text(text: str) -> Point | None:
    numbers = text.split(",")
    if len(numbers) != 2:
        return None
    try:
        x, y = float(numbers[0]), float(numbers[1])
    except ValueError:
        return None
    return (x, y) if math.isfinite(x) and math.isfinite(y) else None

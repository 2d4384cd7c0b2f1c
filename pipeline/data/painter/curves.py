"""Curves as point arrays: splines through knots, tapered brush strokes, ellipses.

Everything is an n×2 float64 array; nothing here knows about faces, projection or pixels.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

SAMPLES = 6  # points per spline segment: smooth up to faces about 500 px wide


@cache
def _spline_basis(samples: int) -> Array:
    """Catmull-Rom weights (samples×4) of four neighbouring knots, t in [0, 1)."""
    t = np.arange(samples) / samples
    return 0.5 * np.stack(
        [
            -(t**3) + 2 * t**2 - t,
            3 * t**3 - 5 * t**2 + 2,
            -3 * t**3 + 4 * t**2 + t,
            t**3 - t**2,
        ],
        axis=1,
    )


def spline(knots: ArrayLike, samples: int = SAMPLES, closed: bool = False) -> Array:
    """A smooth curve through `knots` (k×2): (k-1)·samples + 1 points, or k·samples if closed."""
    p = np.asarray(knots, dtype=np.float64)
    if closed:
        padded = np.concatenate([p[-1:], p, p[:2]])
    else:
        padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    curve: Array = np.matmul(_spline_basis(samples), padded[_windows(len(padded) - 3)])
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-1:]])


@cache
def _windows(count: int) -> NDArray[np.intp]:
    """Indices of `count` overlapping groups of four neighbours (count×4)."""
    return np.arange(count)[:, None] + np.arange(4)


@cache
def _unit_circle(count: int) -> Array:
    angle = np.arange(count) * (2 * np.pi / count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def ellipse(centre: ArrayLike, radii: ArrayLike, count: int = 24) -> Array:
    """An ellipse's outline, `count` points, clockwise in the picture from the right."""
    return _unit_circle(count) * np.asarray(radii) + np.asarray(centre)


def moved(points: ArrayLike, dx: float, dy: float) -> Array:
    """The points shifted by (dx, dy)."""
    shifted: Array = np.asarray(points, dtype=np.float64) + np.array((dx, dy))
    return shifted


def normals(points: Array) -> Array:
    """Unit normals of an open curve (n×2): its tangent (dx, dy) turned to (-dy, dx)."""
    tangent = np.empty_like(points)
    np.subtract(points[2:], points[:-2], out=tangent[1:-1])
    np.subtract(points[1], points[0], out=tangent[0])
    np.subtract(points[-1], points[-2], out=tangent[-1])
    length = np.hypot(tangent[:, 0], tangent[:, 1])
    np.maximum(length, 1e-9, out=length)
    turned = np.empty_like(points)
    np.divide(tangent[:, 1], length, out=turned[:, 0])
    np.negative(turned[:, 0], out=turned[:, 0])
    np.divide(tangent[:, 0], length, out=turned[:, 1])
    return turned


@cache
def ramp(count: int) -> Array:
    """`count` numbers from 0 to 1, read-only."""
    values = np.linspace(0.0, 1.0, count)
    values.setflags(write=False)
    return values


@cache
def profile(kind: str, count: int) -> Array:
    """Relative brush width (0..1) along a stroke of `count` points.

    "both": tapered at both ends; "end": full at the start, pointed at the end; "start": the
    reverse; "soft": full with slightly thinner ends; "even": constant.
    """
    t = np.linspace(0.0, 1.0, count)
    if kind == "both":
        width = np.sin(np.pi * t) ** 0.7
    elif kind == "end":
        width = (1 - t) ** 0.65
    elif kind == "start":
        width = t**0.65
    elif kind == "soft":
        width = 0.55 + 0.45 * np.sin(np.pi * t)
    elif kind == "even":
        width = np.ones(count)
    else:
        raise ValueError(f"no brush profile named {kind!r}")
    width.setflags(write=False)
    return np.clip(width, 0.0, 1.0)


def brush(points: Array, width: float | Array, kind: str = "both") -> Array:
    """The outline (2n×2) of a stroke along `points` (n×2).

    `width` is the full width at the profile's fullest, or one width per point (then the profile
    still multiplies it).
    """
    count = len(points)
    shape = profile(kind, count)
    offset = normals(points)
    offset *= (shape * (0.5 * width))[:, None]
    outline = np.empty((2 * count, 2))
    np.add(points, offset, out=outline[:count])
    np.subtract(points[::-1], offset[::-1], out=outline[count:])
    return outline


def section(points: Array, start: float, end: float) -> Array:
    """The part of an open curve between two fractions of its point count (at least 2 points)."""
    last = len(points) - 1
    first = min(max(round(start * last), 0), last - 1)
    stop = max(round(end * last), first + 1)
    return points[first : stop + 1]


def at(points: Array, fraction: float) -> Array:
    """The point at a fraction (0..1) of a curve's point count, linearly interpolated."""
    position = fraction * (len(points) - 1)
    index = min(int(position), len(points) - 2)
    rest = position - index
    point: Array = points[index] * (1 - rest) + points[index + 1] * rest
    return point

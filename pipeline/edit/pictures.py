"""What an edit shows: enlarged faces, handles and targets drawn over them, before beside after.

Knows pixels only. Handles are red, targets blue, an arrow leads from one to the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import skia
from PIL import Image

from pipeline.edit.drag import Point

# Below this a face is too small to see handles on.
DISPLAY_SIDE = 512

_RED = skia.Color(229, 45, 57)
_BLUE = skia.Color(32, 110, 235)
_WHITE = skia.Color(255, 255, 255)
_SHADOW = skia.Color(20, 20, 30, 90)


@dataclass(frozen=True)
class Marker:
    """A handle as it is drawn; points in the face's continuous pixels."""

    start: Point
    position: Point
    target: Point


def display_factor(height: int, width: int) -> int:
    """Whole factor that brings the smaller side to at least DISPLAY_SIDE pixels."""
    return max(1, math.ceil(DISPLAY_SIDE / min(height, width)))


def enlarge(picture: np.ndarray, factor: int) -> np.ndarray:
    """H × W × 3 uint8, `factor` times larger (Lanczos)."""
    if factor == 1:
        return picture
    size = (picture.shape[1] * factor, picture.shape[0] * factor)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def draw_markers(face: np.ndarray, markers: Sequence[Marker], factor: int) -> np.ndarray:
    """The face (H × W × 3 uint8) enlarged by `factor`, with every handle's way drawn on it."""
    picture = enlarge(face, factor)
    height, width = picture.shape[:2]
    pixels = np.full((height, width, 4), 255, np.uint8)
    pixels[..., :3] = picture
    canvas = skia.Canvas(pixels)
    # Sizes follow the picture, so that a marker looks alike on any.
    unit = min(height, width) / DISPLAY_SIDE
    for marker in markers:
        start, position, target = (
            (point[0] * factor, point[1] * factor)
            for point in (marker.start, marker.position, marker.target)
        )
        _dot(canvas, start, 3.0 * unit, unit)
        _line(canvas, start, position, unit)
        _arrow(canvas, position, target, unit)
        _ring(canvas, target, 8.5 * unit, unit)
        _dot(canvas, position, 6.0 * unit, unit)
    canvas.flush()
    return pixels[..., :3].copy()


def before_after(before: np.ndarray, after: np.ndarray, factor: int) -> np.ndarray:
    """Both faces (H × W × 3 uint8) enlarged, side by side, each one half of the picture."""
    return np.concatenate([enlarge(before, factor), enlarge(after, factor)], axis=1)


def _stroke(color: int, width: float) -> skia.Paint:
    return skia.Paint(
        AntiAlias=True,
        Color=color,
        Style=skia.Paint.kStroke_Style,
        StrokeWidth=width,
        StrokeCap=skia.Paint.kRound_Cap,
        StrokeJoin=skia.Paint.kRound_Join,
    )


def _fill(color: int) -> skia.Paint:
    return skia.Paint(AntiAlias=True, Color=color)


def _dot(canvas: skia.Canvas, at: Point, radius: float, unit: float) -> None:
    canvas.drawCircle(*at, radius + 2.6 * unit, _fill(_SHADOW))
    canvas.drawCircle(*at, radius + 1.6 * unit, _fill(_WHITE))
    canvas.drawCircle(*at, radius, _fill(_RED))


def _ring(canvas: skia.Canvas, at: Point, radius: float, unit: float) -> None:
    canvas.drawCircle(*at, radius, _stroke(_SHADOW, 7.0 * unit))
    canvas.drawCircle(*at, radius, _stroke(_WHITE, 5.4 * unit))
    canvas.drawCircle(*at, radius, _stroke(_BLUE, 3.0 * unit))


def _line(canvas: skia.Canvas, start: Point, end: Point, unit: float) -> None:
    if math.dist(start, end) < 2 * unit:
        return
    canvas.drawLine(*start, *end, _stroke(_WHITE, 4.0 * unit))
    canvas.drawLine(*start, *end, _stroke(_RED, 2.0 * unit))


def _arrow(canvas: skia.Canvas, start: Point, end: Point, unit: float) -> None:
    """From the handle's rim to the target's ring; nothing where they touch."""
    length = math.dist(start, end)
    if length < 22 * unit:
        return
    ux, uy = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    tip = (end[0] - ux * 11 * unit, end[1] - uy * 11 * unit)
    neck = (tip[0] - ux * 9 * unit, tip[1] - uy * 9 * unit)
    head = skia.Path()
    head.moveTo(*tip)
    head.lineTo(neck[0] - uy * 5 * unit, neck[1] + ux * 5 * unit)
    head.lineTo(neck[0] + uy * 5 * unit, neck[1] - ux * 5 * unit)
    head.close()
    canvas.drawLine(*start, *neck, _stroke(_WHITE, 5.4 * unit))
    canvas.drawPath(head, _stroke(_WHITE, 3.0 * unit))
    canvas.drawLine(*start, *neck, _stroke(_BLUE, 2.8 * unit))
    canvas.drawPath(head, _fill(_BLUE))

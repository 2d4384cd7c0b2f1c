"""An emotion drawn with the drawing's own lines and colours, without a model.

What moves is warped by the landmarks' ways; an eye that shuts is painted over with the skin around
it and gets a lid line in its own lash's colour; a mouth that opens or shuts is drawn again in its
line's colour. So the result is as sharp as the drawing. An eye that is shut in the drawing is
opened with the other one's mirror image; where both are shut they stay so, for what lies behind
the lids only a model knows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import skia

from pipeline.data import face_measures
from pipeline.data import landmarks as lm
from pipeline.data.landmarks import Points
from pipeline.data.painter.curves import brush, spline
from pipeline.edit.emotions.carry import Sides, changed_parts, landmark_flow
from pipeline.edit.emotions.drawn_eye import corresponding, mirrored_onto, other_eye, softened
from pipeline.edit.emotions.face_pixels import Colour, darkest, eye_alone, painted_over
from pipeline.edit.emotions.plan import Goal
from pipeline.edit.emotions.presets import find_preset

# Widths of lines that are drawn, of the face's width.
_LID, _LIP = 0.040, 0.015
# An opening of the mouth, in face widths, from which the inside shows.
_SHOWS = 0.03
# The painter's mouth (pipeline/data/painter/face.py): inside, throat, tongue, teeth.
_INSIDE, _THROAT, _TONGUE, _TEETH = (138, 50, 56), (92, 31, 42), (221, 122, 120), (251, 244, 238)
_ROSE = (255, 90, 95)


@dataclass(frozen=True, eq=False)
class Drawn:
    """The face (S × S × 3 uint8), and which parts were drawn anew."""

    face: np.ndarray
    parts: tuple[str, ...]


def marks_of(goal: Goal) -> dict[str, float]:
    """What the goal's emotions draw besides moving landmarks, added up, 0 to 1."""
    marks: dict[str, float] = {}
    for name, strength in goal.emotions.items():
        for mark, value in find_preset("emotion", name).marks.items():
            marks[mark] = min(1.0, marks.get(mark, 0.0) + strength * value)
    return marks


def draw_emotion(
    face: np.ndarray,
    before: Points,
    target: Points,
    keep: np.ndarray,
    marks: Mapping[str, float],
    marks_before: Mapping[str, float],
    irises: tuple[Points, Points] | None = None,
    hidden: Collection[str] = (),
) -> Drawn:
    """The face with its landmarks at `target`.

    Args:
        face: S × S × 3 uint8, the drawing's own crop.
        before, target: 28×2 px of it.
        keep: S × S float in [0, 1], 1 where nothing may change.
        marks: see `marks_of`; marks_before: of the expression that the face has already.
        irises: both irises' centres (2×2 px) before and after, where the gaze changes.
        hidden: parts (names of `landmarks.PARTS`) that hair covers: they are not drawn anew.
    """
    width = lm.face_width(before)
    parts = tuple(part for part in changed_parts(before, target) if part not in hidden)
    eyes = [part for part in parts if part != "mouth"]
    shut = tuple(p for p in eyes if _opening(before, p) > _opening(target, p))
    # One that is to open has the other one to be drawn from, or stays as it is and moves along.
    opened = tuple(
        p
        for p in eyes
        if p not in shut and _shows(before, target, p) and other_eye(p) not in hidden
    )
    redrawn = (*shut, *opened, *(part for part in parts if part == "mouth"))
    clean = face
    for part in redrawn:
        clean = painted_over(clean, before, part, width)
    flow = landmark_flow(Sides(face, face, before, target), (*redrawn, *eyes), keep, irises)
    warped = _warp(clean, flow)
    for part in opened:
        matte = softened(eye_alone(face, before, other_eye(part), width), width)
        warped = mirrored_onto(warped, face, matte, corresponding(before, target, part))
    canvas = _Canvas(warped)
    blush = marks.get("blush", 0.0) - marks_before.get("blush", 0.0)
    if blush > 0.05:
        _blush(canvas, target, blush)
    for part in shut:
        _lid(canvas, target, part, darkest(face, before, part, width), width)
    if "mouth" in redrawn:
        _mouth(canvas, target, darkest(face, before, "mouth", width), width, marks)
    drawn = canvas.pixels().astype(np.float32)
    # The motion has died away by here; what was drawn fades late, so that nothing is seen twice.
    held = keep[..., None] ** 4
    mixed = drawn + held * (face.astype(np.float32) - drawn)
    return Drawn(np.clip(np.rint(mixed), 0, 255).astype(np.uint8), redrawn)


def _opening(points: Points, part: str) -> float:
    return face_measures.eye_aspect(points, part.removesuffix("_eye"))


def _shows(before: Points, target: Points, part: str) -> bool:
    """Whether the eye across from this one is open enough to show what this one is to show."""
    return _opening(before, other_eye(part)) > 0.6 * _opening(target, part)


def _warp(face: np.ndarray, flow: np.ndarray) -> np.ndarray:
    height, width = face.shape[:2]
    dense = cv2.resize(flow, (width, height), interpolation=cv2.INTER_CUBIC)
    columns, rows = np.meshgrid(
        np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    )
    return cv2.remap(
        face,
        columns + dense[..., 0] * width,
        rows + dense[..., 1] * height,
        cv2.INTER_LANCZOS4,
        borderMode=cv2.BORDER_REFLECT,
    )


# --- drawing ---


class _Canvas:
    """Skia on a copy of a picture."""

    def __init__(self, picture: np.ndarray) -> None:
        self._pixels = np.full((*picture.shape[:2], 4), 255, np.uint8)
        self._pixels[..., :3] = picture
        self.skia = skia.Canvas(self._pixels)

    def fill(self, points: Points, colour: Colour, alpha: float = 1.0, blur: float = 0.0) -> None:
        """A closed outline."""
        path = skia.Path()
        path.addPoly([skia.Point(float(x), float(y)) for x, y in points], True)
        paint = skia.Paint(AntiAlias=True, Color=skia.Color(*colour, round(255 * alpha)))
        if blur > 0:
            paint.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, blur))
        self.skia.drawPath(path, paint)

    def clip(self, points: Points) -> None:
        """Until `skia.restore()` only the inside of an outline is painted on."""
        path = skia.Path()
        path.addPoly([skia.Point(float(x), float(y)) for x, y in points], True)
        self.skia.save()
        self.skia.clipPath(path, doAntiAlias=True)

    def pixels(self) -> np.ndarray:
        self.skia.flush()
        return self._pixels[..., :3].copy()


def _lid(canvas: _Canvas, points: Points, part: str, ink: Colour, width: float) -> None:
    """A shut eye: the lid's line through both lids' middle, full at its outer end, two lashes."""
    eye = points[lm.PARTS[part]]
    line = np.stack([eye[0], (eye[1] + eye[4]) / 2, eye[2]])
    inner_first = line if part == "right_eye" else line[::-1]
    curve = spline(inner_first, 12)
    t = np.linspace(0, 1, len(curve))
    weight = np.interp(t, [0, 0.1, 0.35, 0.8, 0.95, 1.0], [0.2, 0.45, 0.8, 1.0, 0.8, 0.15])
    canvas.fill(brush(curve, max(1.2, _LID * width) * weight, "even"), ink)
    outward = curve[-1] - curve[-8]
    outward = outward / max(float(np.linalg.norm(outward)), 1e-6)
    across = np.array([-outward[1], outward[0]])
    middle = (line[0] + line[2]) / 2
    # Away from the arc's hollow: a happy eye's lashes hang, a sleeping one's too.
    if across @ (points[lm.INDEX["chin"]] - middle) < 0:
        across = -across
    for place, reach in ((1.0, 0.055), (0.9, 0.042)):
        root = curve[round(place * (len(curve) - 1))]
        tip = root + reach * width * (0.85 * outward + 0.55 * across)
        bow = root + 0.55 * (tip - root) + 0.012 * width * across
        stroke = spline(np.stack([root, bow, tip]), 6)
        canvas.fill(brush(stroke, max(1.0, 0.55 * _LID * width), "end"), ink)


def _mouth(
    canvas: _Canvas, points: Points, ink: Colour, width: float, marks: Mapping[str, float]
) -> None:
    """Lips as lines, and what an open mouth shows."""
    left, upper, right, lower = points[lm.MOUTH]
    across = max(float(np.linalg.norm(right - left)), 1e-6)
    gap = float(np.linalg.norm(lower - upper))
    line = max(1.0, _LIP * width)
    if gap < _SHOWS * width:
        middle = (upper + lower) / 2
        curve = _arc(left, middle, right)
        t = np.linspace(-1, 1, len(curve))
        canvas.fill(brush(curve, line * (0.75 + 0.5 * np.abs(t)), "even"), ink)
        return
    top, bottom = _lips(left, upper, right, lower)
    inside = np.concatenate([top, bottom[::-1]])
    canvas.fill(inside, _INSIDE)
    down = (lower - upper) / gap
    canvas.clip(inside)
    canvas.fill(np.concatenate([top, (top + 0.34 * gap * down)[::-1]]), _THROAT)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    sideways = (right - left) / across
    radii = 0.34 * across, 0.40 * gap
    tongue = (
        bottom[len(bottom) // 2]
        + 0.06 * gap * down
        + np.outer(np.cos(angle) * radii[0], sideways)
        + np.outer(np.sin(angle) * radii[1], down)
    )
    canvas.fill(tongue, _TONGUE)
    teeth = marks.get("teeth", 0.0)
    if teeth > 0.05:
        canvas.fill(np.concatenate([top, (top + 0.27 * gap * teeth * down)[::-1]]), _TEETH)
    canvas.skia.restore()
    canvas.fill(brush(top, line * 1.1, "soft"), ink)
    canvas.fill(brush(bottom, line * 0.9, "soft"), ink)


def _arc(left: Points, middle: Points, right: Points) -> Points:
    """A parabola through three points."""
    t = np.linspace(-1, 1, 41)[:, None]
    bow = middle - (left + right) / 2
    arc: Points = (left + right) / 2 + t * (right - left) / 2 + (1 - t * t) * bow
    return arc


def _lips(left: Points, upper: Points, right: Points, lower: Points) -> tuple[Points, Points]:
    """Both lips' lines, corner to corner; rounder the nearer the opening comes to a circle."""
    t = np.linspace(-1, 1, 41)[:, None]
    across = max(float(np.linalg.norm(right - left)), 1e-6)
    middle = (left + right) / 2
    base = middle + t * (right - left) / 2
    down = (lower - upper) / max(float(np.linalg.norm(lower - upper)), 1e-6)
    # An "o": the corners lie half way between the lips; else both lips hang from the corners.
    low, high = float((lower - middle) @ down), float((upper - middle) @ down)
    is_round = float(np.clip(min(-high, low) / (0.18 * across), 0, 1))
    dome = (1 - t * t) * (1 - is_round) + is_round * np.sqrt(np.maximum(1 - t * t, 0))
    return base + dome * (upper - middle), base + dome * (lower - middle)


def _blush(canvas: _Canvas, points: Points, strength: float) -> None:
    """Rosy cheeks below the eyes."""
    width = lm.face_width(points)
    roll = np.radians(lm.roll_degrees(points))
    sideways = np.array([np.cos(roll), np.sin(roll)])
    down = np.array([-np.sin(roll), np.cos(roll)])
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    for eye, outward in ((lm.LEFT_EYE, -1.0), (lm.RIGHT_EYE, 1.0)):
        lowest = float((points[eye] @ down).max())
        centre = points[eye].mean(axis=0)
        centre = centre + (lowest - float(centre @ down) + 0.055 * width) * down
        centre = centre + 0.02 * outward * width * sideways
        spot = (
            centre
            + np.outer(0.085 * width * np.cos(angle), sideways)
            + np.outer(0.040 * width * np.sin(angle), down)
        )
        canvas.fill(spot, _ROSE, 0.42 * min(strength, 1.0), 0.035 * width)

"""An emotion drawn with the drawing's own lines and colours, without a model.

What moves is warped by the landmarks' ways; an eye that shuts is painted over with the skin around
it and gets a lid line in its own lash's colour; a mouth that opens or shuts is drawn again in its
line's colour. So the result is as sharp as the drawing. An eye that is shut in the drawing cannot
be opened so: what lies behind the lid only a model knows.
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
from pipeline.edit.emotions.plan import Goal
from pipeline.edit.emotions.presets import find_preset

# Shares of the face's width: how far lashes reach beyond an eye's landmarks, lips beyond a mouth's.
_LASHES, _LIPS = 0.075, 0.035
# How far around a part its place is looked at: four deviations of the spread skin.
_AROUND = 0.26
# Widths of lines that are drawn, of the face's width.
_LID, _LIP = 0.040, 0.015
# Side of the largest thing that is taken for a scrap of an eye, of the face's width.
_SCRAP = 0.06
# An opening of the mouth, in face widths, from which the inside shows.
_SHOWS = 0.03
# The painter's mouth (pipeline/data/painter/face.py): inside, throat, tongue, teeth.
_INSIDE, _THROAT, _TONGUE, _TEETH = (138, 50, 56), (92, 31, 42), (221, 122, 120), (251, 244, 238)
_ROSE = (255, 90, 95)

Colour = tuple[int, int, int]


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
    # A shut eye stays what it is: there is nothing to open it with.
    shut = tuple(p for p in parts if p != "mouth" and _opening(before, p) > _opening(target, p))
    redrawn = (*shut, *(part for part in parts if part == "mouth"))
    clean = face
    for part in redrawn:
        clean = _painted_over(clean, before, part, width)
    flow = landmark_flow(Sides(face, face, before, target), redrawn, keep, irises)
    warped = _warp(clean, flow)
    canvas = _Canvas(warped)
    blush = marks.get("blush", 0.0) - marks_before.get("blush", 0.0)
    if blush > 0.05:
        _blush(canvas, target, blush)
    for part in shut:
        _lid(canvas, target, part, _dark(face, before, part, width), width)
    if "mouth" in redrawn:
        _mouth(canvas, target, _dark(face, before, "mouth", width), width, marks)
    drawn = canvas.pixels().astype(np.float32)
    # The motion has died away by here; what was drawn fades late, so that nothing is seen twice.
    held = keep[..., None] ** 4
    mixed = drawn + held * (face.astype(np.float32) - drawn)
    return Drawn(np.clip(np.rint(mixed), 0, 255).astype(np.uint8), redrawn)


# --- taking away ---


def _opening(points: Points, part: str) -> float:
    return face_measures.eye_aspect(points, part.removesuffix("_eye"))


def _hull(points: Points, part: str, reach: float, shape: tuple[int, ...]) -> np.ndarray:
    """H × W uint8: 255 on the part and around it."""
    filled = np.zeros(shape[:2], np.uint8)
    hull = np.rint(cv2.convexHull(points[lm.PARTS[part]].astype(np.float32)) * 16 - 8)
    cv2.fillConvexPoly(filled, hull.astype(np.int32), 255, cv2.LINE_8, 4)
    side = 2 * max(1, round(reach)) + 1
    return cv2.dilate(filled, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))


def skin_colour(face: np.ndarray, points: Points) -> np.ndarray:
    """3 float: the median colour of both cheeks and of the skin between mouth and chin."""
    chin, mouth = points[lm.INDEX["chin"]], points[lm.MOUTH].mean(axis=0)
    nose = points[lm.NOSE][0]
    places = [0.55 * mouth + 0.45 * chin]
    for corner, cheek in ((0, 0), (2, 4)):
        places.append(0.5 * points[lm.MOUTH][corner] + 0.5 * points[lm.CONTOUR][cheek])
        places.append(0.6 * nose + 0.4 * points[lm.CONTOUR][cheek])
    reach = max(1, round(0.02 * lm.face_width(points)))
    samples = []
    for x, y in places:
        column, row = round(float(x)), round(float(y))
        patch = face[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach]
        samples.append(patch.reshape(-1, 3))
    colours = np.concatenate(samples)
    return np.median(colours, axis=0) if len(colours) else np.array([255.0, 224.0, 208.0])


def _painted_over(face: np.ndarray, points: Points, part: str, width: float) -> np.ndarray:
    """The face with skin in the part's place; only what lies around it is looked at."""
    room = _AROUND * width
    low = np.floor(points[lm.PARTS[part]].min(axis=0) - room).astype(int).clip(0)
    high = np.ceil(points[lm.PARTS[part]].max(axis=0) + room).astype(int).clip(0)
    place = np.s_[low[1] : high[1], low[0] : high[0]]
    if not face[place].size:
        return face
    painted = face.copy()
    skin = skin_colour(face, points)
    painted[place] = _skin_spread(face[place], points - low, part, width, skin)
    return painted


def _skin_spread(
    face: np.ndarray, points: Points, part: str, width: float, skin: np.ndarray
) -> np.ndarray:
    """A piece of the face with the skin that is around the part spread inwards (normalised
    convolution, Knutsson & Westin 1993)."""
    reach = (_LIPS if part == "mouth" else _LASHES) * width
    hole = _hull(points, part, reach, face.shape)
    for brow in ("left_brow", "right_brow"):
        hole[_hull(points, brow, 0.02 * width, face.shape) > 0] = 0
    near = np.abs(face.astype(np.float32) - skin).max(axis=2) < 34
    if part != "mouth":
        hole[_hair(face, points, part, hole, near, width)] = 0
        hole[_scraps(points, hole, near, width)] = 255
    trust = (near & (hole == 0)).astype(np.float32)
    blurred = face.astype(np.float32) * trust[..., None]
    sigma = 0.06 * width
    total = cv2.GaussianBlur(trust, (0, 0), sigma)
    spread = cv2.GaussianBlur(blurred, (0, 0), sigma) + 1e-3 * skin.astype(np.float32)
    filling = spread / (total + 1e-3)[..., None]
    soft = cv2.GaussianBlur(hole.astype(np.float32) / 255, (0, 0), max(0.6, 0.006 * width))
    # Outside the hole only skin is softened into it: hair and brows keep their borders.
    soft = np.where(hole > 0, 1.0, soft * near)[..., None]
    mixed = face + soft * (filling - face)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _hair(
    face: np.ndarray,
    points: Points,
    part: str,
    hole: np.ndarray,
    skin: np.ndarray,
    width: float,
) -> np.ndarray:
    """H × W bool: hair that hangs into an eye's place, which is to stay. It has one of the colours
    that, beside skin, lie around the place, and is no lash: lighter than those, or further out."""
    size = 2 * max(1, round(0.07 * width)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    around = (cv2.dilate(hole, kernel) > 0) & (hole == 0) & ~skin
    for brow in ("left_brow", "right_brow"):
        around &= _hull(points, brow, 0.02 * width, face.shape) == 0
    colours = face[around].astype(np.float32)
    if len(colours) < 40:
        return np.zeros(hole.shape, bool)
    criteria = (cv2.TERM_CRITERIA_MAX_ITER, 12, 0.0)
    cv2.setRNGSeed(1)
    _, labels, centres = cv2.kmeans(
        colours, 3, np.zeros(0, np.int32), criteria, 1, cv2.KMEANS_PP_CENTERS
    )
    shares = np.bincount(labels.ravel(), minlength=3) / len(colours)
    pixels = face.astype(np.float32)
    like = np.zeros(hole.shape, bool)
    for centre, share in zip(centres, shares, strict=True):
        if share > 0.15:
            like |= np.abs(pixels - centre).max(axis=2) < 26
    ink = sum(_dark(face, points, part, width)) / 3
    lighter = pixels.mean(axis=2) > ink + 36
    near_eye = _hull(points, part, 0.015 * width, face.shape) > 0
    near_lashes = _hull(points, part, 0.05 * width, face.shape) > 0
    kept = (like & ~skin & ~near_eye & (lighter | ~near_lashes)).astype(np.uint8)
    # Locks, not the soft borders of lines: wide enough, and coming in from outside.
    side = 2 * max(1, round(0.008 * width)) + 1
    wide = cv2.morphologyEx(
        kept, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    )
    edge = (cv2.erode(hole, np.ones((5, 5), np.uint8)) == 0) & (hole > 0)
    _, parts = cv2.connectedComponents(np.where(hole > 0, wide, 0).astype(np.uint8))
    coming_in = np.unique(parts[edge & (parts > 0)])
    locks = np.isin(parts, coming_in[coming_in > 0]).astype(np.uint8)
    # With the line around them.
    grown = cv2.dilate(locks, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    found = (grown > 0) & ~skin & ~near_eye
    # A lock's border is a line, not the steps of pixels.
    smooth: np.ndarray = cv2.GaussianBlur(found.astype(np.float32), (0, 0), 0.008 * width) > 0.5
    return smooth & ~near_eye


def _scraps(points: Points, hole: np.ndarray, skin: np.ndarray, width: float) -> np.ndarray:
    """H × W bool: what would be left of an eye beside its hole: tips of lashes, ends of creases.
    Small things that are no skin, lie along the hole, and are no brow."""
    rest = (~skin & (hole == 0)).astype(np.uint8)
    side = 2 * max(1, round(0.025 * width)) + 1
    beside = (cv2.dilate(hole, np.ones((side, side), np.uint8)) > 0) & (rest > 0)
    _, parts, found, _ = cv2.connectedComponentsWithStats(rest)
    brows = np.zeros(hole.shape, bool)
    for brow in ("left_brow", "right_brow"):
        brows |= _hull(points, brow, 0.005 * width, hole.shape) > 0
    on_brow = np.bincount(parts[brows], minlength=len(found))
    areas = found[:, cv2.CC_STAT_AREA]
    along = np.bincount(parts[beside], minlength=len(found))
    scraps = (areas < (_SCRAP * width) ** 2) & (along > 0.6 * areas) & (on_brow < 0.3 * areas)
    scraps[0] = False
    size = 2 * max(1, round(0.006 * width)) + 1
    grown = cv2.dilate(scraps[parts].astype(np.uint8), np.ones((size, size), np.uint8))
    found_scraps: np.ndarray = (grown > 0) & ((rest == 0) | scraps[parts])
    return found_scraps


def _dark(face: np.ndarray, points: Points, part: str, width: float) -> Colour:
    """The colour of the part's darkest lines."""
    inside = face[_hull(points, part, 0.02 * width, face.shape) > 0].astype(np.float32)
    if not len(inside):
        return (60, 35, 40)
    light = inside.sum(axis=1)
    dark = inside[light <= np.quantile(light, 0.06)]
    red, green, blue = (round(float(v)) for v in np.median(dark, axis=0))
    return red, green, blue


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

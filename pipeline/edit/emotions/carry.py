"""Carries an emotion over to the drawing: its own lines, moved as the landmarks moved.

Where `pipeline.edit.carry` must measure a motion, here it is known: from the landmarks read before
and after. Only parts that change into something that the drawing does not show (an eye that shuts
or opens, a mouth that opens) are the model's own pixels, enlarged and sharpened as line art.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.data import face_measures
from pipeline.data import landmarks as lm
from pipeline.data.align import CropTransform, crop
from pipeline.data.landmarks import Points
from pipeline.edit.carry import Motion, apply_motion, carry_over, measure_motion
from pipeline.edit.sharpening import crisp

# An eye that is open by less than this share of what it was, or the other way round, is another.
_SHUT = 0.45
# Face widths by which a mouth's opening must change to show, or hide, the inside.
_OPENED = 0.028
# How far a mouth may be drawn out, and (in mouth widths) bent the other way, and be the same still.
_STRETCHED, _BENT = 1.3, 0.1
# Of the face's width: how far around an eye (its lashes) and a mouth the model paints, and fades.
_AROUND = {"left_eye": 0.06, "right_eye": 0.06, "mouth": 0.05}
_FADE = 0.035
# Side of the grid on which the motion between landmarks is worked out, px.
_GRID = 48


@dataclass(frozen=True, eq=False)
class Sides:
    """A face before and after: h × w × 3 uint8 and 28×2 px each."""

    before: np.ndarray
    after: np.ndarray
    points_before: Points
    points_after: Points


def carry_emotion(
    drawing: np.ndarray, sides: Sides, transform: CropTransform, mask: np.ndarray | None
) -> tuple[np.ndarray, Motion]:
    """The drawing (H × W × 3 uint8) with the emotion in it, and the motion.

    mask: h × w uint8, 255 keeps; None: the head turned, and the motion is measured instead.
    """
    if mask is None:
        full, motion = carry_over(drawing, sides.before, sides.after, transform)
        return full, motion
    keep = mask.astype(np.float32) / 255
    changed = changed_parts(sides.points_before, sides.points_after)
    known = landmark_flow(sides, changed, keep)
    drawn = crop(drawing, transform, sides.before.shape[1])
    motion = measure_motion(sides.before, sides.after, drawn, keep, known)
    forced = np.zeros(motion.repaint.shape, np.float32)
    for part in changed:
        forced = np.maximum(forced, _around(part, sides, motion.repaint.shape))
    free = 1 - cv2.resize(keep, forced.shape[::-1], interpolation=cv2.INTER_LINEAR)
    motion = replace(motion, repaint=np.maximum(motion.repaint, forced * (free > 0.02)))
    return apply_motion(drawing, crisp(sides.after), transform, motion), motion


def changed_parts(before: Points, after: Points) -> tuple[str, ...]:
    """The parts that show something else after than before: names of `landmarks.PARTS`."""
    parts = []
    for side in face_measures.SIDES:
        was, now = (face_measures.eye_aspect(points, side) for points in (before, after))
        if min(was, now) < _SHUT * max(was, now):
            parts.append(f"{side}_eye")
    was, now = (
        face_measures.mouth_aspect(points) * face_measures.mouth_width(points)
        for points in (before, after)
    )
    if abs(was - now) > _OPENED or _reshaped(before, after):
        parts.append("mouth")
    return tuple(parts)


def _reshaped(before: Points, after: Points) -> bool:
    """Whether a mouth is another: much wider or narrower, or bent the other way."""
    ratio = face_measures.mouth_width(after) / max(face_measures.mouth_width(before), 1e-6)
    was, now = (face_measures.mouth_curvature(points) for points in (before, after))
    return not 1 / _STRETCHED < ratio < _STRETCHED or (was * now < 0 and abs(was - now) > _BENT)


def landmark_flow(
    sides: Sides,
    changed: tuple[str, ...],
    keep: np.ndarray,
    irises: tuple[Points, Points] | None = None,
) -> np.ndarray:
    """_GRID × _GRID × 2: where each place of the face came from, as fractions of its sides.

    A thin-plate spline (Duchon 1977) through the landmarks' ways, at rest where the mask keeps; a
    part that shows something else moves as a whole, for squeezing it would explain nothing.

    irises: where both irises' centres (2×2 px) are before and after; None: with their eyes.
    """
    # Here: its import is a third of a second of the start of all that edits.
    from scipy.interpolate import RBFInterpolator

    height, width = sides.before.shape[:2]
    size = np.array([width, height], dtype=np.float64)
    to, way = sides.points_after / size, (sides.points_before - sides.points_after) / size
    way = way.copy()
    for part in changed:
        if part != "mouth":
            way[lm.PARTS[part]] = way[lm.PARTS[part]].mean(axis=0)
    if irises is not None:
        looked = [row for row, eye in enumerate(("left_eye", "right_eye")) if eye not in changed]
        to = np.concatenate([to, irises[1][looked] / size])
        way = np.concatenate([way, (irises[0] - irises[1])[looked] / size])
    steps = (np.arange(_GRID) + 0.5) / _GRID
    places = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    held = cv2.resize(keep, (_GRID, _GRID), interpolation=cv2.INTER_AREA).reshape(-1)
    # A border that only just holds has few cells that hold wholly.
    rest = places[held > (0.97 if (held > 0.97).sum() > 8 else 0.5)]
    rest = rest[:: max(1, len(rest) // 120)]
    points = np.concatenate([to, rest])
    ways = np.concatenate([way, np.zeros((len(rest), 2))])
    # Readings are off by a per cent or so: a spline through them exactly would ripple.
    spline = RBFInterpolator(points, ways, smoothing=2e-4, kernel="thin_plate_spline")
    # It dies away towards what is kept, so that nothing there is seen twice.
    share = np.clip(1 - held, 0, 1)
    fading = (share * share * (3 - 2 * share))[:, None]
    flow: np.ndarray = (fading * spline(places)).reshape(_GRID, _GRID, 2).astype(np.float32)
    return flow


def _around(part: str, sides: Sides, shape: tuple[int, ...]) -> np.ndarray:
    """H × W in [0, 1] over the face: 1 on the part, before or after, fading around it."""
    scale = shape[1] / sides.before.shape[1]
    width = lm.face_width(sides.points_before) * scale
    filled = np.zeros(shape, np.uint8)
    for points in (sides.points_before, sides.points_after):
        hull = cv2.convexHull((points[lm.PARTS[part]] * scale).astype(np.float32))
        cv2.fillConvexPoly(filled, np.rint(hull).astype(np.int32), 255)
    reach = max(1.0, _AROUND[part] * width)
    distance = cv2.distanceTransform(255 - filled, cv2.DIST_L2, 5)
    share = np.clip(1 - (distance - reach) / max(1.0, _FADE * width), 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)

"""What a face does, measured from its 28 landmarks: how open eyes and mouth are, how they bend.

All measures are free of the face's size, place and roll: lengths are shares of other lengths of the
same face, angles are taken from the line of the eyes. They serve to compare two pictures of one
face; between faces they also differ by how these are drawn. Knows nothing about pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.data import landmarks as lm
from pipeline.data.landmarks import Points

Landmarks = Points | Sequence[Sequence[float]]
SIDES = ("left", "right")  # in the picture


def levelled(landmarks: Landmarks) -> Points:
    """28×2: the points turned level about the eyes' midpoint, which becomes (0, 0), in face widths
    (`landmarks.face_width`); ValueError where the face has no width."""
    points = lm.as_points(landmarks)
    width = lm.face_width(points)
    if not width > 0:
        raise ValueError("the landmarks are of no face: its contour's ends lie on one point")
    angle = np.radians(lm.roll_degrees(points))
    cos, sin = np.cos(angle), np.sin(angle)
    turned: Points = (points - lm.eyes_midpoint(points)) @ np.array([[cos, -sin], [sin, cos]])
    return turned / width


def eye_aspect(landmarks: Landmarks, side: str) -> float:
    """How open an eye is: from the upper lid's middle to the lower one's, in eye widths; 0 shut.

    `side`: "left" or "right" in the picture. About 0.8 for the painter's open eyes. (The eye aspect
    ratio of Soukupová and Čech 2016, with the middles alone.)
    """
    upper, lower = _lids(lm.as_points(landmarks), side)
    across = upper[2] - upper[0]
    width = float(np.linalg.norm(across))
    if width == 0:
        return 0.0
    # Only what points away from the eye's own line: a gap along it is no opening.
    down = np.array([-across[1], across[0]]) / width
    return max(0.0, float((lower[1] - upper[1]) @ down) / width)


def eye_opening(landmarks: Landmarks) -> float:
    """Mean of both eyes' aspects."""
    return sum(eye_aspect(landmarks, side) for side in SIDES) / 2


def mouth_aspect(landmarks: Landmarks) -> float:
    """How open the mouth is: from its upper to its lower middle, in mouth widths; 0 shut."""
    left, upper, right, lower = levelled(landmarks)[lm.MOUTH]
    width = float(np.linalg.norm(right - left))
    return max(0.0, float(lower[1] - upper[1]) / width) if width else 0.0


def mouth_width(landmarks: Landmarks) -> float:
    """From corner to corner, in face widths."""
    left, _, right, _ = levelled(landmarks)[lm.MOUTH]
    return float(np.linalg.norm(right - left))


def mouth_curvature(landmarks: Landmarks) -> float:
    """How far the corners lie above the lips' middle, in mouth widths.

    Above 0 they point up (a smile), below 0 down; a shut straight mouth and a round "o" have 0.
    """
    left, upper, right, lower = levelled(landmarks)[lm.MOUTH]
    width = float(np.linalg.norm(right - left))
    middle, corners = (upper[1] + lower[1]) / 2, (left[1] + right[1]) / 2
    return float(middle - corners) / width if width else 0.0


def brow_angle(landmarks: Landmarks, side: str) -> float:
    """Slope of a brow against the line of the eyes, in degrees.

    Above 0 the inner end lies lower (anger), below 0 higher (sadness).
    """
    points = levelled(landmarks)[_of(side, lm.LEFT_BROW, lm.RIGHT_BROW)]
    outer, inner = (points[0], points[2]) if side == "left" else (points[2], points[0])
    across, down = abs(inner[0] - outer[0]), inner[1] - outer[1]
    return float(np.degrees(np.arctan2(down, across)))


def brow_tilt(landmarks: Landmarks) -> float:
    """Mean of both brows' angles, in degrees."""
    return sum(brow_angle(landmarks, side) for side in SIDES) / 2


def brow_height(landmarks: Landmarks) -> float:
    """How far the brows lie above the upper lids' line ends, in face widths, mean of both."""
    points = levelled(landmarks)
    heights = []
    for brow, eye in ((lm.LEFT_BROW, lm.LEFT_EYE_UPPER), (lm.RIGHT_BROW, lm.RIGHT_EYE_UPPER)):
        # The lid's middle falls when the eye shuts, its ends hardly do.
        ends = points[eye][[0, 2], 1].mean()
        heights.append(float(ends - points[brow][:, 1].mean()))
    return sum(heights) / 2


def measures(landmarks: Landmarks) -> dict[str, float]:
    """All of them by name, for a table or a target."""
    return {
        "left_eye_aspect": eye_aspect(landmarks, "left"),
        "right_eye_aspect": eye_aspect(landmarks, "right"),
        "mouth_aspect": mouth_aspect(landmarks),
        "mouth_width": mouth_width(landmarks),
        "mouth_curvature": mouth_curvature(landmarks),
        "brow_tilt": brow_tilt(landmarks),
        "brow_height": brow_height(landmarks),
    }


def _lids(points: Points, side: str) -> tuple[Points, Points]:
    upper = points[_of(side, lm.LEFT_EYE_UPPER, lm.RIGHT_EYE_UPPER)]
    return upper, points[_of(side, lm.LEFT_EYE_LOWER, lm.RIGHT_EYE_LOWER)]


def _of(side: str, left: slice, right: slice) -> slice:
    if side not in SIDES:
        raise ValueError(f"side must be left or right, not {side}")
    return left if side == "left" else right

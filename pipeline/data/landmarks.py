"""The 28 points of an anime face: names, groups, mirror order, and what is measured from them.

The order is that of the anime-face-detector's landmark model: five points of the lower contour,
two brows, two eyes, the nose, the mouth. "Left" is the image's left and always comes first; within
a part, points run from left to right (eye: upper lid, then lower lid; mouth: left corner, upper
middle, right corner, lower middle). Coordinates are continuous pixels (x right, y down; the
centre of the first pixel is (0.5, 0.5)). Knows nothing about detectors or drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

NUM_LANDMARKS = 28

NAMES: tuple[str, ...] = (
    "contour_left",  # by the left cheekbone, at the height of the eyes' lower half
    "contour_lower_left",  # jaw, left
    "chin",
    "contour_lower_right",
    "contour_right",
    "left_brow_left",
    "left_brow_middle",
    "left_brow_right",
    "right_brow_left",
    "right_brow_middle",
    "right_brow_right",
    "left_eye_upper_left",  # the end of the upper lid's line
    "left_eye_upper_middle",
    "left_eye_upper_right",
    "left_eye_lower_left",
    "left_eye_lower_middle",
    "left_eye_lower_right",
    "right_eye_upper_left",
    "right_eye_upper_middle",
    "right_eye_upper_right",
    "right_eye_lower_left",
    "right_eye_lower_middle",
    "right_eye_lower_right",
    "nose",
    "mouth_left",
    "mouth_upper",
    "mouth_right",
    "mouth_lower",
)
INDEX: dict[str, int] = {name: index for index, name in enumerate(NAMES)}

CONTOUR = slice(0, 5)
LEFT_BROW = slice(5, 8)
RIGHT_BROW = slice(8, 11)
LEFT_EYE = slice(11, 17)
LEFT_EYE_UPPER = slice(11, 14)
LEFT_EYE_LOWER = slice(14, 17)
RIGHT_EYE = slice(17, 23)
RIGHT_EYE_UPPER = slice(17, 20)
RIGHT_EYE_LOWER = slice(20, 23)
NOSE = slice(23, 24)
MOUTH = slice(24, 28)

# Part name -> its points; together the parts cover each point exactly once.
PARTS: dict[str, slice] = {
    "contour": CONTOUR,
    "left_brow": LEFT_BROW,
    "right_brow": RIGHT_BROW,
    "left_eye": LEFT_EYE,
    "right_eye": RIGHT_EYE,
    "nose": NOSE,
    "mouth": MOUTH,
}

# MIRROR[i] is the point that lands on i when the picture is mirrored left to right.
MIRROR: tuple[int, ...] = (
    *(4, 3, 2, 1, 0),
    *(10, 9, 8),
    *(7, 6, 5),
    *(19, 18, 17, 22, 21, 20),
    *(13, 12, 11, 16, 15, 14),
    23,
    *(26, 25, 24, 27),
)


def as_points(landmarks: Points | Sequence[Sequence[float]]) -> Points:
    """`landmarks` as a float64 array of shape 28×2; ValueError for any other shape."""
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (NUM_LANDMARKS, 2):
        raise ValueError(f"landmarks must have shape (28, 2), not {points.shape}")
    return points


def left_eye_centre(landmarks: Points | Sequence[Sequence[float]]) -> Points:
    """Mean of the image-left eye's six points: shape (2,), px."""
    centre: Points = as_points(landmarks)[LEFT_EYE].mean(axis=0)
    return centre


def right_eye_centre(landmarks: Points | Sequence[Sequence[float]]) -> Points:
    """Mean of the image-right eye's six points: shape (2,), px."""
    centre: Points = as_points(landmarks)[RIGHT_EYE].mean(axis=0)
    return centre


def eyes_midpoint(landmarks: Points | Sequence[Sequence[float]]) -> Points:
    """The point halfway between the two eyes' centres: shape (2,), px."""
    return (left_eye_centre(landmarks) + right_eye_centre(landmarks)) / 2


def roll_degrees(landmarks: Points | Sequence[Sequence[float]]) -> float:
    """Angle of the line from the left to the right eye, degrees in (-180, 180].

    Positive: the head is turned clockwise in the picture (the right eye lies lower).
    """
    dx, dy = right_eye_centre(landmarks) - left_eye_centre(landmarks)
    return float(np.degrees(np.arctan2(dy, dx)))


def face_width(landmarks: Points | Sequence[Sequence[float]]) -> float:
    """Distance from cheek to cheek (the contour's ends), px: the measure of a face's size."""
    points = as_points(landmarks)
    return float(np.linalg.norm(points[INDEX["contour_right"]] - points[INDEX["contour_left"]]))


def mirrored(landmarks: Points | Sequence[Sequence[float]], width: float) -> Points:
    """The landmarks (28×2, px) of the picture, `width` px wide, mirrored left to right."""
    points = as_points(landmarks)[list(MIRROR)]
    points[:, 0] = width - points[:, 0]
    return points


def bounding_box(
    landmarks: Points | Sequence[Sequence[float]],
) -> tuple[float, float, float, float]:
    """The smallest box around the 28 points: (x0, y0, x1, y1), px."""
    points = as_points(landmarks)
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def to_json(landmarks: Points | Sequence[Sequence[float]]) -> list[list[float]]:
    """28 pairs [x, y], rounded to 1/1000 px, for one line of faces.jsonl."""
    return [[round(float(x), 3), round(float(y), 3)] for x, y in as_points(landmarks)]


def from_json(value: Any) -> Points:
    """Read back what `to_json` wrote; ValueError where it is not 28 pairs of numbers."""
    return as_points(value)

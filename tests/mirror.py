"""Landmarks of a mirrored picture, to test symmetry with."""

from __future__ import annotations

import numpy as np

from pipeline.data.landmarks import as_points

# FLIP[i] is the point that lands on i when the picture is mirrored left to right.
FLIP: tuple[int, ...] = (
    *(4, 3, 2, 1, 0),
    *(10, 9, 8),
    *(7, 6, 5),
    *(19, 18, 17, 22, 21, 20),
    *(13, 12, 11, 16, 15, 14),
    23,
    *(26, 25, 24, 27),
)


def mirror(landmarks: np.ndarray, width: float) -> np.ndarray:
    """The landmarks (28 x 2, px) of the picture, `width` px wide, mirrored left to right."""
    points = as_points(landmarks)[list(FLIP)].copy()
    points[:, 0] = width - points[:, 0]
    return points

"""A shut eye opened with the other one: what lies behind its lid, the drawing shows once.

The open eye's pixels, without the skin and the hair around it, carried over to the other side by
the affine map that takes its landmarks, mirrored, to where that eye's are to be. Knows nothing
about emotions, nor about the skin below, which must have been cleaned.
"""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.data import landmarks as lm
from pipeline.data.landmarks import Points

# Width of the soft border, of the face's width.
_SOFT = 0.006


def other_eye(part: str) -> str:
    """The name of the eye across from this one."""
    return "right_eye" if part == "left_eye" else "left_eye"


def mirrored_onto(
    picture: np.ndarray, face: np.ndarray, matte: np.ndarray, ways: tuple[Points, Points]
) -> np.ndarray:
    """The picture with the other eye's mirror image on it.

    Args:
        picture: S × S × 3 uint8, to be drawn on.
        face: S × S × 3 uint8, the drawing that shows the open eye.
        matte: S × S uint8, 255 where its pixels belong to that eye.
        ways: landmarks of the open eye, each with where its image goes (N × 2 px).
    """
    source, target = ways
    padded = np.concatenate([source, np.ones((len(source), 1))], axis=1)
    solved = np.linalg.lstsq(padded, np.asarray(target, dtype=np.float64), rcond=None)[0].T
    # Pixel centres lie half a pixel inside for landmarks, on whole numbers for OpenCV.
    solved[:, 2] += solved[:, :2] @ np.array([0.5, 0.5]) - 0.5
    size = picture.shape[1::-1]
    image = cv2.warpAffine(face, solved, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    share = cv2.warpAffine(matte, solved, size, flags=cv2.INTER_LINEAR).astype(np.float32) / 255
    mixed = picture + share[..., None] * (image.astype(np.float32) - picture)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def corresponding(before: Points, target: Points, part: str) -> tuple[Points, Points]:
    """Landmarks of the eye across from `part`, and where their mirror images are to lie."""
    indices = np.arange(len(before))[lm.PARTS[part]]
    return before[[lm.MIRROR[index] for index in indices]], target[indices]


def softened(matte: np.ndarray, width: float) -> np.ndarray:
    """The matte (uint8) with a soft border, for a face so many pixels wide."""
    return cv2.GaussianBlur(matte, (0, 0), max(0.6, _SOFT * width))

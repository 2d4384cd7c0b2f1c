"""The face cut from a drawing at its own size, and a changed one put back."""

from __future__ import annotations

import math

import cv2
import numpy as np

from pipeline.data.align import CropTransform, change_mask, crop, paste_back

# Its side, px: no fewer, so that lines drawn on it are smooth, and no more, for the time.
LEAST_SIDE, MOST_SIDE = 768, 1600
# What changes dies away over this share of the side towards the border, where no mask says more.
_BORDER = 0.10


def own_face(source: np.ndarray, transform: CropTransform) -> np.ndarray:
    """S × S × 3 uint8: the face of a drawing (H × W × 3 uint8) at about its own size."""
    return crop(source, transform, min(max(math.ceil(transform.width), LEAST_SIDE), MOST_SIDE))


def put_back(
    source: np.ndarray, transform: CropTransform, own: np.ndarray, changed: np.ndarray
) -> np.ndarray:
    """The drawing with `changed` in place of its `own_face`; equal pixels stay bit for bit."""
    mask = change_mask(own, changed, threshold=1.0, grow=0.01)
    return paste_back(source, changed, transform, mask)


def kept_part(mask: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """H × W float in [0, 1] of a face's shape, 1 where nothing may change.

    mask: h × w uint8, 255 keeps; None: all but the border may change.
    """
    height, width = shape[:2]
    if mask is not None:
        share = mask.astype(np.float32) / 255
        return cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR)
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    edge = np.minimum.reduce([rows, height - 1 - rows, columns, width - 1 - columns])
    return np.clip(1 - edge / (_BORDER * min(height, width)), 0, 1).astype(np.float32)


def at_width(picture: np.ndarray, side: int) -> np.ndarray:
    """At `side` px wide."""
    height, width = picture.shape[:2]
    if width == side:
        return picture
    size = (side, max(1, round(height * side / width)))
    how = cv2.INTER_AREA if width > side else cv2.INTER_CUBIC
    return cv2.resize(picture, size, interpolation=how)

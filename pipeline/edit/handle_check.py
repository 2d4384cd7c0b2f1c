"""A second opinion on where a handle ended: the pictures are compared, not the tracker's features.

The patch around the handle in the picture before is looked for in the picture after (forward),
and the patch around the target in the picture after in the one before (backward), by normalised
cross-correlation at three sizes. Knows neither networks nor the tracker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.edit.drag import Point

# Half the side of the compared patches, as shares of the picture's height: small ones place
# exactly, large ones know which eye it is.
PATCHES = (0.05, 0.08, 0.12)
# Pictures are compared enlarged to about this height, so that a match is finer than a pixel.
FINE_HEIGHT = 512


@dataclass(frozen=True)
class Check:
    """What the pictures say about one handle, in the face's pixels."""

    found: Point  # where the handle's patch lies in the picture after
    error_px: float  # from there to the target
    returned: Point  # where the target's patch of the picture after lay before
    return_error_px: float  # from there to the handle's start
    score: float  # correlation of the forward match, 1 is identical


def check_handle(before: np.ndarray, after: np.ndarray, start: Point, target: Point) -> Check:
    """Find the handle again by its looks.

    Args:
        before, after: the face before and after, H × W × 3 uint8 of one size.
        start, target: the handle and its target, in continuous pixels of the face.
    """
    # As far as a handle that never moved, and as far again beyond the target.
    reach = math.dist(start, target) + PATCHES[0] * before.shape[0]
    found, score = match(before, start, after, target, reach)
    returned, _ = match(after, target, before, start, reach)
    return Check(found, math.dist(found, target), returned, math.dist(returned, start), score)


def match(
    source: np.ndarray, point: Point, searched: np.ndarray, around: Point, reach_px: float
) -> tuple[Point, float]:
    """Where `searched` looks most like `source` does at `point`.

    Args:
        source, searched: H × W × 3 uint8 of one size.
        point: the patch's centre in `source`.
        around: centre of the searched square in `searched`.
        reach_px: half its side.

    Returns:
        The place, and the mean correlation there (at most 1).
    """
    height, width = source.shape[:2]
    fine = max(1, round(FINE_HEIGHT / height))
    reach = math.ceil(reach_px * fine)
    margin = reach + math.ceil(max(PATCHES) * height * fine) + 1
    source, searched = _fine(source, fine, margin), _fine(searched, fine, margin)
    x, y = _index(point, fine, margin, width, height)
    centre_x, centre_y = _index(around, fine, margin, width, height)
    total = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for share in PATCHES:
        half = max(2, round(share * height * fine))
        patch = source[y - half : y + half + 1, x - half : x + half + 1]
        field = searched[
            centre_y - reach - half : centre_y + reach + half + 1,
            centre_x - reach - half : centre_x + reach + half + 1,
        ]
        response = cv2.matchTemplate(field, patch, cv2.TM_CCOEFF_NORMED)
        total += np.nan_to_num(response, nan=0.0, posinf=0.0, neginf=0.0)
    row, column = np.unravel_index(int(total.argmax()), total.shape)
    # The whole-grid offset from `around`, back in the face's pixels.
    place = (
        around[0] + (float(column) - reach) / fine,
        around[1] + (float(row) - reach) / fine,
    )
    return place, min(1.0, float(total.max()) / len(PATCHES))


def _fine(picture: np.ndarray, fine: int, margin: int) -> np.ndarray:
    large = cv2.resize(picture, None, fx=fine, fy=fine, interpolation=cv2.INTER_CUBIC)
    return cv2.copyMakeBorder(large, margin, margin, margin, margin, cv2.BORDER_REFLECT)


def _index(point: Point, fine: int, margin: int, width: int, height: int) -> tuple[int, int]:
    x = min(max(math.floor(point[0] * fine), 0), width * fine - 1)
    y = min(max(math.floor(point[1] * fine), 0), height * fine - 1)
    return x + margin, y + margin

"""A mask proposed from the handles: free around every handle's way, all else kept.

Knows points and pixels; nothing of networks, and nothing of faces but their landmarks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.data import landmarks as lm
from pipeline.data.landmarks import Points
from pipeline.edit.recipe import Move

# Shares of the face's shorter side: least room around a handle's way, and how wide the edge fades.
_ROOM = 0.08
_EDGE = 0.05
# A handle on a part of the face frees the whole part; it is on it within this share of the side.
_ON_PART = 0.06


def propose_mask(
    moves: Sequence[Move], width: int, height: int, landmarks: Points | None = None
) -> np.ndarray:
    """Where the picture may change for these moves: H × W uint8, 255 keeps, 0 is free, soft edge.

    Free is a band around each way from handle to target, as wide as the way is long but never
    narrow; with landmarks (28×2 px of the same picture) also the part that a handle lies on (an
    eye, the mouth), where it is and where it would come to.
    """
    side = min(width, height)
    free = np.zeros((height, width), np.uint8)
    for move in moves:
        length = math.dist(move.start, move.target)
        room = max(_ROOM * side, 0.6 * length) + (move.radius or 0.0)
        _band(free, move.start, move.target, room)
        for part in _parts_at(move, landmarks, side):
            shift = np.subtract(move.target, move.start)
            for points in (part, part + shift):
                hull = cv2.convexHull(np.asarray(points, np.float32))
                cv2.fillConvexPoly(free, np.rint(hull).astype(np.int32), 255)
                for x, y in points:
                    _band(free, (x, y), (x, y), _ROOM / 2 * side)
    # Fading outwards: what was to be free stays wholly so.
    distance = cv2.distanceTransform(np.where(free > 0, 0, 255).astype(np.uint8), cv2.DIST_L2, 5)
    share = np.clip(distance / max(_EDGE * side, 1.0), 0, 1)
    return np.rint(255 * share * share * (3 - 2 * share)).astype(np.uint8)


def _parts_at(move: Move, landmarks: Points | None, side: int) -> list[Points]:
    if landmarks is None:
        return []
    near = []
    for name, place in lm.PARTS.items():
        points = landmarks[place]
        # The contour runs around the face: its hull would free everything.
        if (
            name != "contour"
            and np.linalg.norm(points - move.start, axis=1).min() < _ON_PART * side
        ):
            near.append(points)
    return near


def _band(free: np.ndarray, start: Sequence[float], end: Sequence[float], room: float) -> None:
    # In sixteenths of a pixel; a pixel's centre lies at half.
    ends = [tuple(round((value - 0.5) * 16) for value in point) for point in (start, end)]
    cv2.line(free, ends[0], ends[1], 255, max(1, round(2 * room)), cv2.LINE_8, 4)
    for x, y in ends:
        cv2.circle(free, (x, y), round(room * 16), 255, -1, cv2.LINE_8, 4)

"""Where a head stands in the picture: pose, placement, and the projection of drawn points.

Head coordinates: the unit is half a face's width; the origin lies between the eyes; x right,
y down, depth towards the viewer. The projection is a 2.5-D one, as illustrators' rigs use: a point
keeps its drawn place and is moved by its depth when the head turns. Knows no features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from pipeline.data.painter.curves import Array

NECK_PIVOT = (0.0, 0.95)  # the head rolls about its joint with the neck
PITCH_PIVOT_Y = 0.15
MAX_YAW, MAX_PITCH = 40.0, 25.0  # beyond, a frontal drawing cannot be turned believably


@dataclass(frozen=True)
class Pose:
    """Head angles in degrees: yaw > 0 looks to the picture's right, pitch > 0 up, roll > 0
    tilts clockwise. Yaw is held within ±40, pitch within ±25."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


@dataclass(frozen=True)
class Placement:
    """A figure's place: `unit_px` px per head unit (half a face's width), `centre` (x, y) px of
    the point between the eyes of an upright frontal head, `turn` degrees (clockwise) of the whole
    figure about that point."""

    unit_px: float
    centre: tuple[float, float]
    turn: float = 0.0


def surface_depth(points: ArrayLike) -> Array:
    """Depth of the face's front at head coordinates (n×2): nearly a shallow bowl."""
    p = np.asarray(points, dtype=np.float64)
    depth: Array = 0.62 - 0.40 * p[:, 0] ** 2 - 0.10 * (p[:, 1] - 0.25) ** 2
    return depth


class Frame:
    """Projects head and body coordinates to pixels for one pose and placement."""

    def __init__(self, pose: Pose, placement: Placement, drop: float = 0.0) -> None:
        """`drop`: how far the body hangs below its usual place (head units): a longer face's."""
        self.pose = pose
        self.placement = placement
        self.drop = drop
        yaw = np.radians(np.clip(pose.yaw, -MAX_YAW, MAX_YAW))
        pitch = np.radians(np.clip(pose.pitch, -MAX_PITCH, MAX_PITCH))
        self.sin_yaw, self.cos_yaw = float(np.sin(yaw)), float(np.cos(yaw))
        self.sin_pitch, self.cos_pitch = float(np.sin(pitch)), float(np.cos(pitch))

    @cached_property
    def _head_to_px(self) -> tuple[Array, Array]:
        """The head's roll and the figure's placement as one affine map p @ matrix + offset."""
        roll, turn = _rotation(self.pose.roll), _rotation(self.placement.turn)
        pivot = np.array(NECK_PIVOT)
        matrix = roll @ turn * self.placement.unit_px
        offset = (pivot - pivot @ roll) @ turn * self.placement.unit_px + self.placement.centre
        return matrix, offset

    @cached_property
    def _body_to_px(self) -> tuple[Array, Array]:
        matrix = _rotation(self.placement.turn) * self.placement.unit_px
        # The body follows the head's yaw a little.
        return matrix, np.array([0.10 * self.sin_yaw, self.drop]) @ matrix + self.placement.centre

    def head(self, points: ArrayLike, depth: float | Array, flatness: float = 1.0) -> Array:
        """Head points (n×2) at `depth` (head units) → px.

        `flatness` 1: lies on the front and is foreshortened by cos; 0: part of a round outline,
        which stays as wide when the head turns.
        """
        p = np.asarray(points, dtype=np.float64)
        keep_x = 1 - (1 - self.cos_yaw) * flatness
        keep_y = 1 - (1 - self.cos_pitch) * flatness
        out = p * (keep_x, keep_y)
        out[:, 0] += depth * self.sin_yaw
        out[:, 1] -= depth * self.sin_pitch - PITCH_PIVOT_Y * (1 - keep_y)
        matrix, offset = self._head_to_px
        placed: Array = out @ matrix
        placed += offset
        return placed

    def face(self, points: ArrayLike) -> Array:
        """Points drawn on the face's front (n×2, head units) → px."""
        return self.head(points, surface_depth(points))

    def body(self, points: ArrayLike) -> Array:
        """Points of neck and torso (n×2, head units) → px."""
        matrix, offset = self._body_to_px
        placed: Array = np.asarray(points, dtype=np.float64) @ matrix
        placed += offset
        return placed

    def px(self, length: float) -> float:
        """A length in head units → px (line widths)."""
        return length * self.placement.unit_px

    def line(self, width: float) -> float:
        """A line width in head units → px, kept from vanishing in small faces."""
        return max(width * self.placement.unit_px, 0.55)


def _rotation(degrees: float) -> Array:
    """2×2 matrix for row vectors: p @ matrix turns clockwise in the picture (y down)."""
    angle = np.radians(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])

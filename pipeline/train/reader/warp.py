"""Crops of faces as the reader meets them, and faces of other proportions than the painter's.

A warp maps the crop's pixels to the picture's: a similarity (place, size, turn, mirror), and in the
face's own frame changes that drawings show among each other: longer or shorter lower faces, pointed
or broad chins, smaller or larger eyes and mouths. Landmarks follow exactly, by inverting the map.
Knows nothing about colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.data import landmarks as lm
from pipeline.data.align import CropTransform
from pipeline.data.face_reader import CLOSE_UP, close_up_frame

# The map is worked out at so many places a side and is smooth between them.
GRID = 25
# Borders of pictures that a crop leaves: what is seen there.
BORDERS = (cv2.BORDER_REFLECT, cv2.BORDER_REPLICATE, cv2.BORDER_CONSTANT)


@dataclass(frozen=True)
class Bump:
    """Something that is drawn larger (`size` > 1) or smaller around its place, face frame."""

    centre: np.ndarray
    radius: float
    size: float


@dataclass(frozen=True)
class Proportions:
    """How a face differs from the painted one, in its frame (level, unit: its width, origin: the
    eyes' midpoint)."""

    below: float = 1.0  # the lower face is so many times as long
    above: float = 1.0  # the forehead
    chin: float = 1.0  # width at the chin's height
    chin_x: float = 0.0  # where the painted chin lies across
    bumps: tuple[Bump, ...] = ()

    def to_painted(self, points: np.ndarray) -> np.ndarray:
        """n×2 points of the changed face => the same points of the painted one."""
        x, y = points[:, 0], points[:, 1]
        y = np.where(y > 0, y / self.below, y / self.above)
        # From the eyes down to the chin it narrows or widens evenly, and stays so below.
        share = np.clip(y / 0.6, 0.0, 1.0)
        middle = self.chin_x * share
        x = middle + (x - middle) / (1 + (self.chin - 1) * share)
        painted = np.stack([x, y], axis=1)
        shift = np.zeros_like(painted)
        for bump in self.bumps:
            offset = painted - bump.centre
            near = np.exp(-(offset**2).sum(axis=1) / (2 * bump.radius**2))
            shift += (1 / bump.size - 1) * near[:, None] * offset
        return painted + shift

    def to_changed(self, points: np.ndarray) -> np.ndarray:
        """The inverse of `to_painted`, by fixed-point steps."""
        found = points.copy()
        for _ in range(12):
            found += 0.8 * (points - self.to_painted(found))
        return found


@dataclass(frozen=True)
class Warp:
    """Where a crop of a face is cut, and how the face in it is changed."""

    frame: CropTransform  # of the changed face, in the picture's px
    mirror: bool
    origin: np.ndarray  # eyes' midpoint in the picture, px
    width: float  # the face's width, px
    roll_degrees: float  # the painted face's own
    proportions: Proportions

    def apply(self, image: np.ndarray, size: int, border: int, colour: list[int]) -> np.ndarray:
        """The crop at size × size px; `border`: OpenCV's, `colour` for BORDER_CONSTANT."""
        steps = (np.arange(GRID) / (GRID - 1)).astype(np.float64)
        places = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        source = self._to_picture(places).reshape(GRID, GRID, 2).astype(np.float32)
        # Grid points lie on the crop's borders, pixels at their centres.
        along = (np.arange(size, dtype=np.float32) + 0.5) * (GRID - 1) / size
        rows, columns = np.meshgrid(along, along, indexing="ij")
        dense = cv2.remap(source, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return cv2.remap(
            image, dense[..., 0] - 0.5, dense[..., 1] - 0.5, cv2.INTER_LINEAR,
            borderMode=border, borderValue=colour,
        )  # fmt: skip

    def points(self, landmarks: np.ndarray) -> np.ndarray:
        """28×2 px of the picture => shares of the crop's side; mirrored in order as well."""
        places = self.frame.apply(
            self._from_face(self.proportions.to_changed(self._face(landmarks)))
        )
        if self.mirror:
            return lm.mirrored(places, 1.0)
        return places

    def _to_picture(self, places: np.ndarray) -> np.ndarray:
        """n×2 shares of the crop => px of the painted picture."""
        if self.mirror:
            places = places * (-1, 1) + (1, 0)
        changed = self._face(self.frame.inverse(places))
        return self._from_face(self.proportions.to_painted(changed))

    def _face(self, points: np.ndarray) -> np.ndarray:
        return (points - self.origin) @ _rows(-self.roll_degrees) / self.width

    def _from_face(self, points: np.ndarray) -> np.ndarray:
        return points * self.width @ _rows(self.roll_degrees) + self.origin


def random_warp(
    rng: np.random.Generator, landmarks: np.ndarray, strength: float, mirror: bool | None = None
) -> Warp:
    """A crop as the reader's first or second look meets it.

    Args:
        landmarks: 28×2 px of the painted face.
        strength: of everything; 0 gives the second look at the face as it is.
        mirror: None: every second one.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    origin, width, roll = lm.eyes_midpoint(points), lm.face_width(points), lm.roll_degrees(points)
    proportions = Proportions()
    plain = Warp(close_up_frame(points), False, origin, width, roll, proportions)
    if rng.random() < 0.85:
        proportions = _random_proportions(rng, plain._face(points), strength)
    changed = plain._from_face(proportions.to_changed(plain._face(points)))
    close = close_up_frame(changed)
    side = close.width / CLOSE_UP
    if rng.random() < 0.5:  # the second look
        size, shift = CLOSE_UP * np.exp(rng.uniform(-0.12, 0.12) * strength), 0.04
        turn = rng.normal(0, 5)
    else:  # the first one
        size, shift = np.exp(rng.uniform(np.log(1.3), np.log(2.9))), 0.10
        turn = rng.normal(0, 14) if rng.random() < 0.85 else rng.uniform(-60, 60)
    offset = rng.normal(0, shift, 2) * side * strength
    frame = CropTransform.square(
        close.center_x + float(np.clip(offset[0], -0.25 * side, 0.25 * side)),
        close.center_y + float(np.clip(offset[1], -0.25 * side, 0.25 * side)),
        float(size) * side,
        close.roll_degrees + float(turn) * strength,
    )
    flip = bool(rng.random() < 0.5) if mirror is None else mirror
    return Warp(frame, flip, origin, width, roll, proportions)


def _random_proportions(rng: np.random.Generator, face: np.ndarray, strength: float) -> Proportions:
    """`face`: the painted landmarks in the face's frame."""
    # Real drawings have smaller eyes, smaller mouths and longer faces than the painter's.
    eyes = float(np.exp(rng.uniform(-0.50, 0.15) * strength))
    bumps = [
        Bump(face[eye].mean(axis=0), 0.20, eyes * float(np.exp(rng.normal(0, 0.04) * strength)))
        for eye in (lm.LEFT_EYE, lm.RIGHT_EYE)
    ]
    mouth = float(np.exp(rng.uniform(-0.5, 0.3) * strength))
    bumps.append(Bump(face[lm.MOUTH].mean(axis=0), 0.13, mouth))
    return Proportions(
        below=float(np.exp(rng.uniform(-0.12, 0.30) * strength)),
        above=float(np.exp(rng.uniform(-0.15, 0.15) * strength)),
        chin=float(np.exp(rng.uniform(-0.35, 0.12) * strength)),
        chin_x=float(face[lm.INDEX["chin"], 0]),
        bumps=tuple(bumps),
    )


def _rows(degrees: float) -> np.ndarray:
    """2×2 for row vectors: turns clockwise in the picture."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, sin], [-sin, cos]])

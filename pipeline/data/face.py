"""A face in a picture: where it is, how large, how it leans, and how sure that is.

Knows nothing about who found it or what it is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PART_NAMES = ("left_eye", "right_eye", "nose", "mouth", "chin")  # left in the image
# Medians over 33 drawings, in widths of animeface's box: eye to eye, eyes to mouth, eyes to chin.
EYE_DISTANCE, EYES_TO_MOUTH, EYES_TO_CHIN = 0.522, 0.354, 0.524


@dataclass(frozen=True)
class Face:
    """A face in a picture; all coordinates are the picture's continuous pixels."""

    box: tuple[float, float, float, float]  # x0, y0, x1, y1; cheeks to cheeks, forehead to chin
    score: float  # 0 to 1
    detector: str  # on which detector it rests: animeface, mediapipe, cascade or whole
    eyes: tuple[float, float]  # midpoint of the eyes
    width: float  # robust size: several measures in widths of animeface's box
    roll_degrees: float = 0.0  # clockwise; 0 where it could not be measured reliably
    parts: dict[str, tuple[float, float]] | None = None  # centres by PART_NAMES
    landmarks: np.ndarray | None = field(default=None, compare=False)  # 28 x 2, where known

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, rounded to hundredths of a pixel."""
        parts = None
        if self.parts is not None:
            parts = {name: _rounded(point) for name, point in self.parts.items()}
        landmarks = None if self.landmarks is None else [_rounded(p) for p in self.landmarks]
        return {
            "detector": self.detector,
            "score": round(self.score, 4),
            "box": _rounded(self.box),
            "eyes": _rounded(self.eyes),
            "face_width": round(self.width, 2),
            "roll_degrees": round(self.roll_degrees, 3),
            "parts": parts,
            "landmarks": landmarks,
        }


def box_around(center: np.ndarray, width: float) -> tuple[float, float, float, float]:
    """The square (x0, y0, x1, y1) of that width around a point."""
    x, y = float(center[0]), float(center[1])
    return (x - width / 2, y - width / 2, x + width / 2, y + width / 2)


def _rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    return [round(float(value), 2) for value in values]

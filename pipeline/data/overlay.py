"""Landmarks drawn over pictures, to look at."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.data import landmarks as lm


def draw_landmarks(image: np.ndarray, landmarks: np.ndarray, radius: float = 1.5) -> np.ndarray:
    """A copy of a picture (H×W×3 uint8) with its landmarks (28×2 px) as dots, a colour a part."""
    drawn = np.ascontiguousarray(image).copy()
    for index, points in enumerate(lm.PARTS.values()):
        hue = np.array([[[180 * index // len(lm.PARTS), 255, 255]]], np.uint8)
        colour = [int(value) for value in cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0]]
        # OpenCV takes sixteenths of pixels, counted from the first one's centre.
        for x, y in landmarks[points] * 16 - 8:
            place = (round(float(x)), round(float(y)))
            cv2.circle(drawn, place, round(16 * radius) + 14, (0, 0, 0), -1, cv2.LINE_AA, 4)
            cv2.circle(drawn, place, round(16 * radius), colour, -1, cv2.LINE_AA, 4)
    return drawn


def resized(image: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """A picture (H×W×3 uint8) at a longer side of `size` px, and the factor by which it grew."""
    scale = size / max(image.shape[:2])
    how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=how), scale

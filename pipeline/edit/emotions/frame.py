"""A face's own frame: position, scale, roll and foreshortening taken out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data import landmarks as lm
from pipeline.data.landmarks import Points
from pipeline.errors import DataError

# A turned head's features are narrower by the cosine; beyond this the reader is not believed.
_MOST_DEGREES = 40.0


@dataclass(frozen=True, eq=False)
class FaceFrame:
    """Origin between the eyes (px), face width (px), roll (degrees), and how far x and y shrink
    because the head is turned."""

    origin: Points
    width: float
    roll: float
    shrink: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(cls, landmarks: Points, yaw: float = 0.0, pitch: float = 0.0) -> FaceFrame:
        """The frame of 28 landmarks (px) of a neutral face; DataError where they are of no face."""
        width = lm.face_width(landmarks)
        if not width > 0:
            raise DataError(
                "No face could be read in the picture: its landmarks lie on one point; choose a "
                "picture with one face seen from the front."
            )
        angles = np.radians(np.clip([yaw, pitch], -_MOST_DEGREES, _MOST_DEGREES))
        shrink = float(np.cos(angles[0])), float(np.cos(angles[1]))
        return cls(lm.eyes_midpoint(landmarks), width, lm.roll_degrees(landmarks), shrink)

    def into(self, points: Points) -> Points:
        """n×2 px => face widths in this frame."""
        return self.into_vectors(points - self.origin)

    def into_vectors(self, vectors: Points) -> Points:
        """n×2 px => face widths; of differences, whose origin does not matter."""
        turned: Points = vectors @ self._turn() / (self.width * np.array(self.shrink))
        return turned

    def out_of_vectors(self, vectors: Points) -> Points:
        """The inverse of `into_vectors`."""
        turned: Points = (vectors * np.array(self.shrink) * self.width) @ self._turn().T
        return turned

    def _turn(self) -> Points:
        angle = np.radians(self.roll)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.array([[cos, -sin], [sin, cos]])

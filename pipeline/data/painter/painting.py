"""`paint_face`: one face in a square picture, with its landmarks and part masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.data.landmarks import Points
from pipeline.data.painter.background import Background, paint_background
from pipeline.data.painter.canvas import Drawing
from pipeline.data.painter.expression import Expression
from pipeline.data.painter.features import build_features
from pipeline.data.painter.figure import paint_figure
from pipeline.data.painter.identity import Identity
from pipeline.data.painter.light import Light, grade
from pipeline.data.painter.pose import Frame, Placement, Pose
from pipeline.errors import check_range

# Where the face of a square portrait lies, as fractions of its side: as aligned drawings have it.
UNIT = 0.235
EYES_Y = 0.465


@dataclass(frozen=True)
class Painting:
    """A painted picture and what is true of it.

    `image`: HWC uint8 RGB. `landmarks`: 28×2 px. `meta`: plain values that describe it.
    """

    image: NDArray[np.uint8]
    landmarks: Points
    meta: dict[str, float | str]
    drawing: Drawing = field(repr=False, compare=False)

    @cached_property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Part name -> HW bool: the part's whole painted shape, also where hair covers it."""
        return self.drawing.masks()

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """HW uint8: the part seen at each pixel, an index into `canvas.PARTS`."""
        return self.drawing.labels()


def portrait_placement(size: int) -> Placement:
    """The usual place of the figure in a square picture of `size` px."""
    return Placement(UNIT * size, (0.5 * size, EYES_Y * size))


def face_landmarks(
    identity: Identity,
    pose: Pose | None = None,
    expression: Expression | None = None,
    size: int = 256,
    placement: Placement | None = None,
) -> Points:
    """The 28 landmarks (28×2 px) that `paint_face` with the same arguments returns, unpainted."""
    frame = Frame(pose or Pose(), placement or portrait_placement(size))
    return build_features(identity, expression or Expression()).landmarks(frame)


def paint_face(
    identity: Identity,
    pose: Pose | None = None,
    expression: Expression | None = None,
    light: Light | None = None,
    background: Background | None = None,
    size: int = 256,
    placement: Placement | None = None,
) -> Painting:
    """Paint one face; the same arguments give the same bytes.

    `size`: side of the picture in px, 32 to 4096. `None` takes the frontal pose, the neutral
    expression, daylight, a pale gradient, and the usual place.
    """
    check_range("size", size, 32, 4096)
    pose, expression = pose or Pose(), expression or Expression()
    light = light or Light()
    drawing = Drawing(size, size)
    paint_background(drawing, background or Background())
    landmarks = paint_figure(
        drawing, identity, pose, expression, light, placement or portrait_placement(size)
    )
    grade(drawing, light)
    meta: dict[str, float | str] = {"yaw": pose.yaw, "pitch": pose.pitch, "roll": pose.roll}
    return Painting(drawing.render(), landmarks, meta, drawing)

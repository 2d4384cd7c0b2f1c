"""`paint_scene`: whole pictures as raw input for preprocessing, with the truth about their faces.

Sizes from 400 to 1200 px, landscape or upright, one face off the centre, two, or none, figures
turned as a tilted camera shows them. Knows nothing about detectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data import landmarks as lm
from pipeline.data.landmarks import Points
from pipeline.data.painter.background import paint_background
from pipeline.data.painter.canvas import Drawing
from pipeline.data.painter.figure import paint_figure
from pipeline.data.painter.identity import Identity, random_identity
from pipeline.data.painter.light import grade
from pipeline.data.painter.pose import Placement
from pipeline.data.painter.samples import character, random_expression, random_pose, random_setting

_SCENE = 3  # the stream's number, see samples

MIN_SIDE, MAX_SIDE = 400, 1200
# Head units that must stay inside the picture around the point between the eyes.
_ABOVE, _BELOW, _BESIDE = 1.55, 1.45, 1.35


@dataclass(frozen=True)
class SceneFace:
    """One face of a scene: landmarks (28×2 px), expression, head roll as drawn (degrees,
    clockwise), width of the face (px)."""

    landmarks: Points
    expression: str
    roll: float
    face_width: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for a line of truth.jsonl."""
        return {
            "landmarks": lm.to_json(self.landmarks),
            "box": [round(value, 3) for value in lm.bounding_box(self.landmarks)],
            "expression": self.expression,
            "roll_degrees": round(self.roll, 3),
            "face_width": round(self.face_width, 3),
        }


@dataclass(frozen=True)
class Scene:
    """A picture (HWC uint8 RGB) and its faces, from back to front."""

    image: NDArray[np.uint8]
    faces: tuple[SceneFace, ...]


def _side(rng: np.random.Generator) -> int:
    return int(rng.integers(MIN_SIDE, MAX_SIDE + 1))


def _place(rng: np.random.Generator, area: tuple[float, float, float, float]) -> Placement:
    """Somewhere in `area` (x0, y0, x1, y1 px) with the whole head inside."""
    x0, y0, x1, y1 = area
    room = min((x1 - x0) / (2 * _BESIDE), (y1 - y0) / (_ABOVE + _BELOW))
    unit = room * float(rng.uniform(0.45, 0.92))
    turn = float(rng.normal(0, 10)) if rng.random() < 0.6 else float(rng.uniform(-32, 32))
    x = float(rng.uniform(x0 + _BESIDE * unit, x1 - _BESIDE * unit))
    # Figures are busts: too much air below would show where the drawing ends.
    lowest = y1 - _BELOW * unit
    highest = max(y0 + _ABOVE * unit, y1 - 4.5 * unit)
    return Placement(unit, (x, float(rng.uniform(min(highest, lowest), lowest))), turn)


def _areas(
    rng: np.random.Generator, count: int, width: int, height: int
) -> list[tuple[float, float, float, float]]:
    if count == 2:
        split = width * float(rng.uniform(0.42, 0.58))
        return [(0.0, 0.0, split, float(height)), (split, 0.0, float(width), float(height))]
    return [(0.0, 0.0, float(width), float(height))] * count


def paint_scene(
    seed: int, index: int, *, character_number: int | None = None, faces: int | None = None
) -> Scene:
    """Scene `index` of the set `seed`, the same in every process.

    `character_number` makes the first face that character's; `faces` (0, 1 or 2) fixes how many
    there are, else most scenes have one, some two or none.
    """
    rng = np.random.default_rng([_SCENE, seed, index])
    drawn = int(rng.choice([0, 1, 2], p=[0.1, 0.72, 0.18]))
    count = drawn if faces is None else faces
    if count not in (0, 1, 2):
        raise ValueError(f"faces must be 0, 1 or 2, not {faces}")
    width, height = _side(rng), _side(rng)
    if count == 2:
        width = max(width, int(0.9 * height))
    light, background = random_setting(rng)
    drawing = Drawing(width, height)
    paint_background(drawing, background)
    painted = []
    for order, area in enumerate(_areas(rng, count, width, height)):
        identity: Identity = random_identity(rng)
        if order == 0 and character_number is not None:
            identity = character(character_number)
        pose = random_pose(rng)
        expression_name, expression = random_expression(rng)
        placement = _place(rng, area)
        points = paint_figure(drawing, identity, pose, expression, light, placement)
        painted.append(
            SceneFace(points, expression_name, pose.roll + placement.turn, 2 * placement.unit_px)
        )
    grade(drawing, light)
    return Scene(drawing.render(), tuple(painted))

"""Where the faces of an uploaded picture lie, as a page is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.edit.studio.makers import Header
from pipeline.invert.subject import model_crop_rule

# Nobody chooses among more.
MOST_FACES = 12


def find(picture: np.ndarray, model: Path) -> list[Header]:
    """The crops, best first, that the model in that folder would take of the picture's faces.

    Each has x, y and width in pixels of the picture (the crop's middle and side), roll in degrees,
    and the finder's score.
    """
    from pipeline.data.faces import FaceFinder, Framing  # loads slowly

    rule = model_crop_rule(model)
    framing = Framing(rule.face_widths, rule.eye_height, 1.0)
    with FaceFinder() as finder:
        found = finder.find(picture, every=True)
    places = []
    for face in found[:MOST_FACES]:
        place = framing.transform(face)
        places.append(
            {"x": place.center_x, "y": place.center_y, "width": place.width,
             "roll": place.roll_degrees, "score": round(float(face.score), 3)}
        )  # fmt: skip
    return places

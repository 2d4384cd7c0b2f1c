"""How well landmarks agree with the parts that animeface boxes: a check that needs no truth.

Animeface and the face reader know nothing of each other, so where they agree on a drawing, both are
likely right. Its boxes are coarse (an eye's box often holds little more than the iris), so they are
grown a little; its nose and chin are points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data import landmarks as lm
from pipeline.data import nvxs
from pipeline.data.align import CropTransform
from pipeline.data.close_ups import VIEW_WIDTHS, Zoomable
from pipeline.data.face import Face
from pipeline.data.landmarks import Points

# Sizes of the close-ups; the most likely detection of all counts.
SIZES = (160, 176, 192)
# Boxes are grown by this share of the face's width on each side; within TOUCH of it a point agrees
# with a point.
GROWN, TOUCH = 0.06, 0.10
MIN_WINDOW = 0.65  # of the face's expected width in the close-up


@dataclass(frozen=True)
class Agreement:
    """Which of the landmarks that animeface has a part for lie in it, or by it.

    inside: by landmark's name. face_width: of animeface's box, px of the picture.
    """

    inside: dict[str, bool]
    face_width: float

    @property
    def share(self) -> float:
        """Share of the landmarks that agree."""
        return sum(self.inside.values()) / len(self.inside)


def agreement(
    library: nvxs.Nvxs, picture: Zoomable, face: Face, landmarks: Points
) -> Agreement | None:
    """Compare landmarks (28×2 px of the picture) of a face with animeface's parts of it.

    None where animeface sees no face there.
    """
    centre_x, centre_y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    side = VIEW_WIDTHS * face.width
    frame = CropTransform.square(centre_x, centre_y, side, face.roll_degrees)
    seen: list[tuple[float, int, nvxs.RawFace]] = []
    for size in SIZES:
        found = library.detect(picture.crop(frame, size), MIN_WINDOW * size / VIEW_WIDTHS)
        middle = [one for one in found if _holds(one.face, (size / 2, size / 2))]
        seen += [(one.likelihood, size, one) for one in middle]
    if not seen:
        return None
    _, size, raw = max(seen, key=lambda one: one[0])
    points = frame.apply(landmarks, size)
    width = raw.face[2] - raw.face[0]
    inside = {}
    for box, part in (
        (raw.left_eye, lm.LEFT_EYE), (raw.right_eye, lm.RIGHT_EYE), (raw.mouth, lm.MOUTH)
    ):  # fmt: skip
        grown = (box[0] - GROWN * width, box[1] - GROWN * width,
                 box[2] + GROWN * width, box[3] + GROWN * width)  # fmt: skip
        for name, point in zip(lm.NAMES[part], points[part], strict=True):
            inside[name] = _holds(grown, (float(point[0]), float(point[1])))
    for name, place in (("nose", raw.nose), ("chin", raw.chin)):
        distance = float(np.linalg.norm(points[lm.INDEX[name]] - place))
        inside[name] = distance <= TOUCH * width
    return Agreement(inside, width * side / size)


def _holds(box: nvxs.Box, point: tuple[float, float]) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]

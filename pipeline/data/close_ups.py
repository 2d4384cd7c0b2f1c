"""Close-ups of a place in a picture, by which a face there is believed and measured.

Animeface looks at the place in a few levelled close-ups (other sizes, mirrored, turned a little).
True faces are found in nearly every one, chance resemblances in few. The parts seen are pooled by
their medians, which makes them about four times steadier than a single detection. Knows nothing
about other detectors, nor about what is done with a face.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from pipeline.data import nvxs
from pipeline.data.align import CropTransform, warp_reflected
from pipeline.data.detectors import Proposal, box_center
from pipeline.data.face import (
    EYE_DISTANCE,
    EYES_TO_CHIN,
    EYES_TO_MOUTH,
    PART_NAMES,
    Face,
    box_around,
)

# Close-ups: (size in px, mirrored, turned by degrees). The face is 1 / VIEW_WIDTHS of the size,
# which is 73 to 88 px: where animeface is at its best.
VIEWS = ((160, False, -7.0), (176, True, 7.0), (168, True, -3.0), (192, False, 3.0))
VIEW_WIDTHS = 2.2
# Where the first round is this sure, one more close-up confirms it.
UNMISTAKABLE = 0.99
# Rounds of two views end when two rounds were levelled to within so many degrees.
MAX_ROUNDS, LEVEL_DEGREES = 4, 12.0
# In a close-up the face's size is known, roughly at first; smaller windows than this share of it
# are not searched.
FIRST_MIN_WINDOW, LATER_MIN_WINDOW = 0.65, 0.78
# A roll is trusted when the views agree about it this well, and it fits the eyes-to-chin line.
ROLL_SPREAD_DEGREES = 6.0
ROLL_SKEW_DEGREES = 25.0


class Zoomable:
    """A picture with smaller copies of itself, from which close-ups are cut quickly.

    For looking only: these crops are bilinear; what is kept is cut by `pipeline.data.align.crop`.
    """

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self._levels = [image]  # each half the size of the one before

    def crop(self, frame: CropTransform, size: int) -> np.ndarray:
        """The frame at size x size px."""
        level = max(0, round(np.log2(frame.width / size) - 0.2))
        while len(self._levels) <= level:
            half = Image.fromarray(self._levels[-1]).reduce(2)
            self._levels.append(np.asarray(half))
        frame = frame.scaled(0.5**level)
        corners = frame.inverse(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])) - 0.5
        target = np.array([[0, 0], [size, 0], [0, size]]) - 0.5
        matrix = cv2.getAffineTransform(target.astype(np.float32), corners.astype(np.float32))
        return warp_reflected(self._levels[level], matrix, (size, size), cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Sight:
    """One detection in one close-up, in the picture's pixels."""

    likelihood: float
    parts: np.ndarray  # 5 x 2 in the order of PART_NAMES
    center: np.ndarray  # of the face's box
    box_width: float


def look_around(
    library: nvxs.Nvxs, picture: Zoomable, place: Proposal, roll: float
) -> tuple[list[Sight], float]:
    """Close-ups of a place in rounds of two, each levelled and centred by the one before.

    Returns what was seen from about the right angle, and its mean likelihood (misses count 0).
    """
    rounds: list[tuple[float, list[Sight]]] = []  # (the roll it was levelled by, its sights)
    missed = 0
    for number in range(MAX_ROUNDS):
        pair = VIEWS[2 * number % len(VIEWS) :][:2]
        if number == 1 and _unmistakable(rounds[0][1]):
            pair = pair[:1]
        smallest = LATER_MIN_WINDOW if number else FIRST_MIN_WINDOW
        looks = [_look(library, picture, place, roll, view, smallest) for view in pair]
        sights = [sight for sight in looks if sight is not None]
        rounds.append((roll, sights))
        missed += len(looks) - len(sights)
        if number == 0 and not sights:  # two misses: not worth two more
            return [], 0.0
        if sights:
            seen = pool(sights, fallback_roll=roll)
            place = Proposal(seen.eyes[0], seen.eyes[1], seen.width, seen.score, "animeface")
            roll = seen.roll_degrees
        level = [sights for turned, sights in rounds if abs(turned - roll) <= LEVEL_DEGREES]
        if len(level) >= 2:
            break
    else:
        # Never level twice: the face's angle cannot be read; the last rounds are as good as any.
        level = [sights for _, sights in rounds[-2:]]
    pooled = [sight for sights in level for sight in sights]
    views = sum(sight.likelihood for sight in pooled) / (len(pooled) + missed)
    return pooled, views


def _unmistakable(sights: list[Sight]) -> bool:
    """Whether a first round leaves no doubt that there is a face, nearly level."""
    roll = roll_of(sights)
    sure = len(sights) == 2 and min(sight.likelihood for sight in sights) >= UNMISTAKABLE
    return sure and roll is not None and abs(roll) <= LEVEL_DEGREES


def _look(
    library: nvxs.Nvxs,
    picture: Zoomable,
    place: Proposal,
    roll: float,
    view: tuple[int, bool, float],
    min_window: float,
) -> Sight | None:
    """Detect in one close-up of a place; None if no face of about the expected size is there."""
    size, mirrored, turn = view
    side = VIEW_WIDTHS * place.face_width
    frame = CropTransform.square(place.eyes_x, place.eyes_y, side, roll + turn)
    close_up = picture.crop(frame, size)
    if mirrored:
        close_up = np.ascontiguousarray(close_up[:, ::-1])
    expected = size / VIEW_WIDTHS
    found = library.detect(close_up, min_window * expected)
    near = [face for face in found if _is_expected(face, size, expected)]
    if not near:
        return None
    best = max(near, key=lambda face: face.likelihood)
    parts = np.array(
        [
            box_center(best.left_eye),
            box_center(best.right_eye),
            best.nose,
            box_center(best.mouth),
            best.chin,
        ]
    )
    center = np.array(box_center(best.face))
    if mirrored:
        parts[:, 0], center[0] = size - parts[:, 0], size - center[0]
        parts[[0, 1]] = parts[[1, 0]]
    return Sight(
        likelihood=float(best.likelihood),
        parts=frame.inverse(parts, size),
        center=frame.inverse(center, size),
        box_width=(best.face[2] - best.face[0]) * side / size,
    )


def _is_expected(face: nvxs.RawFace, size: int, expected: float) -> bool:
    eyes = np.array([box_center(face.left_eye), box_center(face.right_eye)]).mean(axis=0)
    width = face.face[2] - face.face[0]
    return bool(np.abs(eyes - size / 2).max() < 0.5 * expected and width < 1.7 * expected)


def pool(sights: list[Sight], fallback_roll: float = 0.0) -> Face:
    """One face from several sights of it: medians of all that was measured."""
    parts = np.median([sight.parts for sight in sights], axis=0)
    center = np.median([sight.center for sight in sights], axis=0)
    box_width = float(np.median([sight.box_width for sight in sights]))
    eyes = parts[:2].mean(axis=0)
    # The box grows in steps of a tenth and eyes draw together in a side view; the median of four
    # measures follows neither.
    width = float(
        np.median(
            [
                box_width,
                np.linalg.norm(parts[1] - parts[0]) / EYE_DISTANCE,
                np.linalg.norm(parts[3] - eyes) / EYES_TO_MOUTH,
                np.linalg.norm(parts[4] - eyes) / EYES_TO_CHIN,
            ]
        )
    )
    roll = roll_of(sights)
    return Face(
        box=box_around(center, box_width),
        score=float(np.mean([sight.likelihood for sight in sights])),
        detector="animeface",
        eyes=(float(eyes[0]), float(eyes[1])),
        width=width,
        roll_degrees=fallback_roll if roll is None else roll,
        parts={name: (float(x), float(y)) for name, (x, y) in zip(PART_NAMES, parts, strict=True)},
    )


def roll_of(sights: list[Sight]) -> float | None:
    """Angle of the eye line in degrees, or None where the sights do not agree about it."""
    parts = np.median([sight.parts for sight in sights], axis=0)
    lines = np.array([sight.parts[1] - sight.parts[0] for sight in sights])
    angles = np.degrees(np.arctan2(lines[:, 1], lines[:, 0]))
    rough = _angle(parts[1] - parts[0])
    # One sight in four may have taken an ear or a mouth for an eye: medians do not mind.
    middle = rough + float(np.median(_wrapped(angles - rough)))
    spread = float(np.median(np.abs(_wrapped(angles - middle))))
    down = _angle(parts[4] - parts[:2].mean(axis=0)) - 90.0
    skew = abs(float(_wrapped(np.array(down - middle))))
    if len(sights) < 2 or spread > ROLL_SPREAD_DEGREES or skew > ROLL_SKEW_DEGREES:
        return None
    return middle


def _angle(vector: np.ndarray) -> float:
    return float(np.degrees(np.arctan2(vector[1], vector[0])))


def _wrapped(degrees: np.ndarray) -> np.ndarray:
    return (degrees + 180.0) % 360.0 - 180.0

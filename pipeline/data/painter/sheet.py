"""Sheets: many painted faces in one picture, to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.painter.background import Background
from pipeline.data.painter.expression import EXPRESSIONS
from pipeline.data.painter.identity import random_identity
from pipeline.data.painter.painting import paint_face
from pipeline.data.painter.pose import Pose
from pipeline.data.painter.samples import character, random_setting, sample_face

Image = NDArray[np.uint8]

_IDENTITIES = 4  # the stream's number, see samples


def grid(images: Sequence[Image], columns: int) -> Image:
    """Equally sized pictures (HWC uint8) in rows of `columns`; missing places stay white."""
    height, width = images[0].shape[:2]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, dtype=np.uint8)
    for index, image in enumerate(images):
        y, x = index // columns * height, index % columns * width
        sheet[y : y + height, x : x + width] = image
    return sheet


def identities(seed: int, count: int, size: int) -> list[Image]:
    """Different characters, frontal and neutral, in various lights and places."""
    images = []
    for index in range(count):
        rng = np.random.default_rng([_IDENTITIES, seed, index])
        identity = random_identity(rng)
        light, background = random_setting(rng)
        images.append(paint_face(identity, None, None, light, background, size).image)
    return images


def expressions(number: int, size: int) -> list[Image]:
    """The nine expressions of one character."""
    identity = character(number)
    return [
        paint_face(identity, None, mood, None, Background(), size).image
        for mood in EXPRESSIONS.values()
    ]


def poses(number: int, yaws: Sequence[float], pitches: Sequence[float], size: int) -> list[Image]:
    """One character turned: a row for each pitch, a column for each yaw (degrees)."""
    identity = character(number)
    return [
        paint_face(identity, Pose(yaw, pitch), EXPRESSIONS["smile"], size=size).image
        for pitch in pitches
        for yaw in yaws
    ]


def mixed(seed: int, count: int, size: int, number: int | None = None) -> list[Image]:
    """A data set's faces: everything varies (one character's if its `number` is given)."""
    return [
        sample_face(seed, index, character_number=number, size=size).image for index in range(count)
    ]

"""Seeded draws: characters, and pictures of one or of many characters.

Everything is a function of (seed, index), the same in every process and order. A *character* is an
identity fixed by a number; one character in many poses, expressions, lights and surroundings is a
data set as the fans of one character collect it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.data.painter.background import Background, random_background
from pipeline.data.painter.expression import EXPRESSIONS, Expression, blend, vary
from pipeline.data.painter.identity import Identity, random_identity
from pipeline.data.painter.light import Light, random_light
from pipeline.data.painter.painting import Painting, paint_face, portrait_placement
from pipeline.data.painter.pose import Placement, Pose

# Streams keep draws for different purposes apart; a number once used stays.
_CHARACTER, _FACE = 1, 2


def character(number: int) -> Identity:
    """The character of that number (any int ≥ 0)."""
    return random_identity(np.random.default_rng([_CHARACTER, number]))


def random_pose(rng: np.random.Generator, spread: float = 1.0) -> Pose:
    """A head pose: mostly near frontal; `spread` scales yaw, pitch and roll."""
    yaw, pitch, roll = rng.normal(0, (16.0, 6.0, 5.0)) * spread
    return Pose(float(np.clip(yaw, -36, 36)), float(np.clip(pitch, -16, 16)), float(roll))


def random_expression(rng: np.random.Generator) -> tuple[str, Expression]:
    """A varied expression with its preset's name; now and then part way towards another."""
    names = tuple(EXPRESSIONS)
    name = names[int(rng.integers(len(names)))]
    mood = EXPRESSIONS[name]
    if rng.random() < 0.25:
        other = EXPRESSIONS[names[int(rng.integers(len(names)))]]
        # Half-shut lids of two different arcs look like neither; shut eyes stay as they are.
        if min(mood.left_lid, other.left_lid, mood.right_lid, other.right_lid) > 0.3:
            mood = blend(mood, other, float(rng.uniform(0.0, 0.45)))
    return name, vary(mood, rng)


def random_setting(rng: np.random.Generator) -> tuple[Light, Background]:
    """A light and a background that suit each other: night pictures are lit by night."""
    light, background = random_light(rng), random_background(rng)
    if background.kind == "night":
        light = replace(light, tint=(0.80, 0.80, 0.92), saturation=0.85)
    return light, background


def sample_face(
    seed: int,
    index: int,
    *,
    character_number: int | None = None,
    size: int = 256,
    pose_spread: float = 1.0,
    expression: str | None = None,
) -> Painting:
    """Face `index` of the set `seed`: of one character if its number is given, else of anyone.

    `expression` fixes the mood (a key of EXPRESSIONS; it is still varied a little).
    """
    rng = np.random.default_rng([_FACE, seed, index])
    anyone = random_identity(rng)
    identity = anyone if character_number is None else character(character_number)
    pose = random_pose(rng, pose_spread)
    name, mood = random_expression(rng)
    if expression is not None:
        name, mood = expression, vary(EXPRESSIONS[expression], rng)
    light, background = random_setting(rng)
    usual = portrait_placement(size)
    shift = rng.normal(0, 0.012, 2) * size
    placement = Placement(
        usual.unit_px * float(rng.uniform(0.95, 1.06)),
        (usual.centre[0] + float(shift[0]), usual.centre[1] + float(shift[1])),
    )
    painting = paint_face(identity, pose, mood, light, background, size, placement)
    return replace(
        painting, meta={**painting.meta, "expression": name, "background": background.kind}
    )

"""Goals as the command line writes them: "smile", "smile 0.7 + surprised 0.3", "gaze_x=0.5"."""

from __future__ import annotations

import math

from pipeline.edit.emotion_names import EMOTIONS, SLIDERS
from pipeline.edit.emotions.plan import Goal
from pipeline.errors import ConfigError, check_choice


def parse_goal(
    emotion: str | None, sliders: str | None = None, strength: float = 1.0, mirror: bool = False
) -> Goal:
    """The goal in both texts; ConfigError, in one sentence, where they cannot be read.

    Args:
        emotion: names joined by "+", each with its share ("smile 0.7 + wink 0.3") or without (1).
        sliders: "name=value", parted by commas.
        strength: multiplies all shares of `emotion`.
    """
    emotions: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in (emotion or "").split("+"))):
        name, _, share = part.partition(" ")
        check_choice("emotion", name, EMOTIONS)
        emotions[name] = emotions.get(name, 0.0) + strength * _number(part, share.strip() or "1")
    if emotion and not emotions:
        raise ConfigError(f'emotion: "{emotion}" names nothing; write a name as in "smile 0.7".')
    values: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in (sliders or "").split(","))):
        name, equals, value = part.partition("=")
        check_choice("slider", name.strip(), SLIDERS)
        if not equals:
            raise ConfigError(f'sliders: "{part}" has no value; write name=value as in gaze_x=0.5.')
        values[name.strip()] = _number(part, value.strip())
    return Goal(emotions, values, mirror)


def goal_text(goal: Goal) -> str:
    """One line for people and file names: "smile 0.7 + gaze_x=0.5"."""
    parts = [name if share == 1 else f"{name} {share:g}" for name, share in goal.emotions.items()]
    parts += [f"{name}={value:g}" for name, value in goal.sliders.items()]
    return " + ".join(parts or ["neutral"]) + (" mirrored" if goal.mirror else "")


def _number(part: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(
            f'"{part}" cannot be read; write a name and a number, as in "smile 0.7" or gaze_x=0.5.'
        )
    return value

"""Animations as keyframes: what a face does at which second, and how it gets there.

This module alone reads the format (YAML, and so JSON):

    label: Blink
    keyframes:
      - {at: 0.0}                     # nothing said: as the face is drawn
      - {at: 1.3, emotion: smile 0.5, sliders: "eye_open_left=-1", mirror: false, easing: ease-in}
      - {at: 2.4}                     # the last one's second is the length
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.edit.emotions.goal_text import parse_goal
from pipeline.edit.emotions.plan import Goal
from pipeline.edit.emotions.presets import CONF
from pipeline.errors import ConfigError, DataError, check_choice

FOLDER = CONF / "animation"
# Beyond this a loop is a film, and its frames fill a disk.
MOST_SECONDS, MOST_KEYFRAMES = 60.0, 500
_KEYS = ("at", "emotion", "sliders", "mirror", "easing")

EASINGS: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "smooth": lambda t: t * t * (3 - 2 * t),
    "ease-in": lambda t: t * t,
    "ease-out": lambda t: t * (2 - t),
}


@dataclass(frozen=True)
class Keyframe:
    """A state: its second, what the face does (None: as it is), and how it is come to."""

    at: float
    goal: Goal | None
    easing: str


@dataclass(frozen=True)
class Animation:
    """Keyframes in order of time, the first at 0."""

    label: str
    keyframes: tuple[Keyframe, ...]

    @property
    def seconds(self) -> float:
        """Length of the loop."""
        return self.keyframes[-1].at

    def frames(self, per_second: int) -> list[tuple[int, int, float]]:
        """For every frame of the loop: the keyframes it lies between, and the eased share of the
        second. The last keyframe itself is left out where it is the first: the loop closes."""
        count = max(1, round(self.seconds * per_second))
        found = []
        for index in range(count):
            second = index / per_second
            after = next(
                (k for k, key in enumerate(self.keyframes) if key.at > second),
                len(self.keyframes) - 1,
            )
            before = max(0, after - 1)
            first, last = self.keyframes[before], self.keyframes[after]
            span = last.at - first.at
            share = min(max((second - first.at) / span, 0.0), 1.0) if span > 0 else 1.0
            found.append((before, after, EASINGS[last.easing](share)))
        return found


def find_animation(name: str) -> Animation:
    """One that ships."""
    return read_animation(FOLDER / f"{name}.yaml")


def read_animation(path: Path) -> Animation:
    """The animation in a file; DataError, in one sentence, where it is none."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise DataError(f"The animation {path.name} cannot be read: {text}.") from error
    try:
        return _animation(data, path.stem)
    except ConfigError as error:
        raise DataError(f"The animation {path.name} cannot be used: {error}") from error


def _animation(data: Any, name: str) -> Animation:
    if not isinstance(data, dict) or not isinstance(data.get("keyframes"), list):
        raise ConfigError("it needs a list of keyframes.")
    for key in data:
        check_choice("key", key, ("label", "keyframes"))
    frames = [_keyframe(entry, number) for number, entry in enumerate(data["keyframes"], 1)]
    times = [frame.at for frame in frames]
    if not 2 <= len(frames) <= MOST_KEYFRAMES or times[0] != 0 or times[-1] > MOST_SECONDS:
        raise ConfigError(
            f"it needs 2 to {MOST_KEYFRAMES} keyframes, the first at second 0, the last by second "
            f"{MOST_SECONDS:g}."
        )
    if any(later <= earlier for earlier, later in itertools.pairwise(times)):
        raise ConfigError(
            "its keyframes must stand in the order of time, each later than the last."
        )
    return Animation(str(data.get("label", name)), tuple(frames))


def _keyframe(entry: Any, number: int) -> Keyframe:
    if not isinstance(entry, dict) or "at" not in entry:
        raise ConfigError(f"keyframe {number} must be of the form {{at: seconds, ...}}.")
    for key in entry:
        check_choice(f"key of keyframe {number}", key, _KEYS)
    at = entry["at"]
    if isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at <= MOST_SECONDS:
        raise ConfigError(f"keyframe {number}: at={at} is no second from 0 to {MOST_SECONDS:g}.")
    easing = str(entry.get("easing", "linear"))
    check_choice(f"easing of keyframe {number}", easing, EASINGS)
    mirror = entry.get("mirror", False)
    if not isinstance(mirror, bool):
        raise ConfigError(f"keyframe {number}: mirror={mirror} is neither true nor false.")
    emotion, sliders = entry.get("emotion"), entry.get("sliders")
    goal = None
    if emotion or sliders:
        goal = parse_goal(
            None if emotion is None else str(emotion),
            None if sliders is None else str(sliders),
            mirror=mirror,
        )
    return Keyframe(float(at), goal, easing)

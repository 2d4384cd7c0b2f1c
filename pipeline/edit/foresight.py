"""What edits refuse before the inversion that they wait for, which takes minutes.

Each takes its stage's config, and those of the stages before it in the same command, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.edit import recipe as recipes
from pipeline.edit.config import EditConfig
from pipeline.edit.emotion_config import AnimateConfig, BatchConfig, EmotionConfig
from pipeline.edit.emotions import parse_goal
from pipeline.edit.emotions.keyframes import read_animation
from pipeline.edit.points import check_moves, parse_points
from pipeline.invert import picture


def foresee_edit(config: EditConfig, before: Mapping[str, Any]) -> None:
    """Refuse (AnimedragError) an emotion or a recipe that cannot be read, and points outside the
    drawing that is inverted first."""
    _check_wish(config.emotion, config.recipe)
    if config.points is None or config.points_frame != "picture" or "invert" not in before:
        return
    path = Path(str(before["invert"].image)).expanduser()
    if path.is_dir():
        return  # which of its pictures is dragged is known when all are inverted
    height, width = picture.read(path).shape[:2]
    check_moves(parse_points(config.points), width, height, f"picture {path.name}")


def foresee_batch(config: BatchConfig, before: Mapping[str, Any]) -> None:
    """Refuse (AnimedragError) an emotion or a recipe that cannot be read."""
    _check_wish(config.emotion, config.recipe)


def foresee_animation(config: AnimateConfig, before: Mapping[str, Any]) -> None:
    """Refuse (AnimedragError) a file of an animation that cannot be read."""
    if config.file is not None:
        read_animation(Path(config.file).expanduser())


def _check_wish(emotion: EmotionConfig, recipe: str | None) -> None:
    if emotion.asked:
        parse_goal(emotion.name, emotion.sliders, emotion.strength, emotion.mirror)
    if recipe is not None:
        recipes.read(Path(recipe).expanduser())

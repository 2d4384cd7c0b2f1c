"""What an edit refuses before the inversion that it waits for, which takes minutes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.edit.config import EditConfig
from pipeline.edit.points import check_moves, parse_points
from pipeline.invert import picture


def foresee(config: EditConfig, before: Mapping[str, Any]) -> None:
    """DataError for points outside the drawing that the same command inverts first.

    before: the configs of that command's stages before the edit, by name.
    """
    if config.points is None or config.points_frame != "picture" or "invert" not in before:
        return
    path = Path(str(before["invert"].image)).expanduser()
    if path.is_dir():
        return  # which of its pictures is dragged is known when all are inverted
    height, width = picture.read(path).shape[:2]
    check_moves(parse_points(config.points), width, height, f"picture {path.name}")

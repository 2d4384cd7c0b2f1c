"""What the sections share: tables, counts in words, numbered pictures, sizes of tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluate.payload import text

# Longest side of a picture in a row of several.
TILE_PX = 512


@dataclass(frozen=True)
class Table:
    """A table with a caption; `numeric` are the columns set flush right; `wide` fills the page."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    wide: bool = False


def fact_table(caption: str, facts: Mapping[str, object]) -> Table:
    """Names and values, one a row."""
    return Table(caption, ["what", "value"], [[key, text(value)] for key, value in facts.items()])


def in_words(facts: Mapping[str, object]) -> dict[str, object]:
    """The same with "images_seen" spelt "images seen"."""
    return {key.replace("_", " "): value for key, value in facts.items()}


def numbered_pictures(folder: Path) -> list[Path]:
    """The PNG files of a folder (which may be missing), by the numbers in their names."""
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if path.suffix == ".png" and path.is_file()]
    return sorted(files, key=lambda path: number_in_name(path.stem))


def number_in_name(stem: str) -> int:
    """The digits of a file's name as a number, 0 without any."""
    digits = "".join(character for character in stem if character in "0123456789")
    return int(digits[:18]) if digits else 0


def count_text(value: int, noun: str) -> str:
    """ "1 face", "2 faces"."""
    return f"{value} {noun}" if value == 1 else f"{value} {noun}s"

"""Files that are whole or not there: written aside, made durable, then given their name.

Knows nothing about what is in them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def put(path: Path, aside: Path | None = None) -> Iterator[Path]:
    """Yields where to write what `path` is to hold; it gets that name when the block is through.

    A crash at any moment, a power cut included, leaves the old file, the new one, or none. If the
    block raises, what was written goes. `aside` is where to write, on the same disk; by default
    a hidden name beside `path`, always the same one: what a killed process left is written over.
    """
    aside = aside or path.with_name(f".{path.name}.part")
    try:
        yield aside
        with aside.open("rb") as stream:
            os.fsync(stream.fileno())
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def put_text(path: Path, text: str, aside: Path | None = None) -> None:
    """Write `text` to `path` as `put` does, in UTF-8 with the line ends it has."""
    with put(path, aside) as where:
        where.write_text(text, encoding="utf-8", newline="\n")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

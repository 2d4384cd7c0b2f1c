"""Films whose frames are made one after the other: kept on disk, resumable, bounded in size.

Knows nothing of what the frames show.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image

from pipeline.console import Progress
from pipeline.edit.video import CRF, write_mp4
from pipeline.errors import Interrupted

# Each step is about half the size of the one before.
_QUALITIES = (CRF, CRF + 6, CRF + 12, CRF + 18)
# Animated WebP is for pages and chats: half the side and every other frame of the film.
WEBP_SHRINK = 2
WEBP_QUALITY = 70


class FrameFolder(Sequence[np.ndarray]):
    """Frames as numbered PNG files, H x W x 3 uint8, read when asked for."""

    def __init__(self, folder: Path, frames: int, shrink: int = 1) -> None:
        self.folder, self.frames, self.shrink = folder, frames, shrink

    def __len__(self) -> int:
        return self.frames

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.frames))]
        if not 0 <= index < self.frames:
            raise IndexError(index)
        with Image.open(self.path(index)) as file:
            image = file.convert("RGB")
        if self.shrink > 1:
            size = (max(2, image.width // self.shrink), max(2, image.height // self.shrink))
            image = image.resize(size, Image.Resampling.LANCZOS)
        return np.asarray(image)

    def path(self, index: int) -> Path:
        """File of one frame."""
        return self.folder / f"{index:05d}.png"


def make_frames(
    folder: Path,
    count: int,
    make: Callable[[int], np.ndarray],
    *,
    bar: Progress,
    stop: Callable[[], bool],
) -> FrameFolder:
    """All frames in `folder`: those that are not there yet are made by `make(index)`.

    Interrupted where `stop` asks for it; what was made stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frames = FrameFolder(folder, count)
    for index in range(count):
        path = frames.path(index)
        if not path.exists():
            aside = path.with_suffix(".part")
            Image.fromarray(make(index)).save(aside, "PNG", compress_level=1)
            aside.replace(path)
        bar.advance(1)
        if stop():
            raise Interrupted("Stopped; run the same command again to continue.")
    return frames


def write_film(path: Path, frames: FrameFolder, frames_per_second: int, most_bytes: int) -> None:
    """`path` as MP4 of at most `most_bytes`: quality goes down first, then the size."""
    aside = path.with_name(f"unfinished-{path.name}")
    for shrink, crf in itertools.product((1, 2, 4, 8), _QUALITIES):
        write_mp4(aside, FrameFolder(frames.folder, len(frames), shrink), frames_per_second, crf)
        if aside.stat().st_size <= most_bytes:
            break
    aside.replace(path)


def write_webp(path: Path, frames: FrameFolder, frames_per_second: int, most_bytes: int) -> bool:
    """The film as an endless animated WebP; False, and no file, where it is above `most_bytes`."""
    small = FrameFolder(frames.folder, len(frames), WEBP_SHRINK)

    def rest() -> Iterator[Image.Image]:
        for index in range(2, len(small), 2):
            yield Image.fromarray(small[index])

    aside = path.with_name(f"unfinished-{path.name}")
    Image.fromarray(small[0]).save(
        aside, "WEBP", save_all=True, append_images=rest(), loop=0, method=4,
        duration=round(2000 / frames_per_second), quality=WEBP_QUALITY,
    )  # fmt: skip
    if aside.stat().st_size > most_bytes:
        aside.unlink()
        return False
    aside.replace(path)
    return True


def mosaic(pictures: Sequence[np.ndarray], columns: int, longest_px: int) -> np.ndarray:
    """Pictures of one size side by side, row by row, small faces enlarged by a whole factor.

    H x W x 3 uint8 with a longest side of at most `longest_px`; a free place is white.
    """
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    page = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top, left = row * height, column * width
        page[top : top + height, left : left + width] = picture
    longest = max(page.shape[:2])
    factor = longest_px // longest if longest < longest_px else longest_px / longest
    if factor == 1:
        return page
    size = (round(page.shape[1] * factor), round(page.shape[0] * factor))
    return np.asarray(Image.fromarray(page).resize(size, Image.Resampling.LANCZOS))

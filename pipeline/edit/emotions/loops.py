"""Loops: animated WebP and GIF whose pictures stay for different times. Knows pixels only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

WEBP_QUALITY = 88


def write_webp(path: Path, frames: Sequence[np.ndarray], milliseconds: Sequence[int]) -> None:
    """An endless animated WebP of pictures (H × W × 3, or 4 with alpha, uint8, of one size)."""
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(
        path, "WEBP", save_all=True, append_images=rest, duration=list(milliseconds), loop=0,
        quality=WEBP_QUALITY, method=4,
    )  # fmt: skip


def write_gif(path: Path, frames: Sequence[np.ndarray], milliseconds: Sequence[int]) -> None:
    """An endless GIF of H × W × 3 uint8 pictures; one palette for all, so that flats stay flat."""
    some = frames[:: max(1, len(frames) // 16)]
    colours = np.concatenate([frame[::2, ::2] for frame in some])
    palette = Image.fromarray(colours).quantize(255, Image.Quantize.MEDIANCUT)
    first, *rest = (
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    )
    # GIF counts hundredths of a second, and viewers slow down below two of them.
    times = [max(20, round(time / 10) * 10) for time in milliseconds]
    first.save(path, "GIF", save_all=True, append_images=rest, duration=times, loop=0)


def resized(frame: np.ndarray, side: int) -> np.ndarray:
    """A picture at a longer side of `side` px."""
    image = Image.fromarray(frame)
    factor = side / max(image.size)
    if factor == 1:
        return frame
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))

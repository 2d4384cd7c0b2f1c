"""Frames to an H.264 MP4 and an animated GIF or WebP. Knows nothing of what the frames show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

# Constant quality of x264: visually lossless on flat drawings, still small.
CRF = 16
# Pixels that a GIF's palette is chosen from.
PALETTE_PIXELS = 200_000


def write_mp4(
    path: Path,
    frames: Sequence[np.ndarray],
    frames_per_second: int,
    crf: int = CRF,
    preset: str = "medium",
) -> None:
    """Write an MP4 that every browser and phone plays (H.264, yuv420p, even sides).

    Args:
        frames: pictures of one size, H × W × 3 uint8; an odd side is extended by its border.
        frames_per_second: how fast they are shown.
        crf: x264's quality; six more halve the file.
        preset: x264's effort; "veryfast" takes a third of the time of "medium".
    """
    height, width = frames[0].shape[:2]
    even = ((0, height % 2), (0, width % 2), (0, 0))
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=frames_per_second)
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": preset, "threads": "1"}
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.pad(picture, even, mode="edge"), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_gif(path: Path, frames: Sequence[np.ndarray], frames_per_second: int) -> None:
    """Write an endlessly looping GIF; frames are H × W × 3 uint8 of one size.

    All frames share one palette, taken from up to 16 of them, so that flat areas do not flicker;
    the first frame stays for half a second, the last one for a second.
    """
    spread = frames[:: max(1, len(frames) // 16)]
    samples = [*spread, frames[-1]]
    # So many pixels are enough to know the colours; more cost more than all else here.
    step = max(2, math.isqrt(sum(frame[..., 0].size for frame in samples) // PALETTE_PIXELS))
    colours = np.concatenate([frame[::step, ::step] for frame in samples])
    palette = Image.fromarray(colours).quantize(255, Image.Quantize.MEDIANCUT)
    images = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    # GIF counts hundredths of a second.
    each_ms = max(20, round(100 / frames_per_second) * 10)
    durations = [500, *[each_ms] * (len(images) - 2), 1000][-len(images) :]
    # Identical frames would be merged by Pillow, which only adds their durations: the same film.
    images[0].save(path, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)


def write_webp(path: Path, frames: Sequence[np.ndarray], frames_per_second: int) -> None:
    """Write an endlessly looping WebP; frames are H × W × 3 uint8 of one size. The last one stays
    for a second."""
    first, *rest = map(Image.fromarray, frames)
    durations = [*[1000 // frames_per_second] * len(rest), 1000]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, quality=90)

"""What training leaves to look at: stats.jsonl, tensorboard events, grids of samples.

Knows nothing about networks or losses: it takes numbers by name, and images.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from torch_utils.pixels import to_uint8

STATISTICS = "stats.jsonl"
SAMPLES = "samples"
EVENTS = "tensorboard"


class Logbook:
    """Writes beside the model in `folder`; entries later than `images_seen` are dropped first.

    Those are what an interrupted run wrote after its last saved state, and will come again.
    `events`: whether there are tensorboard's as well.
    """

    def __init__(self, folder: Path, images_seen: int, events: bool = True) -> None:
        self.folder = folder
        _drop_later_lines(folder / STATISTICS, images_seen)
        self._lines = (folder / STATISTICS).open("a", encoding="utf-8")
        self._events = None
        if events:
            # Imported here, because it takes a second.
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder / EVENTS), purge_step=images_seen + 1)

    def write(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Add one line of statistics; values that are not finite become null."""
        record: dict[str, float | None] = {"images_seen": images_seen}
        for name, value in values.items():
            record[name] = float(f"{value:.6g}") if math.isfinite(value) else None
            if self._events is not None:
                self._events.add_scalar(name, value, images_seen)
        self._lines.write(json.dumps(record) + "\n")
        self._lines.flush()

    def write_samples(self, images_seen: int, images: Tensor, columns: int) -> None:
        """Save N×C×H×W images in [-1, 1] as a grid named by images seen."""
        pixels = tile(to_uint8(images), columns)
        (self.folder / SAMPLES).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(self.folder / SAMPLES / f"{images_seen:09d}.png")
        if self._events is not None:
            self._events.add_image("samples", pixels, images_seen, dataformats="HWC")

    def flush(self) -> None:
        """Make sure that everything written so far is on the disk."""
        self._lines.flush()
        os.fsync(self._lines.fileno())
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Close the files."""
        self.flush()
        self._lines.close()
        if self._events is not None:
            self._events.close()


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """N×H×W×3 => one picture with `columns` columns, filled row by row; gaps are black."""
    count, height, width, channels = images.shape
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height, width, channels), dtype=images.dtype)
    cells[:count] = images
    grid = cells.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * height, columns * width, channels)


def _drop_later_lines(path: Path, images_seen: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["images_seen"] <= images_seen:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue  # the line at which the run was cut off
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text("".join(kept), encoding="utf-8")
    unfinished.replace(path)

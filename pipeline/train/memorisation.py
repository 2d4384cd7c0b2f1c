"""How near a generator's samples come to the images it was trained on, in numbers and to look at.

Distances are LPIPS's (Zhang 2018) of images reduced to 32 pixels, its maps averaged over a 4x4
grid: a copy that is a little blurred, noisy or shifted is still a copy, and a thousand images fit
into memory. A sample counts as a near-copy where it lies less than 0.7 times as far from a training
image as such images usually lie from their own nearest neighbour. Measured on drawings, in that
unit: blurred by 2 px 0.2 to 0.4, shifted by 3 % 0.5 to 0.6, seven tenths of it mixed with another
0.55; a shift by 6 % (0.65 to 0.75) and the mirror image (0.7 to 1) lie about the limit, a
half-and-half mixture (0.8) beyond it.
Knows nothing about training or about where images come from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipeline.metrics.perceptual import PerceptualDistance

SHEET = "memorisation.png"
NUMBERS = "memorisation.json"
# Cells of the maps, along each side.
GRID = 4
# A sample this much nearer than training images are to each other is a near-copy.
COPY_FACTOR = 0.7
# Shorter side of what is compared: fine texture speaks neither for nor against a copy.
REDUCED_PX = 32
# Pairs on the sheet, the nearest first.
SHEET_PAIRS = 24

_COLUMNS = 4
_THUMB = 128
_GAP, _MARGIN, _HEADER, _CAPTION = 6, 24, 76, 22
_PAPER, _INK, _FAINT, _ALARM = (250, 249, 246), (40, 38, 46), (130, 126, 138), (200, 40, 70)


@dataclass(frozen=True)
class Nearest:
    """For each of N samples: the number of the nearest training image, and its distance."""

    index: list[int]
    distance: list[float]
    threshold: float

    @property
    def copied(self) -> float:
        """Share of the samples that are near-copies."""
        near = sum(distance < self.threshold for distance in self.distance)
        return near / max(len(self.distance), 1)


class TrainingSet:
    """Training images as a perceptual network sees them.

    Args:
        metric: the network.
        batches: uint8 N×C×H×W images, in an order that `Nearest.index` counts.
        mirrored: the images are also trained on as their mirror images.
        device: where the network is.
    """

    def __init__(
        self,
        metric: PerceptualDistance,
        batches: Iterable[Tensor],
        *,
        mirrored: bool,
        device: torch.device,
    ) -> None:
        self._metric = metric
        self._device = device
        parts, flipped = [], []
        for batch in batches:
            parts.append(self._vectors(batch))
            if mirrored:
                flipped.append(self._vectors(batch.flip(3)))
        self._count = sum(len(part) for part in parts)
        self._known = torch.cat(parts + flipped)
        self.threshold = COPY_FACTOR * self._usual_distance()

    def nearest(self, batches: Iterable[Tensor]) -> Nearest:
        """The nearest training image of every sample (uint8 N×C×H×W batches)."""
        index: list[int] = []
        distance: list[float] = []
        for batch in batches:
            found = torch.cdist(self._vectors(batch), self._known).min(dim=1)
            index += (found.indices % self._count).tolist()
            distance += found.values.tolist()
        return Nearest(index, distance, self.threshold)

    def _usual_distance(self) -> float:
        """Median distance of a training image to its nearest other one; 0 where there is none."""
        own = self._known[: self._count]
        if len(own) < 2:
            return 0.0
        between = torch.cdist(own, own).fill_diagonal_(float("inf"))
        return float(between.amin(dim=1).median())

    @torch.no_grad()
    def _vectors(self, images: Tensor) -> Tensor:
        """uint8 N×C×H×W => N × length, on the CPU; their distances are the images'."""
        values = images.to(self._device, torch.float32).div(127.5).sub(1)
        side = min(values.shape[2:])
        if side > REDUCED_PX:
            size = [round(length * REDUCED_PX / side) for length in values.shape[2:]]
            values = F.interpolate(values, size=size, mode="area")
        parts = []
        for found in self._metric.features(values):
            height, width = found.shape[2:]
            rows, columns = min(GRID, height), min(GRID, width)
            pooled = F.adaptive_avg_pool2d(found, (rows, columns))
            # A map's sum of squares over fewer cells counts as if all were there.
            parts.append(pooled.flatten(1) * (height * width / (rows * columns)) ** 0.5)
        return torch.cat(parts, dim=1).cpu()


def write_sheet(
    folder: Path,
    nearest: Nearest,
    samples: np.ndarray,
    read: Callable[[int], np.ndarray],
    names: Sequence[str],
    network: str,
) -> None:
    """Write the sheet and its numbers into a folder.

    Args:
        nearest: of all samples.
        samples: N×H×W×3 uint8.
        read: the training image of a number, H×W×3 uint8.
        names: theirs.
        network: name of the perceptual network.
    """
    order = sorted(range(len(samples)), key=lambda row: nearest.distance[row])
    pairs = [
        {
            "sample": row,
            "nearest": names[nearest.index[row]],
            "distance": round(nearest.distance[row], 4),
        }
        for row in order
    ]
    content = {
        "network": network,
        "threshold": round(nearest.threshold, 4),
        "copied": nearest.copied,
        "pairs": pairs,
    }
    (folder / NUMBERS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    shown = order[:SHEET_PAIRS]
    pictures = [(samples[row], read(nearest.index[row])) for row in shown]
    _draw(pictures, [nearest.distance[row] for row in shown], nearest, network).save(folder / SHEET)


def _draw(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    distances: Sequence[float],
    nearest: Nearest,
    network: str,
) -> Image.Image:
    height = round(_THUMB * pairs[0][0].shape[0] / pairs[0][0].shape[1])
    cell = (2 * _THUMB + 4 * _GAP, height + _CAPTION + 2 * _GAP)
    columns = min(_COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    width = max(2 * _MARGIN + columns * cell[0], 640)
    sheet = Image.new("RGB", (width, _HEADER + _MARGIN + rows * cell[1]), _PAPER)
    draw = ImageDraw.Draw(sheet)
    title = f"{nearest.copied:.0%} of {len(nearest.distance)} samples are near-copies"
    draw.text((_MARGIN, 16), title, fill=_INK, font=ImageFont.load_default(24))
    draw.text(
        (_MARGIN, 48),
        f"each sample (left) and its nearest training image (right), the nearest first; {network}, "
        f"near-copy below {nearest.threshold:.3f}",
        fill=_FAINT,
        font=ImageFont.load_default(13),
    )
    for place, (pair, distance) in enumerate(zip(pairs, distances, strict=True)):
        left = _MARGIN + place % columns * cell[0]
        top = _HEADER + place // columns * cell[1]
        for side, pixels in enumerate(pair):
            thumb = Image.fromarray(pixels).resize((_THUMB, height), Image.Resampling.LANCZOS)
            sheet.paste(thumb, (left + side * (_THUMB + _GAP), top))
        colour = _ALARM if distance < nearest.threshold else _INK
        draw.text(
            (left, top + height + 2),
            f"{distance:.3f}",
            fill=colour,
            font=ImageFont.load_default(14),
        )
    return sheet

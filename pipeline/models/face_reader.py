"""The face reader's network: a face's picture in, landmarks, visibility, expression, angles out.

A small residual encoder with one way back up. Each landmark is the mean place of a heat map (soft
argmax, "DSNT", Nibali 2018), which is exact between its cells and can be differentiated; what else
is read rests on the features at the landmarks. Knows neither pictures' files nor what the points
are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ModelError

# The heat maps have a cell for so many pixels of the input, each way.
STRIDE = 4
# Angles leave the network in units of so many degrees.
DEGREES = 30.0
ANGLES = 3  # yaw, pitch, roll
HIDDEN = 96


class ReaderOutput(NamedTuple):
    """What the network says of N faces."""

    landmarks: Tensor  # N×P×2, as shares of the input's side: (0, 0) its upper left corner
    heat: Tensor  # N×P×h×w, logarithms of the landmarks' heat maps, each of which sums to 1
    log_error: Tensor  # N×P, logarithm of the error to be expected, as a share of the side
    visibility: Tensor  # N×P, logits
    expression: Tensor  # N×E, logits
    angles: Tensor  # N×3: yaw, pitch, roll, in units of DEGREES


class ConvNorm(nn.Sequential):
    """Convolution (odd kernel, same size over `stride`), batch norm, and perhaps ReLU."""

    def __init__(self, ins: int, outs: int, kernel: int, stride: int = 1, relu: bool = True):
        super().__init__(
            nn.Conv2d(ins, outs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outs),
            *([nn.ReLU()] if relu else []),
        )


class Bottleneck(nn.Module):
    """x + 1×1, 3×3, 1×1 at half the width (He 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.layers = nn.Sequential(
            ConvNorm(channels, inner, 1),
            ConvNorm(inner, inner, 3),
            ConvNorm(inner, channels, 1, relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] => the same shape."""
        return F.relu(x + self.layers(x))


class FaceReaderNetwork(nn.Module):
    """Reads faces of one size.

    Args:
        input_px: side of the square input.
        channels: widths at 1/2, 1/4, 1/8 and 1/16 of the input's side.
        blocks: residual blocks at 1/4, 1/8 and 1/16.
        parts: for each part of a face, from which point to which (exclusive); together they cover
            the points in order.
        expressions: how many there are to be told apart.
    """

    def __init__(
        self,
        input_px: int = 128,
        channels: Sequence[int] = (24, 48, 96, 160),
        blocks: Sequence[int] = (2, 3, 3),
        parts: Sequence[Sequence[int]] = ((0, 28),),
        expressions: int = 9,
    ) -> None:
        super().__init__()
        self.init_kwargs: dict[str, Any] = {
            "input_px": input_px,
            "channels": list(channels),
            "blocks": list(blocks),
            "parts": [list(part) for part in parts],
            "expressions": expressions,
        }
        _check(input_px, channels, blocks, parts)
        half, quarter, eighth, sixteenth = channels
        self.input_px = input_px
        self.parts = [(int(start), int(stop)) for start, stop in parts]
        points = self.parts[-1][1]
        self.stem = ConvNorm(3, half, 3, stride=2)
        self.quarter = _level(half, quarter, blocks[0])
        self.eighth = _level(quarter, eighth, blocks[1])
        self.sixteenth = _level(eighth, sixteenth, blocks[2])
        self.to_eighth = ConvNorm(sixteenth, eighth, 1, relu=False)
        self.merge_eighth = Bottleneck(eighth)
        self.to_quarter = ConvNorm(eighth, quarter, 1, relu=False)
        self.merge_quarter = Bottleneck(quarter)
        self.heat = nn.Conv2d(quarter, points, 1)
        # One linear map a landmark: the error to be expected, and whether it can be seen.
        self.at_landmarks = nn.Parameter(torch.randn([points, quarter, 2]) / quarter**0.5)
        self.at_landmarks_bias = nn.Parameter(torch.zeros([points, 2]))
        features = sixteenth + eighth * len(self.parts)
        # Unnormalised, the features' growth in the first steps leaves every ReLU here dead.
        self.judge = nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, HIDDEN), nn.LeakyReLU(0.1), nn.Dropout(0.2)
        )
        self.expression = nn.Linear(HIDDEN, expressions)
        self.angles = nn.Linear(HIDDEN, ANGLES)

    def forward(self, images: Tensor) -> ReaderOutput:
        """[N, 3, input_px, input_px] in [-1, 1] => ReaderOutput, float32."""
        quarter = self.quarter(self.stem(images))
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        eighth = self.merge_eighth(F.relu(eighth + _twice(self.to_eighth(sixteenth))))
        quarter = self.merge_quarter(F.relu(quarter + _twice(self.to_quarter(eighth))))
        # In bf16 a heat map's logarithms would be too coarse for parts of a cell.
        with torch.autocast(images.device.type, enabled=False):
            return self._read(quarter.float(), eighth.float(), sixteenth.float())

    def _read(self, quarter: Tensor, eighth: Tensor, sixteenth: Tensor) -> ReaderOutput:
        scores = self.heat(quarter)
        heat = scores.flatten(2).log_softmax(dim=2).view_as(scores)
        probability = heat.exp()
        # Where features are looked at follows from the landmarks' own loss alone.
        places = probability.detach()
        seen = torch.einsum("nphw,nchw->npc", places, quarter)
        beside = torch.einsum("npc,pck->npk", seen, self.at_landmarks) + self.at_landmarks_bias
        local = torch.einsum("nphw,nchw->npc", F.avg_pool2d(places, 2) * 4, eighth)
        by_part = [local[:, start:stop].mean(dim=1) for start, stop in self.parts]
        judged = self.judge(torch.cat([sixteenth.mean(dim=(2, 3)), *by_part], dim=1))
        return ReaderOutput(
            landmarks=_mean_place(probability),
            heat=heat,
            # About 2 % of the side at the start.
            log_error=beside[:, :, 0] - 4.0,
            visibility=beside[:, :, 1],
            expression=self.expression(judged),
            angles=self.angles(judged),
        )


def channels_last(network: FaceReaderNetwork) -> FaceReaderNetwork:
    """The network, its kernels laid out so that convolutions are fastest on CPUs (in place)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return network


def _level(ins: int, outs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNorm(ins, outs, 3, stride=2), *(Bottleneck(outs) for _ in range(blocks))
    )


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _mean_place(probability: Tensor) -> Tensor:
    """N×P×h×w => N×P×2: x and y of the mean place, as shares of the sides."""
    height, width = probability.shape[2:]
    columns = (torch.arange(width, device=probability.device) + 0.5) / width
    rows = (torch.arange(height, device=probability.device) + 0.5) / height
    x = (probability.sum(dim=2) * columns).sum(dim=2)
    y = (probability.sum(dim=3) * rows).sum(dim=2)
    return torch.stack([x, y], dim=2)


def _check(
    input_px: int, channels: Sequence[int], blocks: Sequence[int], parts: Sequence[Sequence[int]]
) -> None:
    if input_px < 32 or input_px % 16:
        raise ModelError(f"input_px={input_px} is not possible; use a multiple of 16, 32 or more.")
    if len(channels) != 4 or min(channels) < 2:
        raise ModelError(f"channels={list(channels)} is not possible; give four widths above 1.")
    if len(blocks) != 3 or min(blocks) < 0:
        raise ModelError(f"blocks={list(blocks)} is not possible; give three counts.")
    ends = [0, *(stop for _, stop in parts)]
    if not parts or any(
        start != end or stop <= start for (start, stop), end in zip(parts, ends, strict=False)
    ):
        raise ModelError("parts must cover the points in order, each with at least one.")

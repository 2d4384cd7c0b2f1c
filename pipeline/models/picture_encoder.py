"""Residual convolutions from a picture to a vector: what encoders here are made of.

Knows nothing about latents or training.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

# The name, among a model's networks, of the encoder that was trained with its generator.
OWN = "E"
# The convolutions end at this side.
LAST_SIDE = 4
WIDEST = 256
HIDDEN = 512


class PictureEncoder(nn.Module):
    """Residual convolutions, each halving the side, then two full layers.

    Args:
        channels: of the input.
        height, width: of the input, powers of two, at least 8.
        outputs: numbers that come out; all 0 at first.
        breadth: channels after the first convolution; doubled with each halving up to 256.
        hidden: numbers between the two full layers, the first of which is the largest of all.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        outputs: int,
        breadth: int = 32,
        hidden: int = HIDDEN,
    ) -> None:
        super().__init__()
        self.init_kwargs: dict[str, Any] = {
            "channels": channels,
            "height": height,
            "width": width,
            "outputs": outputs,
            "breadth": breadth,
            "hidden": hidden,
        }
        halvings = max(1, round(math.log2(min(height, width) / LAST_SIDE)))
        wide = [min(WIDEST, breadth * 2**index) for index in range(halvings)]
        self.first = nn.Conv2d(channels, wide[0], 5, stride=2, padding=2)
        self.blocks = nn.ModuleList(
            _Halving(before, after) for before, after in itertools.pairwise(wide)
        )
        places = (height >> halvings) * (width >> halvings)
        self.squeeze = nn.Linear(wide[-1] * places, hidden)
        self.last = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """N x channels x height x width => N x outputs."""
        x = F.leaky_relu(self.first(x), 0.2)
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.last(F.leaky_relu(self.squeeze(x.flatten(1)), 0.2))
        return result


class _Halving(nn.Module):
    """Two convolutions beside an averaging short cut; half the side comes out."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8 if before % 8 == 0 else 1, before)
        self.one = nn.Conv2d(before, before, 3, padding=1)
        self.two = nn.Conv2d(before, after, 3, stride=2, padding=1)
        self.short = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.one(self.norm(x)), 0.2)
        both = self.two(y) + self.short(F.avg_pool2d(x, 2))
        return F.leaky_relu(both / math.sqrt(2), 0.2)

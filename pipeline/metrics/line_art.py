"""What matters in line art beside a perceptual distance: lines where they are, flats flat.

Networks trained on photographs forgive a line that is drawn softer or a pixel further, and a flat
colour with a slight texture; on cel-shaded drawings both are seen at once. Two plain terms against
a fixed target, to be added to a loss. Nothing here is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import check_range

# Change of colour a pixel (in [-1, 1]) at which a place of the target is half flat: a weak shade is
# flat, an anti-aliased line is not.
FLAT_BELOW = 0.05
# Keeps the gradient of a length finite where there is no change at all.
_TINY = 1e-6


@dataclass(frozen=True)
class LineArtWeights:
    """Weights of the two terms; 0 leaves one out."""

    edges: float = 0.0
    flats: float = 0.0

    def __post_init__(self) -> None:
        check_range("line_art.edges", self.edges, 0, 1e6)
        check_range("line_art.flats", self.flats, 0, 1e6)

    def __bool__(self) -> bool:
        return self.edges > 0 or self.flats > 0


class LineArt:
    """Distance of pictures from one target in lines and flat colours."""

    def __init__(self, target: Tensor, weights: LineArtWeights) -> None:
        """`target`: 1 x C x H x W in [-1, 1]."""
        self.weights = weights
        self._target = target.detach()
        self._edges = [slopes(level) for level in pyramid(self._target)]
        steep = steepness(slopes(self._target))
        self._flatness = (1 + (steep / FLAT_BELOW).square()).reciprocal()

    def __call__(self, image: Tensor) -> Tensor:
        """Weighted sum of the terms for N x C x H x W in [-1, 1], a scalar >= 0."""
        total = image.new_zeros([])
        if self.weights.edges:
            total = total + self.weights.edges * self.edges(image)
        if self.weights.flats:
            total = total + self.weights.flats * self.flats(image)
        return total

    def edges(self, image: Tensor) -> Tensor:
        """Mean absolute difference of the slopes (Sobel) at full, half and quarter size."""
        levels = [
            (slopes(level) - wanted).abs().mean()
            for level, wanted in zip(pyramid(image), self._edges, strict=True)
        ]
        return torch.stack(levels).mean()

    def flats(self, image: Tensor) -> Tensor:
        """Where the target is flat: how much the picture changes there, and its colour is off."""
        off = (image - self._target).abs().mean(dim=1, keepdim=True)
        return (self._flatness * (steepness(slopes(image)) + off)).mean()


def pyramid(image: Tensor) -> list[Tensor]:
    """The image at full, half and quarter size (as far as it stays 8 px wide)."""
    levels = [image]
    while len(levels) < 3 and min(levels[-1].shape[2:]) >= 16:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def slopes(image: Tensor) -> Tensor:
    """Change a pixel along x and y of every channel (Sobel 1968), N x 2C x H x W.

    Borders are repeated, so that a picture's frame is no line.
    """
    row = image.new_tensor([[-1.0, 0.0, 1.0]]) / 2
    smooth = image.new_tensor([[1.0], [2.0], [1.0]]) / 4
    kernel = torch.stack([smooth @ row, (smooth @ row).t()])[:, None]
    padded = F.pad(image, [1, 1, 1, 1], mode="replicate")
    count = image.shape[1]
    return F.conv2d(padded, kernel.repeat(count, 1, 1, 1), groups=count)


def steepness(slope: Tensor) -> Tensor:
    """Length of the change over both axes and all channels, N x 1 x H x W."""
    return (slope.square().sum(dim=1, keepdim=True) + _TINY).sqrt()

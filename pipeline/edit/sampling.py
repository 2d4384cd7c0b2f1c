"""Reading feature maps at image positions: bilinear samples, discs, search windows, mask weights.

Everything is in continuous pixel coordinates (x right, y down; pixel (i, j) has its centre at
(j + 0.5, i + 0.5)). A map is sampled only where a value is needed; `resized_at` gives exactly what
resizing the whole map to the picture and reading it there would give. Knows nothing of networks,
handles or optimisation.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Frame(Protocol):
    """Where a feature map lies in the picture: feature = image * scale + offset (pixels).

    `offset` is the margin of feature pixels that lies outside the picture (StyleGAN3: 10).
    """

    @property
    def scale(self) -> float: ...

    @property
    def offset(self) -> float: ...


def bilinear(features: Tensor, points: Tensor) -> Tensor:
    """Values of a map at points, differentiable in the map.

    Args:
        features: C × h × w.
        points: ... × 2, (x, y) in the map's own continuous pixels; outside the map the border
            value continues, as in bilinear resizing.

    Returns:
        ... × C.
    """
    channels, height, width = features.shape
    x = (points[..., 0] - 0.5).clamp(0, width - 1)
    y = (points[..., 1] - 0.5).clamp(0, height - 1)
    left = x.floor().clamp(max=max(width - 2, 0))
    top = y.floor().clamp(max=max(height - 2, 0))
    u = (x - left).to(features.dtype).unsqueeze(-1)
    v = (y - top).to(features.dtype).unsqueeze(-1)
    x0, y0 = left.long(), top.long()
    x1, y1 = (x0 + 1).clamp(max=width - 1), (y0 + 1).clamp(max=height - 1)
    flat = features.reshape(channels, -1)

    def corner(row: Tensor, column: Tensor) -> Tensor:
        index = (row * width + column).reshape(-1)
        return flat.index_select(1, index).t().reshape(*row.shape, channels)

    upper = corner(y0, x0) * (1 - u) + corner(y0, x1) * u
    lower = corner(y1, x0) * (1 - u) + corner(y1, x1) * u
    return upper * (1 - v) + lower * v


def sample(features: Tensor, frame: Frame, points: Tensor) -> Tensor:
    """Values of a feature map (C × h × w) at image points (... × 2); returns ... × C.

    At the centres of the picture's pixels this equals resizing the map's visible part to the
    picture; between them it reads the map itself instead of a resized copy.
    """
    return bilinear(features, points * frame.scale + frame.offset)


def resized_at(features: Tensor, size: tuple[int, int], points: Tensor) -> Tensor:
    """Bilinear reading of the map resized to `size`, without resizing it.

    Args:
        features: C × h × w; all of it is stretched over the picture, margin included.
        size: (height, width) of the picture.
        points: ... × 2 in the picture's continuous pixels; outside the picture values are zero.

    Returns:
        ... × C, equal to interpolate(features, size, bilinear) followed by a bilinear reading.
    """
    height, width = size
    x, y = points[..., 0] - 0.5, points[..., 1] - 0.5
    left, top = x.floor(), y.floor()
    total: Tensor | None = None
    for dy in (0, 1):
        for dx in (0, 1):
            column, row = left + dx, top + dy
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            # A pixel centre of the picture, in the map's own pixels.
            at_x = (column + 0.5) * (features.shape[2] / width)
            at_y = (row + 0.5) * (features.shape[1] / height)
            value = bilinear(features, torch.stack([at_x, at_y], -1))
            part = value * (weight * inside).to(features.dtype).unsqueeze(-1)
            total = part if total is None else total + part
    assert total is not None
    return total


def disc(radius_px: float) -> Tensor:
    """Offsets (n × 2, float64) of the whole-pixel grid within `radius_px` of (0, 0), both edges."""
    reach = int(radius_px)
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    offsets = torch.stack([x, y], -1).reshape(-1, 2)
    return offsets[offsets.norm(dim=1) <= radius_px]


def window(radius_px: float) -> Tensor:
    """Offsets (n × 2, float64) of the square search window, rows first, whole pixels."""
    reach = max(1, int(radius_px + 0.5))
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def vertex(before: float, centre: float, after: float) -> float:
    """Where the parabola through values at -1, 0, 1 has its minimum, within ±0.5; 0 if none."""
    curvature = before - 2 * centre + after
    if not 0 < curvature < math.inf:
        return 0.0
    return max(-0.5, min(0.5, 0.5 * (before - after) / curvature))


def mask_weights(mask: Tensor, frame: Frame, size: tuple[int, int]) -> Tensor:
    """A picture's mask brought onto a feature map's pixels.

    Args:
        mask: H × W in [0, 1] over the picture.
        frame: where the map lies in the picture.
        size: (h, w) of the map.

    Returns:
        h × w in [0, 1]; zero on pixels of the map that lie outside the picture.
    """
    height, width = mask.shape
    content = (max(1, round(height * frame.scale)), max(1, round(width * frame.scale)))
    small = F.interpolate(
        mask[None, None].float(), content, mode="bilinear", align_corners=False, antialias=True
    )[0]
    rows = torch.arange(size[0], dtype=torch.float64) + 0.5 - frame.offset
    columns = torch.arange(size[1], dtype=torch.float64) + 0.5 - frame.offset
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    inside = (x > 0) & (x < content[1]) & (y > 0) & (y < content[0])
    points = torch.stack([x, y], -1).to(mask.device)
    return bilinear(small, points)[..., 0] * inside.to(small.device, small.dtype)

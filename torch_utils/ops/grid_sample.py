"""Bilinear sampling of images at given positions, twice differentiable.

torch's own grid_sample has no second derivative; R1 through a geometric augmentation needs one.
Knows nothing about what is sampled or why.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def grid_sample(image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Sample images bilinearly, zeros outside, pixel centres at half positions.

    Equals `torch.nn.functional.grid_sample(mode="bilinear", padding_mode="zeros",
    align_corners=False)`, and can be differentiated twice, with respect to both arguments.

    Args:
        image: [N, C, H, W].
        grid: [N, out_H, out_W, 2], (x, y) with -1 and 1 at the outer edges of the image.

    Returns [N, C, out_H, out_W].
    """
    if grid.requires_grad:
        return _sample_by_gathering(image, grid)
    result: torch.Tensor = _SampleAtConstants.apply(image, grid)
    return result


class _SampleAtConstants(torch.autograd.Function):
    """Sampling is linear in the image, so its derivatives are sampling and its adjoint."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(grid)
        ctx.image_shape = image.shape
        return F.grid_sample(
            image, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )

    @staticmethod
    def backward(ctx: Any, d_output: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        (grid,) = ctx.saved_tensors
        return _SampleAdjoint.apply(d_output, grid, ctx.image_shape), None


class _SampleAdjoint(torch.autograd.Function):
    """Spread values at the sampled positions back over an image: the transpose of sampling."""

    @staticmethod
    def forward(
        ctx: Any, d_output: torch.Tensor, grid: torch.Tensor, image_shape: torch.Size
    ) -> torch.Tensor:
        ctx.save_for_backward(grid)
        # The adjoint needs the image only for its shape (its values matter to d_grid alone).
        image = d_output.new_zeros(1).expand(image_shape)
        d_image, _ = torch.ops.aten.grid_sampler_2d_backward(
            d_output.contiguous(), image, grid, 0, 0, False, [True, False]
        )
        return d_image

    @staticmethod
    def backward(ctx: Any, d_image: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _SampleAtConstants.apply(d_image, grid), None, None


def _sample_by_gathering(image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """The same from differentiable parts: the four neighbours, weighted."""
    batch, channels, height, width = image.shape
    out_height, out_width = grid.shape[1:3]
    size = grid.new_tensor([width, height])
    position = (grid + 1) * size / 2 - 0.5  # in pixel centres
    corner = position.detach().floor()
    fraction = position - corner  # [N, out_H, out_W, 2]
    flat = image.flatten(2)
    result = image.new_zeros([batch, channels, out_height, out_width])
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = corner[..., 0] + dx, corner[..., 1] + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long()
            index = index.view(batch, 1, -1).expand(-1, channels, -1)
            value = flat.gather(2, index).view(batch, channels, out_height, out_width)
            weight_x = fraction[..., 0] if dx else 1 - fraction[..., 0]
            weight_y = fraction[..., 1] if dy else 1 - fraction[..., 1]
            result = result + value * (weight_x * weight_y * inside)[:, None]
    return result

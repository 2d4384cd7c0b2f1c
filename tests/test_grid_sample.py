"""Sampling: torch's values, first and second derivatives to both arguments."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from torch_utils.ops.grid_sample import grid_sample


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    image = torch.randn([2, 3, 5, 6], generator=source, dtype=torch.float64)
    grid = torch.rand([2, 4, 3, 2], generator=source, dtype=torch.float64) * 2.6 - 1.3
    return image, grid


def test_equals_torch_with_and_without_gradient_to_the_grid() -> None:
    image, grid = inputs()
    expected = F.grid_sample(image, grid, align_corners=False)
    torch.testing.assert_close(grid_sample(image, grid), expected)
    torch.testing.assert_close(grid_sample(image, grid.requires_grad_()), expected)
    turned = image.transpose(2, 3)
    torch.testing.assert_close(
        grid_sample(turned, grid.detach()), F.grid_sample(turned, grid, align_corners=False)
    )


def test_derivatives() -> None:
    image, grid = inputs()
    image.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: grid_sample(x, grid), image)
    assert torch.autograd.gradgradcheck(
        lambda x: grid_sample(x, grid).square(), image, fast_mode=True
    )
    grid.requires_grad_()
    assert torch.autograd.gradcheck(grid_sample, (image, grid))
    assert torch.autograd.gradgradcheck(grid_sample, (image, grid), fast_mode=True)


def test_nothing_to_sample() -> None:
    image, grid = inputs()
    assert grid_sample(image[:0], grid[:0]).shape == (0, 3, 4, 3)

"""The public formulation of a drag step, for comparison only.

After Pan et al. 2023, section 3.2, as it is usually put into code: the network runs to its end, the
feature map is resized to the picture, the tracker looks for the nearest feature pixel by pixel of
the resized map, and both it and the motion loss read that map. Its numbers are those of the
program's strategy `draggan-compatible`, which computes them without the resized map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pixel = tuple[int, int]  # row, column


@dataclass(frozen=True)
class ReferenceDrag:
    """A drag that every call takes one and the same step of.

    targets: row, column; radius and reach: of the disc that is pulled and the window that is
    searched, pixels of the picture.
    """

    generator: Any
    layer: str
    targets: tuple[Pixel, ...]
    rows: int
    radius: int
    reach: int

    def step(
        self, ws: Tensor, handles: tuple[Pixel, ...], references: tuple[Tensor, ...]
    ) -> tuple[tuple[Pixel, ...], Tensor, Tensor]:
        """(tracked handles, loss, gradient of the leading rows of ws) of 1 × num_ws × w_dim.

        references: the feature of each handle at the start, C × 1 each (see `references`).
        """
        free = ws[:, : self.rows].detach().clone().requires_grad_(True)
        with torch.enable_grad():
            resized = self._resized(torch.cat([free, ws[:, self.rows :]], 1))
            with torch.no_grad():
                tracked = tuple(
                    self._nearest(resized, *pair) for pair in zip(handles, references, strict=True)
                )
            loss = resized.new_zeros(())
            for handle, target in zip(tracked, self.targets, strict=True):
                loss = loss + self._pull(resized, handle, target)
            (gradient,) = torch.autograd.grad(loss, free)
        return tracked, loss.detach(), gradient

    @torch.no_grad()
    def references(self, ws: Tensor, handles: tuple[Pixel, ...]) -> tuple[Tensor, ...]:
        """The resized map's features at the handles, C × 1 each."""
        resized = self._resized(ws)
        return tuple(resized[0, :, row, column, None].clone() for row, column in handles)

    def _resized(self, ws: Tensor) -> Tensor:
        """The layer's map at the size of the picture, from a run of the whole network."""
        found: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            found.append(output)

        hook = self._source().register_forward_hook(keep)
        try:
            image = self.generator.synthesis(ws, noise_mode="const", force_fp32=True)
        finally:
            hook.remove()
        return F.interpolate(found[0], image.shape[2:], mode="bilinear", align_corners=False)

    def _source(self) -> nn.Module:
        """The module whose output the layer's map is: StyleGAN2's blocks end in a convolution."""
        layer: nn.Module = self.generator.synthesis.get_submodule(self.layer)
        return dict(layer.named_children()).get("conv1", layer)

    def _nearest(self, resized: Tensor, handle: Pixel, reference: Tensor) -> Pixel:
        row, column = handle
        top, left = max(row - self.reach, 0), max(column - self.reach, 0)
        patch = resized[0, :, top : row + self.reach + 1, left : column + self.reach + 1]
        distance = (patch.flatten(1) - reference).norm(dim=0)
        found = int(distance.argmin())
        return top + found // patch.shape[2], left + found % patch.shape[2]

    def _pull(self, resized: Tensor, handle: Pixel, target: Pixel) -> Tensor:
        height, width = resized.shape[2:]
        way = torch.tensor([target[1] - handle[1], target[0] - handle[0]], dtype=torch.float64)
        step = way / (way.norm() + 1e-7)
        # The grid whose last pixel lies at `height`, as the public program's does.
        y, x = torch.linspace(0, height, height), torch.linspace(0, width, width)
        distance = ((y[:, None] - handle[0]) ** 2 + (x[None, :] - handle[1]) ** 2).sqrt()
        rows, columns = torch.where(distance < self.radius)
        here = resized[0, :, rows, columns].detach()
        points = torch.stack([columns, rows], -1).double() + step + 0.5
        grid = 2 * points / torch.tensor([width, height]) - 1
        grid = grid.to(resized)[None, None]
        there = F.grid_sample(resized, grid, mode="bilinear", align_corners=False)[0, :, 0]
        return (here - there).abs().mean()

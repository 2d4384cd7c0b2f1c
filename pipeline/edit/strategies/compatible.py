"""The public DragGAN program's step, number for number, to check ours against its traces."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.edit.drag import DragModel, DragState, Handle, Point, Proposal
from pipeline.edit.sampling import resized_at
from pipeline.edit.strategies.measuring import (
    LARGEST_LENGTH,
    REFERENCE_HEIGHT,
    Measured,
    adam_step,
    at,
)
from pipeline.errors import check_range


@dataclass(frozen=True)
class DragGanCompatible:
    """The public program's step, number for number (golden traces), for comparison only.

    Works on whole pixels (row, column), stretches the feature map over the picture together with
    its margin, and measures the disc on a grid whose last pixel lies at `height`, not at
    `height - 1`, so that the disc's far edge is lost. Not for editing.
    """

    radius: float = 3.0
    search_radius: float = 12.0
    mask_weight: float = 20.0
    learning_rate: float = 1e-3

    name = "draggan-compatible"
    source = "the public program of Pan et al. 2023, as recorded in its traces"

    def __post_init__(self) -> None:
        for name in ("radius", "search_radius"):
            check_range(name, getattr(self, name), 0, LARGEST_LENGTH, low_open=True)
        check_range("mask_weight", self.mask_weight, 0, 1e6)
        check_range("learning_rate", self.learning_rate, 0, 10, low_open=True)

    def stop_distance_px(self, model: DragModel) -> float:
        """Two pixels at 512, never less than two."""
        return max(2 * model.height / REFERENCE_HEIGHT, 2.0)

    def propose(self, state: DragState, model: DragModel) -> Proposal:
        """One step as the traces have it."""
        size = (model.height, model.width)
        scale = model.height / REFERENCE_HEIGHT
        radius = round(self.radius * scale)
        reach = round(self.search_radius * scale)

        def motion(features: Tensor) -> Measured:
            seen = features.detach()[0]
            handles = tuple(_track_whole_pixels(h, seen, size, reach) for h in state.handles)
            loss = features.new_zeros(())
            for handle in handles:
                # Within one pixel of its target a handle is left alone (and may drift).
                if handle.distance_px > 1:
                    loss = loss + _pull_whole_pixels(handle, features[0], size, radius)
            return Measured(handles, loss)

        def kept(features: Tensor, base: Tensor) -> Tensor:
            assert state.mask is not None
            rows, columns = torch.meshgrid(
                torch.arange(size[0], dtype=torch.float64),
                torch.arange(size[1], dtype=torch.float64),
                indexing="ij",
            )
            centres = torch.stack([columns, rows], -1).to(features.device) + 0.5
            change = resized_at(features[0], size, centres) - resized_at(base[0], size, centres)
            return self.mask_weight * (change * state.mask.unsqueeze(-1)).abs().mean()

        return adam_step(state, model, motion, kept, self.learning_rate)


def _row_column(point: Point) -> tuple[int, int]:
    return math.floor(point[1]), math.floor(point[0])


def _track_whole_pixels(
    handle: Handle, features: Tensor, size: tuple[int, int], reach: int
) -> Handle:
    row, column = _row_column(handle.position)
    device = features.device
    reference = handle.reference
    if reference is None:
        reference = resized_at(features, size, at([(column + 0.5, row + 0.5)], device))
    rows = torch.arange(max(row - reach, 0), min(row + reach + 1, size[0]), dtype=torch.float64)
    columns = torch.arange(
        max(column - reach, 0), min(column + reach + 1, size[1]), dtype=torch.float64
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    candidates = (torch.stack([x, y], -1).reshape(-1, 2) + 0.5).to(device)
    distance = (resized_at(features, size, candidates) - reference).norm(dim=-1)
    x_found, y_found = candidates[int(distance.argmin())].tolist()
    return replace(handle, position=(x_found, y_found), reference=reference)


def _pull_whole_pixels(
    handle: Handle, features: Tensor, size: tuple[int, int], radius: int
) -> Tensor:
    row, column = _row_column(handle.position)
    y = torch.linspace(0, size[0], size[0])
    x = torch.linspace(0, size[1], size[1])
    distance = ((y[:, None] - row).square() + (x[None, :] - column).square()).sqrt()
    rows, columns = torch.where(distance < radius)
    points = (torch.stack([columns, rows], -1).double() + 0.5).to(features.device)
    way = (at([handle.target], features.device) - at([handle.position], features.device))[0]
    here = resized_at(features.detach(), size, points)
    there = resized_at(features, size, points + way / (way.norm() + 1e-7))
    return (here - there).abs().mean()

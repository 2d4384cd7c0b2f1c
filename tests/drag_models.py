"""Stand-in generators for the drag tests, whose truth is known in closed form.

`AffinePicture` is a smooth texture seen through an affine map that the latents set, so where any
point of the start picture lies for any ws can be computed, and a tracker or a drag be judged by it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.edit.drag import DragModel, Point


@dataclass(frozen=True)
class PlainFrame:
    """A feature map's place in the picture."""

    scale: float
    offset: float


class AffinePicture:
    """Features F(p) = T(M p + t) of a picture `size` pixels square.

    `mode` says what the latents can do: "shift" (translation only) or "affine" (all six numbers).
    """

    def __init__(
        self, size: int = 64, scale: float = 0.5, margin: int = 0, mode: str = "shift"
    ) -> None:
        noise = torch.Generator().manual_seed(5)
        self.size, self.frame, self.mode = size, PlainFrame(scale, float(margin)), mode
        self.side = round(size * scale) + 2 * margin
        channels = 12
        # Wave lengths from 9 px to the whole picture.
        self.waves = torch.randn(channels, 2, generator=noise) * (2.0 / size) * torch.pi
        self.phases = torch.rand(channels, generator=noise) * 6.28
        self.mix = torch.randn(6, 4 * 6, generator=noise) / 24**0.5

    def ws(self) -> Tensor:
        """1 × 6 × 6 start latents: the identity map."""
        return torch.zeros(1, 6, 6)

    def numbers(self, ws: Tensor) -> Tensor:
        """The six numbers of the map that ws stands for; only rows 1 to 4 have a say."""
        values = (self.mix @ ws[0, 1:5].reshape(-1)) * 10
        return values * torch.tensor([1.0, 1, 0, 0, 0, 0]) if self.mode == "shift" else values

    def place(self, ws: Tensor, point: Point) -> Point:
        """Where the content that the start picture has at `point` lies now."""
        n = self.numbers(ws).double()
        matrix = torch.eye(2, dtype=torch.float64) + n[2:].reshape(2, 2) / self.size
        moved = torch.linalg.solve(matrix, torch.tensor(point, dtype=torch.float64) - n[:2])
        x, y = moved.tolist()
        return x, y

    def features(self, ws: Tensor) -> Tensor:
        """1 × 12 × side × side."""
        axis = (torch.arange(self.side) + 0.5 - self.frame.offset) / self.frame.scale
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        n = self.numbers(ws)
        matrix = torch.eye(2) + n[2:].reshape(2, 2) / self.size
        content = torch.stack([x, y], -1) @ matrix.T + n[:2]
        return torch.sin(content @ self.waves.T + self.phases).permute(2, 0, 1)[None]

    def model(self) -> DragModel:
        """As the engine wants it."""
        return DragModel(self.features, self.frame, self.size, self.size)

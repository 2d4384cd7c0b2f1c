"""A generator as the samples stage uses it: numbered faces, mixed latents, pictures.

Face N is the latent that torch's CPU generator seeded with N gives first, as in the edit stage, so
that a face on a sheet can be dragged by its number. Knows nothing about sheets or films.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.metrics.path_length import slerp
from pipeline.models import stylegan3
from pipeline.models.build import Generator
from torch_utils.pixels import to_uint8

# Rows of ws that StyleGAN2's coarse styles (4 and 8 px) and middle ones (16 and 32 px) take
# (Karras 2019, figure 3).
SG2_BOUNDS = (4, 8)


@dataclass(frozen=True)
class Faces:
    """Args:
    network: averaged generator on its device.
    batch: pictures made at once.
    psi: truncation where none is given.
    character: class of all faces; None: one class after the other.
    """

    network: Generator
    batch: int
    psi: float
    character: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def z(self, numbers: Sequence[int]) -> Tensor:
        """Latents of the faces with these numbers, N x z_dim."""
        draws = [torch.Generator().manual_seed(number) for number in numbers]
        rows = [torch.randn(1, self.network.z_dim, generator=draw) for draw in draws]
        return torch.cat(rows).to(self.device)

    def labels(self, classes: Sequence[int]) -> Tensor:
        """One-hot rows, N x c_dim; zeros where the model has no labels."""
        rows = torch.zeros(len(classes), self.network.c_dim, device=self.device)
        if self.network.c_dim:
            rows[range(len(classes)), list(classes)] = 1
        return rows

    def classes_of(self, numbers: Sequence[int]) -> list[int]:
        """A class for each face: the chosen one, or one after the other."""
        if self.character is not None:
            return [self.character] * len(numbers)
        return [number % max(self.network.c_dim, 1) for number in numbers]

    @torch.inference_mode()
    def ws(self, z: Tensor, labels: Tensor, psi: float | None = None) -> Tensor:
        """N x num_ws x w_dim."""
        psi = self.psi if psi is None else psi
        found: Tensor = self.network.mapping(z, labels, truncation_psi=psi)
        return found

    def ws_of(self, numbers: Sequence[int], psi: float | None = None) -> Tensor:
        """Rows of ws of numbered faces, each of its own class."""
        return self.ws(self.z(numbers), self.labels(self.classes_of(numbers)), psi)

    @torch.inference_mode()
    def pictures(self, ws: Tensor) -> list[np.ndarray]:
        """H x W x 3 uint8 for each row of ws; the noise inputs are the model's own, fixed ones."""
        made = [
            to_uint8(self.network.synthesis(part, noise_mode="const"))
            for part in ws.split(self.batch)
        ]
        return list(np.concatenate(made))

    def mixing_ranges(self, asked: Sequence[str] | None) -> dict[str, range]:
        """Rows of ws by what a table of them is called.

        ConfigError where `asked` ("0-3", "4") does not fit the model.
        """
        count = self.network.num_ws
        if asked is not None:
            return {f"rows {text.strip()}": _rows(text, count) for text in asked}
        low, high = SG2_BOUNDS
        if isinstance(self.network, stylegan3.Generator):
            # StyleGAN3's layers grow evenly; a third of them each.
            low, high = round(count / 3), round(2 * count / 3)
        low, high = min(low, count), min(high, count)
        every = {
            "coarse": range(low),
            "middle": range(low, high),
            "fine": range(high, count),
        }
        return {name: rows for name, rows in every.items() if len(rows)}


def _rows(text: str, count: int) -> range:
    first, dash, last = text.strip().partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise ConfigError(
            f'samples.mixing_rows: {text!r} is no range of rows; write for example "0-3".'
        )
    rows = range(int(first), int(last if dash else first) + 1)
    if not len(rows) or rows[-1] >= count:
        raise ConfigError(
            f"samples.mixing_rows: {text!r} is not possible; this model's rows are 0-{count - 1}."
        )
    return rows


def round_trip(
    stops: Tensor, steps: int, *, easing: str = "smooth", arcs: bool = False
) -> list[Tensor]:
    """Points on the way from stop to stop and back to the first, `steps` to each next one.

    Args:
        stops: K x N x ...: K stops of N walkers.
        easing: smooth (3t^2 - 2t^3: at rest at every stop) or linear.
        arcs: along great circles (for z, K x N x z_dim) instead of straight lines.

    Returns K * steps tensors N x ...; the one after the last would be the first again.
    """
    points = []
    for index in range(len(stops)):
        start, end = stops[index], stops[(index + 1) % len(stops)]
        for step in range(steps):
            t = step / steps
            t = t * t * (3 - 2 * t) if easing == "smooth" else t
            if arcs:
                share = torch.full((len(start), 1), t, device=start.device)
                points.append(slerp(start, end, share) * math.sqrt(start.shape[1]))
            else:
                points.append(start.lerp(end, t))
    return points

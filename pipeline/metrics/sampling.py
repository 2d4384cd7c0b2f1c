"""Images of a generator for measuring: a function of seed and sample number alone.

Batches are numbered, and each draws from generators of its own, so that a batch is the same
whichever process makes it and wherever a run was cut off. Knows nothing about metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models.build import Generator
from torch_utils.distributed import ALONE, World
from torch_utils.rng import derive_seed, generator


@dataclass(frozen=True)
class Sampler:
    """A generator, and how images are drawn from it.

    Args:
        network: in evaluation mode, on its device.
        seed: of all draws.
        batch: images made at once; another number draws other images.
        truncation_psi: 1 is the model as it is; below 1 images are more alike.
        labels: K x c_dim, from which each sample's label is drawn; None: zeros (a model without
            labels).
    """

    network: Generator
    seed: int = 0
    batch: int = 16
    truncation_psi: float = 1.0
    labels: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def draws(self, batch: int, purpose: str) -> torch.Generator:
        """The random numbers of batch number `batch` for one purpose."""
        return generator(self.seed, 0, batch, f"metrics/{purpose}")

    def latents(self, count: int, draws: torch.Generator) -> Tensor:
        """`count` latents z on the network's device."""
        return torch.randn(count, self.network.z_dim, generator=draws).to(self.device)

    def conditions(self, count: int, draws: torch.Generator) -> Tensor:
        """`count` labels on the network's device, count x c_dim."""
        if self.labels is None:
            return torch.zeros(count, self.network.c_dim, device=self.device)
        rows = torch.randint(len(self.labels), (count,), generator=draws)
        return self.labels[rows].to(self.device)

    @torch.inference_mode()
    def images(self, batch: int, count: int) -> Tensor:
        """The first `count` images of a batch as a whole, N x C x H x W uint8 on the device."""
        draws = self.draws(batch, "images")
        z = self.latents(self.batch, draws)[:count]
        c = self.conditions(self.batch, draws)[:count]
        noise = torch.Generator(self.device).manual_seed(
            derive_seed(self.seed, 0, batch, "metrics/noise")
        )
        made = self.network(
            z, c, truncation_psi=self.truncation_psi, noise_mode="random", generator=noise
        )
        return to_bytes(made)

    def numbers(
        self, total: int, first: int = 0, world: World = ALONE
    ) -> Iterator[tuple[int, int, int]]:
        """(batch, number of its first sample, its samples) of this process's share of `total`.

        `first`: samples that were done before, whole batches of them.
        """
        for batch in range(first // self.batch, -(-total // self.batch))[world.rows]:
            begin = batch * self.batch
            yield batch, begin, min(self.batch, total - begin)

    def batches(
        self, total: int, *, first: int = 0, world: World = ALONE
    ) -> Iterator[tuple[int, Tensor]]:
        """(number of the first image, images) of this process's batches out of `total` images."""
        for batch, begin, count in self.numbers(total, first, world):
            yield begin, self.images(batch, count)


def to_bytes(images: Tensor) -> Tensor:
    """N x C x H x W in [-1, 1] => uint8, rounded to the nearest and clipped."""
    return images.float().mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)

"""The mapping network learns where the latents of a set lie.

So that random z give latents as the encoder gives for pictures of the set. The energy distance of
two samples (Szekely and Rizzo 2013, eq. 2.1) is zero only if they come from one distribution, and
it needs no adversary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from torch_utils import rng


def energy_distance(a: Tensor, b: Tensor) -> Tensor:
    """2 E|a - b| - E|a - a'| - E|b - b'| over all pairs; two samples N x D and M x D, N, M > 1."""

    def within(x: Tensor) -> Tensor:
        count = len(x)
        return torch.pdist(x).sum() * 2 / (count * (count - 1))

    return 2 * torch.cdist(a, b).mean() - within(a) - within(b)


def fit(
    mapping: Any,
    latents: Tensor,
    *,
    steps: int,
    batch: int,
    rate: float,
    noise: float,
    seed: int,
    stop: Callable[[], bool],
) -> Iterator[float]:
    """Train `mapping` until its latents are distributed as `latents` (N x w_dim) with `noise`.

    Gives each step's energy distance, in units of what `latents` have among themselves (of w where
    they are all alike); ends early where `stop` says so.
    """
    mapping.train().requires_grad_(True)
    optimizer = torch.optim.Adam(mapping.parameters(), lr=rate, betas=(0.9, 0.99))
    # Of one picture, or of many that are alike, there is no distance to measure by.
    apart = torch.pdist(latents[:1000])
    spread = float(apart.mean()) if apart.any() else 1.0
    for step in range(steps):
        if stop():
            return
        draws = rng.generator(seed, 0, step, "pretrain mapping")
        z = torch.randn(batch, mapping.z_dim, generator=draws).to(latents)
        chosen = torch.randint(len(latents), (batch,), generator=draws)
        some = latents[chosen.to(latents.device)]
        some = some + noise * torch.randn(some.shape, generator=draws).to(latents)
        distance = energy_distance(mapping(z, None)[:, 0], some) / spread
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad(set_to_none=True)
        distance.backward()
        optimizer.step()
        yield distance.item()

"""Randomness as a function of (seed, rank, images seen), and the order of the training images.

Nothing here keeps a state that a resume would have to restore: whoever knows the seed and how many
images were seen draws the same values again. Generators live on the CPU, so that the values do not
depend on the device. `rand` and `randn` are for layers that draw for each image: where a batch is
spread over processes (distributed.spread) they give the rows that belong to this one's images.
Knows nothing about networks or datasets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_utils import distributed


def derive_seed(seed: int, *keys: int | str) -> int:
    """A 63-bit seed for one purpose: equal keys give equal seeds, others unrelated ones."""
    text = "/".join([str(seed), *(f"{type(key).__name__}:{key}" for key in keys)])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, rank: int, images_seen: int, purpose: str) -> torch.Generator:
    """A CPU generator for what process `rank` draws for `purpose` at `images_seen`."""
    return torch.Generator().manual_seed(derive_seed(seed, rank, images_seen, purpose))


def seed_global(seed: int, rank: int, images_seen: int, purpose: str) -> None:
    """Seed torch's global generators, for layers that draw without being handed a generator.

    Those are the noise inputs of StyleGAN2's synthesis layers.
    """
    torch.manual_seed(derive_seed(seed, rank, images_seen, purpose))


def rand(
    shape: Sequence[int],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Uniform in [0, 1): torch.rand, the first axis being the images of a batch."""
    count, *rest = shape
    return distributed.draw_rows(
        lambda rows: torch.rand([rows, *rest], **_from(generator), device=device), count
    )


def randn(
    shape: Sequence[int],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Unit normal: torch.randn, the first axis being the images of a batch."""
    count, *rest = shape
    return distributed.draw_rows(
        lambda rows: torch.randn([rows, *rest], **_from(generator), device=device), count
    )


def _from(generator: torch.Generator | None) -> dict[str, Any]:
    """The argument `generator`, left out where there is none: torch.compile cannot follow None."""
    return {} if generator is None else {"generator": generator}


class DataOrder:
    """Endless order of `size` items: one permutation an epoch, a function of (seed, position).

    Position k of the endless sequence is item `permutation(k // size)[k % size]`.
    """

    def __init__(self, seed: int, size: int) -> None:
        if size < 1:
            raise ValueError(f"size={size}: an order needs at least one item.")
        self.seed = seed
        self.size = size
        self._epoch = -1
        self._permutation = np.zeros(0, dtype=np.int64)

    def items(self, first: int, count: int) -> np.ndarray:
        """Items at positions first .. first + count - 1 (int64)."""
        positions = np.arange(first, first + count)
        epochs = positions // self.size
        result = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            result[chosen] = self._permute(int(epoch))[positions[chosen] % self.size]
        return result

    def _permute(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            order = torch.randperm(self.size, generator=generator(self.seed, 0, epoch, "order"))
            self._epoch, self._permutation = epoch, order.numpy()
        return self._permutation

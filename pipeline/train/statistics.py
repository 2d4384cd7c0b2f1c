"""Running means of what training measures, summed on the device and read now and then.

Each process of a run counts for itself, and `total` puts that together. Reading waits for the
device; adding does not. The sums are part of the training state, so a resumed
run reports the same means. Knows nothing about what the names mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from torch_utils.distributed import World


class Statistics:
    """Means by name since the last `clear`."""

    def __init__(self) -> None:
        # name -> (sum, count), float64
        self._sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Count every element of every tensor."""
        for name, value in values.items():
            total = value.detach().sum(dtype=torch.float64)
            term = torch.stack([total, torch.full_like(total, value.numel())])
            known = self._sums.get(name)
            self._sums[name] = term if known is None else known + term

    def total(self, world: World) -> Statistics:
        """What all processes counted together; they must have counted the same names."""
        if world.size == 1 or not self._sums:
            return self
        together = Statistics()
        table = world.sum(torch.stack(list(self._sums.values())))
        together.restore(dict(zip(self._sums, table, strict=True)))
        return together

    def means(self) -> dict[str, float]:
        """Mean of each name, in the order of their first appearance."""
        if not self._sums:
            return {}
        table = torch.stack(list(self._sums.values())).cpu()
        return dict(zip(self._sums, (table[:, 0] / table[:, 1]).tolist(), strict=True))

    def not_finite(self) -> list[str]:
        """Names whose sum is infinite or not a number."""
        if not self._sums:
            return []
        bad = ~torch.isfinite(torch.stack(list(self._sums.values()))[:, 0].cpu())
        return [name for name, is_bad in zip(self._sums, bad.tolist(), strict=True) if is_bad]

    def clear(self) -> None:
        """Forget everything."""
        self._sums.clear()

    def tensors(self) -> dict[str, Tensor]:
        """The sums, for saving."""
        return dict(self._sums)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved sums."""
        self._sums = dict(tensors)

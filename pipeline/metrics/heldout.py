"""A score for every snapshot: KID of a generator's images against real ones kept from training.

Small sets are what it is for: KID is unbiased at any size, where FID of two hundred images says
more about their number than about the pictures. Knows nothing about datasets or generators.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import DataError
from pipeline.metrics import features
from pipeline.metrics.distances import kernel_distance
from pipeline.metrics.estimate import Estimate

# AlexNet first: several times cheaper than the others, and it ranks blur and noise as they do.
ORDER = ("lpips-alex", "efficientnet-lite0", "lpips-vgg")
# A small side, for the same reason; twice the side of the smallest images there are.
SIDE_PX = 128


@dataclass(frozen=True)
class HeldOutScore:
    """Real images' features, and the network that fakes are to be seen through."""

    _network: features.FeatureNetwork
    _reals: Tensor

    @classmethod
    def of(
        cls,
        reals: Iterable[Tensor],
        *,
        device: torch.device | str = "cpu",
        network: str = features.AUTO,
    ) -> HeldOutScore:
        """Look at the real images once.

        Args:
            reals: batches of N x C x H x W uint8 (C 3 or 1), two images at least.
            device: where the network runs.
            network: one of `features.NAMES`, or auto: the cheapest whose weights are here.

        Raises:
            ModelError: where no network's weights are in the cache.
            DataError: for fewer than two images.
        """
        chosen = features.load(network, device, side_px=SIDE_PX, order=ORDER)
        return cls(chosen, _features(chosen, reals, "held-out"))

    @property
    def network(self) -> str:
        """The feature network's name, to stand beside the figure."""
        return self._network.name

    def __call__(self, fakes: Iterable[Tensor]) -> Estimate:
        """KID of the fakes (batches as in `of`): lower is closer, 0 cannot be told apart.

        The estimate is unbiased, so that it may lie a little below 0.
        """
        return kernel_distance(self._reals, _features(self._network, fakes, "generated"))


def _features(network: features.FeatureNetwork, batches: Iterable[Tensor], what: str) -> Tensor:
    parts = [network(batch).features.cpu() for batch in batches if len(batch)]
    count = sum(len(part) for part in parts)
    if count < 2:
        raise DataError(f"A score needs at least two {what} images, but there are {count}.")
    return torch.cat(parts)

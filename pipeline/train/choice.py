"""Which images of a dataset are trained on and which are kept to judge by. Pure.

Both follow from the seed and the dataset's own split alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from torch_utils import rng

# A handful of images cannot spare more than this share to be judged by.
MOST_HELD_OUT = 4


@dataclass(frozen=True)
class Chosen:
    """Positions in the dataset: trained on, held out; no image is in both."""

    train: list[int]
    heldout: list[int]


def choose(
    train: Sequence[int],
    heldout: Sequence[int],
    *,
    seed: int,
    min_heldout: int = 0,
    max_images: int | None = None,
) -> Chosen:
    """Divide the dataset's images.

    Args:
        train, heldout: the dataset's own split.
        seed: of every choice.
        min_heldout: where fewer are held out, training images join them, up to a quarter of these.
        max_images: train on at most so many.
    """
    missing = max(min_heldout - len(heldout), 0)
    order = _shuffled(train, seed, "held out")
    spared = order[: min(missing, len(train) // MOST_HELD_OUT)]
    left = [index for index in train if index not in set(spared)]
    if max_images is not None:
        left = _shuffled(left, seed, "subset")[:max_images]
    return Chosen(sorted(left), sorted([*heldout, *spared]))


def _shuffled(indices: Sequence[int], seed: int, purpose: str) -> list[int]:
    draws = rng.generator(seed, 0, 0, purpose)
    return [indices[place] for place in torch.randperm(len(indices), generator=draws).tolist()]

"""What an iteration of training consists of: its phases, what they work on, what computes them.

Knows nothing about how often they are logged or saved; loop.py takes the steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.train.loss import Latents, Reports
from pipeline.train.recipe import Recipe
from pipeline.train.state import NetworkName
from torch_utils.distributed import WHOLE, Share, spread


@dataclass(frozen=True)
class Phase:
    """One optimiser step: which network, which losses, every how many iterations."""

    name: str
    network: NetworkName
    main: bool
    regularise: bool
    interval: int


@dataclass(frozen=True)
class PhaseInputs:
    """What a phase works on: the rows of the batch that are this process's.

    images: real ones, N×C×H×W in [-1, 1]; labels: N × c_dim; latents: for the images G makes.
    path_length_noise: unit normal, shaped as the part of the batch that is measured; None: drawn.
    seed: of whatever the networks and the augmentation draw for themselves.
    share: which rows of the whole batch these are.
    """

    images: Tensor
    labels: Tensor
    latents: Latents
    path_length_noise: Tensor | None = None
    seed: int = 0
    share: Share = WHOLE

    def parts(self, count: int) -> list[PhaseInputs]:
        """`count` equal pieces; see pieces.py."""
        return [self._part(Share(index, count)) for index in range(count)]

    def _part(self, piece: Share) -> PhaseInputs:
        noise = self.path_length_noise
        return PhaseInputs(
            self.images[piece.rows],
            self.labels[piece.rows],
            self.latents.rows(piece.rows),
            None if noise is None else noise[piece.rows],
            self.seed,
            self.share.piece(piece.index, piece.count),
        )

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Inside the block layers draw what falls to these rows of the batch."""
        torch.manual_seed(self.seed)
        with spread(self.share):
            yield


class MainLosses(Protocol):
    """What computes the main phases' gradients: the objective itself, or its recorded form.

    Each method multiplies its loss by `gain`, adds gradients to those that are there, and returns
    what it measured; see `Objective`.
    """

    def generator_main(self, latents: Latents, gain: float) -> Reports: ...

    def discriminator_main(
        self, latents: Latents, images: Tensor, c: Tensor, gain: float
    ) -> Reports: ...


def phases(recipe: Recipe) -> list[Phase]:
    """The phases in their order; without an interval, the regulariser joins the main phase."""
    order: list[Phase] = []
    networks: tuple[tuple[NetworkName, int | None, float], ...] = (
        ("G", recipe.path_length_interval, recipe.path_length_weight),
        ("D", recipe.r1_interval, recipe.r1_gamma),
    )
    for network, interval, weight in networks:
        if interval is None:
            order.append(Phase(f"{network}both", network, True, weight > 0, 1))
        else:
            order.append(Phase(f"{network}main", network, True, False, 1))
            order.append(Phase(f"{network}reg", network, False, True, interval))
    return order

"""How one batch is spread over processes, and over passes where it does not fit into memory.

A piece takes every S-th image of the batch, S being passes times processes: the groups that the
discriminator's minibatch statistics compare are strided alike, so each piece holds whole groups,
and gradients, statistics and draws equal those of the undivided batch. Knows nothing about losses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.stylegan2_discriminator import MinibatchStdLayer
from pipeline.train.recipe import Recipe

# The generator's running means that a pass over fakes moves.
RUNNING_MEANS = ("w_avg", "magnitude_ema")


def passes(recipe: Recipe, processes: int) -> int:
    """Passes a phase: the fewest equal ones of at most `recipe.microbatch` images a process."""
    mine = recipe.batch // processes
    least = -(-mine // recipe.microbatch)
    return next(count for count in range(least, mine + 1) if mine % count == 0)


def check_pieces(discriminator: nn.Module, recipe: Recipe, processes: int, stage: str) -> None:
    """ConfigError unless the batch divides into pieces that equal the whole together."""
    batch = recipe.batch
    if batch % processes:
        fitting = max(batch // processes, 1) * processes
        raise ConfigError(
            f"{stage}.batch={batch} does not divide by the {processes} processes; use a multiple "
            f"of {processes} such as {fitting}."
        )
    pieces = passes(recipe, processes) * processes
    for module in discriminator.modules():
        if isinstance(module, MinibatchStdLayer):
            group = min(module.group_size or batch, batch)
            if batch % (group * pieces):
                raise ConfigError(_not_whole_groups(stage, batch, group, pieces))
    if pieces > 1 and recipe.path_length_interval is not None and batch // pieces % 2:
        raise ConfigError(
            f"{stage}.batch={batch} in {pieces} pieces (processes times passes of "
            f"{stage}.microbatch) leaves {batch // pieces} images each, but path lengths are "
            f"measured on half of a piece; use a multiple of {2 * pieces}."
        )


def _not_whole_groups(stage: str, batch: int, group: int, pieces: int) -> str:
    more = -(-batch // (group * pieces)) * group * pieces
    what = f"{stage}.batch={batch} does not split into groups of {group} (network.mbstd_group)"
    if pieces > 1:
        what = (
            f"{stage}.batch={batch} in {pieces} pieces (processes times passes of "
            f"{stage}.microbatch) does not leave whole groups of {group} (network.mbstd_group)"
        )
    return f"{what}; use a multiple of {group * pieces} such as {more}."


class RunningMeans:
    """Lets several passes of one batch move the generator's running means as one pass would.

    Each pass starts from the means before the batch; the mean of what they arrive at, which is
    linear in the passes, holds after the last. (StyleGAN3's magnitudes scale the pass at hand
    already, so there a pass differs from the whole by the decay, a thousandth, of their spread.)
    """

    def __init__(self, generator: nn.Module, count: int) -> None:
        buffers = generator.named_buffers() if count > 1 else ()
        self._moving = [value for name, value in buffers if name.endswith(RUNNING_MEANS)]
        self._count = count
        self._before = [value.clone() for value in self._moving]
        self._sums: list[Tensor] = [torch.zeros_like(value) for value in self._moving]

    @torch.no_grad()
    def after_pass(self) -> None:
        """Take in where the pass moved the means, and put them back."""
        if self._moving:
            torch._foreach_add_(self._sums, self._moving)
            torch._foreach_copy_(self._moving, self._before)

    @torch.no_grad()
    def after_batch(self) -> None:
        """Set the means of the whole batch."""
        for value, total in zip(self._moving, self._sums, strict=True):
            value.copy_(total / self._count)

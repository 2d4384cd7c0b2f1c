"""Figures with their confidence intervals, and the two ways of resampling that give these.

Knows nothing about images or networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Intervals cover so much of the resamples.
LEVEL = 0.95
# The normal distribution's quantile for that level, both tails cut.
_NORMAL_QUANTILE = 1.959964
BOOTSTRAP_RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A figure and the interval that holds it with probability LEVEL, as resampling estimates it.

    `low` and `high` are NaN where there were too few samples to resample.
    """

    value: float
    low: float = math.nan
    high: float = math.nan


def bootstrap(
    values: Tensor,
    statistic: Callable[[Tensor], Tensor],
    *,
    resamples: int = BOOTSTRAP_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """`statistic` of the samples, with a percentile bootstrap interval (Efron 1979).

    Args:
        values: one row a sample.
        statistic: R x N x ... (R resampled sets) -> R values; called in small pieces.
        resamples: how many sets are drawn.
        seed: of the draws; equal seeds give equal intervals.
    """
    count = len(values)
    value = float(statistic(values[None])[0])
    if count < 2:
        return Estimate(value)
    draws = torch.Generator().manual_seed(seed)
    # Pieces of about ten million numbers, whatever the size of the set.
    piece = max(1, min(resamples, 10_000_000 // max(values.numel(), 1)))
    parts = []
    for first in range(0, resamples, piece):
        rows = torch.randint(count, (min(piece, resamples - first), count), generator=draws)
        parts.append(statistic(values[rows]).double())
    low, high = _percentiles(torch.cat(parts))
    return Estimate(value, low, high)


def percentile_interval(value: float, resampled: Tensor) -> Estimate:
    """`value` with the interval between the percentiles of its `resampled` values (1-D)."""
    if resampled.numel() < 2:
        return Estimate(value)
    low, high = _percentiles(resampled.double())
    return Estimate(value, low, high)


def jackknife(value: float, without_group: Sequence[float]) -> Estimate:
    """`value` with the interval of the delete-a-group jackknife (Shao and Tu 1995, section 5.2).

    `without_group`: the statistic of all samples but one group's, for each of G groups of about
    equal size. Unlike the bootstrap it repeats no sample, which statistics of covariances
    (Frechet distances) would take for a lack of variety.
    """
    groups = len(without_group)
    if groups < 2 or not math.isfinite(value):
        return Estimate(value)
    mean = math.fsum(without_group) / groups
    squares = math.fsum((other - mean) ** 2 for other in without_group)
    error = math.sqrt((groups - 1) / groups * squares)
    return Estimate(value, value - _NORMAL_QUANTILE * error, value + _NORMAL_QUANTILE * error)


def _percentiles(values: Tensor) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    wanted = torch.tensor([tail, 1 - tail], dtype=values.dtype)
    low, high = torch.quantile(values, wanted).tolist()
    return low, high

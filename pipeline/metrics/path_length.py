"""Perceptual path length: how evenly images change with the latent (Karras 2019, section 4.1).

Takes the distance between images as a function; knows nothing about networks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import check_choice
from pipeline.metrics.estimate import Estimate, bootstrap
from pipeline.metrics.sampling import Sampler
from torch_utils.distributed import ALONE, World

SPACES = ("w", "z")
SAMPLINGS = ("end", "full")

# N x C x H x W images in [-1, 1], twice => N distances.
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PathSettings:
    """Which paths are measured; the defaults are StyleGAN2's (Karras 2020a, appendix)."""

    # w: straight lines between two w | z: arcs (slerp) between two z.
    space: str = "w"
    # end: at the paths' beginnings only | full: anywhere on them.
    sampling: str = "end"
    # Length of the step, as a share of the path.
    epsilon: float = 1e-4
    # Shares of the smallest and largest values that are left out of the mean.
    reject: float = 0.01

    def __post_init__(self) -> None:
        check_choice("space", self.space, SPACES)
        check_choice("sampling", self.sampling, SAMPLINGS)


def path_lengths(
    sampler: Sampler,
    distance: Distance,
    settings: PathSettings,
    total: int,
    *,
    first: int = 0,
    world: World = ALONE,
) -> Iterator[tuple[int, Tensor]]:
    """(number of the first path, lengths) of this process's batches out of `total` paths.

    A length is d(g(t), g(t + e)) / e^2 (eq. 2 and 3); `first`: see `Sampler.numbers`.
    """
    for batch, begin, count in sampler.numbers(total, first, world):
        yield begin, _lengths_of_batch(sampler, distance, settings, batch, count)


@torch.inference_mode()
def _lengths_of_batch(
    sampler: Sampler, distance: Distance, settings: PathSettings, batch: int, count: int
) -> Tensor:
    draws = sampler.draws(batch, "paths")
    z = sampler.latents(2 * sampler.batch, draws)
    c = sampler.conditions(sampler.batch, draws)[:count]
    t = torch.rand(sampler.batch, generator=draws).to(z.device)[:count, None]
    t = t * (settings.sampling == "full")
    a, b = z[:count], z[sampler.batch : sampler.batch + count]
    ends = torch.cat([t, t + settings.epsilon])
    if settings.space == "z":
        points = slerp(a.repeat(2, 1), b.repeat(2, 1), ends)
        ws = sampler.network.mapping(points, c.repeat(2, 1))
    else:
        start, end = sampler.network.mapping(torch.cat([a, b]), c.repeat(2, 1)).chunk(2)
        ws = start.repeat(2, 1, 1).lerp(end.repeat(2, 1, 1), ends[:, :, None])
    # Both ends in one batch: the same noise for both, and in single precision the difference of
    # two runs would be that of two roundings.
    images = sampler.network.synthesis(ws, noise_mode="const", force_fp32=True)
    near, far = images.chunk(2)
    return (distance(near, far) / settings.epsilon**2).cpu()


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the great circle from a to b (N x d, made unit length), t of it (N x 1)."""
    a = a / a.norm(dim=1, keepdim=True)
    b = b / b.norm(dim=1, keepdim=True)
    along = (a * b).sum(dim=1, keepdim=True)
    side = b - along * a
    length = side.norm(dim=1, keepdim=True)
    # Not the arc cosine of `along`, which near 1 has lost half its digits.
    angle = t * torch.atan2(length, along)
    side = side / length.clamp(min=1e-12)
    return a * angle.cos() + side * angle.sin()


def mean_length(lengths: Tensor, reject: float = 0.01, *, seed: int = 0) -> Estimate:
    """Mean without the `reject` smallest and largest shares, with a bootstrap interval."""
    count = len(lengths)
    cut = int(count * reject)

    def trimmed(sets: Tensor) -> Tensor:
        return sets.sort(dim=1).values[:, cut : count - cut].mean(dim=1)

    return bootstrap(lengths.double(), trimmed, seed=seed)

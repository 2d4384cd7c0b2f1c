"""Distances between two sets of feature vectors: Frechet, kernel, precision and recall, IS.

Plain functions of tensors, in double precision. Knows nothing about images or networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.metrics.estimate import Estimate, bootstrap, percentile_interval

# Rows whose distances to all others are held at once.
_ROWS = 1024


@dataclass(frozen=True)
class Gaussian:
    """Mean (d) and covariance (d x d, divided by n - 1) of a set of features, float64."""

    mean: Tensor
    covariance: Tensor


def factor(covariance: Tensor) -> Tensor:
    """F with F F^T = covariance (d x d float64, positive semi-definite): d x rank."""
    values, vectors = torch.linalg.eigh(covariance)
    rounding = values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    present = values > rounding
    return vectors[:, present] * values[present].sqrt()


def frechet_distance(a: Gaussian, b: Gaussian, factor_of_a: Tensor | None = None) -> float:
    """The squared 2-Wasserstein distance of two Gaussians (Heusel 2017, eq. 6 = FID).

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)). With C_a = F F^T the last trace is that of
    the root of F^T C_b F, which is symmetric, so that no root of a rounding error below zero
    appears, and as small as the rank of C_a, which is at most the number of samples less one.

    factor_of_a: `factor(a.covariance)`, for whoever compares many with one.
    """
    f = factor(a.covariance) if factor_of_a is None else factor_of_a
    shared = torch.linalg.eigvalsh(f.T @ b.covariance @ f).clamp(min=0).sqrt().sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * shared
    distance = (a.mean - b.mean).square().sum() + spread
    return max(float(distance), 0.0)


def polynomial_kernel(a: Tensor, b: Tensor) -> Tensor:
    """k(x, y) = (x . y / d + 1)^3 for all pairs (Binkowski 2018, section 3.1); N x d, M x d."""
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3


def kernel_distance(
    reals: Tensor, fakes: Tensor, *, resamples: int = 200, seed: int = 0
) -> Estimate:
    """KID: the unbiased squared maximum mean discrepancy (Binkowski 2018, eq. 4).

    Over all pairs; the mean over random subsets of thousand, which the paper takes for its lower
    cost, estimates the same number with more noise. The interval is a percentile bootstrap of the
    fakes against the reals as they are, in which copies of one sample make no pair.

    Args:
        reals, fakes: N x d and M x d features, at least two each.
    """
    draws = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(fakes), (resamples, len(fakes)), generator=draws)
    counts = torch.zeros(resamples, len(fakes)).scatter_add_(1, rows, torch.ones(rows.shape))
    # The first set of multiplicities is the sample itself.
    counts = torch.cat([torch.ones(1, len(fakes)), counts]).double().to(fakes.device)
    ones = torch.ones(1, len(reals), dtype=torch.float64, device=fakes.device)
    across = _pair_sums(reals, fakes, ones, counts) / (len(reals) * counts.sum(dim=1))
    distances = _mean_of_pairs(reals, ones) + _mean_of_pairs(fakes, counts) - 2 * across
    return percentile_interval(float(distances[0]), distances[1:].cpu())


def _mean_of_pairs(x: Tensor, counts: Tensor) -> Tensor:
    """Mean of k(x_i, x_j) over pairs i != j, for R sets of multiplicities (R x N); R values."""
    diagonal = ((x.double().square().sum(dim=1) / x.shape[1]) + 1) ** 3
    sums = _pair_sums(x, x, counts, counts) - counts.square() @ diagonal
    return sums / (counts.sum(dim=1).square() - counts.square().sum(dim=1))


def _pair_sums(a: Tensor, b: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """sum_ij p_ri k(a_i, b_j) q_rj for each r; p is R x N (or 1 x N), q is R x M; R values."""
    total = torch.zeros(len(q), dtype=torch.float64, device=b.device)
    for first in range(0, len(a), _ROWS):
        part = slice(first, first + _ROWS)
        total += ((p[:, part] @ polynomial_kernel(a[part], b)) * q).sum(dim=1)
    return total


def neighbour_radii(points: Tensor, neighbours: int = 3) -> Tensor:
    """Distance of each point (N x d) to its k-th nearest other one; N float32 values."""
    radii = []
    for rows in points.split(_ROWS):
        distances = torch.cdist(rows.float(), points.float())
        # The nearest of all is the point itself.
        radii.append(distances.kthvalue(min(neighbours, len(points) - 1) + 1, dim=1).values)
    return torch.cat(radii)


def covered(queries: Tensor, points: Tensor, radii: Tensor) -> Tensor:
    """Whether each query lies in the ball of at least one point; M booleans."""
    parts = [
        (torch.cdist(rows.float(), points.float()) <= radii[None]).any(dim=1)
        for rows in queries.split(_ROWS)
    ]
    return torch.cat(parts)


def precision_recall(
    reals: Tensor, fakes: Tensor, *, neighbours: int = 3, seed: int = 0
) -> tuple[Estimate, Estimate]:
    """Improved precision and recall (Kynkaanniemi 2019, eq. 1 and 2).

    Precision: the share of fakes that lie in a ball around a real, whose radius is the distance to
    that real's k-th nearest other real; recall the same with the roles exchanged. Intervals are
    bootstraps of the shares over the manifolds as they are.
    """
    precise = covered(fakes, reals, neighbour_radii(reals, neighbours))
    recalled = covered(reals, fakes, neighbour_radii(fakes, neighbours))

    def share(sets: Tensor) -> Tensor:
        return sets.double().mean(dim=1)

    return (
        bootstrap(precise.cpu(), share, seed=seed),
        bootstrap(recalled.cpu(), share, seed=seed),
    )


def realism(fakes: Tensor, reals: Tensor, *, neighbours: int = 3) -> Tensor:
    """How deep each fake lies in the manifold of the reals (Kynkaanniemi 2019, eq. 3); M values.

    The largest ratio of a real's radius to the fake's distance from it; 1 is the border. Reals
    with radii above the median, which stand for outliers, are left out, as in the paper.
    """
    radii = neighbour_radii(reals, neighbours)
    core = radii <= radii.median()
    points, reach = reals[core], radii[core]
    parts = [
        (reach[None] / torch.cdist(rows.float(), points.float()).clamp(min=1e-12)).amax(dim=1)
        for rows in fakes.split(_ROWS)
    ]
    return torch.cat(parts)


def inception_score(mean_entropy: float, mean_probabilities: Tensor) -> float:
    """exp E_x KL(p(y|x) || p(y)) (Salimans 2016, section 4), from E_x sum p log p and E_x p."""
    p = mean_probabilities.double()
    of_mean = float((p * p.clamp(min=1e-300).log()).sum())
    return float(torch.tensor(mean_entropy - of_mean, dtype=torch.float64).exp())

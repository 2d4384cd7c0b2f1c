"""The linear algebra of `auto`: regularised least squares on latents, and derivatives of it.

Everything is float64 on the processor. Measurements are m numbers, moves of the free rows of ws are
rows × w_dim, their derivative J is m × rows × w_dim. Knows nothing of pictures or handles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Ridges that are tried, as shares of what a sample itself weighs.
_RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, eq=False)
class Prior:
    """How likely a move of the free rows is: rows covary, each with covariance spread spread^T.

    `common`: share of the variance that all rows have in common (below 1).
    """

    spread: Tensor  # w_dim × w_dim, lower triangular
    common: float

    def solve(self, jacobian: Tensor, asked: Tensor, noise: Tensor) -> Tensor:
        """The likeliest move (rows × w_dim) that does what is asked.

        Minimises |(J move - asked) / noise|^2 + the move's squared Mahalanobis distance, in its
        dual form, for there are fewer measurements than latents.
        """
        white = jacobian @ self.spread
        total = white.sum(1)
        own = 1 - self.common
        matrix = self.common * total @ total.t() + own * torch.einsum("ird,jrd->ij", white, white)
        matrix.diagonal().add_(noise.square())
        solved = torch.linalg.solve(matrix, asked)
        u = self.common * (solved @ total) + own * torch.einsum("m,mrd->rd", solved, white)
        return u @ self.spread.t()

    def weighed(self, move: Tensor) -> Tensor:
        """The prior's inverse covariance times a move (rows × w_dim)."""
        own = 1 - self.common
        rows = len(move)
        alone = move - self.common / (own + rows * self.common) * move.sum(0)
        half = torch.linalg.solve_triangular(self.spread, alone.t() / own, upper=False)
        return torch.linalg.solve_triangular(self.spread.t(), half, upper=True).t()

    def deviations(self, move: Tensor) -> float:
        """A move's Mahalanobis length: how many standard deviations it is of what is drawn."""
        return float((self.weighed(move) * move).sum().clamp_min(0)) ** 0.5


def broyden(jacobian: Tensor, missed: Tensor, move: Tensor, prior: Prior) -> Tensor:
    """J corrected so that it explains the last step (Broyden 1965, the "good" update).

    The least correction is meant in the prior's measure: of all directions the likely are blamed.

    Args:
        missed: what was found beyond what J foretold, m numbers.
        move: the step, rows × w_dim.
    """
    blame = prior.weighed(move)
    length = (blame * move).sum()
    if float(length) < 1e-12:
        return jacobian
    return jacobian + missed[:, None, None] * blame / length


def regressed(moves: Tensor, values: Tensor, rows: int, prior: Prior) -> Tensor:
    """J of samples: ridge regression of values (N × m) on moves (N × w_dim) alike in all rows.

    In whitened latents, where every direction weighs the same. The ridge is the one of `_RIDGES`
    that foretells left-out samples best; what a ridge shortens is stretched again until left-out
    samples are foretold without bias.
    """
    u = torch.linalg.solve_triangular(prior.spread, (moves - moves.mean(0)).t(), upper=False).t()
    y = values - values.mean(0)
    kernel = u @ u.t()
    scales, axes = torch.linalg.eigh(kernel)
    turned = axes.t() @ y
    best: tuple[float, float, Tensor] | None = None
    for share in _RIDGES:
        ridge = share * float(kernel.diagonal().mean().clamp_min(1e-12))
        dual = axes @ (turned / (scales.clamp_min(0) + ridge)[:, None])
        # Left-out residuals of a ridge regression in closed form.
        inverse = (axes.square() / (scales.clamp_min(0) + ridge)).sum(1)
        foretold = y - dual / inverse[:, None]
        stretch = float((y * foretold).sum() / foretold.square().sum().clamp_min(1e-12))
        stretch = min(max(stretch, 1.0), 3.0)
        error = float((y - stretch * foretold).square().sum())
        if best is None or error < best[0]:
            best = (error, stretch, dual)
    assert best is not None
    slope = best[1] * best[2].t() @ u  # m × w_dim, by whitened latents
    by_w = torch.linalg.solve_triangular(prior.spread.t(), slope.t(), upper=True).t()
    return (by_w / rows)[:, None].expand(-1, rows, -1).clone()

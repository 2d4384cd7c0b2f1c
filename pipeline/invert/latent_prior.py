"""How far a latent lies from those that the mapping network makes (Zhu et al. 2020).

"Improved StyleGAN Embedding: Where are the Good Latents?", section 3: w is the output of a leaky
ReLU, and what went into it ("P space") is nearly Gaussian. There, whitened by its covariance
("P_N space"), every direction has unit variance, and the squared length of a latent (its squared
Mahalanobis distance) says how unlikely it is. As a regulariser it keeps a pivot where edits work.
Knows nothing about pictures.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ModelError

# Slope of the mapping network's leaky ReLU below 0; its inverse has the reciprocal.
LEAK = 0.2
# Directions with less variance than this share of the largest are taken as that: a network of few
# latents has directions that it never uses, and dividing by nothing would forbid rounding errors.
SMALLEST_SHARE = 1e-4


class LatentPrior:
    """P_N space of one generator: whitens w, and leads back.

    Attributes:
        mean: of P, w_dim values.
        axes: principal axes of P, one a row, w_dim x w_dim.
        deviations: standard deviation along each, w_dim values.
    """

    def __init__(self, w: Tensor) -> None:
        """`w`: N x w_dim latents as the mapping network makes them, N at least 2."""
        if len(w) < 2:
            raise ModelError("A prior needs at least two latents.")
        p = unfold(w.double())
        mean = p.mean(dim=0)
        variances, axes = torch.linalg.eigh(torch.cov((p - mean).t(), correction=0))
        floor = SMALLEST_SHARE * variances.max().clamp(min=1e-30)
        self.mean = mean.to(w)
        self.axes = axes.t().to(w).contiguous()
        self.deviations = variances.clamp(min=floor).sqrt().to(w)

    @classmethod
    def of(cls, generator: Any, z: Tensor, c: Tensor) -> LatentPrior:
        """From mapped latents z (N x z_dim) with labels c (N x c_dim)."""
        with torch.no_grad():
            return cls(
                torch.cat(
                    [
                        generator.mapping(some_z, some_c)[:, 0]
                        for some_z, some_c in zip(z.split(1000), c.split(1000), strict=True)
                    ]
                )
            )

    def whitened(self, w: Tensor) -> Tensor:
        """w (... x w_dim) in P_N: zero mean, unit variance, no correlation."""
        return (unfold(w) - self.mean) @ self.axes.t() / self.deviations

    def unwhitened(self, v: Tensor) -> Tensor:
        """The inverse of `whitened`."""
        return fold((v * self.deviations) @ self.axes + self.mean)

    def penalty(self, w: Tensor) -> Tensor:
        """Mean square of the whitened w (... x w_dim), a scalar: 1 for the network's own latents,
        0 for their mean in P."""
        return self.whitened(w).square().mean()


def unfold(w: Tensor) -> Tensor:
    """w to P: the inverse of the leaky ReLU (its gain scales both alike)."""
    return F.leaky_relu(w, 1 / LEAK)


def fold(p: Tensor) -> Tensor:
    """P to w."""
    return F.leaky_relu(p, LEAK)

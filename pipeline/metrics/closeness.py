"""How close one picture is to another, pixel by pixel: PSNR and SSIM.

Knows nothing about networks; perceptual distances are in `perceptual`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr_db(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of two images in [-1, 1], in dB; capped at 100 (equal images)."""
    mse = float(F.mse_loss(a.double(), b.double()))
    return min(100.0, 10 * math.log10(4 / mse)) if mse > 0 else 100.0


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of two NCHW images in [-1, 1] (Wang 2004, eq. 13), mean over all.

    11-pixel Gaussian window of sigma 1.5 (smaller where the image is), valid positions only.
    """
    size = min(11, *a.shape[2:])
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    row = torch.exp(-x.square() / (2 * 1.5**2))
    window = torch.outer(row, row)
    window = (window / window.sum()).to(a.device).expand(a.shape[1], 1, -1, -1)

    def local_mean(value: Tensor) -> Tensor:
        return F.conv2d(value, window, groups=value.shape[1])

    a, b = a.double(), b.double()
    mean_a, mean_b = local_mean(a), local_mean(b)
    var_a = local_mean(a * a) - mean_a.square()
    var_b = local_mean(b * b) - mean_b.square()
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # 2: the images' range
    score = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    score = score / ((mean_a.square() + mean_b.square() + c1) * (var_a + var_b + c2))
    return float(score.mean())

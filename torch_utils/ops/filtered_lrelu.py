"""Alias-free leaky ReLU: the nonlinearity is applied at a higher sampling rate.

Karras et al. 2021 (Alias-Free GAN), section 3.2. Knows nothing about layers or filter design.
Plain torch, differentiable any number of times.
"""

from __future__ import annotations

import math

import torch

from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.upfirdn2d import Padding, upfirdn2d


def filtered_lrelu(
    x: torch.Tensor,
    fu: torch.Tensor | None = None,
    fd: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> torch.Tensor:
    """Add bias, upsample, leaky ReLU with gain and clamp, downsample.

    Args:
        x: NCHW.
        fu, fd: filters for up- and downsampling (see `upfirdn2d.setup_filter`), or None.
        b: bias [C], or None. It is added before padding: the padding stays zero.
        up, down: integer factors.
        padding: with respect to the upsampled image, shared by both filters.
        gain: factor after the leaky ReLU.
        slope: of the negative side.
        clamp: largest magnitude after gain; None: unlimited.
        flip_filter: False convolves, True correlates.

    Returns NCHW; each side is (size * up + padding - (fu taps - 1) - (fd taps - 1)) / down,
    rounded up.
    """
    x = bias_act(x, b)
    x = upfirdn2d(x, fu, up=up, padding=padding, gain=up**2, flip_filter=flip_filter)
    x = bias_act(x, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    return upfirdn2d(x, fd, down=down, flip_filter=flip_filter)

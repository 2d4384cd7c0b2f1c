"""What StyleGAN2's generator and discriminator share: sizes, channels, the plain convolution.

Knows nothing about either network. Sources as in `stylegan2`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from pipeline.errors import ModelError
from torch_utils.ops.bias_act import ACTIVATIONS, bias_act
from torch_utils.ops.conv2d import conv2d_resample
from torch_utils.ops.upfirdn2d import setup_filter

ARCHITECTURES = ("orig", "skip", "resnet")
BINOMIAL_FILTER = (1, 3, 3, 1)


def block_resolutions(img_resolution: int) -> list[int]:
    """4, 8, ..., img_resolution; ModelError unless that is a power of two from 4 on."""
    if img_resolution < 4 or img_resolution & (img_resolution - 1):
        raise ModelError(
            f"img_resolution={img_resolution} is not possible: StyleGAN2 doubles from 4, so use a "
            f"power of two such as 64, 128, 256 or 512."
        )
    return [2**power for power in range(2, img_resolution.bit_length())]


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Number of channels at a resolution: inversely proportional, up to a maximum."""
    return min(channel_base // resolution, channel_max)


def image_size(resolution: int, square: bool) -> tuple[int, int]:
    """(height, width) at a block's resolution."""
    return resolution, resolution if square else resolution // 2


def split_gain(activation: str, gain: float) -> tuple[float, float]:
    """A layer's gain as (factor before the activation, factor after it).

    The rectifiers commute with positive factors, so theirs goes into weights, noise and bias,
    which are far smaller than the activations.
    """
    gain = gain * ACTIVATIONS[activation].gain
    return (gain, 1.0) if activation in ("linear", "relu", "lrelu") else (1.0, gain)


class Conv2dLayer(nn.Module):
    """Convolution with optional resampling, then bias, activation, gain and clamp.

    A layer that is not `trainable` keeps its weights as buffers ("FreezeD", Mo et al. 2020).
    """

    resample_filter: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    factors: torch.dtype | None = None  # of the convolution, see `conv2d_resample`

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = BINOMIAL_FILTER,
        conv_clamp: float | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", setup_filter(list(resample_filter)))
        weight = torch.randn([out_channels, in_channels, kernel_size, kernel_size])
        start = torch.zeros([out_channels]) if bias else None
        if trainable:
            self.weight = nn.Parameter(weight)
            self.bias = None if start is None else nn.Parameter(start)
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("bias", start)

    def forward(self, x: torch.Tensor, gain: float = 1) -> torch.Tensor:
        """NCHW => NCHW at `up` / `down` times the size."""
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        before, after = split_gain(self.activation, gain)
        x = conv2d_resample(
            x,
            (self.weight * (self.weight_gain * before)).to(x.dtype),
            self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=self.up == 1,  # the published weights are stored this way
            factors=self.factors,
        )
        bias = None if self.bias is None else self.bias * before
        return bias_act(x, bias, act=self.activation, gain=after, clamp=clamp, overwrite=True)

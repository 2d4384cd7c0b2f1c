"""Two filters on index lines by their definition, in float64: what every kernel is held against.

The definition is that of `torch_utils.ops.compiled.Lines`; no operator of ours is used here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Activation:
    """v = gain or slope_gain times u, within ±limit."""

    gain: float
    slope_gain: float
    limit: float


def upsampled(
    x: Tensor, taps: Tensor, up: tuple[int, int], mid: tuple[int, int], start: tuple[int, int]
) -> Tensor:
    """u[X] = Σ taps[k] z[X + k − start], X in [0, mid). NCHW => NCHW; pairs are (x, y)."""
    zeros = x.new_zeros([*x.shape[:2], x.shape[2] * up[1], x.shape[3] * up[0]])
    zeros[:, :, :: up[1], :: up[0]] = x
    return _correlated(zeros, taps, (1, 1), mid, (-start[0], -start[1]))


def downsampled(
    v: Tensor, taps: Tensor, down: tuple[int, int], out: tuple[int, int], start: tuple[int, int]
) -> Tensor:
    """y[j] = Σ taps[k] v[down j + k + start], v zero outside."""
    return _correlated(v, taps, down, out, start)


def _correlated(
    x: Tensor, taps: Tensor, step: tuple[int, int], size: tuple[int, int], start: tuple[int, int]
) -> Tensor:
    kernel = torch.outer(taps, taps) if taps.ndim == 1 else taps
    height, width = kernel.shape
    pads = []
    for axis, count, length in ((0, width, x.shape[3]), (1, height, x.shape[2])):
        end = (size[axis] - 1) * step[axis] + count + start[axis]
        pads += [max(0, -start[axis]), max(0, end - length)]
    x = F.pad(x, pads)
    left, top = max(0, start[0]), max(0, start[1])
    x = x[:, :, top:, left:]
    x = x[:, :, : (size[1] - 1) * step[1] + height, : (size[0] - 1) * step[0] + width]
    channels = x.shape[1]
    weight = kernel.expand(channels, 1, height, width)
    return F.conv2d(x, weight, stride=(step[1], step[0]), groups=channels)


def rectified(u: Tensor, a: Activation) -> tuple[Tensor, Tensor]:
    """v, and the codes: bit 0 negative or zero, bit 1 clamped."""
    full = torch.where(u > 0, u * a.gain, u * a.slope_gain)
    v = full.clamp(-a.limit, a.limit)
    codes = (u <= 0) + 2 * (v != full)
    return v, codes.to(torch.uint8)


def masked(u: Tensor, codes: Tensor, a: Activation) -> Tensor:
    """v from codes."""
    factor = torch.tensor([a.gain, a.slope_gain, 0.0, 0.0], dtype=u.dtype)[codes.long()]
    return u * factor


def packed(codes: Tensor) -> Tensor:
    """Codes as the CUDA kernels keep them: four rows in a byte, [N, C, rows / 4 up, width]."""
    codes = F.pad(codes, [0, 0, 0, -codes.shape[2] % 4])
    quads = codes.view([*codes.shape[:2], -1, 4, codes.shape[3]]).to(torch.int32)
    shifts = torch.tensor([0, 2, 4, 6]).view(1, 1, 1, 4, 1)
    return (quads << shifts).sum(3).to(torch.uint8)

"""Alias-free leaky ReLU: the nonlinearity is applied at a higher sampling rate.

Karras et al. 2021 (Alias-Free GAN), section 3.2. Knows nothing about layers or filter design.
Differentiable any number of times. Compiled where `native` says so (one pass, nothing of the
upsampled size is stored but 2 bits a sample), else plain torch.
"""

from __future__ import annotations

import math

import torch

from torch_utils import native
from torch_utils.ops import compiled
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.taps import prepared
from torch_utils.ops.upfirdn2d import Padding, filter_size, parse_padding, upfirdn2d


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
    if native.runs_on(x) and gain > 0 and slope >= 0:
        lines = _lines(x, fu, fd, up, down, padding, flip_filter)
        return compiled.filtered_lrelu(x, b, lines, gain, slope, clamp)
    x = bias_act(x, b)
    # A positive gain commutes with the leaky ReLU; in the filter it costs nothing.
    before, after = (gain, 1.0) if gain > 0 else (1.0, gain)
    x = upfirdn2d(x, fu, up=up, padding=padding, gain=up**2 * before, flip_filter=flip_filter)
    x = bias_act(x, act="lrelu", alpha=slope, gain=after, clamp=clamp)
    return upfirdn2d(x, fd, down=down, flip_filter=flip_filter)


def _lines(
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    up: int,
    down: int,
    padding: Padding,
    flip_filter: bool,
) -> compiled.Lines:
    """The call's filters as the compiled operator takes them."""
    x0, x1, y0, y1 = parse_padding(padding)
    (fu_width, fu_height), (fd_width, fd_height) = filter_size(fu), filter_size(fd)
    mid = (x.shape[3] * up + x0 + x1 - fu_width + 1, x.shape[2] * up + y0 + y1 - fu_height + 1)
    out = ((mid[0] - fd_width) // down + 1, (mid[1] - fd_height) // down + 1)
    if min(out) < 1:
        raise ValueError(f"the filters leave nothing of {x.shape[3]}x{x.shape[2]} pixels")
    return compiled.Lines(
        up_taps=prepared(fu, x, up**2, flip_filter),
        down_taps=prepared(fd, x, 1, flip_filter),
        up=(up, up),
        down=(down, down),
        mid=mid,
        out=out,
        up_start=(x0, y0),
        down_start=(0, 0),
    )

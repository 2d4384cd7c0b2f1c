"""Pad, upsample, filter and downsample images: the resampler beneath both networks.

Knows nothing about layers. Differentiable any number of times with respect to the image (filters
are constants). Compiled where `native` says so, else plain torch, which follows. Zero samples are
never inserted for real: upsampling is a transposed convolution or one short convolution per output
phase, and downsampling a strided one, so only products that can be non-zero are computed. All
channels go through one grouped convolution, which measured 3-20 times faster on a CPU than one-
channel images or tap-by-tap sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from torch_utils import native
from torch_utils.ops import compiled
from torch_utils.ops.taps import prepared

Factor = int | Sequence[int]  # one number for both axes, or [x, y]
Padding = int | Sequence[int]  # one number, [x, y], or [x0, x1, y0, y1]; negative values crop

# Filters at least this long stay one-dimensional and are applied along each axis in turn;
# shorter ones are expanded to two dimensions and applied at once.
SEPARABLE_FROM_TAPS = 8

# Up to this factor the transposed convolution wins; beyond, a convolution per output phase.
TRANSPOSED_UP_TO = 2


def setup_filter(
    f: Any,
    device: torch.device | str | None = None,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """A filter in the form that the functions of this module take.

    Args:
        f: taps as a tensor, array, (nested) list or number: [width], [height, width], or None
            for the filter that changes nothing.
        normalize: divide by the sum, so that a constant image keeps its value.
        flip_filter: mirror the taps.
        gain: factor of the whole two-dimensional filter.
        separable: keep a 1-D filter 1-D; None: if it has SEPARABLE_FROM_TAPS taps or more.

    Returns a float32 tensor, [taps] if separable, else [height, width].
    """
    f = torch.as_tensor(1 if f is None else f, dtype=torch.float32)
    if f.ndim == 0:
        f = f.view(1)
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= SEPARABLE_FROM_TAPS
    if f.ndim == 1 and not separable:
        f = torch.outer(f, f)
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    # A 1-D filter is applied twice, so each pass carries the root of the gain.
    return (f * gain ** (f.ndim / 2)).to(device=device)


def filter_size(f: torch.Tensor | None) -> tuple[int, int]:
    """(width, height) of a filter in taps; (1, 1) for None."""
    if f is None:
        return 1, 1
    return int(f.shape[-1]), int(f.shape[0])


def parse_factor(factor: Factor) -> tuple[int, int]:
    """(x, y) of an up- or downsampling factor given as one number or as two."""
    if isinstance(factor, int):
        return factor, factor
    x, y = factor
    return int(x), int(y)


def parse_padding(padding: Padding) -> tuple[int, int, int, int]:
    """(x0, x1, y0, y1) of a padding given as one, two or four numbers."""
    values = [padding] if isinstance(padding, int) else [int(value) for value in padding]
    if len(values) == 1:
        values = values * 4
    if len(values) == 2:
        values = [values[0], values[0], values[1], values[1]]
    x0, x1, y0, y1 = values
    return x0, x1, y0, y1


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: Factor = 1,
    down: Factor = 1,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Upsample by zero insertion, pad, filter, keep every `down`-th pixel.

    Karras et al. 2021 (Alias-Free GAN), appendix on filtered nonlinearities; the size of the
    output along an axis is floor((size * up + pad0 + pad1 - taps) / down) + 1.

    Args:
        x: NCHW images.
        f: filter of `setup_filter`, on x's device or the CPU, or None.
        up, down: integer factors.
        padding: with respect to the upsampled image; negative values crop.
        flip_filter: False convolves (taps run backwards), True correlates.
        gain: factor of the output.
    """
    (up_x, up_y), (down_x, down_y) = parse_factor(up), parse_factor(down)
    pad = parse_padding(padding)
    width, height = filter_size(f)
    if x.numel() == 0:
        size = [
            _out_size(x.shape[2], height, up_y, down_y, pad[2:]),
            _out_size(x.shape[3], width, up_x, down_x, pad[:2]),
        ]
        return x.new_zeros([*x.shape[:2], *size]) + x.sum()  # the sum keeps the graph connected
    if native.runs_on(x):
        return _compiled(x, prepared(f, x, gain, flip_filter), (up_x, up_y), (down_x, down_y), pad)
    f = torch.ones([1, 1], dtype=x.dtype, device=x.device) if f is None else f.to(x)
    if gain != 1:
        f = f * gain ** (f.ndim / 2)
    if not flip_filter:
        f = f.flip(list(range(f.ndim)))
    if f.ndim == 1:
        x = _pass(x, f[None, :], (up_x, 1), (down_x, 1), (*pad[:2], 0, 0))
        return _pass(x, f[:, None], (1, up_y), (1, down_y), (0, 0, *pad[2:]))
    return _pass(x, f, (up_x, up_y), (down_x, down_y), pad)


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Filter NCHW images, zeros outside; with padding 0 the size stays."""
    width, height = filter_size(f)
    x0, x1, y0, y1 = parse_padding(padding)
    pad = [x0 + width // 2, x1 + (width - 1) // 2, y0 + height // 2, y1 + (height - 1) // 2]
    return upfirdn2d(x, f, padding=pad, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: Factor = 2,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Upsample NCHW images: with padding 0 the size becomes exactly `up` times as large.

    The values keep their level: the zeros put in between are made up for.
    """
    up_x, up_y = parse_factor(up)
    pad = upsampling_padding(f, up, padding)
    return upfirdn2d(x, f, up=up, padding=pad, flip_filter=flip_filter, gain=gain * up_x * up_y)


def downsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    down: Factor = 2,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Downsample NCHW images: with padding 0 the size becomes 1/`down` (rounded down)."""
    pad = downsampling_padding(f, down, padding)
    return upfirdn2d(x, f, down=down, padding=pad, flip_filter=flip_filter, gain=gain)


def upsampling_padding(f: torch.Tensor | None, up: Factor, padding: Padding = 0) -> list[int]:
    """`padding` plus what keeps an upsampled image centred on the original."""
    (width, height), (up_x, up_y) = filter_size(f), parse_factor(up)
    x0, x1, y0, y1 = parse_padding(padding)
    return [
        x0 + (width + up_x - 1) // 2,
        x1 + (width - up_x) // 2,
        y0 + (height + up_y - 1) // 2,
        y1 + (height - up_y) // 2,
    ]


def downsampling_padding(f: torch.Tensor | None, down: Factor, padding: Padding = 0) -> list[int]:
    """`padding` plus what keeps a downsampled image centred on the original."""
    (width, height), (down_x, down_y) = filter_size(f), parse_factor(down)
    x0, x1, y0, y1 = parse_padding(padding)
    return [
        x0 + (width - down_x + 1) // 2,
        x1 + (width - down_x) // 2,
        y0 + (height - down_y + 1) // 2,
        y1 + (height - down_y) // 2,
    ]


def _compiled(
    x: torch.Tensor,
    taps: torch.Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    pad: tuple[int, int, int, int],
) -> torch.Tensor:
    """upfirdn2d with correlation taps, by the compiled operator.

    Where there is upsampling the filter comes first, so that it meets the few samples; otherwise
    last, so that only samples that are kept are computed.
    """
    width, height = filter_size(taps)
    padded = (x.shape[3] * up[0] + pad[0] + pad[1], x.shape[2] * up[1] + pad[2] + pad[3])
    out = ((padded[0] - width) // down[0] + 1, (padded[1] - height) // down[1] + 1)
    if min(out) < 1:
        raise ValueError(f"a {width}x{height} filter leaves nothing of {padded[0]}x{padded[1]}")
    identity = taps.new_ones([1])
    first = max(up) > 1
    mid = (padded[0] - width + 1, padded[1] - height + 1) if first else padded
    lines = compiled.Lines(
        up_taps=taps if first else identity,
        down_taps=identity if first else taps,
        up=up,
        down=down,
        mid=mid,
        out=out,
        up_start=(pad[0], pad[2]),
        down_start=(0, 0),
    )
    return compiled.resample(x, lines)


def _out_size(size: int, taps: int, up: int, down: int, pad: Sequence[int]) -> int:
    return (size * up + pad[0] + pad[1] - taps) // down + 1


def _pass(
    x: torch.Tensor,
    kernel: torch.Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    pad: tuple[int, int, int, int],
) -> torch.Tensor:
    """upfirdn2d with a two-dimensional correlation kernel [height, width] and (x, y) factors."""
    if max(up) == 1:
        return _correlate(_pad(x, pad), kernel, down)
    height, width = kernel.shape
    out_width = x.shape[3] * up[0] + pad[0] + pad[1] - width + 1
    out_height = x.shape[2] * up[1] + pad[2] + pad[3] - height + 1
    # The full convolution begins as if padded by taps - 1 zeros; its end follows from the sizes.
    left, top = pad[0] - width + 1, pad[2] - height + 1
    x = (
        _full_transposed(x, kernel, up)
        if max(up) <= TRANSPOSED_UP_TO
        else _full_by_phases(x, kernel, up)
    )
    x = _pad(x, (left, out_width - left - x.shape[3], top, out_height - top - x.shape[2]))
    return x[:, :, :: down[1], :: down[0]] if max(down) > 1 else x


def _correlate(x: torch.Tensor, kernel: torch.Tensor, stride: tuple[int, int]) -> torch.Tensor:
    if kernel.numel() == 1:
        return x[:, :, :: stride[1], :: stride[0]] * kernel
    channels = x.shape[1]
    weight = kernel.expand(channels, 1, *kernel.shape)
    return F.conv2d(x, weight, stride=(stride[1], stride[0]), groups=channels)


def _full_transposed(x: torch.Tensor, kernel: torch.Tensor, up: tuple[int, int]) -> torch.Tensor:
    """The full convolution of the zero-inserted image, (size - 1) * up + taps long."""
    channels = x.shape[1]
    weight = kernel.flip([0, 1]).expand(channels, 1, *kernel.shape)
    return F.conv_transpose2d(x, weight, stride=(up[1], up[0]), groups=channels)


def _full_by_phases(x: torch.Tensor, kernel: torch.Tensor, up: tuple[int, int]) -> torch.Tensor:
    """The full convolution of the zero-inserted image, one output phase at a time.

    Output pixel q * up + j meets only every up-th tap, those of phase j. The result is as long
    as a kernel that is padded to a multiple of `up` makes it: (size - 1 + ceil(taps / up)) * up.
    """
    up_x, up_y = up
    height, width = kernel.shape
    kernel = kernel.flip([0, 1])
    kernel = F.pad(kernel, [0, -width % up_x, 0, -height % up_y])
    taps = (kernel.shape[0] // up_y, kernel.shape[1] // up_x)
    x = _pad(x, (taps[1] - 1, taps[1] - 1, taps[0] - 1, taps[0] - 1))
    rows = []
    for j in range(up_y):
        phases = [_correlate(x, kernel[j::up_y, i::up_x].flip([0, 1]), (1, 1)) for i in range(up_x)]
        rows.append(torch.stack(phases, dim=4).flatten(3) if up_x > 1 else phases[0])
    return torch.stack(rows, dim=3).flatten(2, 3) if up_y > 1 else rows[0]


def _pad(x: torch.Tensor, pad: tuple[int, int, int, int]) -> torch.Tensor:
    """Zeros added on each side (left, right, top, bottom); a negative number cuts pixels off."""
    if max(pad) > 0 > min(pad):
        # torch cuts before it adds, and refuses to cut more than the bare image holds.
        left, right, top, bottom = (max(-side, 0) for side in pad)
        x = F.pad(x, [max(side, 0) for side in pad])
        return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]
    return F.pad(x, pad) if any(pad) else x

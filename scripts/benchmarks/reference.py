"""The public formulation of the networks' operators, in plain torch, for comparison only.

Written from the papers' definitions as they are usually put into code: upsampling inserts zeros and
pads, a FIR filter is a convolution over the full-size result, bias, activation, gain and clamp are
operations of their own on full-size intermediates, modulation makes weights for every image and
convolves in groups (Karras et al. 2020, section 2.2; 2021, section 3.2).

`public_formulation()` runs the program's own networks on these, so that both sides share weights,
inputs and everything else. Signatures are those of torch_utils.ops; values agree with them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops import bias_act as bias_act_module
from torch_utils.ops import conv2d as conv2d_module
from torch_utils.ops import filtered_lrelu as filtered_lrelu_module
from torch_utils.ops import upfirdn2d as upfirdn2d_module
from torch_utils.ops.bias_act import ACTIVATIONS
from torch_utils.ops.upfirdn2d import (
    Factor,
    Padding,
    downsampling_padding,
    filter_size,
    parse_factor,
    parse_padding,
    upsampling_padding,
)

# Packages whose modules are looked through for operators to be exchanged.
OURS = ("torch_utils", "pipeline")


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Factor = 1,
    down: Factor = 1,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Zeros in between, padding, full-size convolution, then every `down`-th pixel."""
    (up_x, up_y), (down_x, down_y) = parse_factor(up), parse_factor(down)
    x0, x1, y0, y1 = parse_padding(padding)
    batch, channels, height, width = x.shape
    if f is None:
        f = torch.ones([1, 1], device=x.device)
    x = x.reshape(batch, channels, height, 1, width, 1)
    x = F.pad(x, [0, up_x - 1, 0, 0, 0, up_y - 1])
    x = x.reshape(batch, channels, height * up_y, width * up_x)
    x = F.pad(x, [max(x0, 0), max(x1, 0), max(y0, 0), max(y1, 0)])
    x = x[:, :, max(-y0, 0) : x.shape[2] - max(-y1, 0), max(-x0, 0) : x.shape[3] - max(-x1, 0)]
    f = f.to(x.dtype) * gain ** (f.ndim / 2)
    f = f if flip_filter else f.flip(list(range(f.ndim)))
    kernels = [f] if f.ndim == 2 else [f[None, :], f[:, None]]
    for kernel in kernels:
        x = F.conv2d(x, kernel.expand(channels, 1, *kernel.shape), groups=channels)
    return x[:, :, ::down_y, ::down_x]


def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Filter, same size."""
    width, height = filter_size(f)
    x0, x1, y0, y1 = parse_padding(padding)
    pad = [x0 + width // 2, x1 + (width - 1) // 2, y0 + height // 2, y1 + (height - 1) // 2]
    return upfirdn2d(x, f, padding=pad, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Factor = 2,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Upsample, centred."""
    up_x, up_y = parse_factor(up)
    pad = upsampling_padding(f, up, padding)
    return upfirdn2d(x, f, up=up, padding=pad, flip_filter=flip_filter, gain=gain * up_x * up_y)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Factor = 2,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Downsample, centred."""
    pad = downsampling_padding(f, down, padding)
    return upfirdn2d(x, f, down=down, padding=pad, flip_filter=flip_filter, gain=gain)


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    overwrite: bool = False,
) -> Tensor:
    """Bias, activation, gain, clamp: four passes over the tensor, each into memory of its own."""
    activation = ACTIVATIONS[act]
    if b is not None:
        x = x + b.to(x.dtype).reshape([-1 if axis == dim else 1 for axis in range(x.ndim)])
    x = activation.function(x, activation.alpha if alpha is None else alpha)
    gain = activation.gain if gain is None else gain
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Tensor:
    """Bias, upsampling, leaky ReLU, downsampling, one after the other."""
    x = bias_act(x, b)
    x = upfirdn2d(x, fu, up=up, padding=padding, gain=up**2, flip_filter=flip_filter)
    x = bias_act(x, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    return upfirdn2d(x, fd, down=down, flip_filter=flip_filter)


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    groups: int = 1,
    flip_weight: bool = True,
    factors: torch.dtype | None = None,
) -> Tensor:
    """Convolution with a resampling filter before or behind it, in x's own numbers (no `factors`).

    Upsampling by a factor takes the transposed convolution, as is usual since StyleGAN2, not a
    convolution over inserted zeros: nine parts in ten of its time would go into zeros.
    """
    pad = list(parse_padding(padding))
    height, width = w.shape[2:]
    w = w if flip_weight else w.flip([2, 3])
    if up > 1:
        pad = upsampling_padding(f, up, pad)
        kernel = w.flip([2, 3]).unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        x = F.conv_transpose2d(x, kernel, stride=up, groups=groups)
        # The transposed convolution has put taps - 1 rows before the image, taps - up behind it.
        pad = [pad[0] - width + 1, pad[1] - width + up, pad[2] - height + 1, pad[3] - height + up]
        x = upfirdn2d(x, f, padding=pad, gain=up**2)
        return x if down == 1 else downsample2d(x, f, down)
    if down > 1 or max(pad) != min(pad):
        pad = downsampling_padding(f, down, pad) if down > 1 else pad
        x = upfirdn2d(x, f if down > 1 else None, padding=pad)
        return F.conv2d(x, w, stride=down, groups=groups)
    return F.conv2d(x, w, padding=pad[0], groups=groups)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    input_gain: Tensor | float | None = None,
    fused: bool | None = None,
    factors: torch.dtype | None = None,
) -> Tensor:
    """Weights of its own for every image, then one grouped convolution over the batch.

    In one way (not `fused` or otherwise), and in x's own numbers (no `factors`).
    """
    batch = x.shape[0]
    w = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        w = w * (w.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
    if input_gain is not None:
        gains = torch.as_tensor(input_gain, dtype=w.dtype, device=w.device)
        w = w * gains.expand(batch, weight.shape[1])[:, None, :, None, None]
    x = x.reshape(1, -1, *x.shape[2:])
    w = w.flatten(0, 1).to(x.dtype)
    x = conv2d_resample(
        x, w, resample_filter, up, down, padding, groups=batch, flip_weight=flip_weight
    )
    x = x.reshape(batch, -1, *x.shape[2:])
    return x if noise is None else x + noise.to(x.dtype)


def split_gain(activation: str, gain: float) -> tuple[float, float]:
    """All of a layer's gain behind its activation, on the full-size tensor."""
    return 1.0, gain * ACTIVATIONS[activation].gain


def exchanges() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The program's function -> its reference."""
    from pipeline.models.stylegan2_layers import split_gain as own_split_gain

    return {
        upfirdn2d_module.upfirdn2d: upfirdn2d,
        upfirdn2d_module.filter2d: filter2d,
        upfirdn2d_module.upsample2d: upsample2d,
        upfirdn2d_module.downsample2d: downsample2d,
        bias_act_module.bias_act: bias_act,
        filtered_lrelu_module.filtered_lrelu: filtered_lrelu,
        conv2d_module.conv2d_resample: conv2d_resample,
        conv2d_module.modulated_conv2d: modulated_conv2d,
        own_split_gain: split_gain,
    }


@contextmanager
def public_formulation() -> Iterator[None]:
    """Inside the block every module of the program finds the reference operators by their names."""
    with exchanged(exchanges()):
        yield


@contextmanager
def exchanged(pairs: Mapping[Callable[..., Any], Callable[..., Any]]) -> Iterator[None]:
    """Inside the block the modules of the program find other functions by the same names.

    The operators are plain functions, imported by name; giving the networks a choice of them would
    put a parameter into every layer that only this comparison needs.
    """
    by_identity = {id(own): other for own, other in pairs.items()}
    changed: list[tuple[dict[str, Any], str, Any]] = []
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] not in OURS:
            continue
        namespace = vars(module)
        for attribute, value in list(namespace.items()):
            if id(value) in by_identity:
                changed.append((namespace, attribute, value))
                namespace[attribute] = by_identity[id(value)]
    try:
        yield
    finally:
        for namespace, attribute, value in changed:
            namespace[attribute] = value

"""Convolutions whose factors are bfloat16 while everything around them stays float32, on a CPU.

Processors with instructions for it (AVX512-BF16, AMX; bf16 on Arm) multiply bfloat16 several times
as fast as float32, and add up in float32. bfloat16 has float32's range, so no gradient vanishes and
no loss needs scaling. Channels come last inside, which those instructions want; images come in and
go out as ordinary NCHW float32. Knows nothing about layers. Differentiable any number of times.
"""

from __future__ import annotations

import functools
import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils import native

# With fewer channels converting costs more than the faster products save (measured).
LEAST_CHANNELS = 16


@functools.cache
def has_instructions() -> bool:
    """Whether this processor multiplies bfloat16 in hardware."""
    if platform.machine() in ("x86_64", "AMD64"):
        supported = torch.cpu._is_avx512_bf16_supported()
    else:
        supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bool(supported)


def serves(x: Tensor, w: Tensor, factors: torch.dtype | None) -> bool:
    """Whether a convolution of x with w [out, in / groups, ...] runs this way.

    factors: number format that the layer asks for; None: x's own.
    """
    return (
        factors == torch.bfloat16
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and min(w.shape[:2]) >= LEAST_CHANNELS
        and x.numel() > 0
    )


def conv2d(
    x: Tensor,
    w: Tensor,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    transposed: bool = False,
) -> Tensor:
    """torch's conv2d or conv_transpose2d of NCHW float32 with bfloat16 factors.

    Args and result as of those functions; the result is float32, rounded to bfloat16 once.
    """
    convolve = F.conv_transpose2d if transposed else F.conv2d
    return unpack(convolve(pack(x), pack(w), stride=stride, padding=padding, groups=groups))


def pack(x: Tensor) -> Tensor:
    """NCHW float32 => bfloat16 with channels last. The gradient comes back as x was."""
    packed: Tensor = _operators().pack_bfloat16(x) if native.runs_on(x) else _Pack.apply(x)
    return packed


def unpack(y: Tensor) -> Tensor:
    """The way back."""
    is_compiled = native.loaded_on("cpu") and y.numel() > 0
    unpacked: Tensor = _operators().unpack_bfloat16(y) if is_compiled else _Unpack.apply(y)
    return unpacked


class _Pack(torch.autograd.Function):
    """`pack` in plain torch: two plain passes are faster than one that rounds and transposes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        result: Tensor = _Unpack.apply(gradients[0])
        return result


class _Unpack(torch.autograd.Function):
    """`unpack` in plain torch."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.to(torch.float32, memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        result: Tensor = _Pack.apply(gradients[0])
        return result


def _operators() -> Any:
    if not torch.compiler.is_compiling():  # the module's end has done it, where they are built
        _register()
    return torch.ops.animedrag


@functools.cache
def _register() -> None:
    """Shapes and gradients of the two operators, once a process."""
    names = ("pack_bfloat16", "unpack_bfloat16")

    def pack_shape(x: Tensor) -> Tensor:
        return torch.empty_like(x, dtype=torch.bfloat16, memory_format=torch.channels_last)

    def unpack_shape(y: Tensor) -> Tensor:
        return torch.empty_like(y, dtype=torch.float32, memory_format=torch.contiguous_format)

    for name, inverse, shape in zip(names, names[::-1], (pack_shape, unpack_shape), strict=True):
        torch.library.register_fake(f"animedrag::{name}", shape)

        def backward(ctx: Any, gradient: Tensor, inverse: str = inverse) -> Tensor:
            result: Tensor = getattr(torch.ops.animedrag, inverse)(gradient)
            return result

        torch.library.register_autograd(f"animedrag::{name}", backward)


# Ahead of torch.compile, which cannot follow a registration.
if native.status().loaded:
    _register()

"""The compiled operators as torch sees them: shapes without data, gradients of every order.

Schemas and arithmetic are in csrc/; this module adds what torch.compile and autograd need, and the
one description of two filters with an activation between them that forward and gradients share.
Knows nothing about when to use them: each operator's own module decides.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torch_utils import native
from torch_utils.ops.taps import mirrored

# Vectors are at most this long; a mask's quarter rows are padded to it (csrc/cpu/planes.h).
_MASK_LANES = 16


@dataclass(frozen=True)
class Lines:
    """Two filters on an image, as correlations along both axes.

    upsampled[X] = Σ up_taps[k] · z[X + k − up_start], z: the image with zeros put in between;
    result[j] = Σ down_taps[k] · v[down · j + k + down_start], v: upsampled after the activation,
    zero outside [0, mid). Pairs are (x, y).
    """

    up_taps: Tensor  # [taps] for both axes, or [height, width]; see taps.py
    down_taps: Tensor
    up: tuple[int, int]
    down: tuple[int, int]
    mid: tuple[int, int]
    out: tuple[int, int]
    up_start: tuple[int, int]
    down_start: tuple[int, int]

    @property
    def sizes(self) -> list[int]:
        return [*self.mid, *self.out]

    @property
    def starts(self) -> list[int]:
        return [*self.up_start, *self.down_start]

    @property
    def factors(self) -> list[int]:
        return [*self.up, *self.down]

    def transposed(self, width: int, height: int) -> Lines:
        """The lines of the gradient with respect to an image of that size."""
        up_taps = (self.up_taps.shape[-1], self.up_taps.shape[0])
        down_taps = (self.down_taps.shape[-1], self.down_taps.shape[0])
        return Lines(
            up_taps=mirrored(self.down_taps),
            down_taps=mirrored(self.up_taps),
            up=self.down,
            down=self.up,
            mid=self.mid,
            out=(width, height),
            up_start=_pair(n - 1 + s for n, s in zip(down_taps, self.down_start, strict=True)),
            down_start=_pair(s - (n - 1) for n, s in zip(up_taps, self.up_start, strict=True)),
        )


def _pair(values: Any) -> tuple[int, int]:
    x, y = values
    return int(x), int(y)


def _lines(
    up_taps: Tensor, down_taps: Tensor, factors: list[int], sizes: list[int], starts: list[int]
) -> Lines:
    return Lines(
        up_taps,
        down_taps,
        _pair(factors[:2]),
        _pair(factors[2:]),
        _pair(sizes[:2]),
        _pair(sizes[2:]),
        _pair(starts[:2]),
        _pair(starts[2:]),
    )


def resample(x: Tensor, lines: Lines) -> Tensor:
    """Both filters with nothing in between. NCHW => NCHW."""
    return operators().resample(
        x, lines.up_taps, lines.down_taps, lines.factors, lines.sizes, lines.starts
    )


def filtered_lrelu(
    x: Tensor, bias: Tensor | None, lines: Lines, gain: float, slope: float, clamp: float | None
) -> Tensor:
    """Bias, first filter, leaky ReLU with gain and clamp, second filter. NCHW => NCHW."""
    with_gradient = torch.is_grad_enabled() and (
        x.requires_grad or (bias is not None and bias.requires_grad)
    )
    y, _ = operators().filtered_lrelu(
        x, bias, lines.up_taps, lines.down_taps, lines.up[0], lines.down[0], lines.sizes,
        lines.starts, gain, slope, -1.0 if clamp is None else clamp, with_gradient,
    )  # fmt: skip
    return y


def bias_lrelu(
    x: Tensor, bias: Tensor | None, gain: float, slope: float, clamp: float | None
) -> Tensor:
    """clip(gain * lrelu(x + bias)). N×C×... => the same."""
    return operators().bias_lrelu(x, bias, gain, slope, -1.0 if clamp is None else clamp)


def bias_lrelu_in_place(
    x: Tensor, bias: Tensor | None, gain: float, slope: float, clamp: float | None
) -> Tensor:
    """`bias_lrelu` of contiguous images of a CPU, in their own memory; returns x. No gradients."""
    operators().bias_lrelu_(x, bias, gain, slope, -1.0 if clamp is None else clamp)
    return x


@functools.cache
def _register() -> None:
    _register_resample()
    _register_filtered_lrelu()
    _register_bias_lrelu()


def operators() -> Any:
    """The operators' namespace, with shapes and gradients registered (once a process)."""
    if not torch.compiler.is_compiling():  # the module's end has done it, where they are built
        _register()
    return torch.ops.animedrag


def _empty_result(x: Tensor, sizes: list[int]) -> Tensor:
    return _empty(x, [x.shape[0], x.shape[1], sizes[3], sizes[2]])


def _empty(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A result of that shape: on a GPU in x's layout, on the CPU contiguous."""
    last = x.device.type == "cuda" and x.ndim == 4
    last = last and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _register_resample() -> None:
    name = "animedrag::resample"

    @torch.library.register_fake(name)
    def _(
        x: Tensor, up_taps: Tensor, down_taps: Tensor, factors: Any, sizes: Any, starts: Any
    ) -> Tensor:
        return _empty_result(x, sizes)

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, up_taps, down_taps, factors, sizes, starts = inputs
        ctx.save_for_backward(up_taps, down_taps)
        ctx.geometry = (factors, sizes, starts, x.shape[3], x.shape[2])

    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        factors, sizes, starts, width, height = ctx.geometry
        up_taps, down_taps = ctx.saved_tensors
        lines = _lines(up_taps, down_taps, factors, sizes, starts).transposed(width, height)
        return resample(dy, lines), None, None, None, None, None

    torch.library.register_autograd(name, backward, setup_context=remember)


def _register_filtered_lrelu() -> None:
    name, masked = "animedrag::filtered_lrelu", "animedrag::filtered_lrelu_masked"

    @torch.library.register_fake(name)
    def _(
        x: Tensor, bias: Any, up_taps: Tensor, down_taps: Tensor, up: int, down: int,
        sizes: Any, starts: Any, gain: float, slope: float, clamp: float, write_mask: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        bytes_a_plane = _mask_bytes(x.device, up, down, sizes)
        mask = x.new_empty(
            [x.shape[0] if write_mask else 0, x.shape[1], bytes_a_plane], dtype=torch.uint8
        )
        return _empty_result(x, sizes), mask

    @torch.library.register_fake(masked)
    def _(
        x: Tensor, mask: Tensor, up_taps: Tensor, down_taps: Tensor, up: int, down: int,
        sizes: Any, starts: Any, gain: float, slope: float,
    ) -> Tensor:  # fmt: skip
        return _empty_result(x, sizes)

    def remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, bias, up_taps, down_taps, up, down, sizes, starts, gain, slope, _, _ = inputs
        ctx.save_for_backward(output[1], up_taps, down_taps)
        ctx.has_bias = bias is not None
        ctx.geometry = ([up, up, down, down], sizes, starts, x.shape[3], x.shape[2])
        ctx.constants = (gain, slope)
        ctx.set_materialize_grads(False)

    def remember_masked(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, mask, up_taps, down_taps, up, down, sizes, starts, gain, slope = inputs
        ctx.save_for_backward(mask, up_taps, down_taps)
        ctx.geometry = ([up, up, down, down], sizes, starts, x.shape[3], x.shape[2])
        ctx.constants = (gain, slope)

    def gradient(ctx: Any, dy: Tensor) -> Tensor:
        mask, up_taps, down_taps = ctx.saved_tensors
        factors, sizes, starts, width, height = ctx.geometry
        lines = _lines(up_taps, down_taps, factors, sizes, starts).transposed(width, height)
        return torch.ops.animedrag.filtered_lrelu_masked(
            dy, mask, lines.up_taps, lines.down_taps, lines.up[0], lines.down[0], lines.sizes,
            lines.starts, *ctx.constants,
        )  # fmt: skip

    def backward(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Any, ...]:
        if dy is None:
            return (None,) * 12
        dx = gradient(ctx, dy)
        return (dx, dx.sum([0, 2, 3]) if ctx.has_bias else None, *([None] * 10))

    def backward_masked(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        # The mask is piecewise constant: its own gradient is zero almost everywhere.
        return (gradient(ctx, dy), *([None] * 9))

    torch.library.register_autograd(name, backward, setup_context=remember)
    torch.library.register_autograd(masked, backward_masked, setup_context=remember_masked)


def _mask_bytes(device: torch.device, up: int, down: int, sizes: list[int]) -> int:
    """Of one plane, as csrc/cuda/ops_cuda.cpp and csrc/cpu/ops_cpu.cpp compute it."""
    if device.type == "cuda":
        return math.ceil(sizes[1] / 4) * sizes[0]
    period = math.lcm(up, down)
    if period == up == down == 2 and sizes[0] >= 256:
        period = 4  # phases_of in csrc/cpu/planes.h
    places = math.ceil(sizes[0] / period)
    quarter = math.ceil(math.ceil(places / 4) / _MASK_LANES) * _MASK_LANES
    return period * quarter * sizes[1]


def _register_bias_lrelu() -> None:
    name, of_gradient = "animedrag::bias_lrelu", "animedrag::bias_lrelu_backward"

    @torch.library.register_fake("animedrag::bias_lrelu_")
    def _(x: Tensor, bias: Tensor | None, gain: float, slope: float, clamp: float) -> None:
        return None

    @torch.library.register_fake(name)
    def _(x: Tensor, bias: Any, gain: float, slope: float, clamp: float) -> Tensor:
        return _empty(x, x.shape)

    @torch.library.register_fake(of_gradient)
    def _(dy: Tensor, y: Tensor, gain: float, slope: float, clamp: float) -> tuple[Tensor, Tensor]:
        return _empty(y, y.shape), dy.new_empty([dy.shape[1]])

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, bias, *constants = inputs
        ctx.has_bias = bias is not None
        ctx.constants = constants
        ctx.save_for_backward(output)

    def remember_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, y, *constants = inputs
        ctx.constants = constants
        ctx.save_for_backward(y)
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        (y,) = ctx.saved_tensors
        dx, db = torch.ops.animedrag.bias_lrelu_backward(dy, y.detach(), *ctx.constants)
        return dx, db if ctx.has_bias else None, None, None, None

    def backward_gradient(ctx: Any, ddx: Tensor | None, ddb: Tensor | None) -> tuple[Any, ...]:
        (y,) = ctx.saved_tensors
        total = ddx
        if ddb is not None:
            spread = ddb.view([-1 if axis == 1 else 1 for axis in range(y.ndim)]).expand_as(y)
            total = spread if total is None else total + spread
        if total is None:
            return (None,) * 5
        d_dy, _ = torch.ops.animedrag.bias_lrelu_backward(total, y, *ctx.constants)
        return d_dy, None, None, None, None

    torch.library.register_autograd(name, backward, setup_context=remember)
    torch.library.register_autograd(of_gradient, backward_gradient, setup_context=remember_gradient)


# Ahead of torch.compile, which cannot follow a registration.
if native.status().loaded:
    _register()

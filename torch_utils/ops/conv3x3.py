"""3x3 convolution by Winograd's minimal filtering, for the CPU: 4/9 of the multiplications.

Lavin and Gray 2016, section 4.1, F(2x2, 3x3), which in float32 is as exact as the direct form. It
serves forward passes and the gradients of both arguments, of every order. Knows nothing about
layers; `serves` says where it is faster than torch's own convolution.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from torch_utils import native

# Below these the transforms cost more than the multiplications that they save (measured).
LEAST_CHANNELS = 48
LEAST_PIXELS_A_BATCH = 256


def serves(x: Tensor, w: Tensor, padding: tuple[int, int], groups: int) -> bool:
    """Whether this form is the faster one for a convolution without stride.

    x: [N, in, H, W]; w: [out, in, height, width]; padding: (vertical, horizontal).
    """
    return (
        x.device.type == "cpu"
        and groups == 1
        and w.shape[2:] == (3, 3)
        and padding[0] == padding[1]
        and 0 <= padding[0] <= 2
        and min(w.shape[:2]) >= LEAST_CHANNELS
        and x.shape[0] * x.shape[2] * x.shape[3] >= LEAST_PIXELS_A_BATCH
        and min(x.shape[2:]) >= 4
        and native.runs_on(x)
    )


def conv3x3(x: Tensor, w: Tensor, padding: int) -> Tensor:
    """Correlation with zeros around the images.

    Args:
        x: [N, in, H, W], float32 or float64, on the CPU.
        w: [out, in, 3, 3].
        padding: zeros on each side, 0 to 2.

    Returns [N, out, H + 2 * padding - 2, W + 2 * padding - 2].
    """
    result: Tensor = _operators().conv3x3(x, w.to(x.dtype), padding, False)
    return result


def _operators() -> Any:
    if not torch.compiler.is_compiling():  # the module's end has done it, where they are built
        _register()
    return torch.ops.animedrag


@functools.cache
def _register() -> None:
    """Shapes and gradients of the two operators, once a process."""
    _register_convolution()
    _register_weight_gradient()


def _register_convolution() -> None:
    name = "animedrag::conv3x3"

    @torch.library.register_fake(name)
    def _(x: Tensor, w: Tensor, padding: int, transposed: bool) -> Tensor:
        grown = 2 * padding - 2
        channels = w.shape[1 if transposed else 0]
        return x.new_empty([x.shape[0], channels, x.shape[2] + grown, x.shape[3] + grown])

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, w, padding, transposed = inputs
        ctx.save_for_backward(x, w)
        ctx.padding, ctx.transposed = padding, transposed

    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, w = ctx.saved_tensors
        operators = torch.ops.animedrag
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = operators.conv3x3(dy, w, 2 - ctx.padding, not ctx.transposed)
        if ctx.needs_input_grad[1]:
            # The transposed form is the other one's gradient, with x and dy in exchanged places.
            dw = (
                operators.conv3x3_weight(dy, x, 2 - ctx.padding)
                if ctx.transposed
                else operators.conv3x3_weight(x, dy, ctx.padding)
            )
        return dx, dw, None, None

    torch.library.register_autograd(name, backward, setup_context=remember)


def _register_weight_gradient() -> None:
    name = "animedrag::conv3x3_weight"

    @torch.library.register_fake(name)
    def _(x: Tensor, dy: Tensor, padding: int) -> Tensor:
        return x.new_empty([dy.shape[1], x.shape[1], 3, 3])

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, dy, padding = inputs
        ctx.save_for_backward(x, dy)
        ctx.padding = padding

    def backward(ctx: Any, ddw: Tensor) -> tuple[Any, ...]:
        x, dy = ctx.saved_tensors
        operators = torch.ops.animedrag
        dx = d_dy = None
        if ctx.needs_input_grad[0]:
            dx = operators.conv3x3(dy, ddw, 2 - ctx.padding, True)
        if ctx.needs_input_grad[1]:
            d_dy = operators.conv3x3(x, ddw, ctx.padding, False)
        return dx, d_dy, None

    torch.library.register_autograd(name, backward, setup_context=remember)


# Ahead of torch.compile, which cannot follow a registration.
if native.status().loaded:
    _register()

"""Bias, activation, gain and clamp in one call: the pointwise tail of every layer.

Knows nothing about layers or networks. Differentiable any number of times. For images and the
piecewise linear activations compiled where `native` says so, else plain torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from torch_utils import native
from torch_utils.ops import compiled


@dataclass(frozen=True)
class Activation:
    """One activation function and the constants that go with it.

    `gain` is the factor that keeps a unit-variance signal near unit variance after the
    activation (He et al. 2015 for the rectifiers); 1 for the saturating functions.
    """

    function: Callable[[torch.Tensor, float], torch.Tensor]  # (x, alpha) -> y
    alpha: float
    gain: float


ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda x, alpha: x, 0.0, 1.0),
    "relu": Activation(lambda x, alpha: F.relu(x), 0.0, math.sqrt(2)),
    "lrelu": Activation(F.leaky_relu, 0.2, math.sqrt(2)),
    "tanh": Activation(lambda x, alpha: torch.tanh(x), 0.0, 1.0),
    "sigmoid": Activation(lambda x, alpha: torch.sigmoid(x), 0.0, 1.0),
    "elu": Activation(lambda x, alpha: F.elu(x), 0.0, 1.0),
    "selu": Activation(lambda x, alpha: F.selu(x), 0.0, 1.0),
    "softplus": Activation(lambda x, alpha: F.softplus(x), 0.0, 1.0),
    "swish": Activation(lambda x, alpha: F.silu(x), 0.0, math.sqrt(2)),
}


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    overwrite: bool = False,
) -> torch.Tensor:
    """y = clip(gain * act(x + b), -clamp, clamp), elementwise.

    Args:
        x: any shape.
        b: bias of shape [x.shape[dim]], or None for no bias.
        dim: the dimension of x that the bias runs along.
        act: a key of ACTIVATIONS.
        alpha: the activation's parameter (slope of "lrelu"); None: its default.
        gain: output factor; None: the activation's own gain.
        clamp: largest magnitude of the output; None: unlimited.
        overwrite: nobody else looks at x: where no gradient is recorded, the result may lie in its
            memory, for on a CPU asking for a large tensor takes longer than filling it. Not for
            forward-mode derivatives or vmap.

    Returns a tensor of x's shape and dtype.
    """
    activation = ACTIVATIONS[act]
    alpha = activation.alpha if alpha is None else alpha
    gain = activation.gain if gain is None else gain
    # The piecewise linear ones are leaky ReLUs of one slope or another.
    slope = {"linear": 1.0, "relu": 0.0, "lrelu": alpha}.get(act, -1.0)
    pointless = act == "linear" and gain == 1 and clamp is None
    if slope >= 0 < gain and dim == 1 and x.ndim == 4 and not pointless and native.runs_on(x):
        if overwrite and _is_free(x):
            return compiled.bias_lrelu_in_place(x, b, gain, slope, clamp)
        return compiled.bias_lrelu(x, b, gain, slope, clamp)
    if b is not None:
        x = x + b.to(x.dtype).view([-1 if axis == dim else 1 for axis in range(x.ndim)])
    y = activation.function(x, alpha)
    if gain != 1:
        y = y * gain
    if clamp is not None:
        y = y.clamp(-clamp, clamp)
    return y


def _is_free(x: torch.Tensor) -> bool:
    """Whether x can be changed in place: no gradients, and memory in one piece."""
    return x.device.type == "cpu" and x.is_contiguous() and not torch.is_grad_enabled()

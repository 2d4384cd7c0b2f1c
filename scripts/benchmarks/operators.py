"""Rows of single operators, each with its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipeline.models import stylegan3
from scripts.benchmarks import reference
from scripts.benchmarks.rows import Row, Setting, Work
from torch_utils.ops import filtered_lrelu as filtered_lrelu_module
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.filtered_lrelu import filtered_lrelu
from torch_utils.ops.upfirdn2d import downsample2d, setup_filter, upsample2d

FLOAT_BYTES = 4
# Times that each element crosses memory at least, forward and backward: what comes in is read and
# what goes out is written once in each direction.
PASSES = 2


def there_and_back(operator: Callable[..., Tensor], *tensors: Tensor, **options: Any) -> Tensor:
    """Forward, then the gradient for a given one of the output; returns the output."""
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    y = operator(*tensors, **options)
    torch.autograd.grad(y, leaves, torch.ones_like(y))
    return y


def filtered_lrelu_calls(
    resolution: int, setting: Setting, **network: Any
) -> list[tuple[Tensor, Tensor, dict[str, Any]]]:
    """(x, bias, options) of every call in one pass of a StyleGAN3 generator, gradients wanted."""
    calls: list[tuple[Tensor, Tensor, dict[str, Any]]] = []

    def note(x: Tensor, *, b: Tensor, **options: Any) -> Tensor:
        x = x.detach().clone().requires_grad_(True)
        calls.append((x, b.detach().clone().requires_grad_(True), options))
        return filtered_lrelu(x, b=b, **options)

    torch.manual_seed(0)
    synthesis = stylegan3.SynthesisNetwork(512, resolution, 3, **network).to(setting.device)
    ws = torch.randn(1, synthesis.num_ws, 512, device=setting.device)
    with torch.no_grad(), reference.exchanged({filtered_lrelu_module.filtered_lrelu: note}):
        synthesis(ws, force_fp32=True)
    return calls


def filtered_lrelu_work(setting: Setting) -> Work:
    """Every layer of StyleGAN3-T-256, with gradients for image and bias."""
    resolution, shape = (32, {"channel_base": 1024}) if setting.quick else (256, {})
    calls = filtered_lrelu_calls(resolution, setting, **shape)

    def all_layers(operator: Callable[..., Tensor]) -> Callable[[], None]:
        def run() -> None:
            for x, b, options in calls:
                there_and_back(lambda x, b, o=options: operator(x, b=b, **o), x, b)

        return run

    flops, moved = 0.0, 0.0
    for x, b, options in calls:
        y = filtered_lrelu(x.detach(), b=b.detach(), **options)
        flops += PASSES * filtered_lrelu_flops(x, y, options)
        moved += PASSES * FLOAT_BYTES * (x.numel() + y.numel())
    return Work(
        all_layers(filtered_lrelu), all_layers(reference.filtered_lrelu), flops=flops, bytes=moved
    )


def filtered_lrelu_flops(x: Tensor, y: Tensor, options: dict[str, Any]) -> float:
    """Multiplications and additions of one forward pass, only those that can matter.

    Separable filters run along the rows first; an upsampling tap meets every up-th sample only.
    """
    up, down = options["up"], options["down"]
    fu, fd = options["fu"], options["fd"]
    up_taps = 1 if fu is None else fu.shape[-1] / up
    down_taps = 1 if fd is None else fd.shape[-1]
    planes = x.shape[0] * x.shape[1]
    middle_width, middle_height = y.shape[3] * down, y.shape[2] * down
    middle = middle_width * middle_height
    total = 2 * up_taps * (x.shape[2] * middle_width + middle) + 3 * middle
    if fd is not None and fd.ndim == 2:
        total += 2 * down_taps**2 * y.shape[2] * y.shape[3]
    else:
        total += 2 * down_taps * (middle_height * y.shape[3] + y.shape[2] * y.shape[3])
    return float(planes * total)


def _upfirdn2d(setting: Setting) -> Work:
    channels, side = (8, 32) if setting.quick else (128, 256)
    f = setup_filter([1, 3, 3, 1], device=setting.device)
    large = torch.randn(1, channels, side, side, device=setting.device, requires_grad=True)

    def both(up: Callable[..., Tensor], down: Callable[..., Tensor]) -> Callable[[], None]:
        def run() -> None:
            there_and_back(up, large, f)
            there_and_back(down, large, f)

        return run

    # 2x up: 4 of 16 taps meet each of 4 pixels; along the axes 2 + 2 of them.
    pixels = channels * side * side
    flops = PASSES * 2 * (4 * pixels * 2 + 2 * pixels * 2 + 0.5 * pixels * 4 + 0.25 * pixels * 4)
    moved = PASSES * FLOAT_BYTES * pixels * (1 + 4 + 1 + 0.25)
    return Work(
        both(upsample2d, downsample2d),
        both(reference.upsample2d, reference.downsample2d),
        flops=flops,
        bytes=moved,
    )


def _bias_act(setting: Setting) -> Work:
    channels, side = (8, 64) if setting.quick else (64, 512)
    x = torch.randn(1, channels, side, side, device=setting.device, requires_grad=True)
    b = torch.randn(channels, device=setting.device, requires_grad=True)
    options = {"act": "lrelu", "clamp": 256.0}

    def run(operator: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return lambda: there_and_back(operator, x, b, **options)

    # Forward: read x, write y. Backward: read the gradient and y, write the gradient.
    return Work(
        run(bias_act), run(reference.bias_act), flops=8.0 * x.numel(), bytes=5.0 * 4 * x.numel()
    )


ROWS = (
    Row(
        key="filtered_lrelu",
        title="`filtered_lrelu` forward + backward, StyleGAN3-T-256's shapes",
        target="≥ 20x, peak memory ≤ 1/4",
        work=filtered_lrelu_work,
        speed=20,
        memory=4,
        wants_gib=3,
        most_repeats=3,
    ),
    Row(
        key="upfirdn2d",
        title="`upfirdn2d` 2x up and 2x down, 128 channels at 256x256, forward + backward",
        target="≥ 4x",
        work=_upfirdn2d,
        speed=4,
        wants_gib=2,
    ),
    Row(
        key="bias_act",
        title="`bias_act` lrelu with gain and clamp, 64 channels at 512x512, forward + backward",
        target="≥ 2.5x",
        work=_bias_act,
        speed=2.5,
        wants_gib=2,
    ),
)

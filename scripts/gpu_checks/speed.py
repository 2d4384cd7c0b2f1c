"""The operators' time on a device beside their floors: bytes that must move, products that must be.

Both floors rest on ceilings measured on the same device in the same run: a large copy and a large
matrix product. A share is the larger floor over the time; it says how much is left to gain, and
counts every input and output once and no halo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models.filter_design import design_lowpass_filter
from scripts.benchmarks.measure import Ceilings, interleaved
from scripts.gpu_checks.correctness import HeldFilter, filtered, plain
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.upfirdn2d import downsample2d, setup_filter, upsample2d


@dataclass(frozen=True)
class Work:
    """One row: an operator's forward and backward pass, and the least that it takes."""

    name: str
    shape: tuple[int, int, int, int]
    operator: Callable[[Tensor, Tensor], Tensor]
    flops: float  # of both passes, multiplications and additions


@dataclass(frozen=True)
class Timing:
    """Seconds, medians of interleaved repeats."""

    work: str
    dtype: str
    ours: float
    plain: float
    floor_bytes: float
    floor_flops: float

    @property
    def share(self) -> float:
        """Of the time, what the larger floor accounts for."""
        return max(self.floor_bytes, self.floor_flops) / self.ours


def filter_products(
    size: int, up: int, up_taps: int, down: int, down_taps: int, radial: bool
) -> float:
    """Products that one filtered_lrelu forward pass of a square plane needs, halo not counted.

    Along x, then along y; a radial second filter takes all its taps at once.
    """
    mid = size * up
    out = mid // down
    upwards = size * mid * up_taps / up + mid * mid * up_taps / up
    if radial:
        return upwards + out * out * down_taps**2
    return upwards + mid * out * down_taps + out * out * down_taps


def works(scale: float) -> list[Work]:
    """The rows; `scale` shrinks the sides for devices that are no GPU."""

    def side(n: int) -> int:
        return max(16, int(n * scale) // 4 * 4)

    short = HeldFilter(setup_filter([1, 3, 3, 1]))
    rows = [
        Work("bias_act", (8, 64, side(512), side(512)),
             lambda x, b: bias_act(x, b, act="lrelu", clamp=256), 0),
        Work("upfirdn2d 2x up", (8, 128, side(256), side(256)),
             lambda x, b: upsample2d(x, short.beside(x)), 0),
        Work("upfirdn2d 2x down", (8, 128, side(512), side(512)),
             lambda x, b: downsample2d(x, short.beside(x)), 0),
    ]  # fmt: skip
    # StyleGAN3-512's layers: channels, side, up factor; R's second filter is radial.
    for name, channels, size, up, radial in (
        ("filtered_lrelu T 276, 2/2", 256, 276, 2, False),
        ("filtered_lrelu T 148, 4/2", 512, 148, 4, False),
        ("filtered_lrelu T 532, 2/2", 128, 532, 2, False),
        ("filtered_lrelu R 276, 2/2", 256, 276, 2, True),
    ):
        edge = side(size)
        fu = design_lowpass_filter(6 * up, 1, 1, 4 * up)
        fd = design_lowpass_filter(12, 1, 1, 8, radial)
        shape = (4, channels if scale == 1 else 8, edge, edge)
        planes = shape[0] * shape[1]
        flops = 2 * 2 * planes * filter_products(edge, up, 6 * up, 2, 12, radial)
        rows.append(Work(name, shape, filtered(fu, fd, up, 2, 3 * up + 5, 256), flops))
    return rows


def measure(
    device: torch.device, work: Work, dtype: torch.dtype, top: Ceilings, repeats: int
) -> Timing:
    """Forward and backward, ours and plain torch in turns."""
    x = torch.randn(work.shape, device=device, dtype=dtype, requires_grad=True)
    b = torch.randn([work.shape[1]], device=device, dtype=dtype, requires_grad=True)
    with torch.no_grad():
        out = work.operator(x, b)
    dy = torch.randn_like(out)

    def step() -> None:
        y = work.operator(x, b)
        torch.autograd.grad(y, [x, b], dy, allow_unused=True)

    def step_plain() -> None:
        with plain():
            step()

    ours, reference = interleaved([step, step_plain], repeats, device)
    # Forward reads x and writes y; backward reads dy (and y for bias_act) and writes dx.
    moved = 2 * x.numel() + 2 * out.numel() + (out.numel() if work.name == "bias_act" else 0)
    return Timing(
        work.name,
        str(dtype).removeprefix("torch."),
        ours.median,
        reference.median,
        moved * x.element_size() / (top.gigabytes * 1e9),
        work.flops / (top.gflops * 1e9),
    )

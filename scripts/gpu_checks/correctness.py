"""Every operator on a device against plain torch in float64 on the CPU, derivatives included.

Inputs are random numbers that the type under test holds exactly, so both sides compute the same
function; a figure is ‖ours − reference‖ / ‖reference‖.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from pipeline.models.filter_design import design_lowpass_filter
from torch_utils import native
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.filtered_lrelu import filtered_lrelu
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

Operator = Callable[[Tensor, Tensor], Tensor]

# Relative error allowed: of a few dozen products, rounded as the type rounds.
TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 3e-3,
    torch.bfloat16: 2e-2,
}


@dataclass(frozen=True)
class Case:
    """One line of the table: an operator of an image and a bias with everything else decided."""

    name: str
    shape: tuple[int, int, int, int]
    operator: Operator


@dataclass(frozen=True)
class Outcome:
    """What came of a case in one type and layout; errors by what they are of."""

    case: str
    dtype: str
    layout: str
    errors: dict[str, float]
    allowed: float
    remark: str = ""

    @property
    def passed(self) -> bool:
        return not self.remark and all(e <= self.allowed for e in self.errors.values())


class HeldFilter:
    """A filter on every device that asks for it, copied there once, as a network's buffer is."""

    def __init__(self, f: Tensor | None) -> None:
        self._copies: dict[torch.device, Tensor | None] = {torch.device("cpu"): f}

    def beside(self, x: Tensor) -> Tensor | None:
        """The filter on x's device."""
        if x.device not in self._copies:
            f = self._copies[torch.device("cpu")]
            self._copies[x.device] = None if f is None else f.to(x.device)
        return self._copies[x.device]


def resampled(f: Tensor, **more: Any) -> Operator:
    """upfirdn2d of x plus bias."""
    held = HeldFilter(f)
    return lambda x, b: upfirdn2d(x + b.view(1, -1, 1, 1), held.beside(x), **more)


def filtered(
    fu: Tensor | None, fd: Tensor | None, up: int, down: int, pad: int, clamp: float = 0.9
) -> Operator:
    """filtered_lrelu with these filters."""
    first, second = HeldFilter(fu), HeldFilter(fd)
    return lambda x, b: filtered_lrelu(
        x, first.beside(x), second.beside(x), b, up, down, pad, clamp=clamp
    )


def cases() -> list[Case]:
    """The operators as the networks and the augmentations use them, and as nobody does."""
    wavelet = torch.linspace(1, 12, 12) / 78
    odd = torch.randn([5, 3], generator=torch.Generator().manual_seed(5))
    low = {up: design_lowpass_filter(6 * up, 1, 1, 4 * up) for up in (2, 4)}
    round_one = design_lowpass_filter(12, 1, 1, 8, True)

    short = setup_filter([1, 3, 3, 1])
    nine, seven = (setup_filter(range(1, n), separable=True) for n in (10, 8))
    return [
        Case("bias_act", (2, 8, 17, 13), lambda x, b: bias_act(x, b, act="lrelu")),
        Case("bias_act clamped", (3, 16, 16, 8), lambda x, b: bias_act(x, b, act="lrelu", clamp=1)),
        Case("upfirdn2d up", (2, 8, 13, 17), resampled(short, up=2, padding=[2, 1, 2, 1])),
        Case("upfirdn2d up, odd", (1, 3, 12, 9), resampled(short, up=2, padding=[1, 2, 3, 0])),
        Case("upfirdn2d down", (2, 8, 18, 14), resampled(short, down=2, padding=1)),
        Case("upfirdn2d filter", (2, 3, 11, 12), resampled(short, padding=[2, 1, 2, 1])),
        Case("upfirdn2d wavelet up", (1, 3, 16, 12), resampled(wavelet, up=2, padding=6)),
        Case("upfirdn2d wavelet down", (1, 3, 16, 12), resampled(wavelet, down=2, padding=5)),
        Case(
            "upfirdn2d 5x3 taps", (1, 4, 9, 10), resampled(odd, up=[3, 2], down=[2, 1], padding=3)
        ),
        Case("filtered_lrelu T 2/2", (2, 8, 20, 18), filtered(low[2], low[2], 2, 2, 11)),
        Case("filtered_lrelu T 4/2", (2, 4, 12, 14), filtered(low[4], low[2], 4, 2, 17)),
        Case("filtered_lrelu R 2/2", (1, 4, 20, 18), filtered(low[2], round_one, 2, 2, 11)),
        Case("filtered_lrelu R 4/2", (1, 4, 12, 14), filtered(low[4], round_one, 4, 2, 17)),
        Case("filtered_lrelu 3/1", (1, 3, 9, 8), filtered(nine, seven, 3, 1, 7)),
        Case("filtered_lrelu unfiltered", (2, 3, 10, 9), filtered(None, None, 1, 1, 0)),
    ]


@dataclass(frozen=True)
class Values:
    """An operator's output and derivatives for given weights."""

    y: Tensor
    dx: Tensor
    db: Tensor
    ddy: Tensor  # of <dx, v> with respect to dy: the second derivative that is not zero

    def items(self) -> Iterator[tuple[str, Tensor]]:
        yield from (("y", self.y), ("dx", self.dx), ("db", self.db), ("ddy", self.ddy))


def evaluate(operator: Operator, x: Tensor, b: Tensor, dy: Tensor, v: Tensor) -> Values:
    """Forward, first and second derivatives."""
    x, b, dy = (t.detach().requires_grad_() for t in (x, b, dy))
    y = operator(x, b)
    dx, db = torch.autograd.grad(y, (x, b), dy, create_graph=True)
    (ddy,) = torch.autograd.grad((dx * v).sum(), dy)
    return Values(y.detach(), dx.detach(), db.detach(), ddy)


def plain() -> Any:
    """Plain torch for every operator, compiled ones or not."""
    return mock.patch.object(native, "runs_on", return_value=False)


def inputs(case: Case, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """x, bias, dy, v: random float64 on the CPU, of values that the type holds."""
    random = torch.Generator().manual_seed(seed)

    def draw(shape: list[int]) -> Tensor:
        return torch.randn(shape, generator=random).to(dtype).double()

    x, b = draw(list(case.shape)), draw([case.shape[1]])
    with plain(), torch.no_grad():
        out = list(case.operator(x, b).shape)
    return x, b, draw(out), draw(list(case.shape))


def error(ours: Tensor, reference: Tensor) -> float:
    """Relative error; infinite for anything that is not a number."""
    difference = ours.detach().double().cpu() - reference
    value = float(difference.norm() / reference.norm().clamp_min(1e-30))
    return value if value == value else float("inf")


def laid_out(x: Tensor, layout: str) -> Tensor:
    """x in that layout of memory."""
    if layout == "channels-last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        wide = torch.zeros([*x.shape[:3], 2 * x.shape[3]], dtype=x.dtype, device=x.device)
        wide[..., ::2] = x
        return wide[..., ::2]
    return x.contiguous()


LAYOUTS = ("contiguous", "channels-last", "strided")


def dtypes(device: torch.device) -> list[torch.dtype]:
    """The types that compiled operators take there."""
    halves = [torch.float16, torch.bfloat16] if device.type == "cuda" else []
    return [torch.float64, torch.float32, *halves]


def run(device: torch.device, case: Case, dtype: torch.dtype, layout: str) -> Outcome:
    """One case against its reference, and, on a GPU, in another stream and in a graph."""
    seed = sum(map(ord, case.name + str(dtype) + layout))
    exact = inputs(case, dtype, seed)
    with plain():
        reference = evaluate(case.operator, *exact)
    x, b, dy, v = (t.to(device, dtype) for t in exact)
    x, v = laid_out(x, layout), laid_out(v, layout)
    remark = "" if native.runs_on(x) else "ran in plain torch: " + native.status_on(device).reason
    ours = evaluate(case.operator, x, b, dy, v)
    errors = {name: error(value, getattr(reference, name)) for name, value in ours.items()}
    if device.type == "cuda":
        errors["stream"] = error(_in_a_stream(case, x, b), ours.y.double().cpu())
        errors["graph"] = max(
            error(new, old.double().cpu()) for new, old in _in_a_graph(case, x, b, dy)
        )
    name = str(dtype).removeprefix("torch.")
    return Outcome(case.name, name, layout, errors, TOLERANCE[dtype], remark)


def _in_a_stream(case: Case, x: Tensor, b: Tensor) -> Tensor:
    """The output, computed in a stream that is not the default one."""
    stream = torch.cuda.Stream(x.device)
    stream.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(stream), torch.no_grad():
        y = case.operator(x, b)
    torch.cuda.current_stream(x.device).wait_stream(stream)
    return y


def _in_a_graph(case: Case, x: Tensor, b: Tensor, dy: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Output and gradient of a captured graph on new values, each beside the eager one."""
    x, b, dy = (t.detach().clone().requires_grad_() for t in (x, b, dy))

    def step() -> tuple[Tensor, Tensor]:
        y = case.operator(x, b)
        return y, torch.autograd.grad(y, x, dy)[0]

    stream = torch.cuda.Stream(x.device)
    stream.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream(x.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for t in (x, b, dy):
            t.copy_(torch.randn_like(t))
    graph.replay()
    torch.cuda.synchronize(x.device)
    eager = step()
    return [(new.detach(), old.detach()) for new, old in zip(captured, eager, strict=True)]

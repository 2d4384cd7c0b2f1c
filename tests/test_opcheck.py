"""Every registered operator as torch wants it: schema, shapes, gradients, compiling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from torch_utils import native
from torch_utils.ops import compiled, mixed_conv2d
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.conv2d import modulated_conv2d
from torch_utils.ops.conv3x3 import LEAST_CHANNELS, serves
from torch_utils.ops.filtered_lrelu import filtered_lrelu
from torch_utils.ops.upfirdn2d import setup_filter, upsample2d

pytestmark = pytest.mark.skipif(
    not native.status().loaded, reason=f"compiled operators: {native.status().reason}"
)

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(
            not torch.cuda.is_available() or not native.cuda_status().loaded,
            reason="no GPU with compiled operators here",
        ),
    ),
]
LAYOUTS = ("contiguous", "channels last", "strided")


def arranged(x: Tensor, layout: str) -> Tensor:
    """The same values in another layout of memory."""
    if layout == "channels last":
        return x.to(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack([x, x], dim=-1)[..., 0]
    return x


def images(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: str, gradient: bool = True
) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    return arranged(x, layout).detach().requires_grad_(gradient)


def calls(dtype: torch.dtype, layout: str, device: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """(operator, arguments) of one or more calls of each operator."""
    taps_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    fu, fd = torch.rand([4], dtype=taps_dtype), torch.rand([6], dtype=taps_dtype)
    fd2 = torch.rand([3, 5], dtype=taps_dtype)
    x = images((2, 3, 6, 7), dtype, layout, device)
    bias = torch.randn([3]).to(device, dtype).requires_grad_()
    yield "resample", (x, fu, fd, [2, 2, 2, 2], [14, 12, 5, 4], [3, 2, 0, 0])
    yield "resample", (x, fu, fd2, [2, 1, 1, 2], [14, 6, 10, 2], [3, 2, 0, 0])
    geometry = (2, 2, [14, 12, 5, 4], [3, 2, 0, 0], 1.4, 0.2, 0.7)
    yield "filtered_lrelu", (x, bias, fu, fd, *geometry, True)
    yield "filtered_lrelu", (x.detach(), None, fu, fd, *geometry, False)
    _, mask = torch.ops.animedrag.filtered_lrelu(x.detach(), bias, fu, fd, *geometry, True)
    yield "filtered_lrelu_masked", (x, mask, fu, fd, *geometry[:-1])
    yield "bias_lrelu", (x, bias, 1.4, 0.2, 0.7)
    yield "bias_lrelu", (x, None, 1.0, 1.0, -1.0)
    y = bias_act(x.detach(), bias.detach(), act="lrelu", clamp=0.7)
    yield "bias_lrelu_backward", (x, y, 1.4, 0.2, 0.7)
    if device == "cpu":
        yield "bias_lrelu_", (x.detach().clone().contiguous(), bias.detach(), 1.4, 0.2, 0.7)
        w = images((4, 3, 3, 3), dtype, "contiguous", device)
        yield "conv3x3", (x, w, 1, False)
        yield "conv3x3", (images((1, 4, 5, 5), dtype, layout, device), w, 2, True)
        yield "conv3x3_weight", (x, images((2, 4, 8, 9), dtype, layout, device), 2)
        if dtype == torch.float32:
            yield "pack_bfloat16", (x,)
            yield "unpack_bfloat16", (x.detach().to(torch.bfloat16).requires_grad_(),)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "layout"), [(torch.float32, "channels last"), (torch.float64, "strided")]
)
def test_opcheck(dtype: torch.dtype, layout: str, device: str) -> None:
    bias_act(images((1, 1, 2, 2), dtype, layout, device), act="lrelu")  # registers what is lazy
    for name, arguments in calls(dtype, layout, device):
        results = torch.library.opcheck(getattr(torch.ops.animedrag, name).default, arguments)
        assert set(results.values()) == {"SUCCESS"}, (name, results)


def layer(x: Tensor, w: Tensor, style: Tensor, b: Tensor, f: Tensor, f12: Tensor) -> Tensor:
    """A layer of each network, one after the other."""
    x = modulated_conv2d(x, w, style, up=2, padding=1, resample_filter=f, flip_weight=False)
    x = bias_act(x, b, act="lrelu", clamp=2.0)
    x = modulated_conv2d(x, w, style, padding=1, fused=False)
    x = filtered_lrelu(x, f12, f12, b, up=2, down=2, padding=[11, 11, 11, 11], clamp=2.0)
    return upsample2d(x, f)


def test_torch_compile_takes_it_whole() -> None:
    """One graph without a break, with the same values and gradients as without compiling."""
    torch.manual_seed(0)
    channels = LEAST_CHANNELS
    x = torch.randn([1, channels, 16, 16])
    w = torch.randn([channels, channels, 3, 3])
    style, b = torch.randn([1, channels]), torch.randn([channels])
    f, f12 = setup_filter([1, 3, 3, 1]), setup_filter(list(range(1, 7)) + list(range(6, 0, -1)))
    assert serves(x, w, (1, 1), 1)
    wanted = [x.requires_grad_(), w.requires_grad_(), style.requires_grad_(), b.requires_grad_()]
    plain = layer(x, w, style, b, f, f12)
    ours = torch.compile(layer, fullgraph=True, backend="aot_eager")(x, w, style, b, f, f12)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    dy = torch.randn(plain.shape)
    for found, expected in zip(
        torch.autograd.grad(ours, wanted, dy),
        torch.autograd.grad(plain, wanted, dy),
        strict=True,
    ):
        error = (found - expected).abs().max() / expected.abs().max()
        assert float(error) < 1e-5


def test_torch_compile_takes_mixed_convolutions_whole() -> None:
    torch.manual_seed(0)
    x, w = torch.randn([1, 32, 8, 8]), torch.randn([32, 32, 3, 3])

    def run(x: Tensor) -> Tensor:
        return mixed_conv2d.conv2d(x, w, padding=(1, 1))

    whole = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.equal(whole(x), run(x))


@pytest.mark.parametrize("of_y", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("of_dy", [torch.contiguous_format, torch.channels_last])
def test_a_gpus_gradient_lies_as_the_output_did(
    of_y: torch.memory_format, of_dy: torch.memory_format
) -> None:
    """What torch.compile is told without a GPU is what csrc/cuda/ops_cuda.cpp allocates."""
    with FakeTensorMode():
        dy = torch.empty([2, 8, 4, 4], device="cuda", memory_format=of_dy)
        y = torch.empty([2, 8, 4, 4], device="cuda", memory_format=of_y)
        dx, _ = compiled.operators().bias_lrelu_backward(dy, y, 1.4, 0.2, -1.0)
    assert dx.is_contiguous(memory_format=of_y)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [*LAYOUTS, "empty"])
def test_table_of_types_and_layouts(
    dtype: torch.dtype, layout: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes in: the values and first two derivatives of the plain form in float64."""
    empty = layout == "empty"
    shape = (0 if empty else 2, 3, 6, 8)
    x = images(shape, dtype, "contiguous" if empty else layout, device)
    b = torch.randn([3], generator=torch.Generator().manual_seed(1)).to(device, dtype)
    f = setup_filter([1, 3, 3, 1], device=device)
    f8 = setup_filter([1, 2, 4, 6, 6, 4, 2, 1], device=device)
    radial = torch.outer(torch.arange(1, 6), torch.arange(3, 8)).float().to(device) / 100
    operators = {
        "bias_act": lambda x, b: bias_act(x, b, act="lrelu", clamp=1.0),
        "bias_act linear": lambda x, b: bias_act(x, b, gain=1.5, clamp=1.0),
        "upfirdn2d": lambda x, b: upsample2d(x, f.to(dtype)),
        "filtered_lrelu": lambda x, b: filtered_lrelu(x, f8, radial, b, 2, 2, 8, clamp=1.0),
    }

    def derivatives(op: Any, x: Tensor, b: Tensor) -> list[Tensor]:
        x, b = x.detach().requires_grad_(), b.detach().requires_grad_()
        y = op(x, b)
        assert y.dtype == x.dtype
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return [y, first, second]

    ours = {name: derivatives(op, x, b) for name, op in operators.items()}
    monkeypatch.setattr(native, "runs_on", lambda x: False)
    # Half precision falls on the other side of a kink here and there: the error as a whole.
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 0.1)
    for name, op in operators.items():
        expected = derivatives(op, x.double(), b.double())
        for mine, exact in zip(ours[name], expected, strict=True):
            assert mine.shape == exact.shape
            error = (mine.detach().double() - exact.detach()).norm()
            assert float(error) <= tolerance * float(exact.detach().norm()), name

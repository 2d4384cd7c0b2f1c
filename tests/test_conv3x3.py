"""Winograd's convolution against torch's: sizes, gradients of every order, exactness in float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_utils import native
from torch_utils.ops import conv2d
from torch_utils.ops.conv3x3 import LEAST_CHANNELS, conv3x3, serves

pytestmark = pytest.mark.skipif(
    not native.status().loaded, reason=f"compiled operators: {native.status().reason}"
)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    padding=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_equals_torch(
    batch: int, channels: tuple[int, int], size: tuple[int, int], padding: int, seed: int
) -> None:
    if min(size) + 2 * padding < 3:
        return  # smaller than the kernel
    random = torch.Generator().manual_seed(seed)
    x = torch.randn([batch, channels[0], *size], dtype=torch.float64, generator=random)
    w = torch.randn([channels[1], channels[0], 3, 3], dtype=torch.float64, generator=random)
    inputs = [x.requires_grad_(), w.requires_grad_()]
    ours, expected = conv3x3(x, w, padding), F.conv2d(x, w, padding=padding)
    torch.testing.assert_close(ours, expected)
    dy = torch.randn(expected.shape, dtype=torch.float64, generator=random)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, dy), torch.autograd.grad(expected, inputs, dy)
    )


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_derivatives(padding: int) -> None:
    x = torch.randn([2, 2, 4, 5], dtype=torch.float64, requires_grad=True)
    w = torch.randn([3, 2, 3, 3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: conv3x3(x, w, padding), (x, w))
    assert torch.autograd.gradgradcheck(lambda x, w: conv3x3(x, w, padding), (x, w))


def test_float32_is_as_exact_as_the_direct_form() -> None:
    """Against float64, with 512 channels: at most 2.5 times the direct form's error.

    2.1 times on a processor with AVX-512, whose direct form sums otherwise; below 2 with AVX2.
    """
    random = torch.Generator().manual_seed(0)
    x = torch.randn([1, 512, 24, 25], generator=random)
    w = torch.randn([64, 512, 3, 3], generator=random)
    exact = F.conv2d(x.double(), w.double(), padding=1)
    ours, direct = (
        (y.double() - exact).square().mean().sqrt() for y in (conv3x3(x, w, 1), conv_direct(x, w))
    )
    assert float(ours) < 1e-6 * float(exact.std())
    assert float(ours) < 2.5 * max(float(direct), 2e-7 * float(exact.std()))


def conv_direct(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, w, padding=1)


def test_the_layers_take_it_where_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution of many channels goes this way, with the same result as the plain one."""
    x = torch.randn([2, LEAST_CHANNELS, 18, 17], dtype=torch.float64)
    w = torch.randn([LEAST_CHANNELS, LEAST_CHANNELS, 3, 3], dtype=torch.float64)
    s = torch.randn([2, LEAST_CHANNELS], dtype=torch.float64)
    assert serves(x, w, (1, 1), 1)
    assert not serves(x, w, (1, 0), 1)
    assert not serves(x, w[:, :2], (1, 1), LEAST_CHANNELS // 2)
    assert not serves(x.bfloat16(), w.bfloat16(), (1, 1), 1)
    turned = x.to(memory_format=torch.channels_last)
    ours = [conv2d.modulated_conv2d(each, w, s, padding=2, fused=False) for each in (x, turned)]
    monkeypatch.setattr(native, "runs_on", lambda x: False)
    assert not serves(x, w, (1, 1), 1)
    plain = conv2d.modulated_conv2d(x, w, s, padding=2, fused=False)
    for each in ours:
        torch.testing.assert_close(each, plain)


def test_without_input_channels_nothing_is_summed() -> None:
    y = conv3x3(torch.randn(2, 0, 6, 5), torch.randn(4, 0, 3, 3), 1)
    assert torch.equal(y, torch.zeros(2, 4, 6, 5))

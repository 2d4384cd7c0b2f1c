"""Convolution with resampling against its definition, and the modulated convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_utils.ops.conv2d import conv2d_resample, modulated_conv2d
from torch_utils.ops.upfirdn2d import (
    downsampling_padding,
    setup_filter,
    upfirdn2d,
    upsampling_padding,
)

K4 = setup_filter([1, 3, 3, 1])


@settings(max_examples=50, deadline=None)
@given(
    kernel=st.sampled_from([1, 2, 3, 5]),
    up=st.integers(1, 4),
    down=st.integers(1, 3),
    padding=st.one_of(st.integers(0, 3), st.tuples(*[st.integers(-1, 4)] * 4)),
    groups=st.sampled_from([1, 2]),
    flip=st.booleans(),
    taps=st.sampled_from([None, (1, 3, 3, 1), (1, 2, 1), tuple(range(1, 10))]),
)
def test_equals_upsample_then_convolve_then_downsample(
    kernel: int,
    up: int,
    down: int,
    padding: int | tuple[int, ...],
    groups: int,
    flip: bool,
    taps: tuple[int, ...] | None,
) -> None:
    torch.manual_seed(0)
    x = torch.randn([2, 4, 9, 10], dtype=torch.float64)
    w = torch.randn([6, 4 // groups, kernel, kernel], dtype=torch.float64)
    f = None if taps is None else setup_filter(list(taps)).to(torch.float64)
    pad = padding
    if up > 1:
        pad = upsampling_padding(f, up, pad)
    if down > 1:
        pad = downsampling_padding(f, down, pad)
    y = upfirdn2d(x, f if up > 1 else None, up=up, padding=pad, gain=up**2)
    y = F.conv2d(y, w if flip else w.flip([2, 3]), groups=groups)
    expected = upfirdn2d(y, f if down > 1 else None, down=down)
    ours = conv2d_resample(x, w, f, up, down, padding, groups, flip)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("fused", [True, False])
def test_derivatives(up: int, down: int, fused: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn([2, 2, 4, 4], dtype=torch.float64, requires_grad=True)
    w = torch.randn([2, 2, 3, 3], dtype=torch.float64, requires_grad=True)
    s = torch.randn([2, 2], dtype=torch.float64, requires_grad=True)
    f = K4.to(torch.float64)

    def op(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return modulated_conv2d(
            x, w, s, up=up, down=down, padding=1, resample_filter=f, fused=fused
        )

    assert torch.autograd.gradcheck(op, (x, w, s))
    assert torch.autograd.gradgradcheck(op, (x, w, s), fast_mode=True)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("fused", [True, False])
def test_derivatives_of_one_pixel_kernels(batch: int, fused: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn([batch, 2, 3, 4], dtype=torch.float64, requires_grad=True)
    w = torch.randn([3, 2, 1, 1], dtype=torch.float64, requires_grad=True)
    s = torch.randn([batch, 2], dtype=torch.float64, requires_grad=True)

    def op(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return modulated_conv2d(x, w, s, fused=fused)

    assert torch.autograd.gradcheck(op, (x, w, s))
    assert torch.autograd.gradgradcheck(op, (x, w, s), fast_mode=True)


@pytest.mark.parametrize("size", [2, 40])
def test_the_form_chosen_for_one_image_gives_what_both_give(size: int) -> None:
    torch.manual_seed(0)
    x, w, s = torch.randn([1, 4, size, size]), torch.randn([6, 4, 3, 3]), torch.randn([1, 4])
    forms = [modulated_conv2d(x, w, s, padding=1, fused=fused) for fused in (None, True, False)]
    torch.testing.assert_close(forms[0], forms[1])
    torch.testing.assert_close(forms[1], forms[2])


@pytest.mark.parametrize("kernel", [1, 3])
def test_no_images(kernel: int) -> None:
    x, s = torch.zeros([0, 4, 8, 8]), torch.zeros([0, 4])
    w = torch.randn([6, 4, kernel, kernel])
    assert conv2d_resample(x, w, K4, up=2, padding=kernel // 2).shape == (0, 6, 16, 16)
    assert modulated_conv2d(x, w, s, padding=kernel // 2).shape == (0, 6, 8, 8)


def test_demodulation_is_the_same_where_weights_learn() -> None:
    torch.manual_seed(0)
    x, w, s = torch.randn([2, 4, 8, 8]), torch.randn([6, 4, 3, 3]), torch.randn([2, 4])
    learning = modulated_conv2d(x, w.clone().requires_grad_(), s, padding=1)
    torch.testing.assert_close(modulated_conv2d(x, w, s, padding=1), learning.detach())


def test_layout_of_memory_does_not_matter() -> None:
    torch.manual_seed(0)
    x, w, s = torch.randn([2, 4, 8, 8]), torch.randn([6, 4, 3, 3]), torch.randn([2, 4])
    expected = modulated_conv2d(x, w, s, up=2, padding=1, resample_filter=K4)
    last = x.to(memory_format=torch.channels_last)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    for same in (last, turned):
        y = modulated_conv2d(same, w, s, up=2, padding=1, resample_filter=K4)
        torch.testing.assert_close(y, expected)


def test_images_do_not_influence_each_other() -> None:
    torch.manual_seed(0)
    x, w, s = torch.randn([3, 4, 8, 8]), torch.randn([6, 4, 3, 3]), torch.randn([3, 4])
    together = modulated_conv2d(x, w, s, padding=1, fused=False)
    for index in range(3):
        one = slice(index, index + 1)
        alone = modulated_conv2d(x[one], w, s[one], padding=1)
        torch.testing.assert_close(together[one], alone)


def test_demodulation_keeps_unit_variance_whatever_the_styles() -> None:
    torch.manual_seed(0)
    x, w = torch.randn([2, 32, 32, 32]), torch.randn([16, 32, 3, 3])
    s = torch.randn([2, 32]) * torch.tensor([[0.01], [50.0]])
    deviation = modulated_conv2d(x, w, s, padding=1).std(dim=[1, 2, 3])
    torch.testing.assert_close(deviation, torch.ones(2), atol=0.05, rtol=0)


@pytest.mark.parametrize("fused", [True, False])
def test_half_precision_holds_large_weights_and_styles(fused: bool) -> None:
    """Products beyond half precision's range (65504) are scaled away before they arise."""
    torch.manual_seed(0)
    x = torch.randn([2, 8, 8, 8])
    w, s = torch.randn([6, 8, 3, 3]) * 300, torch.randn([2, 8]) * 300
    exact = modulated_conv2d(x, w, s, up=2, padding=1, resample_filter=K4, fused=fused)
    half = modulated_conv2d(x.half(), w, s, up=2, padding=1, resample_filter=K4, fused=fused)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=0.02, rtol=0.02)

"""The resampler against its definition, written as loops, and its derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torch_utils import native
from torch_utils.ops.upfirdn2d import (
    downsample2d,
    filter2d,
    setup_filter,
    upfirdn2d,
    upsample2d,
)


@pytest.fixture(autouse=True, params=["as installed", "plain torch"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test twice: with compiled operators where they are built, and without."""
    if request.param == "plain torch":
        monkeypatch.setattr(native, "runs_on", lambda x: False)


def by_definition(
    x: np.ndarray,
    f: np.ndarray,
    up: tuple[int, int],
    down: tuple[int, int],
    pad: tuple[int, int, int, int],
    flip: bool,
    gain: float,
) -> np.ndarray:
    """One image: insert zeros, pad or crop, correlate by loops, keep every down-th pixel."""
    height, width = x.shape
    f = np.outer(f, f) if f.ndim == 1 else f
    f = f if flip else f[::-1, ::-1]
    big = np.zeros([height * up[1], width * up[0]])
    big[:: up[1], :: up[0]] = x
    x0, x1, y0, y1 = pad
    big = np.pad(big, [(max(y0, 0), max(y1, 0)), (max(x0, 0), max(x1, 0))])
    big = big[max(-y0, 0) : big.shape[0] - max(-y1, 0), max(-x0, 0) : big.shape[1] - max(-x1, 0)]
    rows, columns = big.shape[0] - f.shape[0] + 1, big.shape[1] - f.shape[1] + 1
    full = np.zeros([rows, columns])
    for i in range(rows):
        for j in range(columns):
            full[i, j] = (big[i : i + f.shape[0], j : j + f.shape[1]] * f).sum() * gain
    return full[:: down[1], :: down[0]]


factors = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    taps=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    separable=st.booleans(),
    up=factors,
    down=factors,
    pad=st.tuples(*[st.integers(-2, 6)] * 4),
    flip=st.booleans(),
    gain=st.sampled_from([1.0, 2.5]),
    seed=st.integers(0, 99),
)
# More is cut off one side than the bare image holds; the zeros of the other side make up for it.
@example((1, 1), (1, 1), False, (1, 1), (1, 1), (0, 0, 2, -2), False, 1.0, 0)
@example((2, 1), (1, 1), False, (2, 1), (1, 1), (6, -2, 6, -2), False, 1.0, 0)
def test_equals_the_definition(
    size: tuple[int, int],
    taps: tuple[int, int],
    separable: bool,
    up: tuple[int, int],
    down: tuple[int, int],
    pad: tuple[int, int, int, int],
    flip: bool,
    gain: float,
    seed: int,
) -> None:
    height, width = size
    f_height, f_width = (taps[0], taps[0]) if separable else taps
    if width * up[0] + pad[0] + pad[1] < f_width or height * up[1] + pad[2] + pad[3] < f_height:
        return  # nothing would come out
    random = np.random.default_rng(seed)
    x = random.normal(size=[2, 3, height, width])
    f = random.normal(size=[f_width] if separable else [f_height, f_width])
    ours = upfirdn2d(torch.from_numpy(x), torch.from_numpy(f), up, down, pad, flip, gain)
    for image, channel in np.ndindex(2, 3):
        expected = by_definition(x[image, channel], f, up, down, pad, flip, gain)
        np.testing.assert_allclose(ours[image, channel].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("taps", "up", "down"), [([4], 2, 1), ([9], 4, 2), ([3, 4], 1, 2), ([12], 2, 3), ([2, 2], 3, 1)]
)
def test_derivatives(taps: list[int], up: int, down: int) -> None:
    f = torch.randn(taps, dtype=torch.float64)
    x = torch.randn([1, 2, 3, 4], dtype=torch.float64, requires_grad=True)

    def op(x: torch.Tensor) -> torch.Tensor:
        return upfirdn2d(x, f, up=up, down=down, padding=[5, 4, 4, 6], gain=1.5)

    assert torch.autograd.gradcheck(op, x)
    # Linear in x, so the second derivative is checked through the square.
    assert torch.autograd.gradgradcheck(lambda x: op(x).square(), x, fast_mode=True)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8)])
def test_empty_images(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    y = upfirdn2d(x, setup_filter([1, 3, 3, 1]), up=2, padding=[2, 1, 4, 3])
    assert y.shape == (*shape[:2], shape[2] * 2 + 4, 16)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.shape == shape


def test_other_layouts_of_memory_give_the_same() -> None:
    f = setup_filter([1, 3, 3, 1])
    x = torch.randn([2, 4, 10, 12])
    expected = upsample2d(x, f)
    odd = torch.randn([2, 4, 20, 24])[:, :, ::2, ::2].copy_(x)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    for same in (odd, turned, x.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(upsample2d(same, f), expected)


@pytest.mark.parametrize("taps", [[1, 3, 3, 1], list(range(1, 13)), [[1, 2], [3, 4]]])
def test_sizes_and_level_are_kept(taps: list) -> None:
    f = setup_filter(taps)
    x = torch.ones([1, 2, 24, 32])
    for y, size in (
        (filter2d(x, f), (24, 32)),
        (downsample2d(x, f), (12, 16)),
        (downsample2d(x, f, down=[4, 3]), (8, 8)),
        (upsample2d(x, f), (48, 64)),
        (upsample2d(x, f, up=[3, 2]), (48, 96)),
    ):
        assert y.shape[2:] == size
        # The phases of an upsampling filter may differ, but together they keep the level.
        inner = y[:, :, 6 : 6 + size[0] // 6 * 6 - 12, 6 : 6 + size[1] // 6 * 6 - 12]
        if y.shape[2] >= 24:
            assert float(inner.mean()) == pytest.approx(1, abs=1e-5)


def test_resampling_keeps_the_centre_in_place() -> None:
    """A ramp is resampled to a ramp through the same continuous coordinates."""
    f = setup_filter([1, 3, 3, 1])
    ramp = (torch.arange(32) + 0.5).expand(1, 1, 32, 32)
    up = upsample2d(ramp, f)[0, 0, 32, 8:-8]
    torch.testing.assert_close(up, (torch.arange(8, 56) + 0.5) / 2)
    down = downsample2d(ramp, f)[0, 0, 8, 4:-4]
    torch.testing.assert_close(down, (torch.arange(4, 12) + 0.5) * 2)


def test_a_filter_first_met_without_gradients_serves_those_with() -> None:
    """As when a model is sampled in inference mode and then trained."""
    f = setup_filter([1, 3, 3, 1])
    with torch.inference_mode():
        expected = upsample2d(torch.ones([1, 2, 5, 4]), f)
    x = torch.ones([1, 2, 5, 4], requires_grad=True)
    y = upsample2d(x, f)
    assert torch.equal(y, expected)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(dx[:, :, 1:-1, 1:-1], torch.full([], 4.0))


def test_a_filter_made_in_inference_mode() -> None:
    with torch.inference_mode():
        f = setup_filter([1, 3, 3, 1])
        x = torch.rand([1, 2, 5, 4])
        first = upsample2d(x, f)
        assert torch.allclose(first, upsample2d(x, setup_filter([1, 3, 3, 1])))
        f.mul_(2)
        assert torch.allclose(upsample2d(x, f), 2 * first)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-12])
def test_a_faint_filter_is_no_other_filter(scale: float) -> None:
    """Whether two dimensions are an outer product is told relative to the taps."""
    f = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    x = torch.rand([1, 1, 4, 4], generator=torch.Generator().manual_seed(0))
    expected = upfirdn2d(x, f) * scale
    torch.testing.assert_close(upfirdn2d(x, f * scale), expected, atol=0, rtol=1e-5)

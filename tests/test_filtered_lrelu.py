"""The filtered nonlinearity: derivatives, sizes, and that it is alias-free."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.models.filter_design import design_lowpass_filter
from torch_utils import native
from torch_utils.ops.filtered_lrelu import filtered_lrelu


@pytest.fixture(autouse=True, params=["as installed", "plain torch"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test twice: with compiled operators where they are built, and without."""
    if request.param == "plain torch":
        monkeypatch.setattr(native, "runs_on", lambda x: False)


@pytest.mark.parametrize(("up", "down", "radial"), [(2, 2, False), (4, 2, False), (2, 2, True)])
def test_derivatives(up: int, down: int, radial: bool) -> None:
    fu = design_lowpass_filter(3 * up, 1, 1, 4 * up)
    fd = design_lowpass_filter(3 * down, 1, 1, 4 * down, radial)
    x = torch.randn([1, 2, 4, 5], dtype=torch.float64, requires_grad=True)
    b = torch.randn([2], dtype=torch.float64, requires_grad=True)

    def op(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return filtered_lrelu(x, fu, fd, b, up, down, padding=[6, 5, 7, 4], clamp=0.8).square()

    assert torch.autograd.gradcheck(op, (x, b))
    assert torch.autograd.gradgradcheck(op, (x, b), fast_mode=True)


def test_without_filters_it_is_the_plain_activation() -> None:
    x = torch.randn([2, 3, 5, 4])
    expected = torch.nn.functional.leaky_relu(x, 0.2) * math.sqrt(2)
    torch.testing.assert_close(filtered_lrelu(x), expected)
    assert filtered_lrelu(x[:0]).shape == (0, 3, 5, 4)
    turned = x.transpose(2, 3)
    torch.testing.assert_close(filtered_lrelu(turned), expected.transpose(2, 3))


def test_shifts_commute_with_it_where_the_plain_one_aliases() -> None:
    """Half a sample's shift before equals half a sample's shift after (Karras 2021, figure 2)."""
    fu = fd = design_lowpass_filter(12, 3, 2, 32)
    axis = torch.arange(64, dtype=torch.float64) / 16

    def wave(shift: float) -> torch.Tensor:
        along = torch.sin(2 * math.pi * 2.3 * (axis + shift))
        across = torch.sin(2 * math.pi * 1.7 * (axis + shift))
        return (along[None, :] + across[:, None])[None, None]

    def shifted(x: torch.Tensor, shift: float) -> torch.Tensor:
        spectrum = torch.fft.fft2(x)
        k = torch.fft.fftfreq(64, d=1 / 16, dtype=torch.float64)
        turn = torch.exp(2j * math.pi * shift * (k[None, :] + k[:, None]))
        return torch.fft.ifft2(spectrum * turn).real

    def error(op: object) -> float:
        inner = (slice(None), slice(None), slice(20, 44), slice(20, 44))
        before, after = op(wave(1 / 32)), shifted(op(wave(0)), 1 / 32)  # type: ignore[operator]
        return float((before - after)[inner].square().mean().sqrt())

    filtered = error(lambda x: filtered_lrelu(x, fu, fd, up=2, down=2, padding=[11, 11, 11, 11]))
    plain = error(filtered_lrelu)
    assert filtered < 0.5 * plain

"""Bias and activation: derivatives, layouts, limits."""

from __future__ import annotations

import pytest
import torch

from torch_utils import native
from torch_utils.ops.bias_act import ACTIVATIONS, bias_act


@pytest.fixture(autouse=True, params=["as installed", "plain torch"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test twice: with compiled operators where they are built, and without."""
    if request.param == "plain torch":
        monkeypatch.setattr(native, "runs_on", lambda x: False)


@pytest.mark.parametrize("act", list(ACTIVATIONS))
def test_derivatives(act: str) -> None:
    x = torch.randn([3, 4, 2], dtype=torch.float64, requires_grad=True)
    b = torch.randn([4], dtype=torch.float64, requires_grad=True)

    def op(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return bias_act(x, b, act=act, clamp=1.5)

    assert torch.autograd.gradcheck(op, (x, b))
    assert torch.autograd.gradgradcheck(op, (x, b))


def test_any_dimension_layout_and_emptiness() -> None:
    x = torch.randn([3, 4, 5])
    b = torch.randn([5])
    expected = torch.nn.functional.leaky_relu(x + b, 0.2) * 2**0.5
    torch.testing.assert_close(bias_act(x, b, dim=2, act="lrelu"), expected)
    turned = x.transpose(0, 1)
    torch.testing.assert_close(bias_act(turned, b, dim=2, act="lrelu"), expected.transpose(0, 1))
    assert bias_act(torch.zeros([0, 4]), torch.ones([4]), act="swish").shape == (0, 4)


def test_gain_and_clamp() -> None:
    x = torch.tensor([[-10.0, -1, 0, 1, 10]])
    y = bias_act(x, act="lrelu", alpha=0.5, gain=2, clamp=3)
    assert y.tolist() == [[-3, -1, 0, 2, 3]]


def test_rectifiers_keep_the_second_moment() -> None:
    """The default gain keeps the mean square of a unit normal near 1 (He et al. 2015)."""
    x = torch.randn([100_000], generator=torch.Generator().manual_seed(0)).view(1, -1)
    for act in ("relu", "lrelu"):
        assert float(bias_act(x, act=act).square().mean()) == pytest.approx(1, abs=0.06)


def test_half_precision_stays_half() -> None:
    x = torch.randn([2, 3]).to(torch.bfloat16)
    assert bias_act(x, torch.ones([3]), act="lrelu", clamp=1).dtype == torch.bfloat16


@pytest.mark.parametrize("act", ["linear", "lrelu"])
def test_what_may_be_overwritten_gives_the_same(act: str) -> None:
    x, b = torch.randn([2, 3, 4, 5]), torch.randn([3])
    expected = bias_act(x, b, act=act, clamp=1)
    with torch.no_grad():
        assert torch.equal(bias_act(x.clone(), b, act=act, clamp=1, overwrite=True), expected)
        turned = x.transpose(2, 3)
        y = bias_act(turned, b, act=act, clamp=1, overwrite=True)
        assert torch.equal(y, expected.transpose(2, 3))


def test_nothing_is_overwritten_that_a_gradient_looks_at() -> None:
    x = torch.randn([2, 3, 4, 5], requires_grad=True)
    before = x.detach().clone()
    inside = x * 1
    bias_act(inside, act="lrelu", overwrite=True).square().sum().backward()
    assert torch.equal(inside.detach(), before)
    slopes = torch.where(before < 0, 0.2, 1.0) * 2**0.5
    torch.testing.assert_close(x.grad, 2 * before * slopes**2)

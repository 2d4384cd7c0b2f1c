"""Metrics of generators: path length in closed form, equivariance of waves and of the networks."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from pipeline.metrics import equivariance
from pipeline.metrics.equivariance import KINDS, Motions, decibels, error_of_pair, moved_input
from pipeline.metrics.path_length import PathSettings, mean_length, path_lengths, slerp
from pipeline.metrics.sampling import Sampler
from pipeline.models import stylegan2, stylegan3
from pipeline.models.build import Generator
from torch_utils.distributed import World
from torch_utils.ranks import Ranks


class Linear(nn.Module):
    """g(w) = A w as a picture of 1 x 2 x 3 pixels; w = z."""

    z_dim = w_dim = 4
    c_dim = 0

    def __init__(self) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(1)
        self.matrix = nn.Parameter(torch.randn(6, 4, generator=draws))

    def mapping(self, z: Tensor, c: Tensor, **_: Any) -> Tensor:
        return z[:, None, :].repeat(1, 2, 1)

    def synthesis(self, ws: Tensor, **_: Any) -> Tensor:
        return (ws[:, 0] @ self.matrix.T).reshape(-1, 1, 2, 3)


def squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).double().square().sum(dim=(1, 2, 3))


def lengths_of(network: nn.Module, settings: PathSettings, total: int, **sampler: Any) -> Tensor:
    made = Sampler(cast(Generator, network), **sampler)
    return torch.cat([part for _, part in path_lengths(made, squared, settings, total)])


def test_path_length_of_a_linear_generator() -> None:
    """|A (w2 - w1)|^2 for w ~ N(0, 1), on average 2 tr(A A^T), wherever on the path."""
    network = Linear()
    expected = 2 * float(network.matrix.detach().square().sum())
    for sampling in ("end", "full"):
        # A step that single precision resolves: the path is straight, so any will do.
        settings = PathSettings(sampling=sampling, epsilon=0.25)
        lengths = lengths_of(network, settings, 4000, batch=500)
        estimate = mean_length(lengths, reject=0)
        assert estimate.low < expected < estimate.high
        assert estimate.value == pytest.approx(expected, rel=0.06)


def test_path_length_in_z_follows_the_arc() -> None:
    """The identity on unit z: the step is the angle, so that d / e^2 is the angle's square."""

    class Identity(Linear):
        def synthesis(self, ws: Tensor, **_: Any) -> Tensor:
            return ws[:, :1, :, None]

    settings = PathSettings(space="z", sampling="full", epsilon=1e-2)
    lengths = lengths_of(Identity(), settings, 2000, batch=500)
    # Angles between random directions in four dimensions: density 2/pi sin^2.
    angle = torch.linspace(0, math.pi, 10_001).double()
    expected = float((2 / math.pi * angle.sin().square() * angle.square()).mean() * math.pi)
    assert float(lengths.mean()) == pytest.approx(expected, rel=0.05)


def test_slerp_keeps_the_length_and_reaches_both_ends() -> None:
    a = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    b = a.flip(0)  # the middle one goes to itself
    for share in (0.0, 0.3, 1.0):
        point = slerp(a, b, torch.full((3, 1), share))
        torch.testing.assert_close(point.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(slerp(a, b, torch.zeros(3, 1)), a / a.norm(dim=1, keepdim=True))
    torch.testing.assert_close(slerp(a, b, torch.ones(3, 1)), b / b.norm(dim=1, keepdim=True))


def test_the_extremes_are_left_out_of_the_mean() -> None:
    lengths = torch.cat([torch.full((98,), 2.0), torch.tensor([-1e6, 1e6])]).double()
    assert mean_length(lengths, reject=0.01).value == 2.0
    assert mean_length(lengths, reject=0).value == pytest.approx(1.96)


def waves(size: int, cutoff: float, angle: float = 0.0, shift: tuple[float, float] = (0, 0)) -> Any:
    """A sum of waves of at most `cutoff` cycles a pixel, moved in closed form; 1 x size x size."""
    draws = torch.Generator().manual_seed(0)
    frequencies = (torch.rand(64, 2, generator=draws).double() * 2 - 1) * cutoff
    phases = torch.rand(64, generator=draws).double() * 2 * math.pi
    line = torch.arange(size).double() - (size - 1) / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    motions = Motions(torch.tensor([angle]).double(), torch.tensor([shift]).double())
    matrix, offset = motions.inverse()
    points = torch.stack([x, y], dim=2) @ matrix[0].T + offset[0]
    return torch.sin(2 * math.pi * points @ frequencies.T + phases).mean(dim=2).float()[None] * 2


@pytest.mark.parametrize(
    ("angle", "shift", "least_db"),
    [
        (0.0, (5, -7), 120),
        (0.0, (3.3, -5.6), 60),
        (0.6, (0, 0), 55),
        (2.5, (0, 0), 55),
        (math.pi / 2, (0, 0), 110),
    ],
)
def test_moved_waves_are_seen_to_be_moved(
    angle: float, shift: tuple[float, float], least_db: float
) -> None:
    """The measure's own error is far below what any network shows, and a wrong sign is not."""
    still, moved = waves(64, 0.3), waves(64, 0.3, angle, shift)
    total, count = error_of_pair(still, moved, angle, shift)
    assert 10 * math.log10(4 / max(total / count, 1e-14)) > least_db
    wrong = waves(64, 0.3, -angle, (-shift[0], -shift[1]))
    total, count = error_of_pair(still, wrong, angle, shift)
    assert 10 * math.log10(4 / (total / count)) < 30


def generator(kind: str, size: int = 32) -> Generator:
    torch.manual_seed(5)
    settings: dict[str, Any] = {
        "z_dim": 16, "c_dim": 0, "w_dim": 16, "img_resolution": size, "img_channels": 3,
        "channel_base": 512, "channel_max": 16,
    }  # fmt: skip
    if kind == "stylegan2":
        return stylegan2.Generator(**settings).eval()
    if kind == "stylegan3-r":
        settings |= {"channel_base": 1024, "channel_max": 32, "conv_kernel": 1,
                     "use_radial_filters": True}  # fmt: skip
    network = stylegan3.Generator(**settings).eval()
    # As training sets it: each layer's input magnitude is divided out.
    for module in network.modules():
        if isinstance(module, stylegan3.SynthesisLayer):
            module.magnitude_ema_beta = 0.0
    with torch.no_grad():
        network(torch.randn(8, 16), None, update_emas=True)
    return network


def figures(kind: str) -> dict[str, float]:
    sampler = Sampler(generator(kind), batch=3)
    parts = [part for _, part in equivariance.squared_errors(sampler, KINDS, 6)]
    return {name: decibels(torch.cat([errors[name] for errors in parts])).value for name in KINDS}


def test_equivariance_tells_the_architectures_apart() -> None:
    """Karras 2021: T shifts, R also turns, StyleGAN2 does neither; at random weights already."""
    sg2, sg3t, sg3r = (figures(kind) for kind in ("stylegan2", "stylegan3-t", "stylegan3-r"))
    for kind in ("eq_t", "eq_t_frac"):
        assert sg3t[kind] >= 50
        assert sg3r[kind] >= 50
        assert sg2[kind] < 25
    assert sg3r["eq_r"] >= 45
    assert sg3t["eq_r"] < 35
    assert sg2["eq_r"] < 25
    assert sg3r["eq_r"] > sg3t["eq_r"] + 20


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3-t"])
def test_the_input_is_as_before_afterwards(kind: str) -> None:
    network = generator(kind)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    motions = Motions.draw("eq_t", 2, (32, 32), torch.Generator().manual_seed(0))
    with pytest.raises(ZeroDivisionError), moved_input(network, motions):
        raise ZeroDivisionError
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert len(list(network.parameters())) == len(dict(network.named_parameters()))


def test_samples_depend_on_their_number_alone() -> None:
    sampler = Sampler(generator("stylegan2"), seed=3, batch=4)
    whole = torch.cat([images for _, images in sampler.batches(10)])
    assert whole.shape == (10, 3, 32, 32)
    assert whole.dtype == torch.uint8
    shares: dict[int, Tensor] = {}
    for rank in range(2):
        shares |= dict(sampler.batches(10, world=World(Ranks(rank, 2, rank, 2))))
    assert sorted(shares) == [0, 4, 8]
    assert torch.equal(torch.cat([shares[first] for first in sorted(shares)]), whole)
    assert torch.equal(torch.cat([images for _, images in sampler.batches(10, first=8)]), whole[8:])
    other = Sampler(generator("stylegan2"), seed=4, batch=4)
    assert not torch.equal(next(iter(other.batches(10)))[1], whole[:4])

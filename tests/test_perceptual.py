"""Perceptual distances: equal to LPIPS written out in numpy and to our own recorded values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch import Tensor, nn

from pipeline import weights
from pipeline.errors import ConfigError, ModelError
from pipeline.metrics import perceptual

# Regenerate (after looking at why the values moved): python -m tests.test_perceptual
RECORDED = Path(__file__).parent / "golden" / "lpips.json"


def load(name: str, smallest_px: int = 0, largest_px: int = 0) -> perceptual.PerceptualDistance:
    if weights.find(name) is None:
        pytest.skip(f"{name} is not in the cache: python -m scripts.fetch_weights")
    return perceptual.load(name, smallest_px=smallest_px, largest_px=largest_px)


def picture(kind: str, size: int = 96) -> Tensor:
    """A synthetic drawing, 1 x 3 x size x size in [-1, 1]: flat colour with a few edges."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    face = ((x**2 + y**2) < 0.6).float()
    eyes = (((x.abs() - 0.3) ** 2 * 4 + y**2) < 0.03).float()
    image = torch.stack([0.9 * face - 0.4, 0.7 * face - 0.5, 0.2 - 0.3 * face]) - 0.8 * eyes * face
    if kind == "shifted":
        image = image.roll(4, dims=2)
    if kind == "blurred":
        image = nn.functional.avg_pool2d(image[None], 5, 1, 2, count_include_pad=False)[0]
    if kind == "noisy":
        image = image + 0.2 * torch.randn(image.shape, generator=torch.Generator().manual_seed(4))
    if kind == "recoloured":
        image = image.flip(0)
    return image[None].clamp(-1, 1)


VARIANTS = ("shifted", "blurred", "noisy", "recoloured")


def distance(metric: perceptual.PerceptualDistance, a: Tensor, b: Tensor) -> Tensor:
    return metric.distance(metric.features(a), metric.features(b))


@pytest.mark.parametrize("name", ["lpips-alex"])
def test_bfloat16_measures_the_same_to_a_few_percent_and_gives_gradients(name: str) -> None:
    full = load(name)
    mixed = perceptual.load(name, smallest_px=0, mixed=True)
    for kind in VARIANTS:
        a, b = picture("face"), picture(kind).requires_grad_(True)
        measured, exact = distance(mixed, a, b), distance(full, a, b)
        assert measured.dtype == torch.float32
        assert measured.item() == pytest.approx(exact.item(), rel=0.05)
        (rough,), (fine,) = (torch.autograd.grad(value.sum(), b) for value in (measured, exact))
        assert float((rough * fine).sum() / (rough.norm() * fine.norm())) > 0.95


def numpy_lpips_alex(a: np.ndarray, b: np.ndarray, tensors: dict[str, np.ndarray]) -> float:
    """LPIPS from its formula in float64 numpy; CHW images in [-1, 1]."""

    def windows(x: np.ndarray, size: int, stride: int) -> np.ndarray:
        view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
        return view[:, ::stride, ::stride]

    def conv(x: np.ndarray, i: int, stride: int, pad: int) -> np.ndarray:
        kernel = tensors[f"conv{i}.weight"].astype(np.float64)
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        y = np.einsum(
            "chwij,ocij->ohw", windows(x, kernel.shape[-1], stride), kernel, optimize=True
        )
        return np.maximum(y + tensors[f"conv{i}.bias"][:, None, None], 0)

    def taps(image: np.ndarray) -> list[np.ndarray]:
        x = (image - np.array([-0.03, -0.088, -0.188])[:, None, None]) / np.array(
            [0.458, 0.448, 0.45]
        )[:, None, None]
        out = [conv(x, 0, 4, 2)]
        out.append(conv(windows(out[-1], 3, 2).max(axis=(3, 4)), 1, 1, 2))
        out.append(conv(windows(out[-1], 3, 2).max(axis=(3, 4)), 2, 1, 1))
        out.append(conv(out[-1], 3, 1, 1))
        out.append(conv(out[-1], 4, 1, 1))
        return [tap / (np.sqrt((tap**2).sum(axis=0, keepdims=True)) + 1e-10) for tap in out]

    total = 0.0
    for layer, (fa, fb) in enumerate(zip(taps(a), taps(b), strict=True)):
        head = tensors[f"head{layer}.weight"].astype(np.float64)[:, None, None]
        total += float((head * (fa - fb) ** 2).sum(axis=0).mean())
    return total


@pytest.mark.parametrize("kind", VARIANTS)
def test_alexnet_lpips_equals_the_formula(kind: str) -> None:
    metric = load("lpips-alex")
    path = weights.find("lpips-alex")
    assert path is not None
    a, b = picture("plain"), picture(kind)
    expected = numpy_lpips_alex(a[0].numpy(), b[0].numpy(), load_file(path))
    assert distance(metric, a, b).item() == pytest.approx(expected, rel=1e-4)


def measured(name: str) -> dict[str, float]:
    metric = load(name)
    return {kind: distance(metric, picture("plain"), picture(kind)).item() for kind in VARIANTS}


@pytest.mark.parametrize("name", ["lpips-alex", "lpips-vgg"])
def test_recorded_values(name: str) -> None:
    assert measured(name) == pytest.approx(json.loads(RECORDED.read_text())[name], rel=1e-3)


@pytest.mark.parametrize("name", ["lpips-alex", "lpips-vgg"])
def test_a_distance_is_zero_for_equal_symmetric_and_grows_with_the_change(name: str) -> None:
    metric = load(name)
    a, b = picture("plain"), picture("noisy")
    halfway = (a + b) / 2
    assert distance(metric, a, a).item() == 0
    assert distance(metric, a, b).item() == pytest.approx(distance(metric, b, a).item())
    assert 0 < distance(metric, a, halfway).item() < distance(metric, a, b).item()


def test_a_batch_is_its_images_one_by_one() -> None:
    metric = load("lpips-alex")
    a = torch.cat([picture("plain"), picture("noisy")])
    b = torch.cat([picture("blurred"), picture("shifted")])
    together = distance(metric, a, b)
    alone = torch.cat([distance(metric, a[i : i + 1], b[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["lpips-alex", "lpips-vgg"])
def test_the_gradient_on_flat_paper_is_finite(name: str) -> None:
    metric = load(name)
    image = torch.zeros(1, 3, 64, 64, requires_grad=True)
    distance(metric, image, picture("plain", 64)).sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert image.grad.abs().max() > 0


def test_small_images_are_enlarged_and_large_ones_reduced_only_where_asked() -> None:
    small, large = picture("plain", 64), picture("plain", 192)
    plain, bounded = load("lpips-alex"), load("lpips-alex", smallest_px=128, largest_px=160)
    assert plain.features(small)[0].shape[2:] == (15, 15)
    assert bounded.features(small)[0].shape == plain.features(picture("plain", 128))[0].shape
    assert bounded.features(large)[0].shape == plain.features(picture("plain", 160))[0].shape
    tall = torch.zeros(1, 3, 64, 32)
    assert bounded.features(tall)[0].shape == plain.features(torch.zeros(1, 3, 256, 128))[0].shape


def test_grey_images_are_read_as_rgb() -> None:
    metric = load("lpips-alex")
    grey = picture("plain")[:, :1]
    for a, b in zip(
        metric.features(grey), metric.features(grey.expand(-1, 3, -1, -1)), strict=True
    ):
        torch.testing.assert_close(a, b)


class Blocks(nn.Module):
    """The shape of a discriminator: blocks named by resolution, the last one its epilogue."""

    c_dim = 2

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.b16 = nn.Conv2d(3, 8, 3, 2, 1)
        self.b8 = nn.Conv2d(8, 8, 3, 2, 1)
        self.b4 = nn.Linear(8 * 16, 1)

    def forward(self, images: Tensor, c: Tensor) -> Tensor:
        assert c.shape == (images.shape[0], 2)
        return self.b4(self.b8(self.b16(images).relu()).relu().flatten(1))


@given(amount=st.floats(0.05, 0.5), seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_the_discriminators_distance_is_a_distance(amount: float, seed: int) -> None:
    metric = perceptual.load("discriminator", discriminator=Blocks())
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1
    b = a + amount * torch.randn(a.shape, generator=generator)
    features = metric.features(a)
    assert [f.shape[1:] for f in features] == [(8, 8, 8), (8, 4, 4)]
    assert metric.distance(features, features).tolist() == [0, 0]
    assert (distance(metric, a, b) > 0).all()
    torch.testing.assert_close(distance(metric, a, b), distance(metric, b, a))


def test_the_discriminators_distance_has_a_gradient_and_leaves_no_hooks() -> None:
    network = Blocks()
    metric = perceptual.DiscriminatorDistance(network)
    image = torch.zeros(1, 3, 16, 16, requires_grad=True)
    distance(metric, image, torch.ones(1, 3, 16, 16)).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.b16._forward_hooks


def test_missing_weights_and_names_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANIMEDRAG_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"lpips-vgg are not on this machine; run"):
        perceptual.load("lpips-vgg")
    with pytest.raises(ConfigError, match="nearest valid value is lpips-alex"):
        perceptual.load("lpips-alexnet")
    with pytest.raises(ModelError, match="needs a model"):
        perceptual.load("discriminator")
    with pytest.raises(ModelError, match="no blocks"):
        perceptual.load("discriminator", discriminator=nn.Linear(2, 2))


if __name__ == "__main__":
    RECORDED.write_text(
        json.dumps({name: measured(name) for name in ("lpips-alex", "lpips-vgg")}, indent=1) + "\n"
    )

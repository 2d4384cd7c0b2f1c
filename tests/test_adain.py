"""AdaIN, the network option for comparison with demodulation: the formula, training, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import ConfigError, ModelError
from pipeline.models import checkpoint
from pipeline.models.config import NetworkConfig
from pipeline.models.nvidia_records import describe
from pipeline.models.stylegan2 import AdaINLayer, Generator, adain
from pipeline.train import stage
from tests.train_tiny import make_config, make_dataset


def tiny(**options: object) -> Generator:
    torch.manual_seed(0)
    return Generator(8, 0, 8, 16, 3, channel_base=128, channel_max=8, modulation="adain", **options)


def test_maps_get_the_styles_mean_and_deviation() -> None:
    """AdaIN(x, y) has mean y_b and deviation |y_s|, whatever x was."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9, 7) * 40 - 11
    scale, shift = torch.randn(2, 3), torch.randn(2, 3)
    y = adain(x, scale, shift)
    assert torch.allclose(y.mean(dim=(2, 3)), shift, atol=1e-5)
    assert torch.allclose(y.std(dim=(2, 3), correction=0), scale.abs(), atol=1e-5)
    by_torch = torch.nn.functional.instance_norm(x, eps=0)
    expected = by_torch * scale[:, :, None, None] + shift[:, :, None, None]
    assert torch.allclose(y, expected, atol=1e-5)


def test_a_flat_map_becomes_its_shift() -> None:
    shift = torch.tensor([[0.5, -2.0]])
    y = adain(torch.full((1, 2, 4, 4), 3.0), torch.ones(1, 2), shift)
    assert torch.equal(y[0, :, 0, 0], shift[0])


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_every_layer_but_the_image_is_normalised(architecture: str) -> None:
    generator = tiny(architecture=architecture)
    layers = [m for m in generator.modules() if isinstance(m, AdaINLayer)]
    assert len(layers) == 5  # b4: one, b8 and b16: two each
    seen = []
    for layer in layers:
        layer.register_forward_hook(lambda _m, _i, y: seen.append(y))
    image = generator(torch.randn(3, 8), noise_mode="const")
    assert image.shape == (3, 3, 16, 16)
    for y in seen:  # the affine layers begin at y_s = 1, y_b = 0, plus what w says
        assert y.mean(dim=(2, 3)).abs().max() < 4


def test_trains_and_is_read_back(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "dataset")
    config = make_config(kimg=0.08, network={"modulation": "adain"})
    before = stage.run(config, {"dataset": dataset}, tmp_path / "out")
    assert before["images_seen"] == 80
    described = json.loads((tmp_path / "out" / "architecture.json").read_text())
    assert described["networks"]["G"]["arguments"]["modulation"] == "adain"
    averaged = checkpoint.load(tmp_path / "out")["G_ema"]
    saved = load_file(tmp_path / "out" / "G_ema.safetensors")
    # Two numbers a map.
    assert saved["synthesis.b16.conv1.affine.weight"].shape == (16, 8)
    assert torch.isfinite(averaged(torch.randn(2, 8))).all()
    first = saved["synthesis.b16.conv1.affine.bias"]
    # The style's bias has moved away from (1, 0).
    assert not torch.equal(first, torch.cat([torch.ones(8), torch.zeros(8)]))


def test_has_no_official_pickle() -> None:
    with pytest.raises(ModelError, match=r"AdaIN .* --format safetensors"):
        describe(tiny())


def test_is_refused_where_it_means_nothing() -> None:
    with pytest.raises(ConfigError, match=r"network\.modulation=adain is StyleGAN2's"):
        NetworkConfig(architecture="stylegan3-t", modulation="adain")
    with pytest.raises(ConfigError, match=r"network\.modulation=adian .* adain"):
        NetworkConfig(architecture="stylegan2", modulation="adian")

"""A model that grew draws what it drew before, only larger, and trains on at its new size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.models import checkpoint, stylegan2
from pipeline.models.build import build
from pipeline.models.config import NetworkConfig
from pipeline.train.grow import grown_average, grown_discriminator, grown_generator
from pipeline.train.stage import run
from tests.train_tiny import NETWORK, SIZE, make_config, make_dataset
from torch_utils.ops.upfirdn2d import upsample2d


def networks(**changes) -> tuple[stylegan2.Generator, stylegan2.Discriminator]:
    torch.manual_seed(0)
    generator, discriminator = build(NetworkConfig(**{**NETWORK, **changes}), SIZE, 3, 0)
    assert isinstance(generator, stylegan2.Generator)
    return generator.eval(), discriminator.eval()


@pytest.mark.parametrize("times", [2, 4])
def test_a_grown_generator_draws_the_old_pictures_enlarged(times):
    generator, _ = networks()
    larger = grown_generator(generator, SIZE * times)
    z = torch.randn(3, generator.z_dim)
    with torch.no_grad():
        expected = generator(z, None, noise_mode="none")
        for _ in range(times // 2):
            expected = upsample2d(expected, generator.synthesis.blocks[0].resample_filter)
        torch.testing.assert_close(larger(z, None, noise_mode="none"), expected)


def test_the_average_gets_the_same_new_blocks_and_keeps_its_own():
    generator, _ = networks()
    averaged, _ = networks()
    with torch.no_grad():
        for parameter in averaged.parameters():
            parameter.mul_(1.5)
    larger = grown_generator(generator, 2 * SIZE)
    average = grown_average(averaged, larger).state_dict()
    for name, value in larger.state_dict().items():
        old = averaged.state_dict().get(name)
        assert torch.equal(average[name], value if old is None else old), name


def test_a_grown_discriminator_keeps_what_it_knows_of_smaller_maps():
    _, discriminator = networks()
    grown = grown_discriminator(discriminator, 2 * SIZE)
    kept = [name for name in discriminator.state_dict() if "fromrgb" not in name]
    assert len(kept) > 5
    for name in kept:
        assert torch.equal(grown.state_dict()[name], discriminator.state_dict()[name]), name
    assert grown(torch.zeros(4, 3, 2 * SIZE, 2 * SIZE), None).shape == (4, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"g_architecture": "resnet"}, "g_architecture=skip"), ({"g_architecture": "orig"}, "skip")],
)
def test_what_cannot_grow_is_refused(changes, message):
    generator, _ = networks(**changes)
    with pytest.raises(ConfigError, match=message):
        grown_generator(generator, 2 * SIZE)


def test_a_training_grows_a_model_and_goes_on(tmp_path: Path, capsys):
    small, large = make_dataset(tmp_path / "small"), make_dataset(tmp_path / "large", enlarged=2)
    short = {"kimg": 0.016, "log_kimg": 0.016, "snapshot_kimg": 0.016}
    run(make_config(**short), {"dataset": small}, tmp_path / "base")
    config = make_config(**short, resume_from="model/base", grow=True)
    metrics = run(config, {"dataset": large, "resume_from": tmp_path / "base"}, tmp_path / "grown")
    assert metrics["resolution"] == 2 * SIZE
    grown = checkpoint.load(tmp_path / "grown", ["G", "D", "G_ema"])
    assert all(network.img_resolution == 2 * SIZE for network in grown.values())
    # The image layer that began at zero learns.
    assert grown["G"].get_submodule(f"synthesis.b{2 * SIZE}.torgb").weight.abs().sum() > 0


def test_growing_to_the_same_size_is_refused(tmp_path: Path):
    dataset = make_dataset(tmp_path / "data")
    short = {"kimg": 0.008, "log_kimg": 0.008, "snapshot_kimg": 0.008}
    run(make_config(**short), {"dataset": dataset}, tmp_path / "base")
    config = make_config(**short, resume_from="model/base", grow=True)
    with pytest.raises(ConfigError, match=r"train\.grow=true, but model/base already makes"):
        run(config, {"dataset": dataset, "resume_from": tmp_path / "base"}, tmp_path / "out")

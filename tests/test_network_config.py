"""Network settings: every file under conf/network composes, and impossible values are named."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError

from pipeline.errors import ConfigError, ModelError
from pipeline.models import stylegan2, stylegan3
from pipeline.models.build import build
from pipeline.models.checkpoint import WithoutWeights
from pipeline.models.config import NetworkConfig

NAMES = (
    "stylegan2",
    "stylegan2-tiny",
    "stylegan2-starter",
    "stylegan3-t",
    "stylegan3-r",
    "stylegan3-t-tiny",
)


def read(root: Path, name: str) -> NetworkConfig:
    schema = OmegaConf.structured(NetworkConfig)
    merged = OmegaConf.merge(schema, OmegaConf.load(root / f"conf/network/{name}.yaml"))
    config = OmegaConf.to_object(merged)
    assert isinstance(config, NetworkConfig)
    return config


def test_files_set_and_explain_every_key(root: Path) -> None:
    assert {path.stem for path in (root / "conf/network").glob("*.yaml")} == set(NAMES)
    keys = set(NetworkConfig.__dataclass_fields__)
    for name in NAMES:
        lines = (root / f"conf/network/{name}.yaml").read_text().splitlines()
        set_here = {line.split(":")[0] for line in lines if line and not line.startswith("#")}
        assert set_here == keys, name
        for before, line in pairwise(lines):
            if line and not line.startswith("#"):
                assert before.startswith("#"), (name, line)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("stylegan2", 30276583), ("stylegan3-t", 24873519), ("stylegan3-r", 16665594)],
)
def test_published_sizes(root: Path, name: str, parameters: int) -> None:
    with WithoutWeights():
        generator, discriminator = build(read(root, name), 512, 3, 0)
    assert sum(p.numel() for p in generator.parameters()) == parameters
    assert sum(p.numel() for p in discriminator.parameters()) == 28982849


@pytest.mark.parametrize("name", ["stylegan2-tiny", "stylegan3-t-tiny"])
def test_tiny_networks_run_and_train(root: Path, name: str) -> None:
    torch.manual_seed(0)
    generator, discriminator = build(read(root, name), 64, 3, 2)
    z, c = torch.randn([4, generator.z_dim]), torch.eye(2)[[0, 1, 0, 1]]
    logits = discriminator(generator(z, c), c)
    assert logits.shape == (4, 1)
    logits.sum().backward()
    assert all(p.grad is not None for p in generator.parameters())
    assert sum(p.numel() for p in generator.parameters()) < 1_000_000


def test_settings_reach_the_networks() -> None:
    config = NetworkConfig(
        architecture="stylegan3-r", channel_base=256, channel_max=8, z_dim=5, w_dim=6,
        mapping_layers=3, conv_clamp=7, synthesis_layers=5, margin_size=3, d_architecture="skip",
        d_channel_base=512, d_channel_max=12, mbstd_group=2, mbstd_channels=0,
    )  # fmt: skip
    g, d = build(config, 32, 1, 4)
    assert isinstance(g, stylegan3.Generator)
    assert (g.z_dim, g.w_dim, g.c_dim, g.num_ws, g.img_channels) == (5, 6, 4, 7, 1)
    assert g.mapping.num_layers == 3
    frame = g.synthesis.feature_frame(0)
    assert (frame.channels, frame.offset) == (8, 3.0)
    layer = g.synthesis.get_submodule(frame.name)
    assert (layer.conv_clamp, layer.weight.shape[2]) == (7, 1)
    assert (d.cmap_dim, d.img_channels, d.b4.mbstd) == (12, 1, None)

    config = NetworkConfig(architecture="stylegan2", g_architecture="resnet", use_noise=False)
    with WithoutWeights():
        g2, d2 = build(config, 64, 3, 0, square=False)
    assert isinstance(g2, stylegan2.Generator)
    assert g2.synthesis.img_size == d2.img_size == (64, 32)
    assert not any("noise" in key for key in g2.state_dict())
    assert "synthesis.b8.skip.weight" in g2.state_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "stylegan3"}, "nearest valid value is stylegan3-"),
        ({"g_architecture": "skipp"}, "nearest valid value is skip"),
        ({"d_architecture": "res"}, "resnet"),
        ({"w_dim": 0}, "network.w_dim=0"),
        ({"conv_clamp": 0}, "network.conv_clamp=0"),
        ({"conv_clamp": float("nan")}, "network.conv_clamp=nan"),
        ({"filter_size": 1}, "network.filter_size=1"),
        ({"mapping_layers": 99}, "network.mapping_layers=99"),
    ],
)
def test_impossible_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetworkConfig(**changes)


def test_impossible_combinations_are_named() -> None:
    with pytest.raises(ConfigError, match=r"channel_base=64 .* use at least 512"):
        build(NetworkConfig(channel_base=64), 128, 3, 0)
    with pytest.raises(ConfigError, match="square"):
        build(NetworkConfig(architecture="stylegan3-t"), 64, 3, 0, square=False)
    with pytest.raises(ModelError, match="img_resolution=96"):
        build(NetworkConfig(), 96, 3, 0)
    with pytest.raises(ConfigKeyError):
        OmegaConf.merge(OmegaConf.structured(NetworkConfig), {"chanel_base": 3})

"""StyleGAN2: equal to the original's networks, and what ours adds to them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import AnimedragError, ModelError
from pipeline.models.checkpoint import WithoutWeights
from pipeline.models.layers import FullyConnectedLayer
from pipeline.models.stylegan2 import Discriminator, Generator, MinibatchStdLayer
from tests.reference import check_case, check_probes, close, load_state, tensor, watch

GENERATORS = ["sg2_g_32_u", "sg2_g_32_c", "sg2_g_32_orig", "sg2_g_64_u", "sg2_g_64_c"]
DISCRIMINATORS = [
    "sg2_d_32_u", "sg2_d_32_c", "sg2_d_32_orig", "sg2_d_32_freeze", "sg2_d_64_u", "sg2_d_64_c",
]  # fmt: skip


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_equals_the_original(golden: Callable, name: str) -> None:
    arrays, text = golden(f"nets/{name}")
    net = Generator(**text["init_kwargs"]).eval().requires_grad_(False)
    load_state(net, arrays)
    assert net.num_ws == text["num_ws"]
    z, c = tensor(arrays["z"]), tensor(arrays["c"])

    ws = net.mapping(z, c)
    close("ws", ws, arrays["ws_psi1"])
    close("psi", net.mapping(z, c, truncation_psi=0.7), arrays["ws_psi07"])
    cut = net.mapping(z, c, truncation_psi=0.7, truncation_cutoff=3)
    close("cutoff", cut, arrays["ws_psi07_cut3"])

    # Probes first, on a copy whose layers are watched.
    watched = copy.deepcopy(net)
    found = watch(watched.synthesis, text["layer_order"])
    ws = ws.requires_grad_()
    img = watched.synthesis(ws, noise_mode="const", force_fp32=True)
    close("img_const", img, arrays["img_const"])
    # The layer called torgb gives its own part; all others their output.
    check_probes(arrays, found)
    assert list(found) == text["layer_order"]

    (d_ws,) = torch.autograd.grad((img * tensor(arrays["dy"])).sum(), ws)
    close("d_ws", d_ws, arrays["d_ws"])

    def synthesise(name: str, **kwargs: Any) -> torch.Tensor:
        return net.synthesis(tensor(arrays[name]), **{"noise_mode": "const", **kwargs})

    close("psi07", synthesise("ws_psi07"), arrays["img_const_psi07"])
    close("w+", synthesise("ws_plus"), arrays["img_wplus"])
    close("none", synthesise("ws_psi1", noise_mode="none"), arrays["img_none"])
    for fused in (True, False):
        img = synthesise("ws_psi1", fused_modconv=fused)
        close("fused or not", img, arrays["img_const_unfused"])
    img = net(z, c, truncation_psi=0.7, noise_mode="const")
    close("forward", img, arrays["img_forward_psi07"])

    seed = text["seed"] + 3
    torch.manual_seed(seed)
    close("random", synthesise("ws_psi1", noise_mode="random"), arrays["img_random_noise"])
    source = torch.Generator().manual_seed(seed)
    img = synthesise("ws_psi1", noise_mode="random", generator=source)
    close("own source of noise", img, arrays["img_random_noise"])

    net.mapping(z, c, update_emas=True)
    close("w_avg", net.mapping.w_avg, arrays["ema/mapping.w_avg"])


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminator_equals_the_original(golden: Callable, name: str) -> None:
    arrays, text = golden(f"nets/{name}")
    net = Discriminator(**text["init_kwargs"])
    load_state(net, arrays)
    assert [k for k, _ in net.named_parameters()] == text["parameters"]
    assert {k for k, _ in net.named_buffers()} == set(text["buffers"])
    found = watch(net, net.layer_names)
    img, c = tensor(arrays["img"]).requires_grad_(), tensor(arrays["c"])
    logits = net(img, c)
    close("logits", logits, arrays["logits"])
    check_probes(arrays, found)
    (d_img,) = torch.autograd.grad(logits.sum(), img)
    close("d_img", d_img, arrays["d_img"])
    close("two images", net(img[:2], c[:2]), arrays["logits_n2"])
    for ours, theirs in zip(net.features(img), found.values(), strict=True):
        assert ours.shape == theirs.shape


def test_layers_equal_the_original(golden: Callable) -> None:
    arrays, text = golden("ops/misc")
    for name, case in text["cases"].items():
        if name.startswith("mbstd"):
            layer = MinibatchStdLayer(case["group_size"], case["num_channels"])
            check_case(arrays, name, case, layer)
        elif name.startswith("fc"):
            keys = ("activation", "lr_multiplier", "bias_init", "weight_init")
            fc = FullyConnectedLayer(
                case["in_features"],
                case["out_features"],
                **{k: case[k] for k in keys if k in case},
            )
            fc.load_state_dict({k: tensor(arrays[f"{name}/{k}"]) for k in ("weight", "bias")})
            x, dy = tensor(arrays[f"{name}/x"]).requires_grad_(), tensor(arrays[f"{name}/dy"])
            y = fc(x)
            close(name, y, arrays[f"{name}/y"])
            gradients = torch.autograd.grad((y * dy).sum(), [x, fc.weight, fc.bias])
            for key, gradient in zip(("x", "weight", "bias"), gradients, strict=True):
                if f"{name}/d_{key}" in arrays:
                    close(f"{name} d_{key}", gradient, arrays[f"{name}/d_{key}"])


SMALL: dict[str, Any] = {
    "z_dim": 16, "c_dim": 0, "w_dim": 16, "img_resolution": 32, "img_channels": 3,
    "channel_base": 256, "channel_max": 16, "mapping_kwargs": {"num_layers": 2},
}  # fmt: skip


def small(seed: int = 0, **changes: Any) -> Generator:
    """A small generator whose noise has a say."""
    torch.manual_seed(seed)
    net = Generator(**{**SMALL, **changes}).eval().requires_grad_(False)
    for name, parameter in net.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.1)
    return net


def small_ws(net: Generator, count: int = 2) -> torch.Tensor:
    return net.mapping(torch.randn([count, 16]), None)


def test_official_sizes(golden_dir: Path) -> None:
    table = json.loads((golden_dir / "nets/official_size_tables.json").read_text())["configs"]
    configs = {name: entry for name, entry in table.items() if name.startswith("sg2-")}
    assert len(configs) == 6
    for name, entry in configs.items():
        _, resolution, base = name.split("-")
        sizes = {"img_resolution": int(resolution), "img_channels": 3, "c_dim": 0}
        sizes["channel_base"] = int(base.removeprefix("cb"))
        with WithoutWeights():
            g = Generator(z_dim=512, w_dim=512, **sizes)
            d = Discriminator(**sizes)
        assert g.num_ws == entry["num_ws"]
        for net, key in ((g, "G"), (d, "D")):
            shapes = {k: list(v.shape) for k, v in net.state_dict().items()}
            assert shapes == entry[f"{key}_state"], name
            count = sum(p.numel() for p in net.parameters())
            assert count == entry[f"{key}_params"], name


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_every_architecture_trains_to_the_last_parameter(architecture: str) -> None:
    """Every parameter has a finite gradient, through G and D, and images have a sane scale."""
    torch.manual_seed(1)
    g = Generator(**SMALL, architecture=architecture)
    d = Discriminator(
        c_dim=0, img_resolution=32, img_channels=3, architecture=architecture, channel_base=256
    )
    img = g(torch.randn([4, 16]), None)
    assert img.shape == (4, 3, 32, 32)
    assert 0.1 < float(img.detach().std()) < 10
    d(img).sum().backward()
    for net in (g, d):
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_resnet_keeps_the_variance_of_its_features() -> None:
    net = small(architecture="resnet", channel_base=2048, channel_max=64)
    ws = small_ws(net, 4)
    for layer in net.synthesis.layer_names[1:]:
        moment = float(net.synthesis.features(ws, layer).square().mean())
        assert 0.2 < moment < 3, layer


def test_high_images() -> None:
    g = small(square=False)
    img = g(torch.randn([2, 16]), None)
    assert img.shape == (2, 3, 32, 16)
    d = Discriminator(c_dim=0, img_resolution=32, img_channels=3, channel_base=256, square=False)
    assert d(img).shape == (2, 1)
    frame = g.synthesis.feature_frame("b16")
    assert (frame.height, frame.width, frame.scale) == (16, 8, 0.5)


def test_noise_comes_from_the_given_source_only() -> None:
    net = small()
    ws = small_ws(net)

    def draw(seed: int) -> torch.Tensor:
        source = torch.Generator().manual_seed(seed)
        return net.synthesis(ws, noise_mode="random", generator=source)

    state = torch.get_rng_state()
    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    const = net.synthesis(ws, noise_mode="const")
    assert torch.equal(const, net.synthesis(ws, noise_mode="const"))
    assert not torch.equal(const, net.synthesis(ws, noise_mode="none"))
    with pytest.raises(AnimedragError, match="none"):
        net.synthesis(ws, noise_mode="nonne")


def test_features_are_those_of_the_whole_pass_and_no_later_layer_runs() -> None:
    net = small()
    ws = small_ws(net)
    reached = watch(net.synthesis, [f"{name}.conv1" for name in net.synthesis.layer_names])
    for index, name in enumerate(net.synthesis.layer_names):
        reached.clear()
        features = net.synthesis.features(ws, name)
        assert list(reached) == [f"{n}.conv1" for n in net.synthesis.layer_names[: index + 1]]
        assert torch.equal(features, net.synthesis.features(ws, index))
        frame = net.synthesis.feature_frame(name)
        assert features.shape[1:] == (frame.channels, frame.height, frame.width)
        # Rows beyond ws_rows may be absent; the last one within has a say.
        assert torch.equal(net.synthesis.features(ws[:, : frame.ws_rows], name), features)
        changed = ws.clone()
        changed[:, frame.ws_rows - 1] += 1
        assert not torch.equal(net.synthesis.features(changed, name), features)
    with pytest.raises(ModelError, match="b32"):
        net.synthesis.features(ws, "b64")
    with pytest.raises(ModelError, match="no layer 4"):
        net.synthesis.features(ws, 4)


@pytest.mark.parametrize("resolution", [32, 512])
def test_drag_layer_is_the_sixth_block_or_the_last(resolution: int) -> None:
    with WithoutWeights():
        net = Generator(**{**SMALL, "img_resolution": resolution, "channel_base": 4096})
    assert net.synthesis.drag_layer == {32: "b32", 512: "b128"}[resolution]


def test_feature_frame_points_to_where_the_features_act() -> None:
    """The features that a pixel depends on most lie around where the frame says."""
    net = small(channel_base=2048, channel_max=64, img_resolution=64)
    ws = small_ws(net, 8)
    for name in ("b16", "b32"):
        block = net.synthesis.get_submodule(name)
        frame = net.synthesis.feature_frame(name)
        leaves: list[torch.Tensor] = []
        run = block.features

        def tracked(*args: Any, run: Any = run, leaves: list = leaves) -> torch.Tensor:
            leaves.append(run(*args).requires_grad_())
            return leaves[-1]

        block.features = tracked
        img = net.synthesis(ws, noise_mode="none")
        block.features = run
        for row, column in ((32, 32), (21, 43)):
            (gradient,) = torch.autograd.grad(
                img[:, :, row, column].sum(), leaves[0], retain_graph=True
            )
            energy = gradient.square().sum(dim=[0, 1])
            energy = energy / energy.sum()
            x = float((energy.sum(0) * (torch.arange(frame.width) + 0.5)).sum())
            y = float((energy.sum(1) * (torch.arange(frame.height) + 0.5)).sum())
            expected = [(at + 0.5) * frame.scale + frame.offset for at in (column, row)]
            # Random weights are not symmetric: within a third of a feature pixel.
            assert [x, y] == pytest.approx(expected, abs=0.34), name


def test_frozen_layers_keep_still() -> None:
    torch.manual_seed(0)
    d = Discriminator(
        c_dim=0, img_resolution=16, img_channels=3, channel_base=256,
        block_kwargs={"freeze_layers": 2},
    )  # fmt: skip
    free = [name for name, _ in d.named_parameters()]
    assert "b16.fromrgb.weight" not in free
    assert "b16.conv0.bias" not in free
    assert "b16.conv1.weight" in free
    assert "b16.conv0.bias" in d.state_dict()


def test_mapping_normalises_and_truncates() -> None:
    net = small()
    z = torch.randn([3, 16])
    torch.testing.assert_close(net.mapping(z, None), net.mapping(z * 7, None))
    net.mapping.w_avg.copy_(torch.randn([16]))
    ws = net.mapping(z, None, truncation_psi=0)
    torch.testing.assert_close(ws, net.mapping.w_avg.expand_as(ws))
    cut = net.mapping(z, None, truncation_psi=0, truncation_cutoff=2)
    torch.testing.assert_close(cut[:, 2:], net.mapping(z, None)[:, 2:])
    torch.testing.assert_close(cut[:, :2], ws[:, :2])


def test_mean_w_follows_only_when_asked() -> None:
    net = small()
    net(torch.randn([4, 16]), None)
    assert float(net.mapping.w_avg.abs().max()) == 0
    z = torch.randn([4, 16])
    net(z, None, update_emas=True)
    torch.testing.assert_close(net.mapping.w_avg, net.mapping(z, None)[:, 0].mean(0) * 0.002)


@pytest.mark.parametrize("resolution", [0, 2, 48, 100])
def test_impossible_resolutions_are_named(resolution: int) -> None:
    with pytest.raises(ModelError, match=f"img_resolution={resolution}"):
        Generator(**{**SMALL, "img_resolution": resolution})
    with pytest.raises(ModelError, match="multiple"):
        MinibatchStdLayer(4)(torch.zeros([6, 4, 4, 4]))


def test_same_seed_same_weights() -> None:
    first, again, other = small(3), small(3), small(4)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert not torch.equal(first.synthesis.b4.const, other.synthesis.b4.const)

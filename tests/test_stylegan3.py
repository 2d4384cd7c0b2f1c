"""StyleGAN3: equal to the original's networks, and what ours adds to them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ModelError
from pipeline.models.checkpoint import WithoutWeights
from pipeline.models.filter_design import design_lowpass_filter
from pipeline.models.stylegan3 import Generator
from tests.reference import check_probes, close, load_state, tensor, watch

GENERATORS = ["sg3t_g_32_u", "sg3r_g_32_u", "sg3t_g_64_c"]


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_equals_the_original(golden: Callable, name: str) -> None:
    arrays, text = golden(f"nets/{name}")
    net = Generator(**text["init_kwargs"]).eval().requires_grad_(False)
    fresh = net.state_dict()
    for key, value in fresh.items():
        if key.endswith("_filter"):  # designed, not learned: must be right before loading
            close(key, value, arrays[f"state/{key}"])
    load_state(net, arrays)
    assert net.num_ws == text["num_ws"]
    assert ["input", *net.synthesis.layer_names] == text["layer_order"]
    z, c = tensor(arrays["z"]), tensor(arrays["c"])

    close("ws", net.mapping(z, c), arrays["ws_psi1"])
    close("psi", net.mapping(z, c, truncation_psi=0.7), arrays["ws_psi07"])
    cut = net.mapping(z, c, truncation_psi=0.7, truncation_cutoff=3)
    close("cutoff", cut, arrays["ws_psi07_cut3"])

    watched = copy.deepcopy(net)
    found = watch(watched.synthesis, text["layer_order"])
    ws = tensor(arrays["ws_psi1"]).requires_grad_()
    img = watched.synthesis(ws, force_fp32=True)
    close("img_const", img, arrays["img_const"])
    assert list(found) == text["layer_order"]
    check_probes(arrays, found)
    (d_ws,) = torch.autograd.grad((img * tensor(arrays["dy"])).sum(), ws)
    # A sample at the kink of a leaky ReLU takes one slope or the other by rounding, which differs
    # between processors (AVX-512's convolutions: 3e-4 of the scale, in plain torch too).
    error = (d_ws - tensor(arrays["d_ws"])).abs().max()
    assert error <= 1e-3 * tensor(arrays["d_ws"]).abs().max()

    close("psi07", net.synthesis(tensor(arrays["ws_psi07"])), arrays["img_const_psi07"])
    close("w+", net.synthesis(tensor(arrays["ws_plus"])), arrays["img_wplus"])
    for fused in (True, False):
        img = net.synthesis(ws.detach(), fused_modconv=fused)
        close("fused or not", img, arrays["img_const"])
    close("forward", net(z, c, truncation_psi=0.7), arrays["img_forward_psi07"])

    for kind in ("transform", "transform2"):
        moved = copy.deepcopy(net)
        moved.synthesis.input.transform.copy_(tensor(arrays[kind]))
        close(kind, moved.synthesis(ws.detach()), arrays[f"img_{kind}"])

    close("ema/img", net(z, c, update_emas=True), arrays["ema/img"])
    state = net.state_dict()
    for key in arrays:
        if key.startswith("ema/") and key != "ema/img":
            close(key, state[key[4:]], arrays[key])


@pytest.mark.parametrize("name", GENERATORS)
def test_layer_layout_equals_the_original(golden: Callable, name: str) -> None:
    _, text = golden(f"nets/{name}")
    check_layout(Generator(**text["init_kwargs"]), text["layers"])


def check_layout(net: Generator, expected: dict) -> None:
    first = net.synthesis.input
    assert expected["input"] == {
        "channels": first.channels,
        "size": [first.size, first.size],
        "sampling_rate": first.sampling_rate,
        "bandwidth": first.bandwidth,
    }
    names = net.synthesis.layer_names
    for index, entry in enumerate(expected["layers"]):
        assert names[index] == entry["name"]
        layer = net.synthesis.get_submodule(entry["name"])
        frame = net.synthesis.feature_frame(index)
        assert frame.scale * net.img_resolution == entry["out_sampling_rate"]
        assert [frame.width, frame.height] == entry["out_size"]
        assert list(layer.weight.shape[:2]) == [entry["out_channels"], entry["in_channels"]]
        assert layer.weight.shape[2] == entry["conv_kernel"]
        assert layer.up_factor == entry["up_factor"]
        assert layer.down_factor == entry["down_factor"]
        assert layer.padding == entry["padding"]
        assert layer.is_torgb == entry["is_torgb"]
        assert layer.use_fp16 == entry["use_fp16"]
        assert layer.conv_clamp == entry["conv_clamp"]
        assert layer.after.cutoff == pytest.approx(entry["out_cutoff"])
        assert layer.after.half_width == pytest.approx(entry["out_half_width"])
        taps = 1 if layer.up_filter is None else layer.up_filter.shape[0]
        assert taps == entry["up_taps"]
        shape = [1] if layer.down_filter is None else list(layer.down_filter.shape)
        assert shape == [entry["down_taps"]] * (2 if entry["down_radial"] else 1)


def test_filter_design_equals_the_original(golden: Callable) -> None:
    arrays, text = golden("ops/lowpass")
    for name, case in text["cases"].items():
        f = design_lowpass_filter(
            case["numtaps"], case["cutoff"], case["width"], case["fs"], case["radial"]
        )
        assert (f is None) == case["identity"]
        if f is not None:
            close(name, f, arrays[f"{name}/f"])


SMALL: dict[str, Any] = {
    "z_dim": 16, "c_dim": 0, "w_dim": 16, "img_resolution": 32, "img_channels": 3,
    "channel_base": 512, "channel_max": 16, "num_layers": 6,
}  # fmt: skip
ROTATION: dict[str, Any] = {"conv_kernel": 1, "use_radial_filters": True}


def small(**changes: Any) -> Generator:
    torch.manual_seed(0)
    return Generator(**{**SMALL, **changes}).eval().requires_grad_(False)


def small_ws(net: Generator, count: int = 2) -> torch.Tensor:
    return net.mapping(torch.randn([count, 16]), None)


def test_official_sizes(golden_dir: Path) -> None:
    table = json.loads((golden_dir / "nets/official_size_tables.json").read_text())["configs"]
    configs = {name: entry for name, entry in table.items() if name.startswith("sg3")}
    assert len(configs) == 8
    for name, entry in configs.items():
        kind, resolution = name.split("-")
        given: dict[str, Any] = {"img_resolution": int(resolution), "img_channels": 3, "c_dim": 0}
        if kind == "sg3r":
            given |= {"channel_base": 65536, "channel_max": 1024, **ROTATION}
        with WithoutWeights():
            net = Generator(z_dim=512, w_dim=512, **given)
        assert net.num_ws == entry["num_ws"]
        shapes = {k: list(v.shape) for k, v in net.state_dict().items()}
        assert shapes == entry["G_state"], name
        assert sum(p.numel() for p in net.parameters()) == entry["G_params"], name
        check_layout(net, entry)


def test_filters_of_the_official_sizes(golden_dir: Path) -> None:
    """The few distinct filters, on nets with few channels (filters do not depend on them)."""
    table = json.loads((golden_dir / "nets/official_size_tables.json").read_text())["configs"]
    for name, entry in table.items():
        if not name.startswith("sg3"):
            continue
        given: dict[str, Any] = ROTATION if name.startswith("sg3r") else {}
        resolution = int(name.split("-")[1])
        net = Generator(
            16, 0, 16, resolution, 3, channel_base=4 * resolution, channel_max=4, **given
        )
        # Layers by their number, because their names carry the number of channels.
        filters = {
            (key.split(".")[1].split("_")[0], key.split(".")[2]): value
            for key, value in net.state_dict().items()
            if key.endswith("_filter")
        }
        assert len(filters) == len(entry["filter_checks"])
        for key, check in entry["filter_checks"].items():
            f = filters[key.split(".")[1].split("_")[0], key.split(".")[2]]
            found = {
                "sum": float(f.double().sum()),
                "sumsq": float(f.double().square().sum()),
                "first": float(f.flatten()[0]),
            }
            assert found == pytest.approx(check, rel=1e-5, abs=1e-9), (name, key)


def test_features_are_those_of_the_whole_pass_and_no_later_layer_runs() -> None:
    net = small()
    ws = small_ws(net)
    reached = watch(net.synthesis, net.synthesis.layer_names)
    for index, name in enumerate(net.synthesis.layer_names):
        reached.clear()
        features = net.synthesis.features(ws, name)
        assert list(reached) == net.synthesis.layer_names[: index + 1]
        assert torch.equal(features, net.synthesis.features(ws, index))
        frame = net.synthesis.feature_frame(name)
        assert features.shape[1:] == (frame.channels, frame.height, frame.width)
        assert torch.equal(net.synthesis.features(ws[:, : frame.ws_rows], name), features)
        changed = ws.clone()
        changed[:, frame.ws_rows - 1] += 1
        assert not torch.equal(net.synthesis.features(changed, name), features)
    with pytest.raises(ModelError, match="L0_"):
        net.synthesis.features(ws, "L0")


def test_margin_of_the_published_size() -> None:
    """At 512 px, x on the dragged map resized to 512 is image position 1.3125 x - 80."""
    with WithoutWeights():
        net = Generator(512, 0, 512, 512, 3)
    frame = net.synthesis.feature_frame(net.synthesis.drag_layer)
    assert (frame.name, frame.width) == ("L5_84_512", 84)
    resized = torch.tensor([0.0, 100.0, 511.0])
    in_the_image = (resized * 84 / 512 - frame.offset) / frame.scale
    torch.testing.assert_close(in_the_image, 1.3125 * resized - 80)


@pytest.mark.parametrize("kind", [{}, ROTATION])
def test_feature_frame_points_to_where_the_features_act(kind: dict[str, Any]) -> None:
    """The features that a pixel depends on most lie around where the frame says."""
    net = small(img_resolution=64, channel_base=2048, channel_max=32, num_layers=8, **kind)
    ws = small_ws(net, 4)
    for index in (2, 4, 6, 7):
        name = net.synthesis.layer_names[index]
        frame = net.synthesis.feature_frame(name)
        leaves: list[torch.Tensor] = []

        def track(_: Any, __: Any, x: torch.Tensor, leaves: list = leaves) -> torch.Tensor:
            leaves.append(x.detach().requires_grad_())
            return leaves[-1]

        hook = net.synthesis.get_submodule(name).register_forward_hook(track)
        img = net.synthesis(ws)
        hook.remove()
        for row, column in ((32, 32), (21, 43)):
            (gradient,) = torch.autograd.grad(
                img[:, :, row, column].sum(), leaves[0], retain_graph=True
            )
            energy = gradient.square().sum(dim=[0, 1])
            energy = energy / energy.sum()
            line = torch.arange(frame.width) + 0.5
            found = [float((energy.sum(0) * line).sum()), float((energy.sum(1) * line).sum())]
            expected = [(at + 0.5) * frame.scale + frame.offset for at in (column, row)]
            # 3x3 kernels with random weights are not symmetric; 1x1 kernels are.
            assert found == pytest.approx(expected, abs=0.2 if kind else 0.6), name


@pytest.mark.parametrize("kind", [{}, ROTATION])
def test_features_move_with_the_input(kind: dict[str, Any]) -> None:
    """Shifting the input by whole feature pixels shifts every layer's inner features by as much."""
    net = small(**kind)
    ws = small_ws(net, 1)
    shift_px = 4
    moved = copy.deepcopy(net)
    # The transform maps output positions to input positions, in image sides.
    moved.synthesis.input.transform[0, 2] = -shift_px / 32
    for layer in (0, 2, 4):
        frame = net.synthesis.feature_frame(layer)
        step = round(shift_px * frame.scale)
        assert step == shift_px * frame.scale
        before, after = net.synthesis.features(ws, layer), moved.synthesis.features(ws, layer)
        expected = torch.roll(before, step, dims=3)
        inner = slice(9, -9)
        error = (after - expected)[..., inner, inner].square().mean().sqrt()
        contrast = (before - expected)[..., inner, inner].square().mean().sqrt()
        assert float(error) < 0.05 * float(contrast), frame.name


def test_rotation_variant_turns_with_its_input() -> None:
    """A quarter turn of the input turns the picture (exactly on the grid: no resampling)."""
    net = small(**ROTATION)
    ws = small_ws(net, 1)
    turned = copy.deepcopy(net)
    # Output position (x, y) shows what was at (y, -x).
    turned.synthesis.input.transform[:2, :2] = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    before, after = net.synthesis(ws), turned.synthesis(ws)
    expected = torch.rot90(before, -1, dims=[2, 3])
    error = (after - expected)[..., 6:-6, 6:-6].square().mean().sqrt()
    contrast = (before - expected)[..., 6:-6, 6:-6].square().mean().sqrt()
    assert float(error) < 0.05 * float(contrast)


def test_first_row_of_ws_moves_the_input_rigidly() -> None:
    """Whatever row 0 asks for, rotation and shift keep the spectrum's energy."""
    net = small()
    torch.nn.init.normal_(net.synthesis.input.affine.weight)
    x = net.synthesis.input(torch.randn([2, 16]))
    still = net.synthesis.input(torch.zeros([1, 16]))
    assert x.shape[1:] == still.shape[1:]
    assert float(x.square().mean() / still.square().mean()) == pytest.approx(1, abs=0.35)


def test_every_parameter_trains() -> None:
    torch.manual_seed(0)
    net = Generator(**SMALL)
    net(torch.randn([2, 16]), None).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_magnitudes_follow_only_when_asked() -> None:
    net = small(magnitude_ema_beta=0.5)
    z = torch.randn([4, 16])
    net(z, None)
    layer = net.synthesis.get_submodule(net.synthesis.layer_names[0])
    assert float(layer.magnitude_ema) == 1
    energy = net.synthesis.input(net.mapping(z, None)[:, 0]).square().mean()
    net(z, None, update_emas=True)
    assert float(layer.magnitude_ema) == pytest.approx(0.5 + 0.5 * float(energy), rel=1e-5)


@pytest.mark.parametrize("changes", [{"img_resolution": 48}, {"img_resolution": 8}])
def test_impossible_resolutions_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=f"img_resolution={changes['img_resolution']}"):
        small(**changes)
    with pytest.raises(ModelError, match="num_critical=6"):
        small(num_critical=6)

"""StyleGAN3: equal to the original's networks, and what ours adds to them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

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
    close("d_ws", d_ws, arrays["d_ws"])

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

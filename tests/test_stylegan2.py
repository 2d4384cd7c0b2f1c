"""StyleGAN2: equal to the original's networks, and what ours adds to them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

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

"""Number formats of the networks in training: which blocks, which values, which directions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from pipeline.errors import ConfigError
from pipeline.models.build import build
from pipeline.models.config import NetworkConfig
from pipeline.models.precision import choose_precision, half_format, set_precision
from pipeline.stages import find_stage, load
from pipeline.train.config import FinetuneConfig, TrainConfig
from torch_utils.ops import mixed_conv2d
from torch_utils.ops.conv2d import conv2d_resample, modulated_conv2d
from torch_utils.ops.upfirdn2d import setup_filter

CPU, GPU = torch.device("cpu"), torch.device("cuda")
needs_bf16 = pytest.mark.skipif(
    not mixed_conv2d.has_instructions(), reason="this processor has no instructions for bf16"
)


def networks(architecture: str):
    config = NetworkConfig(
        architecture=architecture, channel_base=512, channel_max=32, d_channel_base=512,
        d_channel_max=32, z_dim=16, w_dim=16, num_fp16_res=2, synthesis_layers=6, margin_size=4,
        d_mapping_layers=2,
    )  # fmt: skip
    return build(config, 32, 3, 0)


@pytest.mark.parametrize("architecture", ["stylegan2", "stylegan3-t"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_gpu_runs_the_highest_resolutions_in_what_was_asked_for(architecture, precision):
    """Which format a block takes on a GPU can be told without one."""
    for network in networks(architecture):
        set_precision(network, precision, True, GPU)
        blocks = [module for module in network.modules() if hasattr(module, "use_fp16")]
        formats = [half_format(block, GPU, force_fp32=False) for block in blocks]
        halves = [format for format in formats if format[0] != torch.float32]
        assert bool(halves) == (precision != "fp32")
        assert architecture == "stylegan3-t" or len(halves) == (0 if precision == "fp32" else 2)
        kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
        assert set(halves) <= {(kind, torch.channels_last)}
        for block in blocks:
            assert half_format(block, GPU, force_fp32=True)[0] == torch.float32
            assert half_format(block, CPU, force_fp32=False)[0] == torch.float32


@needs_bf16
@pytest.mark.parametrize(
    ("up", "down", "kernel"), [(1, 1, 3), (2, 1, 3), (1, 2, 3), (1, 1, 1), (2, 1, 1)]
)
def test_mixed_convolutions_hold_to_their_format(up, down, kernel):
    """Values and first gradients within bfloat16's rounding, and exactly alike in shape and layout.

    Eight bits of mantissa: an error of 2^-9 a factor, which averages out over the sum.
    """
    torch.manual_seed(0)
    x = torch.randn(2, 24, 12, 10, requires_grad=True)
    w = torch.randn(32, 24, kernel, kernel, requires_grad=True)
    f = setup_filter([1, 3, 3, 1])

    def run(factors):
        y = conv2d_resample(
            x, w, f, up=up, down=down, padding=kernel // 2, factors=factors, flip_weight=up == 1
        )
        return y, *torch.autograd.grad(y, (x, w), torch.ones_like(y).cumsum(3) / y.shape[3])

    full, mixed = run(None), run(torch.bfloat16)
    for a, b in zip(full, mixed, strict=True):
        assert b.dtype == torch.float32
        assert b.shape == a.shape
        assert b.stride() == a.stride()
        assert 0 < (a - b).norm() / a.norm() < 0.01


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "strided"])
@pytest.mark.parametrize("shape", [(2, 16, 5, 7), (1, 3, 33, 16), (3, 7, 1, 1), (1, 1, 4, 300)])
def test_packing_rounds_as_torch_does(shape, layout):
    """To the bit, ties, infinities and what is no number included; and back again."""
    torch.manual_seed(0)
    x = torch.randn(shape)
    x.flatten()[:8] = torch.tensor(
        [1 + 2**-8, 1 + 3 * 2**-8, math.inf, -math.inf, math.nan, 3.4e38, 1e-40, -0.0]
    )[: x.numel()]
    if layout == "channels last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "strided":
        x = torch.stack([x, x], dim=-1)[..., 0]
    expected = x.to(torch.bfloat16)
    packed = mixed_conv2d.pack(x)
    assert packed.is_contiguous(memory_format=torch.channels_last)
    numbers = ~expected.isnan()
    bits = [one.contiguous().view(torch.int16)[numbers] for one in (packed, expected)]
    assert torch.equal(*bits)
    assert packed.isnan().equal(expected.isnan())
    back = mixed_conv2d.unpack(packed)
    assert back.is_contiguous()
    assert torch.equal(back.nan_to_num(7), expected.float().nan_to_num(7))


@needs_bf16
def test_second_gradients_of_a_mixed_convolution():
    """As R1 takes them: the gradient of the squared gradient with respect to the weights."""
    torch.manual_seed(0)
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    w = torch.randn(16, 16, 3, 3, requires_grad=True)

    def run(factors):
        y = conv2d_resample(x, w, padding=1, factors=factors).square()
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), w)[0]

    full, mixed = run(None), run(torch.bfloat16)
    assert 0 < (full - mixed).norm() / full.norm() < 0.02


@needs_bf16
def test_few_channels_grouped_and_double_stay_as_they_are():
    torch.manual_seed(0)
    cases = [
        (torch.randn(1, 3, 8, 8), torch.randn(16, 3, 1, 1)),
        (torch.randn(1, 16, 8, 8).double(), torch.randn(16, 16, 3, 3).double()),
        (torch.randn(0, 16, 8, 8), torch.randn(16, 16, 3, 3)),
    ]
    for x, w in cases:
        plain = conv2d_resample(x, w, padding=w.shape[2] // 2)
        asked = conv2d_resample(x, w, padding=w.shape[2] // 2, factors=torch.bfloat16)
        assert torch.equal(plain, asked)


@needs_bf16
@pytest.mark.parametrize("fused", [True, False])
def test_both_forms_of_modulation_can_be_mixed(fused):
    torch.manual_seed(0)
    x, w, s = torch.randn(3, 16, 8, 8), torch.randn(32, 16, 3, 3), torch.rand(3, 16) + 0.5
    full = modulated_conv2d(x, w, s, padding=1, fused=fused)
    mixed = modulated_conv2d(x, w, s, padding=1, fused=fused, factors=torch.bfloat16)
    assert 0 < (full - mixed).norm() / full.norm() < 0.01


@needs_bf16
@pytest.mark.parametrize("architecture", ["stylegan2", "stylegan3-t"])
def test_whole_networks_and_their_gradients_point_the_same_way(architecture):
    torch.manual_seed(0)
    generator, discriminator = networks(architecture)
    z = torch.randn(4, 16)

    def run():
        image = generator(z, None, noise_mode="const")
        loss = torch.nn.functional.softplus(-discriminator(image, None)).mean()
        weights = [*generator.synthesis.parameters(), *discriminator.parameters()]
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
        return image, torch.cat([grad.flatten() for grad in grads if grad is not None])

    image, gradient = run()
    for network in (generator, discriminator):
        set_precision(network, "bf16", False, CPU)
    mixed_image, mixed_gradient = run()
    assert not torch.equal(image, mixed_image)
    assert (image - mixed_image).norm() / image.norm() < 0.03
    assert cosine_similarity(gradient, mixed_gradient, dim=0) > 0.99
    for network in (generator, discriminator):
        set_precision(network, "fp32", False, CPU)
    assert torch.equal(run()[0], image)


def test_what_a_device_cannot_do_is_said(monkeypatch):
    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("auto", GPU) == "fp16"
    with pytest.raises(ValueError, match="runs on a GPU only; use bf16 or fp32"):
        choose_precision("fp16", CPU)
    monkeypatch.setattr(mixed_conv2d, "has_instructions", lambda: False)
    with pytest.raises(ValueError, match="no instructions for bf16"):
        choose_precision("bf16", CPU)


@pytest.mark.parametrize(
    ("stage", "config"), [("train", TrainConfig), ("finetune", FinetuneConfig)]
)
def test_it_is_said_before_a_stage_begins(stage, config):
    check = find_stage(stage).check
    assert check is not None
    with pytest.raises(ConfigError, match=f"^{stage}.precision=fp16: fp16 runs on a GPU only"):
        load(check)(config(precision="fp16", device="cpu"), {})

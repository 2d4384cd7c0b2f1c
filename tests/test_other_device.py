"""Steps on a device that is not the CPU mix in nothing of the CPU.

The device is torch's "meta", whose tensors have no values: what would have to wait for a GPU to be
read fails there, too. It tells mixtures of many operators, not of all.
"""

from __future__ import annotations

import pytest
import torch

from pipeline.edit.generator import choose_layer
from pipeline.models.config import NetworkConfig
from pipeline.train import loop
from pipeline.train.augment import AugmentPipe
from pipeline.train.recipe import Recipe
from pipeline.train.state import TrainingState
from scripts.benchmarks.training import RandomImages, make_training

ELSEWHERE = torch.device("meta")


def training(architecture: str) -> tuple[TrainingState, Recipe]:
    network = NetworkConfig(
        architecture=architecture, channel_base=512, d_channel_base=512, channel_max=16,
        d_channel_max=16, z_dim=16, w_dim=16, mapping_layers=2,
    )  # fmt: skip
    return make_training(network, 32, 4, ELSEWHERE, augment_p=0.5)


@pytest.mark.parametrize("architecture", ["stylegan2", "stylegan3-t", "stylegan3-r"])
def test_training_phases(architecture: str) -> None:
    state, recipe = training(architecture)
    inputs = loop.draw_inputs(state, recipe, RandomImages(32, 4), seed=0)
    for phase in loop.phases(recipe):
        loop.run_phase(state, recipe, phase, inputs[phase.name])
        moments = [state.optimizers[phase.network].state[p] for p in state.trainable["G"].values()]
        assert all(m["exp_avg"].device == ELSEWHERE for m in moments if m)
    loop.update_average(state.averaged, state.objective.generator, 0.99)
    assert {p.device for p in state.averaged.parameters()} == {ELSEWHERE}


@pytest.mark.parametrize("architecture", ["stylegan2", "stylegan3-t"])
def test_features_and_their_gradient(architecture: str) -> None:
    generator = training(architecture)[0].objective.generator.eval().requires_grad_(False)
    ws = torch.randn(1, generator.num_ws, generator.w_dim, device=ELSEWHERE).requires_grad_()
    maps = generator.synthesis.features(
        ws, choose_layer(generator), noise_mode="const", force_fp32=True, fused_modconv=False
    )
    (gradient,) = torch.autograd.grad(maps.square().mean(), ws)
    assert gradient.device == ELSEWHERE


def test_every_augmentation() -> None:
    pipe = AugmentPipe.from_group("bgcfnc").to(ELSEWHERE)
    images = torch.rand(4, 3, 64, 64, device=ELSEWHERE)
    assert pipe(images, 0.5).shape == images.shape


@pytest.mark.parametrize("fault", ["a buffer left behind", "a value that is waited for"])
def test_the_test_sees_faults(fault: str) -> None:
    state, recipe = training("stylegan2")
    if fault == "a buffer left behind":
        state.objective.augment = lambda images: images * torch.ones(32)
    else:
        state.objective.augment = lambda images: images * float(images.detach().mean())
    inputs = loop.draw_inputs(state, recipe, RandomImages(32, 4), seed=0)
    phase = next(phase for phase in loop.phases(recipe) if phase.main)
    with pytest.raises(RuntimeError):
        loop.run_phase(state, recipe, phase, inputs[phase.name])

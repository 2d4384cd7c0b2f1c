"""Whole training iterations, step by step, against reference traces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models import stylegan2, stylegan3
from pipeline.train import loop
from pipeline.train.loss import Latents, Objective
from pipeline.train.recipe import Recipe
from pipeline.train.state import TrainingState, new_state

TRACES = ("sg2_u", "sg2_c", "sg3t_u")
# Our name of a measured value -> the reference's names, one a phase that measures it.
MEASURES = {
    "Gmain": {"loss_G": "Loss/G/loss", "logits_generated": "Loss/scores/fake"},
    "Gboth": {"loss_G": "Loss/G/loss", "logits_generated": "Loss/scores/fake"},
    "Greg": {"loss_path_length": "Loss/pl_penalty"},
    "Dmain": {
        "logits_fake": "Loss/scores/fake",
        "logits_real": "Loss/scores/real",
        "sign_real": "Loss/signs/real",
    },
    "Dreg": {"loss_r1": "Loss/r1_penalty"},
}


def recipe_of(trace: dict[str, Any]) -> Recipe:
    """The trace's settings; the optimisers' rates are checked against what lazy_adam makes."""
    weight = trace["loss_kwargs"].get("pl_weight", 0)
    conditional = trace["G_kwargs"]["c_dim"] > 0
    lr = 0.0025 if conditional or trace["G_reg_interval"] is None else 0.002
    return Recipe(
        batch=trace["batch"],
        total_images=10**9,
        microbatch=trace["batch"],
        generator_lr=lr,
        discriminator_lr=0.002,
        r1_gamma=trace["loss_kwargs"]["r1_gamma"],
        r1_interval=trace["D_reg_interval"],
        path_length_weight=weight,
        path_length_interval=trace["G_reg_interval"],
        style_mixing=0.0,
        ema_images=trace["ema_kimg"] * 1000,
        ema_rampup=trace["ema_rampup"],
        blur_sigma=0.0,
        blur_fade_images=1.0,
        augment_interval=None,
    )


def under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix(prefix): torch.from_numpy(value.copy())
        for key, value in arrays.items()
        if key.startswith(prefix)
    }


def build(name: str, trace: dict[str, Any], arrays: dict[str, np.ndarray]) -> TrainingState:
    module = stylegan3 if name.startswith("sg3") else stylegan2
    generator = module.Generator(**trace["G_kwargs"])
    discriminator = stylegan2.Discriminator(**trace["D_kwargs"])
    generator.load_state_dict(under(arrays, "G0/"))
    discriminator.load_state_dict(under(arrays, "D0/"))
    recipe = recipe_of(trace)
    objective = Objective(
        generator.train(),
        discriminator.train(),
        r1_gamma=recipe.r1_gamma,
        path_length_weight=recipe.path_length_weight,
    )
    state = new_state(objective, recipe)
    state.images_seen = trace["cur_nimg_at_start"]
    return state


def inputs_of(
    arrays: dict[str, np.ndarray], trace: dict[str, Any], iteration: int
) -> dict[str, loop.PhaseInputs]:
    inputs = {}
    batch = trace["batch"]
    for phase in trace["phases"]:
        key = f"{iteration}/{phase['name']}"
        labels = arrays.get(f"gen_c/{key}", np.zeros((batch, 0), np.float32))
        noise = arrays.get(f"pl_noise/{iteration}")
        inputs[phase["name"]] = loop.PhaseInputs(
            images=torch.from_numpy(arrays[f"real/{iteration}"]),
            labels=torch.from_numpy(arrays[f"real_c/{iteration}"]),
            latents=Latents(torch.from_numpy(arrays[f"z/{key}"]), torch.from_numpy(labels)),
            path_length_noise=None if noise is None else torch.from_numpy(noise),
        )
    return inputs


def check_states(name: str, network: torch.nn.Module, expected: dict[str, torch.Tensor]) -> None:
    state = network.state_dict()
    assert set(state) == set(expected)
    for key, value in expected.items():
        # Without momentum Adam moves every weight by about the learning rate, however small its
        # gradient: rounding of a gradient near zero shows as a share of a step.
        scale = max(float(value.abs().max()), 1e-3)
        error = float((state[key] - value).abs().max()) / scale
        assert error < 1e-3, f"{name}/{key}: {error:.1e}"


@pytest.mark.parametrize("name", TRACES)
def test_trace_is_reproduced(golden, name):
    arrays, trace = golden(f"train/{name}")
    state, recipe = build(name, trace, arrays), recipe_of(trace)
    assert [phase.name for phase in loop.phases(recipe)] == [p["name"] for p in trace["phases"]]
    for network in ("G", "D"):
        expected = trace.get(f"{network}_opt_effective")
        if expected:
            group = state.optimizers[network].param_groups[0]
            assert group["lr"] == pytest.approx(expected["lr"], rel=1e-12)
            assert list(group["betas"]) == pytest.approx(expected["betas"], rel=1e-12)
            assert group["eps"] == expected["eps"]

    log = iter(trace["log"])
    for iteration in range(trace["iterations"]):
        inputs = inputs_of(arrays, trace, iteration)
        due = [phase for phase in loop.phases(recipe) if iteration % phase.interval == 0]
        for phase in due:
            state.statistics.clear()
            loop.run_phase(state, recipe, phase, inputs[phase.name])
            entry = next(log)
            assert (entry["iteration"], entry["phase"]) == (iteration, phase.name)
            measured = state.statistics.means()
            norm = measured[f"grad_norm_{phase.name}"]
            assert norm == pytest.approx(entry["grad_norm"], rel=1e-3)
            for ours, theirs in MEASURES[phase.name].items():
                mean = float(np.mean(entry[theirs]))
                assert measured[ours] == pytest.approx(mean, rel=1e-3, abs=1e-5), ours
            with_gradient = [
                parameter
                for parameter in state.trainable[phase.network].values()
                if parameter.grad is not None
            ]
            assert len(with_gradient) == entry["params_with_grad"]
        loop.update_average(
            state.averaged, state.objective.generator, recipe.ema_beta(state.images_seen)
        )
        state.images_seen += recipe.batch
    assert next(log, None) is None

    check_states("G", state.objective.generator, under(arrays, "G1/"))
    check_states("D", state.objective.discriminator, under(arrays, "D1/"))
    check_states("G_ema", state.averaged, under(arrays, "G_ema1/"))
    assert float(state.objective.path_length_mean) == pytest.approx(
        float(arrays["pl_mean"]), rel=1e-4, abs=1e-7
    )
    z = torch.from_numpy(arrays["z_test"])
    c = torch.zeros(len(z), trace["G_kwargs"]["c_dim"])
    if c.shape[1]:
        c[:, 0] = 1
    images = state.averaged(z, c, noise_mode="const")
    expected = arrays["img_ema_test"]
    assert np.abs(images.numpy() - expected).max() / np.abs(expected).max() < 1e-4


def test_run_iteration_is_the_phases_and_the_average(golden):
    """The step the loop takes equals the phases taken one by one."""
    arrays, trace = golden("train/sg2_u")
    recipe = recipe_of(trace)
    whole, parts = (build("sg2_u", trace, arrays) for _ in range(2))
    inputs = inputs_of(arrays, trace, 0)
    loop.run_iteration(whole, recipe, inputs, iteration=0)
    for phase in loop.phases(recipe):
        loop.run_phase(parts, recipe, phase, inputs[phase.name])
    loop.update_average(parts.averaged, parts.objective.generator, recipe.ema_beta(400))
    for name, network in whole.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, parts.networks[name].state_dict()[key]), f"{name}/{key}"


def test_microbatches_sum_to_the_batch(golden):
    """Gradients of two halves equal those of the whole where no layer looks across the batch."""
    arrays, trace = golden("train/sg2_u")
    trace["D_kwargs"]["epilogue_kwargs"] = {"mbstd_group_size": 1}
    recipe = recipe_of(trace)
    inputs = inputs_of(arrays, trace, 0)
    gradients = []
    for size in (4, 2):
        state = build("sg2_u", trace, arrays)
        # Steps of size zero, so that both compute gradients at the same place.
        for optimizer in state.optimizers.values():
            optimizer.param_groups[0]["lr"] = 0.0
        found = {}
        split = Recipe(**{**recipe.__dict__, "microbatch": size})
        for phase in loop.phases(split):
            if phase.name == "Greg":  # measured on half of each part, so not the same images
                continue
            loop.run_phase(state, split, phase, inputs[phase.name])
            for name, parameter in state.trainable[phase.network].items():
                found[f"{phase.name}/{name}"] = parameter.grad
        gradients.append(found)
    for name, whole in gradients[0].items():
        if whole is not None:
            scale = max(float(whole.abs().max()), 1e-4)
            assert float((whole - gradients[1][name]).abs().max()) / scale < 1e-4, name

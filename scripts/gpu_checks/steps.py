"""The recorded training step and drag step beside the plain ones: the same gradients?

A recorded step is compared by its gradients at unchanged weights, call by call, so that a
difference in rounding does not grow. Without a GPU a rerun stands in for the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipeline.edit.generator import choose_layer, drag_model
from pipeline.models.build import build
from pipeline.models.config import NetworkConfig
from pipeline.train import loop
from pipeline.train.recipe import Recipe
from pipeline.train.recorded import RecordedObjective
from pipeline.train.state import TrainingState
from scripts.benchmarks.training import RandomImages, make_training
from scripts.gpu_checks.correctness import Outcome, error
from torch_utils.distributed import ALONE
from torch_utils.recording import (
    WARM_UP_CALLS,
    CannotRecordError,
    Outputs,
    Recorder,
    Recording,
    Rerun,
    recorder_for,
)

ARCHITECTURES = ("stylegan2", "stylegan3-t", "stylegan3-r")
# Where only the way is tried out, and no graph.
ARCHITECTURES_ON_CPU = ARCHITECTURES[:2]
# Warm-up, the recording, and launches with other inputs.
CALLS = WARM_UP_CALLS + 3
# Relative error of a whole gradient. cuDNN may take another algorithm in a graph.
ALLOWED = {"float32": 1e-3, "half": 3e-2}


class _Images(RandomImages):
    """Other images at each iteration."""

    def __init__(self, resolution: int, count: int) -> None:
        super().__init__(resolution, 0)
        self._shape = (count, 3, resolution, resolution)

    def batch(self, images_seen: int, count: int) -> tuple[Tensor, Tensor]:
        noise = torch.Generator().manual_seed(images_seen)
        return torch.rand(self._shape, generator=noise) * 2 - 1, torch.zeros(count, 0)


def _network(architecture: str, resolution: int, half: bool) -> NetworkConfig:
    return NetworkConfig(
        architecture=architecture, num_fp16_res=4 if half else 0, channel_base=16 * resolution,
        d_channel_base=16 * resolution, channel_max=16, d_channel_max=16, z_dim=16, w_dim=16,
        mapping_layers=2,
    )  # fmt: skip


def recorded(state: TrainingState, recipe: Recipe, recorder: Recorder) -> RecordedObjective:
    """The state's main losses, recorded."""
    parameters = {name: list(found.values()) for name, found in state.trainable.items()}
    return RecordedObjective(
        state.objective, parameters, gain=1 / loop.passes(recipe, 1), recorder=recorder
    )


def _architectures(device: torch.device) -> tuple[str, ...]:
    return ARCHITECTURES if device.type == "cuda" else ARCHITECTURES_ON_CPU


def main_phases(recipe: Recipe) -> list[loop.Phase]:
    """Those that are recorded."""
    return [phase for phase in loop.phases(recipe) if phase.main and not phase.regularise]


def _gradients(
    state: TrainingState, phase: loop.Phase, inputs: loop.PhaseInputs, losses: Any
) -> Tensor:
    """All gradients of a phase in one row, float64 on the CPU."""
    parameters = list(state.trainable[phase.network].values())
    for parameter in parameters:
        parameter.grad = None
        parameter.requires_grad_(True)
    loop.add_gradients(state, phase, [inputs], ALONE, losses)
    for parameter in parameters:
        parameter.requires_grad_(False)
    rows = [p.grad.double().cpu().flatten() for p in parameters if p.grad is not None]
    return torch.cat(rows)


def check_training(device: torch.device, architecture: str, half: bool) -> Outcome:
    """The recorded main phases' gradients against the plain ones', for several batches."""
    side = 32 if device.type == "cuda" else 16
    network = _network(architecture, side, half)
    plain, recipe = make_training(network, side, 4, device, augment_p=0.5)
    other, _ = make_training(network, side, 4, device, augment_p=0.5)
    losses = recorded(other, recipe, recorder_for(device) or Rerun())
    images = _Images(side, 4)
    errors: dict[str, float] = {}
    for _ in range(CALLS):
        inputs = loop.draw_inputs(plain, recipe, images, seed=1)
        for phase in main_phases(recipe):
            expected = _gradients(plain, phase, inputs[phase.name], None)
            found = _gradients(other, phase, inputs[phase.name], losses)
            errors[phase.name] = max(errors.get(phase.name, 0.0), error(found, expected))
        plain.images_seen += recipe.batch
    kind = "half" if half else "float32"
    remark = "" if losses.recorded else "was not recorded"
    name = f"training step {architecture}"
    return Outcome(name, kind, "recorded", errors, ALLOWED[kind], remark)


def check_drag(device: torch.device, architecture: str) -> Outcome:
    """Features and their gradient by ws as the drag takes them, against the plain network's."""
    torch.manual_seed(0)
    generator, _ = build(_network(architecture, 64, False), 64, 3, 0)
    generator = generator.to(device).eval().requires_grad_(False)
    layer = choose_layer(generator)
    model = drag_model(generator, layer)
    errors = {"features": 0.0, "gradient": 0.0}
    for seed in range(3):
        torch.manual_seed(seed)
        shape = (1, generator.num_ws, generator.w_dim)
        ws = torch.randn(shape).to(device).requires_grad_()
        plain = generator.synthesis.features(ws, layer, force_fp32=True)
        found = model.features(ws)
        (expected,) = torch.autograd.grad(plain.square().mean(), ws)
        (gradient,) = torch.autograd.grad(found.square().mean(), ws)
        for name, ours, theirs in (
            ("features", found, plain), ("gradient", gradient, expected),
        ):  # fmt: skip
            value = error(ours, theirs.detach().double().cpu())
            errors[name] = max(errors[name], value)
    return Outcome(f"drag step {architecture}", "float32", "recorded", errors, 1e-3)


def check_refusal(device: torch.device) -> Outcome:
    """What cannot be recorded says so, and torch draws and records as before."""
    recorder = recorder_for(device)
    if recorder is None:
        return Outcome("refused recording", "float32", "recorded", {}, 0)

    def decides(x: Tensor) -> Outputs:
        noise = torch.randn_like(x)
        return (x if float(x.sum()) > 0 else noise,)

    x = torch.ones([4], device=device)
    refused = Recording(decides, recorder)
    remark = "was recorded although it waits for the device"
    try:
        for _ in range(WARM_UP_CALLS + 1):
            refused(x)
    except CannotRecordError:
        remark = ""
    noisy = Recording(lambda y: (y + torch.randn_like(y),), recorder)
    worst = 0.0
    for seed in range(CALLS):
        torch.manual_seed(seed)
        expected = x + torch.randn_like(x)
        torch.manual_seed(seed)
        worst = max(worst, error(noisy(x)[0], expected.double().cpu()))
    return Outcome("refused recording", "float32", "recorded", {"drawn": worst}, 0, remark)


def checks(device: torch.device) -> list[Callable[[], Outcome]]:
    """Every check of a step."""
    halves = (False, True) if device.type == "cuda" else (False,)
    jobs: list[Callable[[], Outcome]] = [lambda: check_refusal(device)]
    for architecture in _architectures(device):
        for half in halves:
            jobs.append(lambda a=architecture, h=half: check_training(device, a, h))  # type: ignore[misc]
        jobs.append(lambda a=architecture: check_drag(device, a))  # type: ignore[misc]
    return jobs

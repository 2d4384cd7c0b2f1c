"""The recorded training step and drag step beside the plain ones: same gradients, how fast.

A recorded step is compared by its gradients at unchanged weights, call by call, so that a
difference in rounding does not grow. Without a GPU a rerun stands in for the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.edit.generator import choose_layer, drag_model
from pipeline.models.build import Generator, build
from pipeline.models.config import NetworkConfig
from pipeline.train import loop
from pipeline.train.augment import AugmentPipe
from pipeline.train.config import AugmentConfig, TrainConfig
from pipeline.train.loss import Objective
from pipeline.train.recipe import Recipe, make_recipe
from pipeline.train.recorded import RecordedObjective
from pipeline.train.state import TrainingState, new_state
from scripts.benchmarks.measure import interleaved
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


@dataclass(frozen=True)
class StepTiming:
    """Seconds of one step, medians; None where it was not measured."""

    step: str
    plain: float
    recorded: float | None
    compiled: float | None = None


class _Images:
    """Random images on the device, other ones at each iteration."""

    def __init__(self, resolution: int, device: torch.device) -> None:
        self._resolution, self._device = resolution, device

    def batch(self, images_seen: int, count: int) -> tuple[Tensor, Tensor]:
        noise = torch.Generator().manual_seed(images_seen)
        side = self._resolution
        images = torch.rand(count, 3, side, side, generator=noise) * 2 - 1
        return images.to(self._device), torch.zeros(count, 0, device=self._device)

    def draw_labels(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(count, 0)


def _network(architecture: str, resolution: int, half: bool, large: bool) -> NetworkConfig:
    shape: dict[str, Any] = {"channel_base": 32768, "d_channel_base": 32768}
    if not large:
        shape = {
            "channel_base": 16 * resolution, "d_channel_base": 16 * resolution, "channel_max": 16,
            "d_channel_max": 16, "z_dim": 16, "w_dim": 16, "mapping_layers": 2,
        }  # fmt: skip
    return NetworkConfig(architecture=architecture, num_fp16_res=4 if half else 0, **shape)


def training(
    architecture: str, resolution: int, batch: int, half: bool, device: torch.device, large: bool
) -> tuple[TrainingState, Recipe]:
    """A training before its first image, augmented."""
    config = TrainConfig(
        batch=batch, kimg=1.0, augment=AugmentConfig(mode="fixed", p=0.5),
        network=_network(architecture, resolution, half, large),
    )  # fmt: skip
    torch.manual_seed(0)
    generator, discriminator = build(config.network, resolution, 3, 0)
    recipe = make_recipe(config, architecture, resolution, resolution)
    pipe = AugmentPipe.from_group("bgc").to(device)
    objective = Objective(
        generator.to(device).train(),
        discriminator.to(device).train(),
        augment=lambda images: pipe(images, 0.5),
        r1_gamma=recipe.r1_gamma,
        path_length_weight=recipe.path_length_weight,
    )
    return new_state(objective, recipe), recipe


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
    plain, recipe = training(architecture, side, 4, half, device, large=False)
    other, _ = training(architecture, side, 4, half, device, large=False)
    losses = recorded(other, recipe, recorder_for(device) or Rerun())
    images = _Images(side, device)
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
    generator, _ = build(_network(architecture, 64, False, False), 64, 3, 0)
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


def time_training(
    device: torch.device, architecture: str, compiled: bool, repeats: int
) -> StepTiming:
    """Both main phases of a step: plain, recorded, and compiled by torch (and then recorded)."""
    large = device.type == "cuda"
    resolution, batch = (256, 16) if large else (16, 4)

    def step(compile_networks: bool, record: bool) -> Callable[[], None]:
        state, recipe = training(architecture, resolution, batch, large, device, large)
        if compile_networks:
            state.objective.compile_networks()
        recorder = (recorder_for(device) or Rerun()) if record else None
        losses = None if recorder is None else recorded(state, recipe, recorder)
        inputs = loop.draw_inputs(state, recipe, _Images(resolution, device), seed=1)

        def run() -> None:
            for phase in main_phases(recipe):
                loop.run_phase(state, recipe, phase, inputs[phase.name], ALONE, losses)
            state.statistics.clear()

        for _ in range(WARM_UP_CALLS + 1):
            run()
        return run

    calls = [step(False, False), step(False, True)]
    if compiled:
        calls.append(step(True, True))
    medians = [taken.median for taken in interleaved(calls, repeats, device)]
    name = f"main phases, {architecture} at {resolution} px, batch {batch}"
    return StepTiming(name, medians[0], medians[1], medians[2] if compiled else None)


def time_drag(device: torch.device, architecture: str, repeats: int) -> StepTiming:
    """Features and gradient of a drag step at 512 px, plain and as the drag takes them."""
    large = device.type == "cuda"
    resolution = 512 if large else 64
    torch.manual_seed(0)
    generator: Generator
    generator, _ = build(_network(architecture, resolution, large, large), resolution, 3, 0)
    generator = generator.to(device).eval().requires_grad_(False)
    layer = choose_layer(generator)
    model = drag_model(generator, layer)
    ws = torch.randn([1, generator.num_ws, generator.w_dim]).to(device).requires_grad_()

    def plain() -> None:
        maps = generator.synthesis.features(ws, layer, force_fp32=True, fused_modconv=False)
        torch.autograd.grad(maps.mean(), ws)

    def taken() -> None:
        torch.autograd.grad(model.features(ws).mean(), ws)

    first, second = interleaved([plain, taken], repeats, device)
    return StepTiming(
        f"drag features and gradient, {architecture} at {resolution} px",
        first.median,
        second.median,
    )


def timings(device: torch.device, compiled: bool, repeats: int) -> list[Callable[[], StepTiming]]:
    """Every measurement of a step; `compiled`: torch.compile's too, which takes minutes."""
    jobs: list[Callable[[], StepTiming]] = []
    for architecture in _architectures(device):
        jobs.append(lambda a=architecture: time_training(device, a, compiled, repeats))  # type: ignore[misc]
    for architecture in ARCHITECTURES_ON_CPU:
        jobs.append(lambda a=architecture: time_drag(device, a, repeats))  # type: ignore[misc]
    return jobs

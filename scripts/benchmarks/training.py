"""Rows of the training step, lazy regularisation shared out over the steps."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import check_choice
from pipeline.models.build import build
from pipeline.models.config import NetworkConfig
from pipeline.models.precision import set_precision
from pipeline.train import loop
from pipeline.train.augment import AugmentPipe
from pipeline.train.config import AugmentConfig, TrainConfig
from pipeline.train.loss import Objective
from pipeline.train.phases import MainLosses
from pipeline.train.recipe import Recipe, make_recipe
from pipeline.train.recorded import recorded_losses
from pipeline.train.state import TrainingState, new_state
from scripts.benchmarks.generators import with_reference
from scripts.benchmarks.measure import Call, Times, interleaved
from scripts.benchmarks.reference import public_formulation
from scripts.benchmarks.rows import Check, Outcome, Row, Setting, Skipped
from torch_utils.ops import mixed_conv2d
from torch_utils.recording import WARM_UP_CALLS, Recorder, Rerun, recorder_for

EMA = "EMA"
# How a step is run: as the program does on a GPU, without recording it, recorded with the main
# phases translated by torch.compile (train.compile); on the public formulation's operators, and on
# these with the main phases translated.
RECORDED, PLAIN, COMPILED = "recorded", "plain", "compiled"
REFERENCE, COMPILED_REFERENCE = "reference", "compiled reference"
WAYS = (RECORDED, PLAIN, COMPILED, REFERENCE, COMPILED_REFERENCE)
# Images at once on a GPU: as many as fit, of a batch of 32. The public formulation's full-size
# intermediates of a whole batch do not.
OWN_BATCHES, REFERENCE_BATCHES = (32, 16, 8, 4), (8, 4, 2)


class RandomImages:
    """Images to train on that cost nothing to read."""

    def __init__(self, resolution: int, count: int) -> None:
        noise = torch.Generator().manual_seed(0)
        self._images = torch.rand(count, 3, resolution, resolution, generator=noise) * 2 - 1

    def batch(self, images_seen: int, count: int) -> tuple[Tensor, Tensor]:
        return self._images[:count], torch.zeros(count, 0)

    def draw_labels(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(count, 0)


def published_shape(architecture: str, channel_base: int = 32768) -> NetworkConfig:
    """The networks as published, of this many channels."""
    return NetworkConfig(
        architecture=architecture,
        channel_base=channel_base,
        d_channel_base=channel_base,
        mapping_layers=8 if architecture == "stylegan2" else 2,
    )


def make_training(
    network: NetworkConfig,
    resolution: int,
    batch: int,
    device: torch.device,
    augment_p: float = 0.0,
) -> tuple[TrainingState, Recipe]:
    """A training before its first image; augmented with a fixed probability, or not at all."""
    augment = AugmentConfig(mode="fixed", p=augment_p) if augment_p else AugmentConfig(mode="none")
    config = TrainConfig(batch=batch, kimg=1.0, augment=augment, network=network)
    torch.manual_seed(0)
    generator, discriminator = build(network, resolution, 3, 0)
    recipe = make_recipe(config, network.architecture, resolution, resolution)
    pipe = AugmentPipe.from_group(augment.pipe).to(device)
    objective = Objective(
        generator.to(device).train(),
        discriminator.to(device).train(),
        augment=(lambda images: pipe(images, augment_p)) if augment_p else None,
        r1_gamma=recipe.r1_gamma,
        path_length_weight=recipe.path_length_weight,
    )
    return new_state(objective, recipe), recipe


def phase_calls(
    state: TrainingState, recipe: Recipe, images: RandomImages, losses: MainLosses | None = None
) -> dict[str, Call]:
    """One call a phase, and one for the running average, by name; `losses` as in `loop.train`."""
    inputs = loop.draw_inputs(state, recipe, images, seed=0)

    def run(phase: loop.Phase) -> Call:
        return lambda: loop.run_phase(state, recipe, phase, inputs[phase.name], losses=losses)

    calls: dict[str, Call] = {phase.name: run(phase) for phase in loop.phases(recipe)}
    calls[EMA] = lambda: loop.update_average(state.averaged, state.objective.generator, 0.99)
    return calls


def recorded_calls(
    state: TrainingState, recipe: Recipe, images: RandomImages, recorder: Recorder
) -> dict[str, Call]:
    """The same as the program runs them on a GPU: the main phases recorded, and so far along."""
    losses = recorded_losses(state, recipe, recorder)
    calls = phase_calls(state, recipe, images, losses)
    # In the order of an iteration: recordings are launched in the order they were made.
    for _ in range(WARM_UP_CALLS + 1):
        for phase in loop.phases(recipe):
            calls[phase.name]()
    if not losses.recorded:
        raise Skipped("not measured: the training step could not be recorded as CUDA graphs")
    return calls


def amortised(recipe: Recipe, seconds: dict[str, float]) -> float:
    """Seconds an iteration: every phase by how often it comes."""
    every = {phase.name: phase.interval for phase in loop.phases(recipe)}
    return sum(value / every.get(name, 1) for name, value in seconds.items())


@dataclass(frozen=True)
class StepFigures:
    """What a training step takes, in one of the `WAYS`."""

    way: str
    at_once: int  # images a step
    seconds: dict[str, float]  # of each phase, and of the running average; medians
    an_image: float  # seconds an image, every phase by how often it comes
    peak_bytes: int | None  # on a GPU: the most that was held, weights and all

    @property
    def main_seconds(self) -> float:
        """Of the phases that every iteration has, an image."""
        main = (taken for name, taken in self.seconds.items() if name.endswith(("main", "both")))
        return sum(main) / self.at_once


def measure_step(
    network: NetworkConfig,
    resolution: int,
    batches: Sequence[int],
    way: str,
    setting: Setting,
    augment_p: float = 0.0,
) -> StepFigures:
    """A step of the largest of the `batches` that the device's memory holds, in one of the `WAYS`.

    Raises Skipped where none fits, or the step cannot be recorded.
    """
    for at_once in batches:
        try:
            return _measure_step(network, resolution, at_once, way, setting, augment_p)
        except torch.OutOfMemoryError:
            pass
        # Out of the handler: the error's frames hold what did not fit.
        gc.collect()
        torch.cuda.empty_cache()
    raise Skipped(f"not measured: {batches[-1]} images do not fit into the device's memory")


def _measure_step(
    network: NetworkConfig,
    resolution: int,
    at_once: int,
    way: str,
    setting: Setting,
    augment_p: float,
) -> StepFigures:
    check_choice("way", way, WAYS)
    on_gpu = setting.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(setting.device)
    with public_formulation() if way.endswith(REFERENCE) else nullcontext():
        state, recipe = make_training(network, resolution, at_once, setting.device, augment_p)
        images = RandomImages(resolution, at_once)
        if way.startswith(COMPILED):
            state.objective.compile_networks()
        if way in (RECORDED, COMPILED):
            recorder = recorder_for(setting.device) or Rerun()
            calls = recorded_calls(state, recipe, images, recorder)
        else:
            calls = phase_calls(state, recipe, images)
        times = interleaved(list(calls.values()), *setting.timing)
    seconds = {name: taken.median for name, taken in zip(calls, times, strict=True)}
    return StepFigures(
        way=way,
        at_once=at_once,
        seconds=seconds,
        an_image=amortised(recipe, seconds) / at_once,
        peak_bytes=torch.cuda.max_memory_allocated(setting.device) if on_gpu else None,
    )


def training_row(architecture: str, resolution: int, target: float) -> Callable[[Setting], Outcome]:
    """Measure a step at batch 4 and channel base 4096 against the same step on the reference."""

    def measure(setting: Setting) -> Outcome:
        side, base = (16, 256) if setting.quick else (resolution, 4096)
        images = RandomImages(side, 4)
        network = published_shape(architecture, base)
        ours, recipe = make_training(network, side, 4, setting.device)
        theirs, _ = make_training(network, side, 4, setting.device)
        own_calls = phase_calls(ours, recipe, images)
        other_calls = phase_calls(theirs, recipe, images)
        times: dict[str, tuple[Times, Times]] = {}
        for name, call in own_calls.items():
            own, other = interleaved(
                [call, with_reference(other_calls[name])],
                setting.repeats,
                setting.device,
                setting.clock,
            )
            times[name] = (own, other)
        own_seconds = amortised(recipe, {name: pair[0].median for name, pair in times.items()})
        other_seconds = amortised(recipe, {name: pair[1].median for name, pair in times.items()})
        ratios = {name: round(b.median / a.median, 2) for name, (a, b) in times.items()}
        samples = {f"{name}, ours": a.samples for name, (a, _) in times.items()}
        samples |= {f"{name}, reference": b.samples for name, (_, b) in times.items()}
        return Outcome(
            ours_seconds=own_seconds,
            reference_seconds=other_seconds,
            checks=(Check("speed", other_seconds / own_seconds, target),),
            samples=samples,
            figures={f"{name} (x)": value for name, value in ratios.items()},
        )

    return measure


def measure_bf16(setting: Setting) -> Outcome:
    """A step with bfloat16 products against the same step in float32, both ours, of the starter's
    shape. Skipped where the processor has no instructions for it."""
    if setting.device.type != "cpu" or not mixed_conv2d.has_instructions():
        raise Skipped("this processor has no instructions for bfloat16")
    side, base = (16, 256) if setting.quick else (128, 2048)
    images = RandomImages(side, 8)
    network = published_shape("stylegan2", base)
    trainings = [make_training(network, side, 8, setting.device) for _ in range(2)]
    objective = trainings[0][0].objective
    for half in (objective.generator, objective.discriminator):
        set_precision(half, "bf16", False, setting.device)
    recipe = trainings[0][1]
    calls = [phase_calls(state, recipe, images) for state, _ in trainings]
    times = {
        name: interleaved(
            [calls[0][name], calls[1][name]], setting.repeats, setting.device, setting.clock
        )
        for name in calls[0]
    }
    mixed, full = (
        amortised(recipe, {name: pair[which].median for name, pair in times.items()})
        for which in (0, 1)
    )
    return Outcome(
        ours_seconds=mixed,
        reference_seconds=full,
        checks=(Check("speed", full / mixed, 1.0),),
        samples={f"{name}, bf16": pair[0].samples for name, pair in times.items()}
        | {f"{name}, fp32": pair[1].samples for name, pair in times.items()},
    )


ROWS = (
    Row(
        key="train-stylegan2-128",
        title="training step, lazy regularisation amortised, StyleGAN2-128, batch 4, "
        "channel base 4096",
        target="≥ 1.6x",
        measure=training_row("stylegan2", 128, 1.6),
        wants_gib=3,
        most_repeats=5,
    ),
    Row(
        key="train-stylegan3-t-128",
        title="training step, lazy regularisation amortised, StyleGAN3-T-128, batch 4, "
        "channel base 4096",
        target="≥ 5x",
        measure=training_row("stylegan3-t", 128, 5),
        wants_gib=6,
        most_repeats=3,
    ),
    Row(
        key="train-bf16",
        title="training step with bfloat16 products against ours in float32, StyleGAN2-128, "
        "batch 8, channel base 2048",
        target="≥ 1x",
        measure=measure_bf16,
        wants_gib=3,
        most_repeats=5,
    ),
)

"""Rows of the training step, lazy regularisation shared out over the steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.models.build import build
from pipeline.models.config import NetworkConfig
from pipeline.train import loop
from pipeline.train.config import AugmentConfig, TrainConfig
from pipeline.train.loss import Objective
from pipeline.train.recipe import Recipe, make_recipe
from pipeline.train.state import TrainingState, new_state
from scripts.benchmarks.generators import with_reference
from scripts.benchmarks.measure import Call, Times, interleaved
from scripts.benchmarks.rows import Check, Outcome, Row, Setting

EMA = "EMA"


class RandomImages:
    """Images to train on that cost nothing to read."""

    def __init__(self, resolution: int, count: int) -> None:
        noise = torch.Generator().manual_seed(0)
        self._images = torch.rand(count, 3, resolution, resolution, generator=noise) * 2 - 1

    def batch(self, images_seen: int, count: int) -> tuple[Tensor, Tensor]:
        return self._images[:count], torch.zeros(count, 0)

    def draw_labels(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(count, 0)


def make_training(
    architecture: str, resolution: int, batch: int, channel_base: int, setting: Setting
) -> tuple[TrainingState, Recipe]:
    """A training before its first image, without augmentation."""
    config = TrainConfig(
        batch=batch, kimg=1.0, augment=AugmentConfig(mode="none"), network=NetworkConfig(
            architecture=architecture, channel_base=channel_base, d_channel_base=channel_base,
            mapping_layers=8 if architecture == "stylegan2" else 2,
        ),
    )  # fmt: skip
    torch.manual_seed(0)
    generator, discriminator = build(config.network, resolution, 3, 0)
    recipe = make_recipe(config, architecture, resolution, resolution)
    objective = Objective(
        generator.to(setting.device).train(),
        discriminator.to(setting.device).train(),
        r1_gamma=recipe.r1_gamma,
        path_length_weight=recipe.path_length_weight,
    )
    return new_state(objective, recipe), recipe


def phase_calls(state: TrainingState, recipe: Recipe, images: RandomImages) -> dict[str, Call]:
    """One call a phase, and one for the running average, by name."""
    inputs = loop.draw_inputs(state, recipe, images, seed=0)

    def run(phase: loop.Phase) -> Call:
        return lambda: loop.run_phase(state, recipe, phase, inputs[phase.name])

    calls: dict[str, Call] = {phase.name: run(phase) for phase in loop.phases(recipe)}
    calls[EMA] = lambda: loop.update_average(state.averaged, state.objective.generator, 0.99)
    return calls


def amortised(recipe: Recipe, seconds: dict[str, float]) -> float:
    """Seconds an iteration: every phase by how often it comes."""
    every = {phase.name: phase.interval for phase in loop.phases(recipe)}
    return sum(value / every.get(name, 1) for name, value in seconds.items())


def training_row(architecture: str, resolution: int, target: float) -> Callable[[Setting], Outcome]:
    """Measure a step at batch 4 and channel base 4096 against the same step on the reference."""

    def measure(setting: Setting) -> Outcome:
        side, base = (16, 256) if setting.quick else (resolution, 4096)
        images = RandomImages(side, 4)
        ours, recipe = make_training(architecture, side, 4, base, setting)
        theirs, _ = make_training(architecture, side, 4, base, setting)
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
)

"""Rows of the inversion's two kinds of step.

The reference takes the same step on the reference operators, and computes the features of the
target anew each time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.invert.pti import Projection, noise_maps
from pipeline.invert.tuning import Tuning, TuningOptions, View
from pipeline.metrics import perceptual
from pipeline.metrics.perceptual import PerceptualDistance
from pipeline.models.build import Generator
from scripts.benchmarks.generators import make_generator, random_ws, with_reference
from scripts.benchmarks.measure import Call
from scripts.benchmarks.rows import Row, Setting, Skipped, Work

# The distance that inversion takes on a CPU unless told otherwise.
DISTANCE = "lpips-alex"


def _given(setting: Setting) -> tuple[Generator, PerceptualDistance, Tensor]:
    """A StyleGAN2 generator, the distance, and a picture to be found."""
    side = 64 if setting.quick else 256
    generator = make_generator("stylegan2", side, setting, small=setting.quick)
    try:
        distance = perceptual.load(DISTANCE, setting.device, largest_px=256)
    except ModelError as error:
        raise Skipped(f"not measured: {error}") from None
    torch.manual_seed(2)
    return generator, distance, torch.rand(1, 3, side, side, device=setting.device) * 2 - 1


def _with_target(step: Callable[[], object], distance: PerceptualDistance, target: Tensor) -> Call:
    """The step on the reference operators, and the target's features beside it."""

    def run() -> object:
        with torch.no_grad():
            distance.features(target)
        return step()

    return with_reference(run)


def _pivot(setting: Setting) -> Work:
    generator, distance, target = _given(setting)
    start = random_ws(generator, setting)[:, :1]
    jitter = torch.zeros_like(start)

    def engine() -> Projection:
        return Projection(generator, distance, target, start, 1.0, noise_maps(generator))

    ours, theirs = engine(), engine()
    return Work(
        lambda: ours.step(jitter), _with_target(lambda: theirs.step(jitter), distance, target)
    )


def _tuning(setting: Setting) -> Work:
    generator, distance, target = _given(setting)
    ws = random_ws(generator, setting)
    # It never arrives, so that each call is a whole step.
    options = TuningOptions(stop_at=0.0)

    def engine() -> Tuning:
        return Tuning(copy.deepcopy(generator), distance, [View(target, ws)], options)

    ours, theirs = engine(), engine()
    return Work(lambda: ours.step(), _with_target(lambda: theirs.step(), distance, target))


ROWS = (
    Row(
        key="pivot-256",
        title="pivot step at 256, StyleGAN2",
        target="≥ 1.3x, target features computed once",
        work=_pivot,
        speed=1.3,
        wants_gib=2,
    ),
    Row(
        key="tuning-256",
        title="tuning step at 256, StyleGAN2",
        target="≥ 1.3x, target features computed once",
        work=_tuning,
        speed=1.3,
        wants_gib=2,
    ),
)

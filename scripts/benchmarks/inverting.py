"""Rows of the inversion's two kinds of step.

The reference takes the same step on the reference operators, and computes the features of the
target anew each time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pipeline import weights
from pipeline.errors import ModelError
from pipeline.invert import stage
from pipeline.invert.config import InvertConfig, ProjectConfig, TuneConfig
from pipeline.invert.pti import Projection, noise_maps
from pipeline.invert.tuning import Tuning, TuningOptions, View
from pipeline.invert.writing import Metrics
from pipeline.metrics import perceptual
from pipeline.metrics.perceptual import PerceptualDistance
from pipeline.models import checkpoint
from pipeline.models.build import Generator
from scripts.benchmarks.generators import make_generator, random_ws, with_reference
from scripts.benchmarks.measure import Call
from scripts.benchmarks.rows import Row, Setting, Skipped, Work
from torch_utils.pixels import to_uint8

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


def whole_inversion(folder: Path, setting: Setting) -> Metrics:
    """The metrics of an inversion at 512 px by the invert stage, and the seconds it took.

    A StyleGAN2 with random weights looks for a picture that it drew itself from another latent.
    Writes into `folder`, which must be empty. Raises Skipped without a distance's weights.
    """
    on_gpu = setting.device.type == "cuda"
    distances = ("lpips-vgg", "lpips-alex") if on_gpu else ("lpips-alex", "lpips-vgg")
    there = [name for name in distances if weights.find(name)]
    if not there:
        raise Skipped(
            "the weights of LPIPS are not on this machine (python -m scripts.fetch_weights)"
        )
    side = 64 if setting.quick else 512
    generator = make_generator("stylegan2", side, setting, small=setting.quick)
    checkpoint.save(folder / "model", {"G_ema": generator})
    with torch.no_grad():
        drawn = generator.synthesis(random_ws(generator, setting), noise_mode="const")
    Image.fromarray(to_uint8(drawn)[0]).save(folder / "drawn.png")
    config = InvertConfig(
        model="given", image="given", align="none", perceptual=there[0], device=setting.device.type,
        project=ProjectConfig(steps=5, w_samples=64) if setting.quick else ProjectConfig(),
        tune=TuneConfig(steps=5) if setting.quick else TuneConfig(),
    )  # fmt: skip
    inputs = {"model": folder / "model", "image": folder / "drawn.png"}
    started = setting.clock()
    metrics = stage.run(config, inputs, folder / "inversion")
    return metrics | {"seconds": setting.clock() - started}


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

"""Rows that need a GPU; without one they say that they are not measured."""

from __future__ import annotations

import torch

from scripts.benchmarks import dragging, operators
from scripts.benchmarks.measure import ceilings, interleaved
from scripts.benchmarks.reference import public_formulation
from scripts.benchmarks.rows import Check, Outcome, Row, Setting
from scripts.benchmarks.training import (
    RandomImages,
    amortised,
    make_training,
    phase_calls,
    recorded_calls,
)
from torch_utils.recording import recorder_for

BATCH = 32
# The reference's full-size intermediates of a whole batch would not fit.
AT_ONCE = 8


def _filtered_lrelu(setting: Setting) -> Outcome:
    """Share of the larger of the two times that memory and arithmetic take at least."""
    work = operators.filtered_lrelu_work(setting)
    (times,) = interleaved([work.ours], *setting.timing)
    machine = ceilings(setting.device)
    assert work.bytes is not None
    assert work.flops is not None
    moving = work.bytes / (machine.gigabytes * 1e9)
    computing = work.flops / (machine.gflops * 1e9)
    return Outcome(
        ours_seconds=times.median,
        flops=work.flops,
        bytes=work.bytes,
        checks=(Check("of the floor", max(moving, computing) / times.median * 100, 60, unit=" %"),),
        samples={"ours": times.samples},
        figures={"memory floor (ms)": moving * 1e3, "arithmetic floor (ms)": computing * 1e3},
    )


def _training(setting: Setting) -> Outcome:
    """StyleGAN3-T-512 in half precision against the reference operators under torch.compile.

    Ours as the program runs it, its main phases recorded as CUDA graphs.
    Compiled code has no second derivative, so the two are compared in the main phases alone.
    """
    images = RandomImages(512, AT_ONCE)
    ours, recipe = make_training("stylegan3-t", 512, AT_ONCE, 32768, setting)
    theirs, _ = make_training("stylegan3-t", 512, AT_ONCE, 32768, setting)
    recorder = recorder_for(setting.device)
    assert recorder is not None
    own_calls = recorded_calls(ours, recipe, images, recorder)
    names = list(own_calls)
    times = interleaved([own_calls[name] for name in names], *setting.timing)
    own = {name: taken.median for name, taken in zip(names, times, strict=True)}
    main = [name for name in names if name.endswith("main")]
    with public_formulation():
        theirs.objective.generator.synthesis.compile()
        theirs.objective.discriminator.compile()
        other_calls = phase_calls(theirs, recipe, images)
        compiled = interleaved([other_calls[name] for name in main], *setting.timing)
    factor = sum(taken.median for taken in compiled) / sum(own[name] for name in main)
    an_image = amortised(recipe, own) / AT_ONCE
    return Outcome(
        ours_seconds=an_image * BATCH,
        checks=(
            Check("speed", factor, 1.5),
            Check("s/kimg", an_image * 1000, 20, at_least=False, unit=""),
        ),
        samples={name: taken.samples for name, taken in zip(names, times, strict=True)},
        note=f"{AT_ONCE} images at a time; {torch.cuda.get_device_name(setting.device)}",
    )


ROWS: tuple[Row, ...] = (
    Row(
        key="gpu-filtered-lrelu",
        title="GPU: `filtered_lrelu` forward + backward, StyleGAN3-T-256's shapes",
        target="≥ 60 % of the larger of its two floors",
        measure=_filtered_lrelu,
        device="cuda",
        most_repeats=50,
    ),
    Row(
        key="gpu-train-stylegan3-t-512",
        title="GPU: 512x512 StyleGAN3-T training in half precision, against compiled reference ops",
        target="≥ 1.5x, < 20 s/kimg",
        measure=_training,
        device="cuda",
        most_repeats=10,
    ),
    *dragging.GPU_ROWS,
)

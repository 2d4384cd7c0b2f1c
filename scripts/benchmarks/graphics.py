"""Rows that need a GPU; without one they say that they are not measured."""

from __future__ import annotations

import torch

from scripts.benchmarks import dragging, operators
from scripts.benchmarks.measure import ceilings, interleaved
from scripts.benchmarks.rows import Check, Outcome, Row, Setting
from scripts.benchmarks.training import (
    COMPILED_REFERENCE,
    OWN_BATCHES,
    RECORDED,
    REFERENCE_BATCHES,
    measure_step,
    published_shape,
)


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

    Ours as the program runs it, its main phases recorded as CUDA graphs. Compiled code has no
    second derivative, so the two are compared in the main phases alone.
    """
    network = published_shape("stylegan3-t")
    ours = measure_step(network, 512, OWN_BATCHES, RECORDED, setting)
    compiled = measure_step(network, 512, REFERENCE_BATCHES, COMPILED_REFERENCE, setting)
    return Outcome(
        ours_seconds=ours.an_image * OWN_BATCHES[0],
        checks=(
            Check("speed", compiled.main_seconds / ours.main_seconds, 1.5),
            Check("s/kimg", ours.an_image * 1000, 20, at_least=False, unit=""),
        ),
        figures={f"{name} (ms)": value * 1e3 for name, value in ours.seconds.items()},
        note=f"{ours.at_once} images at a time, the reference {compiled.at_once}; "
        f"{torch.cuda.get_device_name(setting.device)}",
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

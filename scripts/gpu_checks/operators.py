"""The operators' parts: every combination against plain torch, and their time beside its floors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch

from pipeline.console import progress
from scripts.benchmarks.measure import ceilings
from scripts.benchmarks.rows import Setting
from scripts.gpu_checks import correctness, speed, steps
from scripts.gpu_checks.correctness import Outcome
from scripts.gpu_checks.finding import Finding, table

# The share of the larger floor that is asked for.
WANTED_SHARE = {"filtered_lrelu": 0.6, "upfirdn2d": 0.8, "bias_act": 0.8}


def operators(setting: Setting, layouts: Sequence[str] = correctness.LAYOUTS) -> Finding:
    """Every operator, type and layout: values, derivatives, and on a GPU streams and graphs."""
    jobs = [
        (case, dtype, layout)
        for case in correctness.cases()
        for dtype in correctness.dtypes(setting.device)
        for layout in layouts
    ]
    outcomes = []
    with progress("Checking", len(jobs), "combinations") as bar:
        for case, dtype, layout in jobs:
            outcomes.append(correctness.run(setting.device, case, dtype, layout))
            bar.advance()
    passed = sum(outcome.passed for outcome in outcomes)
    rows = []
    for name in dict.fromkeys(outcome.dtype for outcome in outcomes):
        of_type = [outcome for outcome in outcomes if outcome.dtype == name]
        worst = [
            f"{max(o.errors.get(key, 0.0) for o in of_type):.1e}"
            for key in ("y", "dx", "db", "ddy", "stream", "graph")
        ]
        rows.append([name, f"{of_type[0].allowed:.0e}", *worst])
    lines = [
        f"{passed} of {len(outcomes)} combinations of operator, type and layout "
        f"({', '.join(layouts)}) within their tolerance. Largest relative error against plain "
        "torch in float64; in another stream and in a CUDA graph (GPU only) against the same call "
        "made plainly:",
        "",
        *table("type | allowed | y | dx | db | second derivative | stream | graph", rows),
    ]
    return Finding(lines, [_plain(outcome) for outcome in outcomes], _failures(outcomes))


def recorded(setting: Setting) -> Finding:
    """Training and drag steps as CUDA graphs against the same steps run plainly."""
    checks = steps.checks(setting.device)
    outcomes = []
    with progress("Checking", len(checks), "steps") as bar:
        for check in checks:
            outcomes.append(check())
            bar.advance()
    rows = [
        [
            outcome.case,
            outcome.dtype,
            f"{outcome.allowed:.0e}",
            ", ".join(f"{key} {value:.1e}" for key, value in outcome.errors.items()),
        ]
        for outcome in outcomes
        if outcome.errors
    ]
    lines = [
        "Recorded steps against the same steps run plainly, relative error:",
        "",
        *table("step | type | allowed | errors", rows),
    ]
    return Finding(lines, [_plain(outcome) for outcome in outcomes], _failures(outcomes))


def timed(setting: Setting) -> Finding:
    """Forward and backward of each operator beside plain torch and the device's ceilings."""
    on_gpu = setting.device.type == "cuda"
    works = speed.works(1 / 16 if setting.quick else 1.0)
    dtypes = [torch.float32, torch.float16, torch.bfloat16] if on_gpu else [torch.float32]
    top = ceilings(setting.device, setting.repeats)
    timings = []
    with progress("Measuring", len(works) * len(dtypes), "rows") as bar:
        for work in works:
            for dtype in dtypes:
                timings.append(speed.measure(setting.device, work, dtype, top, setting.repeats))
                bar.advance()
    rows = [
        [
            timing.work,
            timing.dtype,
            f"{timing.ours * 1e3:.3f}",
            f"{timing.plain * 1e3:.3f}",
            f"{timing.plain / timing.ours:.1f}x",
            f"{timing.floor_bytes * 1e3:.3f}",
            f"{timing.floor_flops * 1e3:.3f}",
            f"{timing.share:.0%}",
            "–" if setting.quick else f"{WANTED_SHARE[timing.work.split()[0]]:.0%}",
        ]
        for timing in timings
    ]
    lines = [
        f"Ceilings measured beside it: copy {top.gigabytes:.0f} GB/s, float32 matrix product "
        f"{top.gflops / 1e3:.2f} TFLOP/s. Forward and backward, medians of interleaved repeats; "
        "share: of the larger floor.",
        "",
        *table(
            "work | type | ours, ms | plain torch, ms | ratio | floor by bytes, ms "
            "| floor by products, ms | share | wanted",
            rows,
        ),
    ]
    figures = [asdict(timing) | {"share": timing.share} for timing in timings]
    return Finding(lines, [asdict(top), *figures])


def _plain(outcome: Outcome) -> dict[str, object]:
    return asdict(outcome) | {"passed": outcome.passed}


def _failures(outcomes: Sequence[Outcome]) -> list[str]:
    failures = []
    for outcome in outcomes:
        if not outcome.passed:
            errors = ", ".join(f"{key} {value:.1e}" for key, value in outcome.errors.items())
            what = f"{outcome.case}, {outcome.dtype}, {outcome.layout}"
            failures.append(f"{what}: {outcome.remark or errors}")
    return failures

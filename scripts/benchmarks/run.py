"""From rows to results: guards, times, memory in processes of their own, targets."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import torch

from scripts.benchmarks import measure
from scripts.benchmarks.rows import GIB, Check, Outcome, Result, Row, Setting, Skipped, Work

# Memory beyond what a row's reference wants, for everything else on the machine.
SPARE_GIB = 0.5
SIDES = ("ours", "reference")
# The option of scripts/bench.py that prints one side's peak memory in bytes.
PEAK_OPTION = "--peak-of"


def run_row(row: Row, setting: Setting) -> Result:
    """Measure a row, or say why it cannot be measured here."""
    try:
        _check_possible(row, setting)
        setting = replace(setting, repeats=max(1, min(setting.repeats, row.most_repeats)))
        if row.measure is not None:
            return Result(row, row.measure(setting))
        assert row.work is not None
        outcome = _time(row, row.work(setting), setting)
        # The row's tensors are freed by now: both sides find the same machine.
        return Result(row, _with_memory(row, outcome, setting))
    except Skipped as reason:
        return Result(row, None, str(reason))


def peak_of(row: Row, side: str, setting: Setting) -> int:
    """Bytes that one call of a side needs; to be asked of a fresh process."""
    assert row.work is not None
    # What a first call loads (code, threads) is no part of what the work needs.
    _side(row.work(replace(setting, quick=True)), side)()
    return measure.peak_bytes(_side(row.work(setting), side), setting.device)


def _side(work: Work, side: str) -> measure.Call:
    return work.ours if side == "ours" else work.reference


def _check_possible(row: Row, setting: Setting) -> None:
    if row.device == "cuda" and setting.device.type != "cuda":
        raise Skipped("not measured: no GPU was asked for (--device cuda)")
    if row.device == "cpu" and setting.device.type != "cpu":
        raise Skipped("a figure of the CPU")
    free = measure.free_bytes()
    wants = row.wants_gib + SPARE_GIB
    if row.device == "cpu" and free is not None and free < wants * GIB and not setting.quick:
        raise Skipped(
            f"not measured: the reference wants {row.wants_gib:g} GiB of memory, and "
            f"{free / GIB:.1f} GiB are free"
        )


def _time(row: Row, work: Work, setting: Setting) -> Outcome:
    parts = list(work.parts)
    calls = [work.ours, work.reference, *work.parts.values()]
    times = measure.interleaved(calls, *setting.timing)
    named = dict(zip([*SIDES, *parts], times, strict=True))
    ours, theirs = named["ours"].median, named["reference"].median
    checks = []
    if row.speed is not None:
        checks.append(Check("speed", theirs / ours, row.speed))
    for name, factor in row.within.items():
        checks.append(Check(f"of {name}", ours / named[name].median, factor, at_least=False))
    return Outcome(
        ours_seconds=ours,
        reference_seconds=theirs,
        flops=work.flops,
        bytes=work.bytes,
        checks=tuple(checks),
        samples={name: taken.samples for name, taken in named.items()},
        figures={f"{name} (ms)": round(named[name].median * 1000, 3) for name in parts},
    )


def _with_memory(row: Row, outcome: Outcome, setting: Setting) -> Outcome:
    peaks = {side: _ask_peak(row, side, setting) for side in SIDES}
    checks = outcome.checks
    if row.memory is not None:
        # A call that needs less than a page is as good as one that needs a page.
        factor = peaks["reference"] / max(peaks["ours"], 4096)
        checks = (*checks, Check("memory", factor, row.memory))
    return replace(
        outcome,
        ours_bytes=peaks["ours"],
        reference_bytes=peaks["reference"],
        checks=checks,
    )


def _ask_peak(row: Row, side: str, setting: Setting) -> int:
    """Peak memory of one side, measured in a process of its own."""
    command = [
        sys.executable, "-m", "scripts.bench", "--only", row.key, PEAK_OPTION, side,
        "--device", setting.device.type, "--threads", str(torch.get_num_threads()),
    ]  # fmt: skip
    if setting.quick:
        command.append("--quick")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["killed, most likely for want of memory"])[-1]
        raise Skipped(f"not measured: the process that measures memory failed ({last})")
    return int(json.loads(done.stdout.splitlines()[-1]))

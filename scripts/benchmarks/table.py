"""Results as a table for people (markdown) and as JSON with every sample."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from scripts.benchmarks.measure import Ceilings
from scripts.benchmarks.rows import Check, Result

MARKDOWN = "bench.md"
JSON = "bench.json"
MIB = 1 << 20


def write(
    folder: Path, results: Sequence[Result], ceilings: Ceilings, machine: Mapping[str, object]
) -> None:
    """Write both files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKDOWN).write_text(markdown(results, ceilings, machine), encoding="utf-8")
    (folder / JSON).write_text(as_json(results, ceilings, machine), encoding="utf-8")


def markdown(results: Sequence[Result], ceilings: Ceilings, machine: Mapping[str, object]) -> str:
    """The table, what it was measured on before it, what there is to add behind it."""
    lines = ["# Measured speed", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += [
        f"- ceilings: matrix product {ceilings.gflops:.0f} GFLOP/s, copy "
        f"{ceilings.gigabytes:.1f} GB/s",
        "",
        "Each figure is a ratio against the public formulation in the same process; seconds are "
        "medians of interleaved repeats; memory is what one call needs above weights and inputs.",
        "",
        "| work | target | measured | ours | reference | memory ours | memory reference "
        "| GFLOP/s | GB/s | reached |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(result, ceilings) for result in results]
    notes = [f"- {result.row.title}: {text}" for result in results if (text := _notes(result))]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def as_json(results: Sequence[Result], ceilings: Ceilings, machine: Mapping[str, object]) -> str:
    """Everything, samples included."""
    rows = []
    for result in results:
        entry = {
            "key": result.row.key,
            "work": result.row.title,
            "target": result.row.target,
            "reached": result.reached,
            "reason": result.reason,
        }
        if result.outcome is not None:
            entry |= asdict(result.outcome)
        rows.append(entry)
    content = {"machine": dict(machine), "ceilings": asdict(ceilings), "rows": rows}
    return json.dumps(content, indent=1) + "\n"


def summary(result: Result) -> str:
    """One line for the terminal."""
    if result.outcome is None:
        return f"{result.row.key}: {result.reason}"
    return f"{result.row.key}: {_measured(result)} (target {result.row.target})"


def _line(result: Result, ceilings: Ceilings) -> str:
    outcome = result.outcome
    if outcome is None:
        cells = [result.row.title, result.row.target, result.reason, *["–"] * 6, "–"]
        return f"| {' | '.join(cells)} |"
    cells = [
        result.row.title,
        result.row.target,
        _measured(result),
        _seconds(outcome.ours_seconds),
        _seconds(outcome.reference_seconds),
        _mib(outcome.ours_bytes),
        _mib(outcome.reference_bytes),
        _rate(outcome.flops, outcome.ours_seconds, ceilings.gflops),
        _rate(outcome.bytes, outcome.ours_seconds, ceilings.gigabytes),
        {True: "yes", False: "**no**", None: "–"}[result.reached],
    ]
    return f"| {' | '.join(cells)} |"


def _measured(result: Result) -> str:
    assert result.outcome is not None
    return ", ".join(_check(check) for check in result.outcome.checks) or "–"


def _check(check: Check) -> str:
    """ "21.3x", "1.21x of its convolutions alone", "memory 1/5.2"."""
    if check.what == "memory":
        return f"memory 1/{check.value:.1f}"
    number = f"{check.value:.3g}{check.unit}"
    return number if check.what == "speed" else f"{number} {check.what}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def _mib(value: int | None) -> str:
    return "–" if value is None else f"{value / MIB:.0f} MB"


def _rate(amount: float | None, seconds: float | None, ceiling: float) -> str:
    """Billions a second, and the share of the ceiling."""
    if amount is None or seconds is None:
        return "–"
    rate = amount / seconds / 1e9
    return f"{rate:.1f} ({rate / ceiling:.0%})"


def _notes(result: Result) -> str:
    outcome = result.outcome
    if outcome is None:
        return ""
    parts = [f"{name} {value}" for name, value in outcome.figures.items()]
    return "; ".join([*([outcome.note] if outcome.note else []), *parts])

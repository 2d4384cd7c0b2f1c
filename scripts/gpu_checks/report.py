"""The check's results as the GPU part of docs/measurements.md, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.benchmarks.measure import Ceilings
from scripts.gpu_checks.correctness import Outcome
from scripts.gpu_checks.speed import Timing
from scripts.gpu_checks.steps import StepTiming

BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"


@dataclass(frozen=True)
class Report:
    """All that a run found out."""

    machine: dict[str, str]
    outcomes: Sequence[Outcome]
    ceilings: Ceilings | None
    timings: Sequence[Timing]
    sanitizer: str
    steps: Sequence[StepTiming] = ()

    @property
    def failures(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not outcome.passed]


def markdown(report: Report) -> str:
    """The tables, worst errors and shares of the floors."""
    lines = [f"- {name}: {value}" for name, value in report.machine.items()]
    lines += [f"- memory checker: {report.sanitizer}", "", "### Correctness", ""]
    lines += [
        f"{len(report.outcomes) - len(report.failures)} of {len(report.outcomes)} combinations of "
        "operator, type and layout within their tolerance. Largest relative error against plain "
        "torch in float64:",
        "",
        "| type | allowed | y | dx | db | second derivative |",
        "|---|---|---|---|---|---|",
    ]
    operators = [outcome for outcome in report.outcomes if "y" in outcome.errors]
    for dtype in dict.fromkeys(outcome.dtype for outcome in operators):
        of_type = [outcome for outcome in operators if outcome.dtype == dtype]
        worst = [
            f"{max(o.errors.get(key, 0.0) for o in of_type):.1e}"
            for key in ("y", "dx", "db", "ddy")
        ]
        lines.append(f"| {dtype} | {of_type[0].allowed:.0e} | {' | '.join(worst)} |")
    lines += _recorded(report.outcomes)
    for failure in report.failures:
        errors = ", ".join(f"{key} {value:.1e}" for key, value in failure.errors.items())
        lines.append(
            f"\n**Failed**: {failure.case}, {failure.dtype}, {failure.layout}: "
            f"{failure.remark or errors}"
        )
    if report.ceilings is not None:
        lines += [
            "",
            "### Speed",
            "",
            f"Ceilings measured beside it: copy {report.ceilings.gigabytes:.0f} GB/s, "
            f"float32 matrix product {report.ceilings.gflops / 1e3:.2f} TFLOP/s. Forward "
            "and backward, medians of interleaved repeats.",
            "",
            "| work | type | ours, ms | plain torch, ms | ratio | floor by bytes, ms "
            "| floor by products, ms | share of the larger floor |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {t.work} | {t.dtype} | {t.ours * 1e3:.3f} | {t.plain * 1e3:.3f} "
            f"| {t.plain / t.ours:.1f}x | {t.floor_bytes * 1e3:.3f} | {t.floor_flops * 1e3:.3f} "
            f"| {t.share:.0%} |"
            for t in report.timings
        ]
    if report.steps:
        lines += [
            "",
            "### Steps",
            "",
            "Recorded: as CUDA graphs, where there is a GPU. Compiled: by torch.compile, and then "
            "recorded. Medians of interleaved repeats.",
            "",
            "| step | plain, ms | recorded, ms | compiled, ms |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {step.step} | {step.plain * 1e3:.2f} | {_ms(step.recorded)} "
            f"| {_ms(step.compiled)} |"
            for step in report.steps
        ]
    return "\n".join(lines) + "\n"


def _recorded(outcomes: Sequence[Outcome]) -> list[str]:
    """Recorded steps against plain ones."""
    found = [outcome for outcome in outcomes if outcome.layout == "recorded" and outcome.errors]
    if not found:
        return []
    lines = [
        "",
        "Recorded steps against the same steps run plainly, relative error:",
        "",
        "| step | type | allowed | errors |",
        "|---|---|---|---|",
    ]
    for outcome in found:
        errors = ", ".join(f"{key} {value:.1e}" for key, value in outcome.errors.items())
        lines.append(f"| {outcome.case} | {outcome.dtype} | {outcome.allowed:.0e} | {errors} |")
    return lines


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:.2f}"


def write(report: Report, page: Path, data: Path) -> None:
    """Put the tables between the page's markers (which must be there), and everything into JSON."""
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} lacks the lines {BEGIN} and {END}, between which the tables go")
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    new = f"{head}{BEGIN}\n{markdown(report)}{END}{tail}"
    for path, content in ((page, new), (data, as_json(report))):
        aside = path.with_name(path.name + ".tmp")
        aside.write_text(content, encoding="utf-8")
        aside.replace(path)


def as_json(report: Report) -> str:
    """Every figure."""
    return json.dumps(
        {
            "machine": report.machine,
            "sanitizer": report.sanitizer,
            "correctness": [
                asdict(outcome) | {"passed": outcome.passed} for outcome in report.outcomes
            ],
            "ceilings": asdict(report.ceilings) if report.ceilings else None,
            "steps": [asdict(step) for step in report.steps],
            "speed": [asdict(timing) | {"share": timing.share} for timing in report.timings],
        },
        indent=1,
    )

"""The emotion benchmark's figures: rows on disk, means, tables, a page; one or several models.

Knows summary.json, table.md and report.html; nothing of networks.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.errors import DataError
from pipeline.evaluate.sections.shared import Table
from pipeline.metrics.estimate import bootstrap

SUMMARY, TABLE, PAGE = "summary.json", "table.md", "report.html"
FORMAT, VERSION = "animedrag-emotion-bench", 1
# Figure -> (head of its column, factor, digits, whether more is better).
FIGURES: dict[str, tuple[str, float, int, bool]] = {
    "reads_right": ("read as asked, %", 100, 0, True),
    "chance": ("probability of it, %", 100, 0, True),
    "truth_widths": ("landmarks off the painter's truth, % of face width", 100, 2, False),
    "off_widths": ("off the plan, %", 100, 2, False),
    "identity_share": ("identity, share of two paintings'", 1, 3, True),
    "outside_levels": ("change outside the face, levels", 1, 2, False),
    "by_model": ("made by the model, %", 100, 0, True),
    "seconds": ("seconds of the processor", 1, 1, False),
}
# Shown by emotion, too.
BY_EMOTION = ("reads_right", "chance", "truth_widths", "identity_share")


@dataclass(frozen=True)
class Bar:
    """One bar of a plot: what it is of, its figure as text, its length in per cent."""

    label: str
    text: str
    length: float


@dataclass(frozen=True)
class Bars:
    """A plot: a bar a model and method."""

    title: str
    bars: list[Bar]


@dataclass(frozen=True)
class HeatCell:
    """A coloured cell: its text, and how good it is from 0 to 1; None: nothing to show."""

    text: str
    good: float | None


@dataclass(frozen=True)
class Heat:
    """Methods by emotions, coloured."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[HeatCell]]]


def summarise(rows: Sequence[Mapping[str, Any]], model: str) -> dict[str, Any]:
    """Means with 95 % bootstrap intervals, over characters (and emotions)."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    emotions = list(dict.fromkeys(row["emotion"] for row in rows))
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": model,
        "emotions": emotions,
        "methods": {
            method: {
                "figures": _figures([r for r in rows if r["method"] == method]),
                "emotions": {
                    emotion: _figures(
                        [r for r in rows if (r["method"], r["emotion"]) == (method, emotion)]
                    )
                    for emotion in emotions
                },
            }
            for method in methods
        },
    }


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in FIGURES:
        values = [float(row[name]) for row in rows if row.get(name) is not None]
        if not values:
            continue
        estimate = bootstrap(
            torch.tensor(values, dtype=torch.float64), lambda sets: sets.mean(1), seed=0
        )
        found[name] = {
            "mean": round(estimate.value, 5),
            "low": _finite(estimate.low),
            "high": _finite(estimate.high),
            "count": len(values),
        }
    return found


def _finite(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def read(folder: Path) -> dict[str, Any]:
    """An artifact's summary; DataError where it is none."""
    path = folder / SUMMARY
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if (summary["format"], summary["version"]) != (FORMAT, VERSION):
            raise ValueError("of another format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no emotion benchmark's summary ({error}).") from error
    return summary


def write(out: Path, summary: Mapping[str, Any], examples: Path) -> None:
    """summary.json, table.md and report.html."""
    text = json.dumps(summary, indent=1) + "\n"
    (out / SUMMARY).write_text(text, encoding="utf-8")
    (out / TABLE).write_text(markdown([summary]), encoding="utf-8")
    (out / PAGE).write_text(to_html([summary], [examples]), encoding="utf-8")


def metrics(summary: Mapping[str, Any]) -> dict[str, float | int | str]:
    """Flat figures for the manifest."""
    found: dict[str, float | int | str] = {}
    for method, entry in summary["methods"].items():
        for name, value in entry["figures"].items():
            found[f"{name}_{method.replace(':', '_')}"] = value["mean"]
    return found


# --- tables ---


def tables(summaries: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One of means, a row a model and method; then one a figure, a column an emotion."""
    several = len(summaries) > 1
    named = [
        (f"{summary['model']}: {method}" if several else method, entry)
        for summary in summaries
        for method, entry in summary["methods"].items()
    ]
    head = ["way", *(FIGURES[name][0] for name in FIGURES)]
    rows = [[label, *(_cell(entry["figures"], name) for name in FIGURES)] for label, entry in named]
    numeric = frozenset(range(1, len(head)))
    found = [Table("Means over characters and emotions (95 % interval)", head, rows, numeric, True)]
    emotions = list(dict.fromkeys(e for summary in summaries for e in summary["emotions"]))
    for name in BY_EMOTION:
        rows = [
            [label, *(_cell(entry["emotions"].get(e, {}), name, False) for e in emotions)]
            for label, entry in named
        ]
        columns = frozenset(range(1, len(emotions) + 1))
        found.append(Table(FIGURES[name][0].capitalize(), ["way", *emotions], rows, columns, True))
    return found


def _cell(figures: Mapping[str, Any], name: str, interval: bool = True) -> str:
    if name not in figures:
        return "–"
    _, factor, digits, _ = FIGURES[name]
    value = figures[name]
    text = f"{factor * value['mean']:.{digits}f}"
    if interval and value["low"] is not None and value["count"] > 1:
        text += f" ({factor * value['low']:.{digits}f} to {factor * value['high']:.{digits}f})"
    return text


def markdown(summaries: Sequence[Mapping[str, Any]]) -> str:
    """The tables in GitHub's Markdown."""
    lines: list[str] = []
    for table in tables(summaries):
        lines += [f"{table.caption}:", ""]
        lines.append("| " + " | ".join(table.head) + " |")
        lines.append("|---|" + "---:|" * (len(table.head) - 1))
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
        lines.append("")
    return "\n".join(lines)


# --- the page ---


def bars(summaries: Sequence[Mapping[str, Any]], name: str) -> Bars:
    """A plot of one figure, a bar a model and method; the longest is full."""
    title, factor, digits, _ = FIGURES[name]
    several = len(summaries) > 1
    values = [
        (f"{s['model']}: {method}" if several else method, entry["figures"][name]["mean"])
        for s in summaries
        for method, entry in s["methods"].items()
        if name in entry["figures"]
    ]
    most = max((value for _, value in values), default=0.0) or 1.0
    return Bars(
        title,
        [
            Bar(label, f"{factor * value:.{digits}f}", round(100 * max(value, 0) / most, 1))
            for label, value in values
        ],
    )


def heat(summary: Mapping[str, Any], name: str) -> Heat:
    """Methods by emotions, coloured by the figure; from the worst on the page to the best."""
    title, factor, digits, more = FIGURES[name]
    emotions = list(summary["emotions"])
    values = {
        (method, emotion): entry["emotions"][emotion][name]["mean"]
        for method, entry in summary["methods"].items()
        for emotion in emotions
        if name in entry["emotions"].get(emotion, {})
    }
    low, high = min(values.values(), default=0.0), max(values.values(), default=1.0)

    def cell(method: str, emotion: str) -> HeatCell:
        if (method, emotion) not in values:
            return HeatCell("–", None)
        value = values[method, emotion]
        share = (value - low) / (high - low) if high > low else 1.0
        return HeatCell(f"{factor * value:.{digits}f}", round(share if more else 1 - share, 3))

    rows = [
        (method, [cell(method, emotion) for emotion in emotions]) for method in summary["methods"]
    ]
    return Heat(f"{summary['model']}: {title}", emotions, rows)


def to_html(summaries: Sequence[Mapping[str, Any]], examples: Sequence[Path] = ()) -> str:
    """The page, with its pictures in it; fetches nothing."""
    environment = Environment(
        loader=PackageLoader("pipeline.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = [
        "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
        for path in examples
        if path.is_file()
    ]
    return environment.get_template("emotion_bench.html").render(
        models=[summary["model"] for summary in summaries],
        tables=tables(summaries),
        plots=[bars(summaries, name) for name in FIGURES],
        heats=[heat(summary, name) for summary in summaries for name in BY_EMOTION],
        pictures=pictures,
    )

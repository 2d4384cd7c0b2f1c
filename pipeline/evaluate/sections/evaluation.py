"""The evaluation's section: the model's figures, its sheets, and curves over its training.

Knows metrics.json by its reader, and the names of the sheets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError
from pipeline.evaluate import evaluation_file
from pipeline.evaluate.pictures import Picture, embed_picture
from pipeline.evaluate.plots import Plot, Series, format_number, make_plot
from pipeline.evaluate.sections.shared import Table
from pipeline.metrics.suite import METRICS, Result

SHEETS = (
    ("real_and_fake.png", "Real images above images of the model"),
    ("typical.png", "The model's most and least typical images"),
)


@dataclass(frozen=True)
class EvaluationSection:
    """How good the model is, in figures."""

    lead: str
    tables: list[Table]
    plots: list[Plot]
    pictures: list[Picture]


def evaluation_section(folder: Path, picture_px: int) -> EvaluationSection:
    """Figures with their intervals, curves over the snapshots, sheets."""
    pictures = [embed_picture(folder / name, text, picture_px, text) for name, text in SHEETS]
    shown = [picture for picture in pictures if picture]
    try:
        evaluation = evaluation_file.read(folder)
    except DataError:
        return EvaluationSection("The evaluation's figures cannot be read.", [], [], shown)
    lead = f"Samples of seed {evaluation.seed}"
    if evaluation.truncation_psi != 1:
        lead += f", truncated to psi {evaluation.truncation_psi:g}"
    lead += ". Lower is better with ↓, higher with ↑; figures seen through different networks "
    lead += "cannot be compared"
    return EvaluationSection(
        lead=f"{lead}.",
        tables=[figure_table(evaluation.results)],
        plots=_plots(evaluation.snapshots),
        pictures=shown,
    )


def figure_table(results: Sequence[Result]) -> Table:
    """One figure a row: value, interval, what it rests on, source; arrows say what is better."""
    head = ["figure", "value", "95 % interval", "samples", "real images", "seen through", "source"]
    rows = []
    for result in results:
        metric = METRICS[result.metric]
        arrow = "↓" if metric.better == "lower" else "↑"
        name = f"{metric.title} {arrow}" + (f", against {result.against}" if result.against else "")
        network = result.network or "–"
        if result.estimate is None:
            missing = f"not available: {result.note}"
            rows.append([name, "–", missing, "–", "–", network, metric.source])
            continue
        unit = f"\N{NO-BREAK SPACE}{metric.unit}" if metric.unit else ""
        low, high = result.estimate.low, result.estimate.high
        span = f"{format_number(low)} to {format_number(high)}" if math.isfinite(low) else "–"
        reals = str(result.reals) if result.reals else "–"
        value = format_number(result.estimate.value) + unit
        rows.append([name, value, span, str(result.samples), reals, network, metric.source])
    return Table("Figures", head, rows, frozenset({1, 3, 4}), wide=True)


def _plots(snapshots: Sequence[evaluation_file.Snapshot]) -> list[Plot]:
    """One plot a metric, one line a set of real images, over thousand images seen."""
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for snapshot in snapshots:
        for result in snapshot.results:
            if result.estimate is not None:
                against = lines.setdefault(result.metric, {}).setdefault(result.against, [])
                against.append((snapshot.images_seen / 1000, result.estimate.value))
    plots = []
    for name, by_part in lines.items():
        series = [
            Series(part or METRICS[name].title, [x for x, _ in points], [y for _, y in points])
            for part, points in by_part.items()
        ]
        plot = make_plot(
            f"{METRICS[name].title} over the training ({METRICS[name].better} is better)",
            series,
            x_label="thousand images seen",
            y_label=METRICS[name].title,
            zero=True,
        )
        if plot:
            plots.append(plot)
    return plots

"""Several evaluations side by side: one table, one row a figure, one column a model.

Figures stand in one row only where they mean the same: the same metric against the same part of a
dataset through the same feature network. Knows nothing of the store.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.evaluate.evaluation_file import Evaluation
from pipeline.evaluate.plots import format_number
from pipeline.evaluate.sections.shared import Table
from pipeline.metrics.suite import METRICS, Result

ABSENT = "–"


@dataclass(frozen=True)
class Comparison:
    """The table, and what keeps its figures from being compared without care."""

    table: Table
    cautions: list[str]


def compare(
    evaluations: Mapping[str, Evaluation], datasets: Mapping[str, str] | None = None
) -> Comparison:
    """`evaluations`, and the dataset each compared with, by the names they are shown under."""
    rows: dict[tuple[str, str, str], dict[str, Result]] = {}
    for name, evaluation in evaluations.items():
        for result in evaluation.results:
            key = (result.metric, result.against, result.network)
            rows.setdefault(key, {})[name] = result
    order = list(METRICS)
    keys = sorted(rows, key=lambda key: (order.index(key[0]), key[1], key[2]))
    table = [[_label(*key), *_cells(rows[key], list(evaluations))] for key in keys]
    head = ["figure", *evaluations]
    columns = frozenset(range(1, len(head)))
    return Comparison(
        Table("Figures (95 % interval); * is the best", head, table, columns, wide=True),
        [*_cautions(evaluations, rows), *_caution_of_datasets(datasets or {})],
    )


def _caution_of_datasets(datasets: Mapping[str, str]) -> list[str]:
    if len(set(datasets.values())) < 2:
        return []
    listed = ", ".join(f"{name} with {dataset}" for name, dataset in datasets.items())
    return [
        f"The models were compared with different datasets ({listed}), so that figures against "
        "real images do not rank them."
    ]


def _label(metric: str, against: str, network: str) -> str:
    known = METRICS[metric]
    arrow = "↓" if known.better == "lower" else "↑"
    label = f"{known.title} {arrow}"
    if known.unit:
        label += f" ({known.unit})"
    if against:
        label += f", against {against}"
    return label + (f"; {network}" if network else "")


def _cells(results: Mapping[str, Result], names: Sequence[str]) -> list[str]:
    values = {name: result.estimate.value for name, result in results.items() if result.estimate}
    metric = METRICS[next(iter(results.values())).metric]
    best = None
    if len(values) > 1:
        best = min(values.values()) if metric.better == "lower" else max(values.values())
    cells = []
    for name in names:
        result = results.get(name)
        if result is None or result.estimate is None:
            cells.append(ABSENT)
            continue
        estimate = result.estimate
        text = format_number(estimate.value) + ("*" if estimate.value == best else "")
        if math.isfinite(estimate.low):
            text += f" ({format_number(estimate.low)} to {format_number(estimate.high)})"
        cells.append(text)
    return cells


def _cautions(
    evaluations: Mapping[str, Evaluation], rows: Mapping[tuple[str, str, str], dict[str, Result]]
) -> list[str]:
    cautions = []
    psis = {evaluation.truncation_psi for evaluation in evaluations.values()}
    if len(psis) > 1:
        listed = ", ".join(f"{psi:g}" for psi in sorted(psis))
        cautions.append(f"The models were truncated differently (psi {listed}).")
    for what, key in (("generated images", "samples"), ("real images", "reals")):
        differing = [
            METRICS[metric].title
            for (metric, _, _), results in rows.items()
            if len({getattr(result, key) for result in results.values() if result.estimate}) > 1
        ]
        if differing:
            listed = ", ".join(dict.fromkeys(differing))
            cautions.append(f"{listed} rest on different numbers of {what}.")
    networks = sorted({key[2] for key in rows if key[2]})
    if len(networks) > 1:
        cautions.append(
            f"Figures of different feature networks cannot be compared: {', '.join(networks)}."
        )
    return cautions


def to_markdown(comparison: Comparison) -> str:
    """The comparison as a table of GitHub's Markdown."""
    table = comparison.table

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|---|" + "---:|" * (len(table.head) - 1)
    lines = [line(table.head), rule, *(line(row) for row in table.rows), ""]
    lines += [f"- {caution}" for caution in [table.caption + ".", *comparison.cautions]]
    return "\n".join(lines) + "\n"


def to_html(comparison: Comparison) -> str:
    """The comparison as a page of its own, in the report's dress."""
    environment = Environment(
        loader=PackageLoader("pipeline.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("comparison.html").render(comparison=comparison)

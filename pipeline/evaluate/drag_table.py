"""The drag benchmark's figures: rows on disk, means with intervals, comparisons, a table.

Knows summary.json and table.md; nothing of networks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import DataError
from pipeline.metrics.estimate import Estimate, bootstrap

SUMMARY, TABLE = "summary.json", "table.md"
FORMAT, VERSION = "animedrag-drag-bench", 2
# Figure -> (head of its column, digits).
FIGURES: dict[str, tuple[str, int]] = {
    "mean_distance_px": ("mean distance, px", 2),
    "second_px": ("by the second reader, px", 2),
    "tracked_px": ("by the tracker, px", 2),
    "back_px": ("there and back, px", 2),
    "back_levels": ("there and back, levels", 2),
    "outside_levels": ("change outside, levels", 2),
    "identity": ("identity kept", 3),
    "steps": ("steps", 0),
    "seconds": ("seconds", 2),
}
# Compared with it, on the same pairs.
BASELINE = "draggan"


def summarise(rows: Sequence[Mapping[str, Any]], resolution: int) -> dict[str, Any]:
    """Means with bootstrap intervals of every kind of pair, number of points and strategy.

    Where the baseline was run, also `ratio`: this strategy's mean distance and seconds in units of
    the baseline's on the same pairs, with intervals (paired bootstrap).
    """
    groups: dict[tuple[str, int, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["points"], row["strategy"]), []).append(row)
    lines = []
    for (kind, points, name), group in groups.items():
        line: dict[str, Any] = {
            "kind": kind, "points": points, "strategy": name, "pairs": len(group),
            "begun_px": sum(row["begun_px"] for row in group) / len(group),
            "ended": {status: sum(row["status"] == status for row in group)
                      for status in sorted({row["status"] for row in group})},
        }  # fmt: skip
        for figure in FIGURES:
            values = [row[figure] for row in group if row.get(figure) is not None]
            line[figure] = _numbers(_mean(values)) if values else None
        # As the papers give it, at 512 px.
        line["mean_distance_512_px"] = line["mean_distance_px"]["value"] * 512 / resolution
        base = groups.get((kind, points, BASELINE))
        if base is not None and name != BASELINE and len(base) == len(group):
            line["ratio"] = {
                figure: _numbers(_ratio(group, base, figure))
                for figure in ("mean_distance_px", "second_px", "seconds", "back_px")
                if group[0].get(figure) is not None
            }
        lines.append(line)
    return {"format": FORMAT, "version": VERSION, "resolution": resolution, "lines": lines}


def write(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json and table.md."""
    text = json.dumps(summary, indent=1, allow_nan=False) + "\n"
    (folder / SUMMARY).write_text(text, encoding="utf-8")
    (folder / TABLE).write_text(markdown(summary), encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """What `write` wrote; DataError, one sentence, for anything else."""
    path = folder / SUMMARY
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise ValueError(f"it is of version {content['version']!r}")
        for line in content["lines"]:
            line["mean_distance_px"]["value"] + line["points"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no summary of a drag benchmark ({error}).") from error
    return content


def head() -> list[str]:
    """The columns of `cells`."""
    return ["pairs", "points", "strategy", "begun, px", *(text for text, _ in FIGURES.values()),
            "distance to draggan's", "ended"]  # fmt: skip


def cells(summary: Mapping[str, Any]) -> list[list[str]]:
    """One row a line, as text; intervals in brackets."""
    rows = []
    for line in summary["lines"]:
        row = [f"{line['pairs']} {line['kind']}", str(line["points"]), line["strategy"],
               f"{line['begun_px']:.2f}"]  # fmt: skip
        row += [_text(line[figure], digits) for figure, (_, digits) in FIGURES.items()]
        row.append(_text(line.get("ratio", {}).get("mean_distance_px"), 2))
        row.append(", ".join(f"{count} {status}" for status, count in line["ended"].items()))
        rows.append(row)
    return rows


def markdown(summary: Mapping[str, Any]) -> str:
    """The table, in Markdown."""
    lines = [head(), ["---"] * len(head()), *cells(summary)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def metrics(summary: Mapping[str, Any]) -> dict[str, float | int | str]:
    """The figures as the manifest holds them: own_5_auto_px, ..."""
    return {
        f"{line['kind']}_{line['points']}_{line['strategy']}_px": line["mean_distance_px"]["value"]
        for line in summary["lines"]
    }


def _mean(values: Sequence[float]) -> Estimate:
    return bootstrap(torch.tensor(values, dtype=torch.float64), lambda sets: sets.mean(1))


def _ratio(
    ones: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], figure: str
) -> Estimate:
    pairs = [[one[figure], other[figure]] for one, other in zip(ones, others, strict=True)]
    values = torch.tensor(pairs, dtype=torch.float64)
    return bootstrap(values, lambda sets: sets[..., 0].mean(1) / sets[..., 1].mean(1))


def _numbers(estimate: Estimate) -> dict[str, float | None]:
    values = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _text(numbers: Mapping[str, float | None] | None, digits: int) -> str:
    if numbers is None or numbers["value"] is None:
        return "–"
    text = f"{numbers['value']:.{digits}f}"
    if numbers["low"] is None or numbers["high"] is None:
        return text
    return f"{text} ({numbers['low']:.{digits}f}–{numbers['high']:.{digits}f})"

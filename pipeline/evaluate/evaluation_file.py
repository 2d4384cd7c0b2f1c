"""metrics.json: the figures of an evaluation, written and read.

    {"format": "animedrag-metrics", "version": 1, "seed": 0, "truncation_psi": 1.0,
     "figures": [{"metric": "fid", "against": "train", "value": 12.3, "low": 11.9, "high": 12.7,
                  "samples": 2000, "reals": 671, "network": "...", "interval": "...", "note": "",
                  "source": "Heusel et al. 2017, eq. 6"}, ...],
     "snapshots": [{"images_seen": 20000, "figures": [...]}, ...]}

A value that could not be had is null, and `note` says why. Knows nothing about how it is measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.metrics.estimate import Estimate
from pipeline.metrics.suite import METRICS, Result

FILE = "metrics.json"
FORMAT = "animedrag-metrics"
VERSION = 1


@dataclass(frozen=True)
class Snapshot:
    """A model in the middle of its training: images seen until then, and its figures."""

    images_seen: int
    results: list[Result]


@dataclass(frozen=True)
class Evaluation:
    """All figures of one evaluation."""

    seed: int
    truncation_psi: float
    results: list[Result]
    snapshots: list[Snapshot] = field(default_factory=list)


def write(folder: Path, evaluation: Evaluation) -> None:
    """Write metrics.json; it appears when it is complete."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "seed": evaluation.seed,
        "truncation_psi": evaluation.truncation_psi,
        "figures": [to_json(result) for result in evaluation.results],
        "snapshots": [
            {"images_seen": one.images_seen, "figures": [to_json(item) for item in one.results]}
            for one in evaluation.snapshots
        ],
    }
    aside = folder / f"{FILE}.part"
    aside.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    aside.replace(folder / FILE)


def read(folder: Path) -> Evaluation:
    """What `write` wrote; DataError, one sentence, where it is missing or anything else."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise ValueError(f"it is of version {content['version']!r}")
        return Evaluation(
            seed=int(content["seed"]),
            truncation_psi=float(content["truncation_psi"]),
            results=from_json(content["figures"]),
            snapshots=[
                Snapshot(int(one["images_seen"]), from_json(one["figures"]))
                for one in content["snapshots"]
            ],
        )
    except FileNotFoundError:
        raise DataError(f"{folder} holds no {FILE}; give the folder of an evaluation.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no file of figures ({error}).") from error


def to_json(result: Result) -> dict[str, Any]:
    """A result as it stands in the file."""
    estimate = result.estimate or Estimate(math.nan)
    metric = METRICS[result.metric]
    return {
        "metric": result.metric,
        "against": result.against,
        "value": _number(estimate.value),
        "low": _number(estimate.low),
        "high": _number(estimate.high),
        "unit": metric.unit,
        "samples": result.samples,
        "reals": result.reals,
        "network": result.network,
        "interval": result.interval,
        "note": result.note,
        "source": metric.source,
    }


def from_json(records: Sequence[Mapping[str, Any]]) -> list[Result]:
    """The results that `to_json` described; KeyError, TypeError or ValueError for anything else."""
    results = []
    for record in records:
        if record["metric"] not in METRICS:
            raise ValueError(f"there is no metric {record['metric']!r}")
        values = [record[key] for key in ("value", "low", "high")]
        numbers = [math.nan if value is None else float(value) for value in values]
        results.append(
            Result(
                metric=record["metric"],
                estimate=None if values[0] is None else Estimate(*numbers),
                samples=int(record["samples"]),
                network=str(record["network"]),
                interval=str(record["interval"]),
                note=str(record["note"]),
                against=str(record["against"]),
                reals=int(record["reals"]),
            )
        )
    return results


def _number(value: float) -> float | None:
    """Seven digits: single precision has no more."""
    return float(f"{value:.7g}") if math.isfinite(value) else None

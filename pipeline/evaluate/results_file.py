"""results.jsonl of the benchmarks: a line a measurement, written as they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = "results.jsonl"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of an earlier run's results; [] where there are none."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break  # cut off by a crash; it is measured again
    return rows

"""Tolerant reading of artifacts' JSON: a report shows what is there and never fails on a part.

The strict readers of these formats live beside the stages that write them; a report is also made
of interrupted and damaged work, so that here a line that cannot be read is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def read_object(path: Path) -> Record:
    """The JSON object in `path`; empty where the file is missing or holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_records(path: Path) -> list[Record]:
    """The JSON objects in `path`, one a line; lines that cannot be read are left out."""
    records = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # Not splitlines(): a file name may hold a U+2028, which JSON need not escape.
    for line in text.split("\n"):
        try:
            value = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            records.append(value)
    return records


def nested(record: Record, key: str) -> Record:
    """The mapping under `key`; empty where there is none."""
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def number(value: object) -> float:
    """`value` as a float; NaN if it is no number (a missing value is a gap in a plot)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def text(value: object) -> str:
    """`value` as one line of text for a table's cell."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str | int):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def point(value: object) -> tuple[float, float] | None:
    """A finite (x, y), or None."""
    if isinstance(value, Mapping):
        value = [value.get("x"), value.get("y")]
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    x, y = number(value[0]), number(value[1])
    return (x, y) if math.isfinite(x) and math.isfinite(y) else None


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of nested mappings as ("a.b.c", value); lists are leaves."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, value

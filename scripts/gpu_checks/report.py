"""What the check found, part by part, as JSON and as the GPU part of docs/measurements.md.

The JSON is what is kept; the page's part is written anew from all of it, so that parts measured by
several runs stand in one table each. The only reader and writer of both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.errors import DataError
from scripts.gpu_checks.finding import Finding

BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
FORMAT = 2


@dataclass(frozen=True)
class Record:
    """A part as it was measured: when (UTC), on what, from which sources, how long it took."""

    title: str
    date: str
    machine: str
    sources: str  # changes with any source that could change the figures
    seconds: float
    finding: Finding


@dataclass(frozen=True)
class Place:
    """Where records are kept: the page, and the JSON beside it."""

    page: Path
    data: Path

    def read(self) -> dict[str, Record]:
        """The records by part; DataError where either file cannot be added to."""
        try:
            text = self.page.read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(f"{self.page} cannot be read ({error.strerror}).") from error
        if BEGIN not in text or END not in text:
            raise DataError(
                f"{self.page} lacks the lines {BEGIN} and {END}, between which the tables go."
            )
        if not self.data.exists():
            return {}
        try:
            content = json.loads(self.data.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}")
            return {key: _record(entry) for key, entry in content["parts"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.data} is not what this check wrote ({error}); delete it, or name another "
                "file with --data."
            ) from error

    def write(self, records: dict[str, Record]) -> None:
        """Keep the records, and write them between the page's markers."""
        content = {
            "format": FORMAT,
            "parts": {key: asdict(record) for key, record in records.items()},
        }
        files.put_text(self.data, json.dumps(content, indent=1) + "\n")
        head, rest = self.page.read_text(encoding="utf-8").split(BEGIN, 1)
        tail = rest.split(END, 1)[1]
        body = markdown(list(records.values()))
        files.put_text(self.page, f"{head}{BEGIN}\n{body}{END}{tail}")


def _record(entry: dict[str, Any]) -> Record:
    return Record(**(entry | {"finding": Finding(**entry["finding"])}))


def markdown(records: Sequence[Record]) -> str:
    """A section a part, with its date and device, and what failed."""
    lines: list[str] = []
    for record in records:
        lines += [f"### {record.title}", ""]
        lines += [f"{record.date}, {record.machine}; {record.seconds:.0f} s.", ""]
        lines += [*record.finding.lines, ""]
        lines += [f"**Failed**: {failure}\n" for failure in record.finding.failures]
    return "\n".join(lines)

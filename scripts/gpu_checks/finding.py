"""What a part of the check found out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """lines: of the page (Markdown); figures: behind them, as JSON can hold them; failures: what
    was wrong, a sentence each; measured: not so where something is missing that may yet come."""

    lines: list[str]
    figures: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    measured: bool = True


def table(head: str, rows: list[list[str]]) -> list[str]:
    """A Markdown table; columns of the head are separated by " | "."""
    columns = head.split(" | ")
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, *rows)]
    return [lines[0], "|" + "---|" * len(columns), *lines[1:]]

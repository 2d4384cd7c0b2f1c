"""Every row of the table, in its order."""

from __future__ import annotations

from scripts.benchmarks import generators, operators
from scripts.benchmarks.rows import Row

ROWS: tuple[Row, ...] = (*operators.ROWS, *generators.ROWS)

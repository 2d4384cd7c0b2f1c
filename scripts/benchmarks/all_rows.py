"""Every row of the table, in its order."""

from __future__ import annotations

from scripts.benchmarks import (
    dragging,
    generators,
    graphics,
    inverting,
    operators,
    preparing,
    studio,
    training,
)
from scripts.benchmarks.rows import Row

ROWS: tuple[Row, ...] = (
    *operators.ROWS,
    *generators.ROWS,
    *dragging.ROWS,
    *training.ROWS,
    *inverting.ROWS,
    *preparing.ROWS,
    *graphics.ROWS,
    *studio.ROWS,
)

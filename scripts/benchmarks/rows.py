"""What a row of the table is: work to be done in two ways, targets, and what came out.

A row knows how to make its work, or how to measure itself where it is not a pair of calls. Knows
nothing of any single row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.errors import AnimedragError

if TYPE_CHECKING:
    import torch

    from scripts.benchmarks.measure import Call, Clock

GIB = 1 << 30


class Skipped(AnimedragError):
    """A row cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Setting:
    """How a run measures.

    quick: small shapes, for trying the program out; its figures are no answer to the targets.
    clock: seconds from anywhere.
    """

    device: torch.device
    repeats: int = 5
    quick: bool = False
    clock: Clock = time.perf_counter

    @property
    def timing(self) -> tuple[int, torch.device, Clock]:
        """What `interleaved` wants to know."""
        return self.repeats, self.device, self.clock


@dataclass(frozen=True)
class Work:
    """One row's work, ready to be called. `flops` and `bytes` are the least that it takes.

    parts: further calls that are timed in the same turns, name -> call.
    """

    ours: Call
    reference: Call
    flops: float | None = None
    bytes: float | None = None
    parts: dict[str, Call] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One target, and what was reached."""

    what: str
    value: float
    target: float
    at_least: bool = True
    unit: str = "x"

    @property
    def reached(self) -> bool:
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True)
class Outcome:
    """A measured row. Seconds and bytes are None where the row has none; `note` is for readers."""

    ours_seconds: float | None = None
    reference_seconds: float | None = None
    ours_bytes: int | None = None
    reference_bytes: int | None = None
    flops: float | None = None
    bytes: float | None = None
    checks: tuple[Check, ...] = ()
    samples: dict[str, tuple[float, ...]] = field(default_factory=dict)
    figures: dict[str, float | int | str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    A row has either `work` (a pair of calls; speed, memory and parts have their targets here) or
    `measure` (anything else).
    """

    key: str
    title: str
    target: str  # as the issue words it
    work: Callable[[Setting], Work] | None = None
    measure: Callable[[Setting], Outcome] | None = None
    speed: float | None = None  # times as fast as the reference
    memory: float | None = None  # times less memory than the reference
    # name of a part -> so many times its time ours may take
    within: dict[str, float] = field(default_factory=dict)
    # Memory that the reference is known to want; the row is skipped where there is less.
    wants_gib: float = 0.0
    # At most so many repeats, for the reference takes its time.
    most_repeats: int = 7
    device: str = "cpu"


@dataclass(frozen=True)
class Result:
    """What became of a row: an outcome, or the reason why there is none."""

    row: Row
    outcome: Outcome | None
    reason: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether every target was reached; None without an outcome or without targets."""
        if self.outcome is None or not self.outcome.checks:
            return None
        return all(check.reached for check in self.outcome.checks)

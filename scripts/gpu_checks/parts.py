"""The parts of the check in their order: what nothing else is worth without comes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from scripts.benchmarks.rows import Setting
from scripts.gpu_checks import networks, operators, sanitizer
from scripts.gpu_checks.correctness import LAYOUTS
from scripts.gpu_checks.finding import Finding


@dataclass(frozen=True)
class Part:
    """key: for `--only`; title: of its section on the page; on_cpu: also there unless named."""

    key: str
    title: str
    run: Callable[[Setting], Finding]
    on_cpu: bool = True


PARTS = (
    Part("operators", "Operators against plain torch in float64", operators.operators),
    Part("recorded", "Recorded steps", operators.recorded),
    Part("speed", "Operators beside the device's ceilings", operators.timed),
    Part("drag", "Dragging", networks.dragging),
    Part("training", "Training step", networks.training),
    Part("inversion", "Inversion", networks.inverting),
    Part("sanitizer", "Memory and race checkers", sanitizer.sanitize),
    Part(
        "compiled",
        "Training step, compiled",
        networks.compiled,
        on_cpu=False,
    ),
)


def chosen(keys: tuple[str, ...], quick: bool, device: str) -> list[Part]:
    """Those of the keys, or all that are measured there unasked; quick: the operators in one
    layout of memory."""
    unasked = [part for part in PARTS if part.on_cpu or device == "cuda"]
    parts = [part for part in PARTS if part.key in keys] if keys else unasked
    if not quick:
        return parts
    few = partial(operators.operators, layouts=LAYOUTS[:1])
    return [replace(part, run=few) if part.key == "operators" else part for part in parts]

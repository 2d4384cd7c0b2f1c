"""The ways of taking a drag step, behind the engine's `Strategy`; one module each.

Every one is constants only: state in, proposal out. Each names the paper that it is from.

    draggan               Pan et al. 2023, in true image coordinates
    draggan-compatible    the public program's numbers, faults included, to check ours against
    freedrag              Ling et al. 2024: adaptive templates, line search, no tracking
    stable                after Cui et al. 2024: a discriminative tracker, with confidence
    auto                  ours: Gauss-Newton steps on the handles' places, in likely latents
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.edit.drag import Strategy
from pipeline.edit.strategies.auto import Auto
from pipeline.edit.strategies.compatible import DragGanCompatible
from pipeline.edit.strategies.draggan import DragGan
from pipeline.edit.strategies.freedrag import FreeDrag
from pipeline.edit.strategies.measuring import LARGEST_LENGTH, REFERENCE_HEIGHT, adam
from pipeline.edit.strategies.stable import Stable
from pipeline.errors import check_choice

__all__ = [
    "LARGEST_LENGTH",
    "REFERENCE_HEIGHT",
    "STRATEGIES",
    "Auto",
    "DragGan",
    "DragGanCompatible",
    "FreeDrag",
    "Stable",
    "adam",
    "build_strategy",
    "strategy_constants",
]

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    DragGan.name: DragGan,
    DragGanCompatible.name: DragGanCompatible,
    FreeDrag.name: FreeDrag,
    Stable.name: Stable,
    Auto.name: Auto,
}


def build_strategy(name: str, **constants: float) -> Strategy:
    """A strategy by name with some of its constants changed.

    Raises:
        ConfigError: naming the nearest valid strategy or constant.
    """
    check_choice("strategy", name, STRATEGIES)
    factory = STRATEGIES[name]
    for constant in constants:
        check_choice(f"constant of {name}", constant, strategy_constants(name))
    return factory(**constants)


def strategy_constants(name: str) -> dict[str, float]:
    """The constants of a strategy and their defaults."""
    made = STRATEGIES[name]()
    return {key: getattr(made, key) for key in made.__dataclass_fields__}  # type: ignore[attr-defined]

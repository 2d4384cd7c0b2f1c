"""What the engines share of Adam: its state by name, for going on, and a loss that is a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.errors import TrainingError

ADAM_BETAS = (0.9, 0.999)


def adam_tensors(adam: torch.optim.Adam, names: Sequence[str]) -> dict[str, Tensor]:
    """Adam's moments and step counts by variable name; variables without a gradient have none."""
    tensors: dict[str, Tensor] = {}
    for name, variable in zip(names, _variables(adam), strict=True):
        for key, value in adam.state.get(variable, {}).items():
            tensors[f"adam.{key}.{name}"] = value
    return tensors


def load_adam(adam: torch.optim.Adam, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `adam_tensors`."""
    for name, variable in zip(names, _variables(adam), strict=True):
        keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"adam.{key}.{name}" in tensors]
        # Step counts stay on the CPU, as Adam keeps them.
        adam.state[variable] = {
            key: tensors[f"adam.{key}.{name}"]
            .to("cpu" if key == "step" else variable.device)
            .clone()
            for key in keys
        }


def _variables(adam: torch.optim.Adam) -> list[Tensor]:
    return [variable for group in adam.param_groups for variable in group["params"]]


def check_finite(loss: float, doing: str, step: int) -> None:
    """TrainingError where the loss is no number any more."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"The loss stopped being a number while {doing} (step {step}); lower the learning rate."
        )

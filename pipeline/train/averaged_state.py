"""All that changes while one network trains on its own (no adversary), and its file.

One safetensors file a state, named by images seen; the name appears when the file is whole and on
the disk. Nothing else has to be remembered: the order of images and all chance follow from the seed
and images seen.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.console import complain
from pipeline.errors import TrainingError
from pipeline.files import put

# The newest state, and one more in case the newest cannot be read.
KEPT = 2

Network = TypeVar("Network", bound=nn.Module)


@dataclass
class AveragedState(Generic[Network]):
    """Network, its average, optimiser, the clock, and what the next line of statistics is of."""

    stage: str  # for messages
    network: Network
    averaged: Network
    optimizer: torch.optim.Optimizer
    images_seen: int = 0
    # Losses by name, summed over `steps` since the last line of statistics.
    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0

    @classmethod
    def begin(
        cls, stage: str, network: Network, optimizer: torch.optim.Optimizer
    ) -> AveragedState[Network]:
        """A state of a network that is to be trained by its optimiser."""
        averaged = copy.deepcopy(network).eval().requires_grad_(False)
        return cls(stage, network.train(), averaged, optimizer)

    def average(self, keep: float) -> None:
        """Move the average towards the network: `keep` of it stays."""
        with torch.no_grad():
            current = self.network.state_dict()
            for name, value in self.averaged.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(current[name], 1 - keep)
                else:
                    value.copy_(current[name])

    def save(self, folder: Path) -> None:
        """Write the state into `folder`, and remove those it makes needless."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {**_named("network", self.network), **_named("averaged", self.averaged)}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
        sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.sums.items()}
        tensors |= {f"sums.{name}": value for name, value in sums.items()}
        tensors["steps"] = torch.tensor(self.steps)
        with put(folder / f"{self.images_seen:09d}.safetensors") as aside:
            save_file({name: value.contiguous() for name, value in tensors.items()}, aside)
        for path in saved(folder)[KEPT:]:
            path.unlink()

    def restore(self, folder: Path) -> bool:
        """Take up the newest state of `folder` that can be read; False where there is none."""
        for path in saved(folder):
            try:
                tensors = load_file(path)
            except (OSError, safetensors.SafetensorError) as error:
                complain(
                    f"{self.stage}: {path} cannot be read ({error}); an earlier state is taken up."
                )
                continue
            self._load(path, tensors)
            return True
        return False

    def _load(self, path: Path, tensors: dict[str, Tensor]) -> None:
        try:
            for prefix, network in (("network", self.network), ("averaged", self.averaged)):
                network.load_state_dict(_below(tensors, prefix))
            optimizer = self.optimizer.state_dict()
            parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in _below(tensors, "optimizer").items():
                index, key = name.split(".", 1)
                # In the parameter's layout: the same sums in another order round differently.
                like = parameters[int(index)]
                laid = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
                state.setdefault(int(index), {})[key] = laid
            self.optimizer.load_state_dict({**optimizer, "state": state})
            self.sums = {name: float(value) for name, value in _below(tensors, "sums").items()}
            self.steps = int(tensors["steps"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(
                f"{self.stage}: {path} is of another network ({error}); remove its folder to "
                "begin anew."
            ) from error
        self.images_seen = int(path.stem)


def saved(folder: Path) -> list[Path]:
    """The states in a folder, newest first."""
    return sorted(folder.glob("*.safetensors"), reverse=True)


def _named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value.detach() for name, value in module.state_dict().items()}


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {
        name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)
    }

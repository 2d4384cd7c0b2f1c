"""All that changes while a network trains, and its file.

A state file is one safetensors file: networks, optimisers, running means; numbers are in its
header. It appears under its name only when it is complete and on the disk. Random generators are
absent: what is drawn follows from the seed and `images_seen` (torch_utils/rng.py), and so does the
order of the images. Nor does it say how many processes trained: any number may go on from it.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.console import complain
from pipeline.errors import TrainingError
from pipeline.train.augment import AdaController
from pipeline.train.loss import Objective
from pipeline.train.recipe import ADAM_EPSILON, Recipe, lazy_adam
from pipeline.train.statistics import Statistics
from torch_utils.distributed import ALONE, World

NetworkName = Literal["G", "D"]

FORMAT = 1
# The newest state, and one more in case the newest cannot be read.
KEPT_STATES = 2
UNFINISHED = ".unfinished"


@dataclass
class TrainingState:
    """Networks in training, optimisers, averages and the clock.

    objective: holds the generator, the discriminator and the running mean of path lengths.
    averaged: the generator whose weights are the running average of the generator's.
    optimizers: Adam by network name; a parameter is known to it by its name in `trainable`.
    trainable: the parameters that learn, by network and name.
    controller: the augmentation strength p.
    recent_signs: signs of D's answers to real images since p was last adjusted.
    statistics: what was measured since the last line of the log.
    images_seen: real images shown to the discriminator; the only clock.
    seconds: time spent training, all runs together.
    """

    objective: Objective
    averaged: nn.Module
    optimizers: dict[NetworkName, torch.optim.Adam]
    trainable: dict[NetworkName, dict[str, nn.Parameter]]
    controller: AdaController
    recent_signs: Statistics = field(default_factory=Statistics)
    statistics: Statistics = field(default_factory=Statistics)
    images_seen: int = 0
    seconds: float = 0.0

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks by the names they have in files."""
        return {
            "G": self.objective.generator,
            "D": self.objective.discriminator,
            "G_ema": self.averaged,
        }


def new_state(
    objective: Objective,
    recipe: Recipe,
    *,
    averaged: nn.Module | None = None,
    controller: AdaController | None = None,
    frozen: Iterable[str] = (),
) -> TrainingState:
    """The state before the first image.

    `averaged` continues an earlier average (default: a copy of the generator); `frozen` names
    parameters that do not learn, their network in front: "D.b64.conv0.weight".
    """
    averaged = copy.deepcopy(objective.generator) if averaged is None else averaged
    averaged.eval().requires_grad_(False)
    frozen = set(frozen)
    modules: dict[NetworkName, nn.Module] = {
        "G": objective.generator,
        "D": objective.discriminator,
    }
    trainable: dict[NetworkName, dict[str, nn.Parameter]] = {}
    for network, module in modules.items():
        module.requires_grad_(False)
        trainable[network] = {
            name: parameter
            for name, parameter in module.named_parameters()
            if f"{network}.{name}" not in frozen
        }
    rates = {
        "G": lazy_adam(recipe.generator_lr, recipe.path_length_interval),
        "D": lazy_adam(recipe.discriminator_lr, recipe.r1_interval),
    }
    on_gpu = objective.device.type == "cuda"
    optimizers = {
        network: torch.optim.Adam(
            list(parameters.values()),
            lr=rates[network][0],
            betas=rates[network][1],
            eps=ADAM_EPSILON,
            # One call for all tensors instead of a Python loop over them; on a GPU, one kernel.
            foreach=not on_gpu,
            fused=on_gpu,
        )
        for network, parameters in trainable.items()
    }
    return TrainingState(
        objective=objective,
        averaged=averaged,
        optimizers=optimizers,
        trainable=trainable,
        controller=AdaController(p=0.0) if controller is None else controller,
    )


def state_file(folder: Path, images_seen: int) -> Path:
    """Where the state after `images_seen` images lies in `folder`."""
    return folder / f"{images_seen:09d}.safetensors"


def save_state(
    state: TrainingState, folder: Path, kept: int = KEPT_STATES, world: World = ALONE
) -> None:
    """Write the state (aside, fsync, rename) and drop all but the newest `kept`.

    All processes call it, and the first one writes what all counted together. OSError if the disk
    refuses; the earlier states are then untouched.
    """
    # In every process, because all must take part in the counting.
    found = _tensors(state, world)
    if not world.is_first:
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = state_file(folder, state.images_seen)
    unfinished = path.with_name(path.name + UNFINISHED)
    tensors = {name: value.detach().cpu().contiguous() for name, value in found.items()}
    try:
        save_file(tensors, unfinished, metadata={"state": json.dumps(_numbers(state))})
        _flush(unfinished)
        unfinished.replace(path)
        _flush(folder)
    except SafetensorError as error:
        raise OSError(f"{unfinished} cannot be written ({error})") from error
    finally:
        unfinished.unlink(missing_ok=True)
    for old in saved_states(folder)[kept:]:
        old.unlink()


def saved_states(folder: Path) -> list[Path]:
    """Complete state files, newest first."""
    return sorted(folder.glob("*.safetensors"), reverse=True)


def restore_latest(state: TrainingState, folder: Path, world: World = ALONE) -> Path | None:
    """Load the newest readable state into `state`; None if there is none.

    The first process reads; afterwards all have its state, also where nothing was restored.
    """
    restored = _restore_latest(state, folder) if world.is_first else None
    if world.size > 1:
        _take_over(state, world)
    return world.broadcast(restored)


def _restore_latest(state: TrainingState, folder: Path) -> Path | None:
    for path in saved_states(folder):
        try:
            load_state(state, path)
        except (SafetensorError, OSError, ValueError) as error:
            complain(f"{path} cannot be read ({error}); trying the state before it.")
            continue
        return path
    return None


def _take_over(state: TrainingState, world: World) -> None:
    """Give the first process's state to all others."""
    numbers = world.broadcast(_numbers(state))
    tensors = world.broadcast_tensors(_tensors(state, ALONE))
    if world.is_first:
        return
    for name in tensors:
        # What was counted so far was counted by all together; it must not be added once more.
        if name.startswith(("recent_signs/", "statistics/")):
            tensors[name] = torch.zeros_like(tensors[name])
    _set(state, numbers, tensors)


def load_state(state: TrainingState, path: Path) -> None:
    """Load the file into networks, optimisers and means that were built for the same settings.

    Everything is read before anything is changed. TrainingError if the file is of other networks.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        numbers = json.loads(metadata.get("state", "{}"))
        if numbers.get("format") != FORMAT:
            raise TrainingError(
                f"{path} is no training state of this version; remove it to start again."
            )
        # Copies, because the file may be mapped into memory, and is deleted in time.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    _check_networks(state, tensors, path)
    _set(state, numbers, tensors)


def read_network(path: Path, network: str) -> dict[str, Tensor]:
    """State dict of one network ("G", "D" or "G_ema") in a state file.

    TrainingError where the file cannot be read or holds no such network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(f"{network}/")]  # noqa: SIM118
            tensors = {name.partition("/")[2]: file.get_tensor(name).clone() for name in names}
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{path} cannot be read as a training state ({error}).") from error
    if not tensors:
        raise TrainingError(f"{path} holds no network {network}.")
    return tensors


def _set(state: TrainingState, numbers: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
    """Make the state what `_numbers` and `_tensors` said of another one."""
    for network, module in state.networks.items():
        module.load_state_dict(_under(tensors, network))
    for network_name, optimizer in state.optimizers.items():
        saved = _under(tensors, f"optimizer_{network_name}")
        optimizer.state.clear()
        for name, parameter in state.trainable[network_name].items():
            entry = _under(saved, name)
            if entry:
                # Adam counts its steps on the CPU, unless it is one kernel.
                on_cpu = () if optimizer.defaults["fused"] else ("step",)
                optimizer.state[parameter] = {
                    key: value if key in on_cpu else value.to(parameter.device)
                    for key, value in entry.items()
                }
    device = state.objective.device
    state.objective.path_length_mean = tensors["path_length_mean"].to(device)
    state.recent_signs.restore(_to(_under(tensors, "recent_signs"), device))
    state.statistics.restore(_to(_under(tensors, "statistics"), device))
    state.controller.p = float(numbers["augment_p"])
    state.images_seen = int(numbers["images_seen"])
    state.seconds = float(numbers["seconds"])


def _numbers(state: TrainingState) -> dict[str, float]:
    """Every number of the state by its name in the file."""
    return {
        "format": FORMAT,
        "images_seen": state.images_seen,
        "seconds": state.seconds,
        "augment_p": state.controller.p,
    }


def _tensors(state: TrainingState, world: World) -> dict[str, Tensor]:
    """Every tensor of the state by its name in the file; of what was counted, all of `world`."""
    found = {"path_length_mean": state.objective.path_length_mean}
    for network, module in state.networks.items():
        found |= {f"{network}/{name}": value for name, value in module.state_dict().items()}
    for network_name, optimizer in state.optimizers.items():
        for name, parameter in state.trainable[network_name].items():
            for key, value in optimizer.state.get(parameter, {}).items():
                found[f"optimizer_{network_name}/{name}/{key}"] = value
    counted = {"recent_signs": state.recent_signs, "statistics": state.statistics}
    for name, statistics in counted.items():
        together = statistics.total(world).tensors()
        found |= {f"{name}/{key}": value for key, value in together.items()}
    return found


def _check_networks(state: TrainingState, tensors: Mapping[str, Tensor], path: Path) -> None:
    for network, module in state.networks.items():
        saved = {name: tuple(value.shape) for name, value in _under(tensors, network).items()}
        built = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        if saved != built:
            differing = sorted(set(saved.items()) ^ set(built.items()))
            raise TrainingError(
                f"{path} holds another network than the settings describe ({network}: "
                f"{differing[0][0]}); remove it to start again."
            )


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name begins with prefix/, without it."""
    start = prefix + "/"
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}


def _to(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in tensors.items()}


def _flush(path: Path) -> None:
    """Make sure that a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

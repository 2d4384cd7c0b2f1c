"""Where tensors live, by name. Knows nothing about what is computed there."""

from __future__ import annotations

import torch

from pipeline.errors import ConfigError
from torch_utils import native
from torch_utils.ranks import ranks


def choose_device(name: str) -> torch.device:
    """The device that `name` (auto, cpu, cuda) means here, ready to compute.

    Each process of a run has its own GPU. ConfigError where cuda is asked for and torch sees no
    GPU.
    """
    flush_denormals()
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            "device=cuda, but torch sees no GPU here; use the CPU, or install a torch that sees "
            "the GPU (make doctor says what is missing)."
        )
    if not available or name == "cpu":
        return torch.device("cpu")
    place = ranks()
    if place.size == 1:
        return torch.device("cuda")
    return torch.device("cuda", place.local_rank % torch.cuda.device_count())


def flush_denormals() -> None:
    """Round numbers below float32's smallest normal one (1.2e-38) to zero from here on, on CPUs.

    Processors take a hundred times as long over them, and the gradient of a drag is full of them:
    it fades with every filter away from its handles (a step was 1.6 times as long). Holds for this
    thread and those that it starts from then on, torch's own among them if they have not run yet.
    """
    torch.set_flush_denormal(True)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on the device, without waiting for what a GPU still has to do.

    A plain copy to a GPU waits until all before it is done, so that nothing is left to overlap.
    """
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def describe(device: torch.device) -> str:
    """What computes there, and why not what is faster: a phrase for the line at a run's start."""
    place = ranks()
    if place.size > 1:
        several = f"{place.size} processes ({place.local_size} on this machine), each on "
    else:
        several = ""
    return several + _describe_one(device)


def _describe_one(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    status = native.status_on(device)
    if status.loaded:
        return f"{name}, compiled operators ({status.reason})"
    return f"{name}, operators in plain torch, {native.PLAIN_COST}: {status.reason}"

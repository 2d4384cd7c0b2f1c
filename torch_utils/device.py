"""Where tensors live, by name. Knows nothing about what is computed there."""

from __future__ import annotations

import torch

from pipeline.errors import ConfigError
from torch_utils import native


def choose_device(name: str) -> torch.device:
    """The device that `name` (auto, cpu, cuda) means here.

    ConfigError where cuda is asked for and torch sees no GPU.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("device=cuda, but torch sees no GPU here; use device=cpu or device=auto.")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def describe(device: torch.device) -> str:
    """What computes there, and why not what is faster: a phrase for the line at a run's start."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, operators in plain torch"
    status = native.status()
    if status.loaded:
        return f"the CPU, compiled operators ({status.reason})"
    return f"the CPU, operators in plain torch, several times slower: {status.reason}"

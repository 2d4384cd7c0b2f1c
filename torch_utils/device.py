"""Where tensors live, by name. Knows nothing about what is computed there."""

from __future__ import annotations

import torch

from pipeline.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device that `name` (auto, cpu, cuda) means here.

    ConfigError where cuda is asked for and torch sees no GPU.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("device=cuda, but torch sees no GPU here; use device=cpu or device=auto.")
    return torch.device("cuda" if available and name != "cpu" else "cpu")

"""Record what networks make that the original's reference values do not cover.

    python -m tests.record_network_golden

writes tests/golden/networks.json: for each case the mean, the standard deviation and eight values
of an output. Weights and inputs come from seeds. Run it only when an output is meant to change.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pipeline.models import stylegan2, stylegan3

FILE = Path(__file__).parent / "golden" / "networks.json"

G: dict[str, Any] = {
    "z_dim": 16, "c_dim": 2, "w_dim": 16, "img_resolution": 32, "img_channels": 3,
    "channel_base": 512, "channel_max": 16, "mapping_kwargs": {"num_layers": 2},
}  # fmt: skip
D: dict[str, Any] = {
    "c_dim": 2, "img_resolution": 32, "img_channels": 3, "channel_base": 512, "channel_max": 16,
}  # fmt: skip
CASES: dict[str, tuple[type[torch.nn.Module], dict[str, Any]]] = {
    "stylegan2 generator, resnet": (stylegan2.Generator, {**G, "architecture": "resnet"}),
    "stylegan2 generator, high images": (stylegan2.Generator, {**G, "square": False}),
    "stylegan2 discriminator, skip": (stylegan2.Discriminator, {**D, "architecture": "skip"}),
    "stylegan2 discriminator, high images": (stylegan2.Discriminator, {**D, "square": False}),
    "stylegan3-t generator, 6 layers": (stylegan3.Generator, {**G, "num_layers": 6}),
    "stylegan3-r generator, margin 4": (
        stylegan3.Generator,
        {**G, "margin_size": 4, "conv_kernel": 1, "use_radial_filters": True},
    ),
}


def output(name: str) -> torch.Tensor:
    """The case's image or logits."""
    cls, kwargs = CASES[name]
    torch.manual_seed(1)
    network = cls(**kwargs).eval().requires_grad_(False)
    c = torch.eye(2)[[0, 1, 1, 0]]
    if cls is stylegan2.Discriminator:
        height, width = network.img_size
        result: torch.Tensor = network(torch.randn([4, 3, height, width]), c)
        return result
    result = network(torch.randn([4, 16]), c, noise_mode="const")
    return result


def summary(x: torch.Tensor) -> dict[str, Any]:
    """What is recorded of an output."""
    picks = torch.linspace(0, x.numel() - 1, 8).long()
    return {
        "shape": list(x.shape),
        "mean": float(x.mean()),
        "std": float(x.std()),
        "values": [float(value) for value in x.flatten()[picks]],
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: summary(output(name)) for name in CASES}, indent=1) + "\n")

"""What is edited: a face of the model, or a drawing that was found in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data.align import CropTransform
from pipeline.edit.studio.makers import Header
from pipeline.invert.inversion import Inversion
from pipeline.invert.pti import picture_of
from pipeline.models.characters import one_hot
from torch_utils.pixels import to_uint8

TRUNCATION = 0.7


@dataclass
class Subject:
    """`about`: kind (seed or drawing) and enough to find it again. `source`, `transform` and
    `inversion` are those of a drawing: the whole picture, where the face lies in it, the artifact.
    """

    about: Header
    generator: Any
    ws: Tensor  # 1 x num_ws x w_dim
    source: np.ndarray | None = None
    transform: CropTransform | None = None
    inversion: Path | None = None


def of_seed(generator: Any, seed: int, device: torch.device) -> Subject:
    """The model's own face of that number."""
    return Subject({"kind": "seed", "seed": seed}, generator, ws_of(generator, seed, device))


def of_drawing(inversion: Path, model: Path, device: torch.device) -> Subject:
    """The drawing of an inversion (its folder) made with that model."""
    found = Inversion.load(inversion, model, device)
    about = {"kind": "drawing", "inversion": str(inversion)}
    return Subject(about, found.generator, found.ws, found.source, found.transform, inversion)


@torch.no_grad()
def ws_of(generator: Any, seed: int, device: torch.device) -> Tensor:
    """1 x num_ws x w_dim of a face by number; a model of several characters takes them in turns."""
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    number = seed % generator.c_dim if generator.c_dim else None
    label = one_hot(number, generator.c_dim).to(device)
    ws: Tensor = generator.mapping(z.to(device), label, truncation_psi=TRUNCATION)
    return ws


@torch.no_grad()
def draw(generator: Any, ws: Tensor) -> np.ndarray:
    """The picture of `ws`, H x W x 3 uint8."""
    return to_uint8(picture_of(generator, ws))[0]

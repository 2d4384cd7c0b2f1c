"""Pairs of faces with true landmarks, for the drag benchmark: a source to drag, a target to reach.

`own_pairs`: two latents of the model; landmarks as the face reader reads them from its pictures.
`painted_pairs`: one painted identity in two moods; landmarks exactly as painted; the source is
found in the model first. Knows nothing of strategies or of what is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.data.face_reader import FaceReader
from pipeline.data.landmarks import Points
from pipeline.data.painter import (
    EXPRESSIONS,
    Background,
    Identity,
    character,
    paint_face,
    random_pose,
    vary,
)
from pipeline.invert import stage as invert_stage
from pipeline.invert.config import InvertConfig
from pipeline.invert.inversion import Inversion
from pipeline.invert.pti import picture_of
from pipeline.models.characters import one_hot
from torch_utils import rng
from torch_utils.pixels import to_uint8

# Latents tried for every pair: those whose faces the reader does not believe in are left out.
_TRIES = 40


@dataclass(frozen=True, eq=False)
class Pair:
    """`source`, `target`: 28×2 px of the model's picture. `picture`: the target, for looking."""

    name: str
    kind: str  # own | painted
    generator: Any
    ws: Tensor  # 1 × num_ws × w_dim, of the source
    source: Points
    target: Points
    picture: np.ndarray


@torch.no_grad()
def own_pairs(
    generator: Any, reader: FaceReader, count: int, seed: int, truncation: float
) -> list[Pair]:
    """Pairs of latents of one class, drawn from `seed`; fewer where the reader finds no faces."""
    device = next(generator.parameters()).device
    pairs: list[Pair] = []
    for index in range(_TRIES * count):
        if len(pairs) == count:
            break
        draws = rng.generator(seed, 0, index, "drag bench")
        z = torch.randn(2, generator.z_dim, generator=draws).to(device)
        label = index % generator.c_dim if generator.c_dim else None
        labels = one_hot(label, generator.c_dim, 2).to(device)
        ws = generator.mapping(z, labels, truncation_psi=truncation)
        pictures = to_uint8(picture_of(generator, ws))
        readings = [reader.read(picture) for picture in pictures]
        if all(reading.confident for reading in readings):
            source, target = (reading.landmarks for reading in readings)
            pairs.append(
                Pair(f"own-{index}", "own", generator, ws[:1], source, target, pictures[1])
            )
    return pairs


def painted_pairs(
    model: Path, size: int, count: int, seed: int, work: Path, device: str
) -> list[Pair]:
    """Painted characters in two moods each, the first found in the model (kept in `work`).

    Args:
        model: folder of the model; size: its pictures' side in px.
        device: cpu or cuda.
    """
    pairs = []
    for index in range(count):
        draws = np.random.default_rng([seed, index, 61])
        who: Identity = character(int(draws.integers(1000)))
        moods = draws.choice(sorted(EXPRESSIONS), 2, replace=False)
        painted = [
            paint_face(
                who,
                random_pose(draws, 0.6),
                vary(EXPRESSIONS[mood], draws),
                background=Background(),
                size=4 * size,
            )
            for mood in moods
        ]
        folder = work / f"painted-{index}"
        folder.mkdir(parents=True, exist_ok=True)
        image = folder / "source.picture.png"
        pictures = [
            np.asarray(Image.fromarray(one.image).resize((size, size), Image.Resampling.LANCZOS))
            for one in painted
        ]
        Image.fromarray(pictures[0]).save(image)
        config = InvertConfig(
            name="bench", model=str(model), image=str(image), align="none", device=device, seed=seed
        )
        inputs: Mapping[str, Path] = {"model": model, "image": image}
        # Those of an interrupted run are there already.
        if not (folder / "inversion" / "inversion.json").is_file():
            invert_stage.run(dataclasses.replace(config), inputs, folder / "inversion")
        found = Inversion.load(folder / "inversion", model, device)
        source, target = (one.landmarks / 4 for one in painted)
        pairs.append(
            Pair(
                f"painted-{index}",
                "painted",
                found.generator,
                found.ws,
                source,
                target,
                pictures[1],
            )
        )
    return pairs

"""One edit as its stage runs it: whose face, dragged how, and the picture of any state of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.data.align import CropTransform
from pipeline.edit.blending import Blend
from pipeline.edit.drag import DragModel, Limits, Strategy
from pipeline.edit.recipe import Recipe
from pipeline.invert.pti import picture_of
from torch_utils.pixels import to_uint8


@dataclass(frozen=True, eq=False)
class Subject:
    """What is dragged: a generator, latents, and the picture that the face came from, if any."""

    generator: Any
    ws: Tensor
    source: np.ndarray | None  # the uploaded picture, H × W × 3 uint8
    transform: CropTransform | None
    about: dict[str, Any]

    def drawing_px(self, face_width: int) -> float | None:
        """How many of the drawing's pixels one of the model's face, `face_width` px wide, is as
        wide as; None where there is no drawing."""
        return None if self.transform is None else self.transform.width / face_width


@dataclass(frozen=True, eq=False)
class Task:
    """All that the loop needs, and that does not change in it."""

    subject: Subject
    recipe: Recipe  # at the model's resolution
    # H × W uint8, 255 keeps: the recipe's, or one proposed for the model's face alone; None: none.
    mask: np.ndarray | None
    model: DragModel
    strategy: Strategy
    limits: Limits
    layer: str
    rows: tuple[int, int]
    out: Path
    save_every: int
    blend: Blend | None = None  # draws what a mask keeps as it was

    def distance(self, face_px: float) -> str:
        """A distance in the model's face in words: in pixels of the drawing, where there is one."""
        scale = self.subject.drawing_px(self.model.width)
        if scale is None:
            return f"{face_px:.2f} px of the face ({self.model.width} px wide)"
        return f"{face_px * scale:.1f} px of the drawing"


@torch.no_grad()
def render(task: Task, ws: Tensor) -> np.ndarray:
    """The face of ws (1 × num_ws × w_dim), blended under a mask: H × W × 3 uint8."""
    if task.blend is not None:
        return to_uint8(task.blend.picture(ws))[0]
    return to_uint8(picture_of(task.subject.generator, ws))[0]


def save_frame(task: Task, step: int, ws: Tensor) -> None:
    """Keep the face of a step for the film."""
    Image.fromarray(render(task, ws)).save(task.out / "frames" / f"{step:04d}.png")

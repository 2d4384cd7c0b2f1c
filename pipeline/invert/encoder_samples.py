"""What an encoder learns from: the model's own samples, and pictures of a dataset.

The model's samples come with their latents, and are disturbed, as no drawing is one of them; the
pictures are what the encoder is for, but nobody knows their latents. Which ones a step sees is a
function of the seed and of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.dataset import Dataset
from pipeline.errors import DataError
from pipeline.invert import pti
from pipeline.invert.encoder_config import EncoderConfig
from pipeline.train.images import TrainingImages
from torch_utils import rng

# Decoded pictures are kept in memory if they take at most so much.
CACHE_BYTES = 2 * 10**9


@dataclass
class Samples:
    """The model's own latents and pictures: functions of the seed and of a number."""

    generator: Any
    config: EncoderConfig
    device: torch.device

    def latents(self, count: int, number: int, purpose: str) -> Tensor:
        """count x rows x w_dim. For W+ the half of them change latent at some layer, for pictures
        are found there that no single latent has."""
        draws = rng.generator(self.config.seed, 0, number, f"encoder {purpose}")
        rows = 1 if self.config.space == "w" else int(self.generator.num_ws)
        w, other = (self._mapped(count, draws) for _ in range(2))
        w = w.expand(-1, rows, -1).clone()
        if rows > 1:
            cuts = torch.randint(1, 2 * rows, (count,), generator=draws)
            for index, cut in enumerate(cuts.tolist()):
                w[index, cut:] = other[index]
        return w

    def picture(self, w: Tensor) -> Tensor:
        """Their pictures."""
        options = pti.rendering("const") | {"fused_modconv": False}
        image: Tensor = self.generator.synthesis(w.expand(-1, self.generator.num_ws, -1), **options)
        return image

    def disturbed(self, images: Tensor, number: int) -> Tensor:
        """Some of the images with other colours, softer, or with a patch that is none of theirs."""
        draws = rng.generator(self.config.seed, 0, number, "encoder disturbance")
        chosen = torch.rand(len(images), generator=draws) < self.config.disturbed
        changed = [
            _disturb(image[None], draws)[0] if take else image
            for image, take in zip(images, chosen.tolist(), strict=True)
        ]
        return torch.stack(changed).clamp(-1, 1) if changed else images

    def _mapped(self, count: int, draws: torch.Generator) -> Tensor:
        """count x 1 x w_dim; of random classes, where there are several."""
        z = torch.randn(count, self.generator.z_dim, generator=draws)
        c = torch.zeros(count, self.generator.c_dim)
        if self.generator.c_dim:
            classes = torch.randint(self.generator.c_dim, (count,), generator=draws)
            c = F.one_hot(classes, self.generator.c_dim).float()
        with torch.no_grad():
            w: Tensor = self.generator.mapping(z.to(self.device), c.to(self.device))[:, :1]
        return w


@dataclass
class Pictures:
    """Pictures of a dataset: those to learn from, and those to be measured on.

    Attributes:
        batch: how many of them a step sees; 0: none.
        heldout: N x C x H x W in [-1, 1], on the device; N is 0 where none are held out.
    """

    batch: int
    heldout: Tensor
    device: torch.device
    _images: TrainingImages | None = None

    @classmethod
    def read(
        cls, config: EncoderConfig, inputs: Mapping[str, Path], shape: torch.Size, device: Any
    ) -> Pictures:
        """`inputs["dataset"]`, if it is given, for a model that draws pictures of `shape` (C, H,
        W); DataError where its pictures are of another."""
        if "dataset" not in inputs:
            return cls(0, torch.zeros(0, *shape, device=device), device)
        dataset = Dataset(inputs["dataset"])
        seed = rng.derive_seed(config.seed, "encoder pictures")
        images = TrainingImages(
            dataset.images, dataset.train_indices, seed=seed, cache_bytes=CACHE_BYTES
        )
        found = (images.channels, images.height, images.width)
        if found != tuple(shape):
            raise DataError(
                f"The pictures of encoder.dataset={config.dataset} are {found[2]}x{found[1]} with "
                f"{found[0]} channels, but the model draws {shape[2]}x{shape[1]} with {shape[0]}; "
                "make them with `make preprocess ... ARGS=preprocess.like=MODEL`."
            )
        heldout = torch.zeros(0, *shape)
        if dataset.heldout_indices:
            chosen = dataset.heldout_indices[: config.validation]
            heldout = TrainingImages(dataset.images, chosen, seed=0).first(len(chosen))
        count = round(config.pictures * config.batch)
        return cls(count, (heldout.float() / 127.5 - 1).to(device), device, images)

    def of_step(self, step: int) -> Tensor:
        """The pictures that step sees, batch x C x H x W in [-1, 1]."""
        if self._images is None or self.batch == 0:
            return self.heldout[:0]
        return self._images.batch(step * self.batch, self.batch)[0].to(self.device)


def _disturb(image: Tensor, draws: torch.Generator) -> Tensor:
    """1 x C x H x W with another contrast and tint, a blur of up to a pixel, and a flat patch."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand([], generator=draws))

    tint = torch.randn(image.shape[1], generator=draws).to(image).reshape(1, -1, 1, 1)
    image = image * between(0.85, 1.15) + 0.06 * tint
    if between(0, 1) < 0.5:
        soft = F.avg_pool2d(F.pad(image, [1, 1, 1, 1], mode="replicate"), 3, stride=1)
        image = image.lerp(soft, between(0, 1))
    if between(0, 1) < 0.5:
        height, width = image.shape[2:]
        down, right = int(height * between(0.1, 0.35)), int(width * between(0.1, 0.35))
        top, left = int((height - down) * between(0, 1)), int((width - right) * between(0, 1))
        colour = torch.rand(image.shape[1], generator=draws).to(image).reshape(1, -1, 1, 1) * 2 - 1
        image = image.clone()
        image[:, :, top : top + down, left : left + right] = colour
    return image

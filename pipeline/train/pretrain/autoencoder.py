"""A generator and the encoder that finds its latents, trained as one autoencoder.

Kingma and Welling 2014 with a fixed spread instead of a learned one: the latent of a picture is the
encoder's answer plus noise, and its square is held small, so that all latents together fill one
region without gaps. No adversary: what the set shows is learned evenly, rare poses as well as
common ones, but strokes stay soft. Knows nothing about files.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.metrics.perceptual import PerceptualDistance
from pipeline.models.picture_encoder import PictureEncoder
from pipeline.train.pretrain.config import PretrainConfig


class Autoencoder(nn.Module):
    """`encode` and `draw`.

    Args:
        generator: of any architecture, without labels.
        breadth: the encoder's, see `PictureEncoder`.
    """

    def __init__(self, generator: Any, breadth: int) -> None:
        super().__init__()
        height, width = generator.synthesis.img_size
        self.generator = generator
        self.encoder = PictureEncoder(
            generator.img_channels, height, width, generator.w_dim, breadth
        )
        # Latents that differ from the start on: with zeros the generator would learn one picture.
        nn.init.normal_(self.encoder.last.weight, std=self.encoder.last.in_features**-0.5)

    def encode(self, images: Tensor, bf16: bool = False) -> Tensor:
        """N x C x H x W in [-1, 1] => latents N x w_dim."""
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            w: Tensor = self.encoder(images)
        return w.float()

    def draw(self, w: Tensor) -> Tensor:
        """Latents N x w_dim => N x C x H x W, about [-1, 1]."""
        rows = w[:, None].expand(-1, self.generator.num_ws, -1)
        # A noise map of its own for every picture would have to be drawn into each by chance.
        options = {"noise_mode": "none"} if hasattr(self.generator.synthesis, "blocks") else {}
        image: Tensor = self.generator.synthesis(rows, **options)
        return image


def losses(
    network: Autoencoder,
    images: Tensor,
    config: PretrainConfig,
    metric: PerceptualDistance,
    bf16: bool,
) -> tuple[Tensor, dict[str, float]]:
    """What is to become small on a batch, and its parts by name."""
    w = network.encode(images, bf16)
    made = network.draw(w + config.noise * torch.randn_like(w))
    mse = F.mse_loss(made, images)
    with torch.no_grad():
        wanted = metric.features(images)
    far = metric.distance(metric.features(made), wanted).mean()
    prior = w.square().mean()
    total = config.mse_weight * mse + config.perceptual_weight * far + config.prior_weight * prior
    return total, {"mse": mse.item(), "perceptual": far.item(), "prior": prior.item()}

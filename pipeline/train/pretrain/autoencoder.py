"""A generator, the encoder that finds its latents, and perhaps an adversary, trained together.

Kingma and Welling 2014 with a fixed spread instead of a learned one: the latent of a picture is the
encoder's answer plus noise, and its square is held small, so that all latents together fill one
region without gaps. No adversary: what the set shows is learned evenly, rare poses as well as
common ones, but strokes stay soft. An adversary that compares pictures with what became of them
sharpens strokes (Larsen et al. 2016; Esser et al. 2021, VQGAN, section 3.1) and cannot drive all
pictures into one pose, as one that sees random pictures can. Knows nothing about files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.metrics.perceptual import PerceptualDistance
from pipeline.models.picture_encoder import PictureEncoder
from pipeline.train.augment import AdaController, AugmentPipe
from pipeline.train.pretrain.config import PretrainConfig

# Keeps a division finite where there is no gradient.
TINY = 1e-12
# Thousand images over which ADA's strength can go from 0 to 1, where nothing else is said.
ADA_KIMG = 500.0


class Autoencoder(nn.Module):
    """`encode` and `draw`.

    Args:
        generator: of any architecture, without labels.
        discriminator: the adversary, or None.
        encoder: pictures to latents, see `new_encoder`.
    """

    def __init__(
        self, generator: Any, discriminator: nn.Module | None, encoder: PictureEncoder
    ) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.encoder = encoder
        # Of ADA: strength, sum and number of the signs of the adversary's answers to real pictures.
        self.ada: Tensor
        self.register_buffer("ada", torch.zeros(3, dtype=torch.float64))
        self._strength: float | None = None
        self.register_load_state_dict_post_hook(_forget_strength)

    @property
    def strength(self) -> float:
        """ADA's p; read from the buffer once, then remembered, for a GPU waits to be read."""
        if self._strength is None:
            self._strength = float(self.ada[0])
        return self._strength

    @strength.setter
    def strength(self, p: float) -> None:
        self._strength = p
        self.ada[0] = p

    def adjust(self, controller: AdaController, batch: int) -> None:
        """Move the strength by what the adversary has answered since the last time."""
        _, total, count = self.ada.tolist()
        controller.p = self.strength
        self.strength = controller.update(total / max(count, 1.0), round(count) * batch)
        self.ada[1:] = 0

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


def _forget_strength(network: nn.Module, _: Any) -> None:
    """A run that goes on has the strength of the state that it took up."""
    assert isinstance(network, Autoencoder)
    network._strength = None


def new_encoder(generator: Any, breadth: int) -> PictureEncoder:
    """An untrained encoder of the generator's pictures; breadth: see `PictureEncoder`."""
    height, width = generator.synthesis.img_size
    encoder = PictureEncoder(generator.img_channels, height, width, generator.w_dim, breadth)
    # Latents that differ from the start on: with zeros the generator would learn one picture.
    nn.init.normal_(encoder.last.weight, std=encoder.last.in_features**-0.5)
    return encoder


@dataclass(frozen=True)
class Task:
    """What a batch is judged by."""

    config: PretrainConfig
    metric: PerceptualDistance
    bf16: bool
    face_box: tuple[slice, slice] | None = None  # rows and columns of the inner face
    augment: AugmentPipe | None = None  # what the adversary's pictures pass

    @classmethod
    def of(
        cls,
        config: PretrainConfig,
        metric: PerceptualDistance,
        bf16: bool,
        face_box: tuple[slice, slice] | None,
        device: torch.device,
    ) -> Task:
        """The task that the settings describe."""
        pipe = None
        if config.adversarial > 0 and config.augment.mode != "none":
            pipe = AugmentPipe.from_group(config.augment.pipe).to(device)
        return cls(config, metric, bf16, face_box, pipe)

    def backward(self, network: Autoencoder, images: Tensor, images_seen: int) -> dict[str, Tensor]:
        """Leave the gradients of all losses in the parameters; returns the losses by name."""
        config = self.config
        w = network.encode(images, self.bf16)
        made = network.draw(w + config.noise * torch.randn_like(w))
        gradient, parts = self._likeness(made, images)
        adversary = network.discriminator
        if adversary is not None and images_seen >= 1000 * config.adversarial_from:
            step = images_seen // config.batch
            pull, told = self._adversary(network, made, images, step % config.r1_interval == 0)
            self._adapt(network, step)
            # As long as the other gradient, times the strength (Esser et al. 2021, eq. 7).
            strength = config.adversarial * self._ramp(images_seen)
            gradient = gradient + pull * (strength * gradient.norm() / (pull.norm() + TINY))
            parts |= told
        prior = w.square().mean()
        torch.autograd.backward([made, config.prior_weight * prior], [gradient, None])
        return parts | {"prior": prior.detach()}

    def _ramp(self, images_seen: int) -> float:
        """0 where the adversary begins, 1 where it has its full strength."""
        config = self.config
        rising = 1000 * config.adversarial_ramp
        since = images_seen - 1000 * config.adversarial_from
        return 1.0 if since >= rising else max(0.0, since / rising)

    def _likeness(self, made: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradient with respect to the made pictures of how unlike the images they are."""
        leaf = made.detach().requires_grad_()
        total, parts = self._distances(leaf, images)
        if self.face_box is not None and self.config.face_weight:
            rows, columns = self.face_box
            face, told = self._distances(leaf[..., rows, columns], images[..., rows, columns])
            total = total + self.config.face_weight * face
            parts |= {f"face_{name}": value for name, value in told.items()}
        (gradient,) = torch.autograd.grad(total, leaf)
        return gradient, parts

    def _distances(self, made: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of squared error and perceptual distance, and both by name."""
        mse = F.mse_loss(made, images)
        with torch.no_grad():
            wanted = self.metric.features(images)
        far = self.metric.distance(self.metric.features(made), wanted).mean()
        total = self.config.mse_weight * mse + self.config.perceptual_weight * far
        return total, {"mse": mse.detach(), "perceptual": far.detach()}

    def _adapt(self, network: Autoencoder, step: int) -> None:
        """ADA: every few steps the strength follows the adversary's overfitting."""
        asked = self.config.augment
        if self.augment is None or asked.mode != "ada" or (step + 1) % asked.interval:
            return
        network.adjust(
            AdaController(0.0, asked.target, asked.speed_kimg or ADA_KIMG), self.config.batch
        )

    def _seen(self, network: Autoencoder, images: Tensor) -> Tensor:
        """What the adversary sees of images."""
        if self.augment is None:
            return images
        return self.augment(images, network.strength).contiguous()

    def _adversary(
        self, network: Autoencoder, made: Tensor, images: Tensor, with_r1: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The adversary's gradients into its parameters; its pull on the made pictures."""
        config, adversary = self.config, network.discriminator
        assert adversary is not None
        leaf = made.detach().requires_grad_()
        logits = adversary(self._seen(network, leaf), None)
        (pull,) = torch.autograd.grad(F.softplus(-logits).mean(), leaf, retain_graph=True)
        loss = F.softplus(logits).mean()
        real = images.detach().requires_grad_(with_r1)
        real_logits = adversary(self._seen(network, real), None)
        loss = loss + F.softplus(-real_logits).mean()
        network.ada[1] += real_logits.detach().sign().mean()
        network.ada[2] += 1
        told = {
            "D": loss.detach(),
            "logits_made": logits.mean().detach(),
            "logits_real": real_logits.mean().detach(),
            "augment_p": real_logits.new_full((), network.strength),
        }
        if with_r1:
            # Lazy regularisation (Karras et al. 2020, section 4): rarer, and as much stronger.
            (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
            r1 = slope.square().sum(dim=(1, 2, 3)).mean()
            loss = loss + config.gamma / 2 * config.r1_interval * r1
        loss.backward()
        return pull, told

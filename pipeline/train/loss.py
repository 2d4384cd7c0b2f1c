"""What the two networks minimise: adversarial loss, R1 and path length regularisation.

The first half is formulas on tensors; `Objective` runs networks through them and leaves gradients
behind. Sources: Goodfellow 2014 (non-saturating loss), Mescheder 2018 (R1), Karras 2019/2020
(style mixing, path length), Karras 2021 (blurred start). Knows nothing about optimisers,
schedules or where images come from; draws nothing that it was not given or asked to draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.build import Generator
from torch_utils import rng
from torch_utils.device import send
from torch_utils.ops.upfirdn2d import filter2d

# Path length is measured on this share of the batch (Karras 2020, section 3.2: it costs less so).
PATH_LENGTH_BATCH_SHARE = 2
# Weight of the newest batch in the running mean of path lengths.
PATH_LENGTH_DECAY = 0.01

# What a phase reports: name -> one value an image (or a batch), detached.
Reports = dict[str, Tensor]


def generator_loss(fake_logits: Tensor) -> Tensor:
    """-log sigmoid(D(fake)), elementwise: the non-saturating loss of Goodfellow 2014."""
    return F.softplus(-fake_logits)


def discriminator_loss_fake(fake_logits: Tensor) -> Tensor:
    """-log(1 - sigmoid(D(fake))), elementwise."""
    return F.softplus(fake_logits)


def discriminator_loss_real(real_logits: Tensor) -> Tensor:
    """-log sigmoid(D(real)), elementwise."""
    return F.softplus(-real_logits)


def r1_penalty(real_images: Tensor, real_logits: Tensor) -> Tensor:
    """|∇D(x)|² of each image, N values, differentiable (Mescheder 2018, eq. 9).

    `real_logits` must have been computed from `real_images`, which must require gradients.
    """
    (gradients,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gradients.square().sum(dim=(1, 2, 3))


def path_lengths(images: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """|J_w^T y| of each image, N values, differentiable (Karras 2020, eq. 4).

    images: N×C×H×W made from ws (N × num_ws × w_dim); noise: unit normal, shaped as the images.
    The noise is scaled so that the lengths do not depend on the resolution.
    """
    noise = noise / math.sqrt(images.shape[2] * images.shape[3])
    (gradients,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)
    return gradients.square().sum(dim=2).mean(dim=1).sqrt()


def path_length_penalty(lengths: Tensor, running_mean: Tensor) -> tuple[Tensor, Tensor]:
    """(squared deviation of each length from the running mean, the mean after this batch).

    The mean that is subtracted already contains this batch, gradients included.
    """
    mean = running_mean.lerp(lengths.mean(), PATH_LENGTH_DECAY)
    return (lengths - mean).square(), mean.detach()


def path_length_slopes(lengths: Tensor, running_mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(penalty of each length, derivative of its mean by each length, mean after this batch).

    With the derivatives, a piece of the batch has the right gradients although the mean that all
    are compared with depends on the other pieces.
    """
    with torch.enable_grad():
        lengths = lengths.detach().requires_grad_(True)
        penalty, mean = path_length_penalty(lengths, running_mean)
        (slopes,) = torch.autograd.grad(penalty.mean(), lengths)
    return penalty.detach(), slopes, mean


def blur(images: Tensor, sigma: float) -> Tensor:
    """Blur NCHW images with a Gaussian; sigma in pixels is where it has fallen to one half.

    Alias-Free GAN's appendix blurs what the discriminator sees at the start of training; this is
    the kernel its published models were trained with, cut off at 3 sigma.
    """
    reach = math.floor(sigma * 3)
    if reach == 0:
        return images
    # On the CPU, where operators want a filter: from a GPU it would be fetched at every step.
    distance = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = 0.5 ** (distance / sigma) ** 2
    return filter2d(images, kernel / kernel.sum())


@dataclass(frozen=True)
class Latents:
    """What images are made from, and what is drawn for them.

    z: N × z_dim; c: N × c_dim labels. With style mixing, rows of ws from `crossover[n]` on come
    from `mixing_z[n]` (crossover = num_ws mixes nothing).
    """

    z: Tensor
    c: Tensor
    mixing_z: Tensor | None = None
    crossover: Tensor | None = None

    def rows(self, chosen: slice) -> Latents:
        """A part of the batch."""
        return self._each(lambda tensor: tensor[chosen])

    def to(self, device: torch.device) -> Latents:
        """The same on another device; does not wait for it."""
        return self._each(lambda tensor: send(tensor, device))

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors in the order of the fields, up to the last that there is."""
        if self.mixing_z is None or self.crossover is None:
            return self.z, self.c
        return self.z, self.c, self.mixing_z, self.crossover

    def _each(self, change: Callable[[Tensor], Tensor]) -> Latents:
        return Latents(
            z=change(self.z),
            c=change(self.c),
            mixing_z=None if self.mixing_z is None else change(self.mixing_z),
            crossover=None if self.crossover is None else change(self.crossover),
        )


def draw_latents(
    count: int,
    z_dim: int,
    num_ws: int,
    labels: Tensor,
    style_mixing: float,
    generator: torch.Generator,
) -> Latents:
    """Draw latents for `count` images on the CPU; `style_mixing` is the share that is mixed."""
    z = torch.randn(count, z_dim, generator=generator)
    if style_mixing <= 0:
        return Latents(z, labels)
    mixing_z = torch.randn(count, z_dim, generator=generator)
    crossover = torch.randint(1, num_ws, (count,), generator=generator)
    mixed = torch.rand(count, generator=generator) < style_mixing
    return Latents(z, labels, mixing_z, torch.where(mixed, crossover, num_ws))


class Objective:
    """Runs G and D on a batch and accumulates the gradients of one loss.

    Args:
        generator, discriminator: the networks.
        augment: what every image passes before D sees it.
        r1_gamma: weight of R1 (the loss is gamma/2 times the penalty).
        path_length_weight: weight of the path length penalty.

    Attributes:
        device: where the networks are.
        path_length_mean: running mean of path lengths, a scalar; part of the training state.
        blur_sigma: of what D sees, in pixels; changed from outside as training goes on.

    Every method multiplies its loss by `gain` (the interval of lazy regularisation), accumulates
    gradients in those parameters that require them, and returns what it measured.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: nn.Module,
        *,
        augment: Callable[[Tensor], Tensor] | None = None,
        r1_gamma: float,
        path_length_weight: float = 0.0,
    ) -> None:
        self.generator = generator
        self.discriminator = discriminator
        self.augment = augment
        self.r1_gamma = r1_gamma
        self.path_length_weight = path_length_weight
        self.device = next(generator.parameters()).device
        self.path_length_mean = torch.zeros((), device=self.device)
        self.blur_sigma = 0.0
        self._compiled: tuple[Callable[..., Tensor], Callable[..., Tensor]] | None = None

    def compile_networks(self) -> None:
        """Have torch.compile translate what the main losses run; their first calls take minutes.

        The regularisers keep the networks as they are: compiled code has no second derivative.
        """
        self._compiled = (
            torch.compile(self.generator.synthesis, dynamic=False),
            torch.compile(self.discriminator, dynamic=False),
        )

    def generate(self, latents: Latents, update_averages: bool = False) -> Tensor:
        """Images for the main losses. `update_averages` also updates w's mean and the magnitude
        averages."""
        ws = self.map_latents(latents, update_averages)
        synthesis = self.generator.synthesis if self._compiled is None else self._compiled[0]
        return synthesis(ws, update_emas=update_averages)

    def answer(self, seen: Tensor, c: Tensor) -> Tensor:
        """D's logits for the main losses, N×1, of N images as `shown` gives them."""
        discriminator = self.discriminator if self._compiled is None else self._compiled[1]
        return discriminator(seen, c)

    def map_latents(self, latents: Latents, update_averages: bool = False) -> Tensor:
        """ws of the latents, mixed; they require gradients where such are recorded."""
        ws = self.generator.mapping(latents.z, latents.c, update_emas=update_averages)
        if latents.mixing_z is not None and latents.crossover is not None:
            other = self.generator.mapping(latents.mixing_z, latents.c)
            row = torch.arange(ws.shape[1], device=ws.device)
            second = row[None, :, None] >= latents.crossover[:, None, None]
            ws = torch.where(second, other, ws)
        if torch.is_grad_enabled() and not ws.requires_grad:
            # The mapping network is frozen; path lengths still want the slope of ws.
            ws.requires_grad_()
        return ws

    def shown(self, images: Tensor) -> Tensor:
        """What D sees of images: blurred and augmented, in one layout of memory whatever p is."""
        if self.blur_sigma > 0:
            images = blur(images, self.blur_sigma)
        return (images if self.augment is None else self.augment(images)).contiguous()

    def generator_main(self, latents: Latents, gain: float = 1.0) -> Reports:
        """G: make images that D takes for real."""
        images = self.generate(latents)
        logits = self.answer(self.shown(images), latents.c)
        loss = generator_loss(logits)
        loss.mean().mul(gain).backward()
        return _detach({"loss_G": loss, "logits_generated": logits})

    def path_lengths(self, latents: Latents, noise: Tensor | None = None) -> Tensor:
        """G: how far each image moves at a step in w, differentiable; of the head of the batch.

        `noise` (unit normal, shaped as the images) is drawn from torch's global generator if None.
        """
        count = max(len(latents.z) // PATH_LENGTH_BATCH_SHARE, 1)
        ws = self.map_latents(latents.rows(slice(count)))
        images = self.generator.synthesis(ws)
        noise = rng.randn(images.shape, device=images.device) if noise is None else noise
        return path_lengths(images, ws, noise)

    def penalise_path_lengths(self, lengths: Tensor, slopes: Tensor, gain: float = 1.0) -> None:
        """G: equal steps in w shall move the image equally far; see `path_length_slopes`."""
        ((lengths * slopes).sum() * (self.path_length_weight * gain)).backward()

    def discriminator_fake(self, latents: Latents, gain: float = 1.0) -> Reports:
        """D: tell made images from real ones; also the moment when G's averages are updated."""
        with torch.no_grad():
            images = self.generate(latents, update_averages=True)
        logits = self.answer(self.shown(images), latents.c)
        loss = discriminator_loss_fake(logits)
        loss.mean().mul(gain).backward()
        return _detach({"loss_D_fake": loss, "logits_fake": logits, "sign_fake": logits.sign()})

    def discriminator_main(
        self, latents: Latents, images: Tensor, c: Tensor, gain: float = 1.0
    ) -> Reports:
        """D: both of its losses without a regulariser."""
        fake = self.discriminator_fake(latents, gain)
        return fake | self.discriminator_real(images, c, gain=gain)

    def discriminator_real(
        self,
        images: Tensor,
        c: Tensor,
        *,
        main: bool = True,
        r1: bool = False,
        gain: float = 1.0,
    ) -> Reports:
        """D: know the real images (`main`), with a slope that stays small there (`r1`)."""
        images = images.detach().requires_grad_(r1)
        seen = self.shown(images)
        logits = self.discriminator(seen, c) if r1 else self.answer(seen, c)
        reports: Reports = {}
        terms: list[Tensor] = []
        if main:
            loss = discriminator_loss_real(logits)
            terms.append(loss.mean())
            reports |= {
                "loss_D_real": loss,
                "logits_real": logits,
                "sign_real": logits.sign(),
            }
        if r1:
            penalty = r1_penalty(images, logits)
            terms.append(penalty.mean() * (self.r1_gamma / 2))
            reports["loss_r1"] = penalty
        torch.stack(terms).sum().mul(gain).backward()
        return _detach(reports)


def _detach(reports: Reports) -> Reports:
    return {name: value.detach() for name, value in reports.items()}

"""The numbers that training runs by: what the settings leave open, filled in by architecture.

Sources: StyleGAN2 (Karras 2020), ADA (Karras 2020b), Alias-Free GAN (Karras 2021). Knows nothing
of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import ConfigError
from pipeline.train.advice import NO_ADVICE, advise

if TYPE_CHECKING:
    from pipeline.train.config import TrainConfig

# Adam's settings before lazy regularisation rescales them; GANs train without momentum.
ADAM_BETAS = (0.0, 0.99)
ADAM_EPSILON = 1e-8


@dataclass(frozen=True)
class Recipe:
    """Everything the loop needs to know about how to train. Images are the unit of time."""

    batch: int
    total_images: int
    # Images that go through the networks at once in a process at most; see pieces.py.
    microbatch: int
    generator_lr: float
    discriminator_lr: float
    r1_gamma: float
    # Iterations between regularisation steps; None: regularise in the main phase, every time.
    r1_interval: int | None
    path_length_weight: float
    path_length_interval: int | None
    style_mixing: float
    # Half-life of the averaged generator; its limit as a share of the images seen (None: none).
    ema_images: float
    ema_rampup: float | None
    blur_sigma: float
    blur_fade_images: float
    # Iterations between adjustments of the augmentation strength; None: it stays.
    augment_interval: int | None
    # Strength of the augmentation at the start, and thousand images from 0 to 1.
    augment_p: float = 0.0
    augment_speed_kimg: float = 500.0
    # Images between snapshots.
    snapshot_images: int = 20_000
    # Share of D's convolutions, from the image on, that is frozen where the settings say nothing.
    freeze_d_share: float = 0.0
    freeze_mapping: bool = False
    # A loss beyond this means that the training has diverged.
    explosion_limit: float = math.inf

    def ema_beta(self, images_seen: int) -> float:
        """Weight of the old average at an update after `images_seen` images."""
        half_life = self.ema_images
        if self.ema_rampup is not None:
            half_life = min(half_life, images_seen * self.ema_rampup)
        return 0.5 ** (self.batch / max(half_life, 1e-8))

    def blur(self, images_seen: int) -> float:
        """Blur of what the discriminator sees, in pixels."""
        return self.blur_sigma * max(1 - images_seen / self.blur_fade_images, 0)


def heuristic_gamma(width: int, height: int, batch: int) -> float:
    """R1 weight that suits most sets: 0.0002 · pixels / batch (ADA, appendix C).

    Larger is safer and duller. Published at 512 px and batch 32: StyleGAN2 5, T 8.2, R 16.4.
    """
    return 0.0002 * width * height / batch


def magnitude_ema_beta(batch: int) -> float:
    """Decay a batch of StyleGAN3's magnitude averages: half-life 20 thousand images."""
    return 0.5 ** (batch / 20_000)


def lazy_adam(learning_rate: float, interval: int | None) -> tuple[float, tuple[float, float]]:
    """(learning rate, betas) when a regularisation step comes every `interval` iterations.

    An optimiser that takes k + 1 steps where it took k moves and forgets as fast as before with
    rate · k/(k+1) and betas to that power (Karras 2020, appendix B, "lazy regularization").
    """
    ratio = 1.0 if interval is None else interval / (interval + 1)
    return learning_rate * ratio, (ADAM_BETAS[0] ** ratio, ADAM_BETAS[1] ** ratio)


def make_recipe(
    config: TrainConfig,
    architecture: str,
    width: int,
    height: int,
    images: int | None = None,
    taken_up: Mapping[str, Any] | None = None,
) -> Recipe:
    """Fill in what `config` leaves open.

    Args:
        architecture: stylegan2, stylegan3-t or stylegan3-r.
        width, height: of the images.
        images: how many there are to train on; needed where `config.advice` asks for advice.
        taken_up: what `recipe.json` says of the training that `config.resume_at` goes on with;
            None: it began with random weights.
    """
    alias_free = architecture.startswith("stylegan3")
    batch = config.batch
    microbatch = _or(config.microbatch, batch)
    if batch % microbatch:
        raise ConfigError(
            f"{config.STAGE}.microbatch={microbatch} must divide batch={batch}; the nearest that "
            f"does is {max(n for n in range(1, microbatch + 1) if batch % n == 0)}."
        )
    advice = advise(images) if config.advice and images is not None else NO_ADVICE
    gamma = _or(config.gamma, heuristic_gamma(width, height, batch) * advice.gamma_factor)
    path_length = _or(config.path_length_weight, 0.0 if alias_free else 2.0)
    # Other weights are good and sharp already. But taken up at `resume_at`, a training goes on as
    # it would have by itself, whatever it began with.
    fresh = config.resume_from is None or config.resume_at is not None
    blur = 10.0 if architecture == "stylegan3-r" and fresh else 0.0
    if config.resume_at is not None and taken_up is not None:
        fresh = taken_up["ema_rampup"] is not None
        blur = float(taken_up["blur_sigma"])
    kimg = _or(config.kimg, advice.kimg)
    # 16.1 * 1000 is a little more than 16,100.
    total = math.ceil(max(round(kimg * 1000), 1) / batch) * batch
    ema_kimg = min(batch * 10 / 32, kimg * advice.ema_share)
    freeze_mapping = config.freeze_mapping
    return Recipe(
        batch=batch,
        total_images=total,
        microbatch=microbatch,
        generator_lr=_or(config.generator_lr, (0.0025 if alias_free else 0.002) * advice.lr_factor),
        discriminator_lr=_or(config.discriminator_lr, 0.002 * advice.lr_factor),
        r1_gamma=gamma,
        r1_interval=config.r1_interval if gamma > 0 else None,
        path_length_weight=path_length,
        path_length_interval=config.path_length_interval if path_length > 0 else None,
        style_mixing=_or(config.style_mixing, 0.0 if alias_free else 0.9),
        ema_images=1000 * _or(config.ema_kimg, ema_kimg),
        ema_rampup=config.ema_rampup if fresh else None,
        blur_sigma=_or(config.blur_sigma, blur),
        blur_fade_images=1000 * _or(config.blur_fade_kimg, batch * 200 / 32),
        augment_interval=config.augment.interval if config.augment.mode == "ada" else None,
        augment_p=0.0 if config.augment.mode == "none" else _or(config.augment.p, advice.augment_p),
        augment_speed_kimg=_or(config.augment.speed_kimg, advice.augment_speed_kimg),
        snapshot_images=max(round(1000 * _or(config.snapshot_kimg, kimg / advice.snapshots)), 1),
        freeze_d_share=advice.freeze_d_share,
        freeze_mapping=advice.freeze_mapping if freeze_mapping is None else freeze_mapping,
        explosion_limit=config.divergence_limit,
    )


Number = TypeVar("Number", int, float)


def _or(value: Number | None, default: Number) -> Number:
    return default if value is None else value

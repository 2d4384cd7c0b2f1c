"""Settings of the pretrain stage. Plain values; knows nothing of tensors or files."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.errors import check_choice, check_range
from pipeline.models.config import NetworkConfig
from pipeline.train.config import PRECISIONS, AugmentConfig

PERCEPTUALS = ("lpips-alex", "lpips-vgg", "efficientnet-lite0")


@dataclass
class PretrainConfig:
    """One start; the defaults and their reasons are in conf/stages/pretrain.yaml."""

    # Name of the model.
    name: str = "model"
    # Dataset that it is to draw.
    dataset: str = "dataset/${character}"
    # Model whose networks are the start; null: random weights.
    resume_from: str | None = None
    seed: int = 0
    # auto | cpu | cuda
    device: str = "auto"
    # Shape of the networks; with resume_from the generator has that model's.
    network: NetworkConfig = field(default_factory=NetworkConfig)
    # As train.precision.
    precision: str = "auto"
    # Thousand images shown, and how many a step.
    kimg: float = 30.0
    batch: int = 8
    # Adam's rates at their highest. The generator's weights are of unit size, the encoder's small.
    generator_lr: float = 4e-3
    encoder_lr: float = 3e-4
    # Channels after the encoder's first convolution.
    breadth: int = 48
    # Weights of the squared error, of the perceptual distance, and of the latents' square.
    mse_weight: float = 1.0
    perceptual_weight: float = 1.0
    prior_weight: float = 1e-3
    perceptual: str = "lpips-alex"
    # Weight of both once more on the inner face alone, enlarged, where its place is known.
    face_weight: float = 1.0
    # Strength of the adversary, whose gradient on a picture is so many times as long as that of the
    # other losses; 0: none. It learns from so many thousand images on, and within so many more its
    # strength rises from 0.
    adversarial: float = 0.0
    adversarial_from: float = 4.0
    adversarial_ramp: float = 6.0
    # The adversary's rate, weight of R1, and steps between R1's.
    discriminator_lr: float = 2e-3
    gamma: float = 1.0
    r1_interval: int = 16
    # What the adversary sees instead of the bare pictures (Karras 2020, ADA).
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    # Noise on latents while learning, against latents that lie too close.
    noise: float = 0.1
    # Half-life of the averaged networks in thousand images.
    ema_kimg: float = 1.0
    # Steps, and latents a step, in which the mapping network learns where the latents lie.
    mapping_steps: int = 2000
    mapping_batch: int = 512
    mapping_rate: float = 0.3
    # Thousand images between lines of statistics, and between saved states with looks at held-out
    # images.
    log_kimg: float = 0.5
    save_kimg: float = 2.5
    # Held-out images of a look.
    looks: int = 64
    # Decoded images are kept in memory if they take at most so many gigabytes.
    cache_gb: float = 4.0
    threads: int | None = None
    # Store the networks in half precision.
    store_half: bool = False

    def __post_init__(self) -> None:
        check_choice("pretrain.device", self.device, ("auto", "cpu", "cuda"))
        check_choice("pretrain.precision", self.precision, PRECISIONS)
        check_choice("pretrain.perceptual", self.perceptual, PERCEPTUALS)
        check_range("pretrain.kimg", self.kimg, 0, 1e6, low_open=True)
        check_range("pretrain.batch", self.batch, 1, 4096)
        for name in ("generator_lr", "encoder_lr"):
            check_range(f"pretrain.{name}", getattr(self, name), 0, 1, low_open=True)
        check_range("pretrain.discriminator_lr", self.discriminator_lr, 0, 1, low_open=True)
        check_range("pretrain.r1_interval", self.r1_interval, 1, 10_000)
        for name in ("adversarial", "adversarial_from", "adversarial_ramp", "gamma"):
            check_range(f"pretrain.{name}", getattr(self, name), 0, 1e6)
        check_range("pretrain.breadth", self.breadth, 4, 256)
        for name in (
            "mse_weight",
            "perceptual_weight",
            "prior_weight",
            "face_weight",
            "noise",
            "ema_kimg",
        ):
            check_range(f"pretrain.{name}", getattr(self, name), 0, 1e6)
        check_range("pretrain.mapping_steps", self.mapping_steps, 1, 10_000_000)
        check_range("pretrain.mapping_batch", self.mapping_batch, 2, 100_000)
        check_range("pretrain.mapping_rate", self.mapping_rate, 0, 10, low_open=True)
        for name in ("log_kimg", "save_kimg"):
            check_range(f"pretrain.{name}", getattr(self, name), 0, 1e6, low_open=True)
        check_range("pretrain.looks", self.looks, 1, 10_000)
        check_range("pretrain.cache_gb", self.cache_gb, 0, 1e4)
        if self.threads is not None:
            check_range("pretrain.threads", self.threads, 1, 1024)

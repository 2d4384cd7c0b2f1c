"""Settings of the train stage. Plain values only; knows nothing of tensors or files."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.errors import ConfigError, check_choice, check_range
from pipeline.models.config import NetworkConfig

AUGMENT_MODES = ("none", "fixed", "ada")
AUGMENT_PIPES = (
    "blit",
    "geom",
    "color",
    "filter",
    "noise",
    "cutout",
    "bg",
    "bgc",
    "bgcf",
    "bgcfn",
    "bgcfnc",
)


@dataclass
class AugmentConfig:
    """What the discriminator sees instead of the bare images (Karras 2020, ADA)."""

    # none, fixed (strength p throughout) or ada (p follows the discriminator's overfitting).
    mode: str = "ada"
    # Group of augmentations: bgc is blit + geom + color, and so on up to bgcfnc.
    pipe: str = "bgc"
    # Strength at the start; with mode=fixed, throughout.
    p: float = 0.0
    # Mean sign of the discriminator's answer to real images that ada keeps to.
    target: float = 0.6
    # Iterations between adjustments of p.
    interval: int = 4
    # Thousand images over which p can go from 0 to 1.
    speed_kimg: float = 500.0

    def __post_init__(self) -> None:
        check_choice("augment.mode", self.mode, AUGMENT_MODES)
        check_choice("augment.pipe", self.pipe, AUGMENT_PIPES)
        check_range("augment.p", self.p, 0, 1)
        check_range("augment.target", self.target, -1, 1)
        check_range("augment.interval", self.interval, 1, 10_000)
        check_range("augment.speed_kimg", self.speed_kimg, 0, 1e6, low_open=True)


@dataclass
class TrainConfig:
    """Adversarial training of a generator on a dataset.

    `null` (None) means "as usual for this architecture"; pipeline/train/recipe.py holds the rules.
    """

    # Name of the model that is made.
    name: str = "model"
    # Dataset to train on, e.g. dataset/ganyu or dataset/ganyu:v3.
    dataset: str = "dataset/${character}"
    # Model whose networks are the start; null starts from random weights.
    resume_from: str | None = None
    seed: int = 0
    # auto, cpu or cuda.
    device: str = "auto"
    # Shape of new networks; with resume_from they have the shape of that model's.
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    # Length of the training in thousand images shown to the discriminator.
    kimg: float = 1000.0
    # Images an iteration.
    batch: int = 32
    # Images that go through the networks at once (to fit into memory); null: the whole batch.
    microbatch: int | None = None
    # Train on labels (characters) where the dataset has them.
    conditional: bool = False
    # Also use every image mirrored; off, for characters have one-sided features.
    xflip: bool = False

    # Learning rates; null: G 0.002 (StyleGAN2) or 0.0025 (StyleGAN3), D 0.002.
    generator_lr: float | None = None
    discriminator_lr: float | None = None
    # Weight of R1; null: 0.0002 * pixels / batch.
    gamma: float | None = None
    # Iterations between R1 steps (lazy regularisation).
    r1_interval: int = 16
    # Weight of path length regularisation; null: 2 (StyleGAN2) or 0 (StyleGAN3).
    path_length_weight: float | None = None
    # Iterations between path length steps.
    path_length_interval: int = 4
    # Share of images made from two latents; null: 0.9 (StyleGAN2) or 0 (StyleGAN3).
    style_mixing: float | None = None
    # Half-life of the averaged generator in thousand images; null: batch * 10 / 32.
    ema_kimg: float | None = None
    # The half-life never exceeds this share of what was trained so far; null: no such limit.
    # Not used when starting from another model.
    ema_rampup: float | None = 0.05
    # Blur of what D sees at the start, in pixels; null: 10 (StyleGAN3-R) or 0.
    blur_sigma: float | None = None
    # Thousand images over which the blur fades; null: batch * 200 / 32.
    blur_fade_kimg: float | None = None
    # Layers of D, from the image on, that keep their weights (FreezeD; for resume_from).
    freeze_d: int = 0

    # Thousand images between lines of statistics, and between saved states with sample grids.
    log_kimg: float = 1.0
    snapshot_kimg: float = 20.0
    # Columns and rows of the sample grids.
    sample_grid: list[int] = field(default_factory=lambda: [8, 4])
    # Keep the last training state in the model, so that it can be trained on (three times the
    # size of the networks); otherwise it goes when training is complete.
    keep_training_state: bool = False
    # Decoded images are kept in memory if they take less than this many gigabytes.
    cache_gb: float = 4.0
    # Threads for computing on the CPU; null: torch's default (one a core).
    threads: int | None = None

    def __post_init__(self) -> None:
        check_choice("train.device", self.device, ("auto", "cpu", "cuda"))
        check_range("train.kimg", self.kimg, 0, 1e6, low_open=True)
        check_range("train.batch", self.batch, 1, 65536)
        _check_optional("train.microbatch", self.microbatch, self.batch, low=1)
        for name in ("generator_lr", "discriminator_lr"):
            _check_optional(f"train.{name}", getattr(self, name), 1, low_open=True)
        _check_optional("train.gamma", self.gamma, 1e6)
        check_range("train.r1_interval", self.r1_interval, 1, 10_000)
        _check_optional("train.path_length_weight", self.path_length_weight, 1e6)
        check_range("train.path_length_interval", self.path_length_interval, 1, 10_000)
        _check_optional("train.style_mixing", self.style_mixing, 1)
        _check_optional("train.ema_kimg", self.ema_kimg, 1e6)
        _check_optional("train.ema_rampup", self.ema_rampup, 1e6, low_open=True)
        _check_optional("train.blur_sigma", self.blur_sigma, 1000)
        _check_optional("train.blur_fade_kimg", self.blur_fade_kimg, 1e6, low_open=True)
        check_range("train.freeze_d", self.freeze_d, 0, 1000)
        check_range("train.log_kimg", self.log_kimg, 0, 1e6, low_open=True)
        check_range("train.snapshot_kimg", self.snapshot_kimg, 0, 1e6, low_open=True)
        check_range("train.cache_gb", self.cache_gb, 0, 1e6)
        _check_optional("train.threads", self.threads, 4096, low=1)
        if len(self.sample_grid) != 2:
            raise ConfigError(
                f"train.sample_grid={self.sample_grid} is not possible; give two numbers, "
                "columns and rows, such as [8, 4]."
            )
        for count in self.sample_grid:
            check_range("train.sample_grid", count, 1, 64)
        if self.freeze_d and self.resume_from is None:
            raise ConfigError(
                f"train.freeze_d={self.freeze_d} would freeze random weights; name the model to "
                "start from with train.resume_from=model/NAME, or set train.freeze_d=0."
            )


def _check_optional(
    name: str, value: float | None, high: float, *, low: float = 0, low_open: bool = False
) -> None:
    if value is not None:
        check_range(name, value, low, high, low_open=low_open)

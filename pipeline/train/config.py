"""Settings of the train and finetune stages. Plain values; knows nothing of tensors or files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.errors import ConfigError, check_choice, check_range
from pipeline.models.config import NetworkConfig

AUGMENT_MODES = ("none", "fixed", "ada")
PUBLISHED = ("last", "best")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
# Fewer samples say nothing about a distribution.
MIN_SCORE_SAMPLES = 8
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
    # Strength at the start; with mode=fixed, throughout. null: 0, or as advised (see `advice`).
    p: float | None = None
    # Mean sign of the discriminator's answer to real images that ada keeps to.
    target: float = 0.6
    # Iterations between adjustments of p.
    interval: int = 4
    # Thousand images over which p can go from 0 to 1; null: 500, or as advised.
    speed_kimg: float | None = None

    def __post_init__(self) -> None:
        check_choice("augment.mode", self.mode, AUGMENT_MODES)
        check_choice("augment.pipe", self.pipe, AUGMENT_PIPES)
        _check_optional("augment.p", self.p, 1)
        check_range("augment.target", self.target, -1, 1)
        check_range("augment.interval", self.interval, 1, 10_000)
        _check_optional("augment.speed_kimg", self.speed_kimg, 1e6, low_open=True)
        if self.mode == "fixed" and self.p is None:
            raise ConfigError("augment.mode=fixed needs a strength; set augment.p, such as 0.2.")


@dataclass
class TrainConfig:
    """Adversarial training of a generator on a dataset.

    `null` (None) means "as usual for this architecture", or with `advice` "as suits a set of this
    size"; pipeline/train/recipe.py and advice.py hold the rules.
    """

    # The stage's name, for messages.
    STAGE: ClassVar[str] = "train"

    # Name of the model that is made.
    name: str = "model"
    # Dataset to train on, e.g. dataset/ganyu or dataset/ganyu:v3.
    dataset: str = "dataset/${character}"
    # Model whose networks are the start; null starts from random weights.
    resume_from: str | None = None
    # Thousand images: take up the whole training state that `resume_from` kept there.
    resume_at: float | None = None
    # `resume_from` makes smaller pictures than the dataset's: blocks are added (StyleGAN2 only).
    grow: bool = False
    seed: int = 0
    # auto, cpu or cuda.
    device: str = "auto"
    # Shape of new networks; with resume_from they have the shape of that model's.
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    # Length of the training in thousand images shown to the discriminator.
    kimg: float | None = 1000.0
    # Images an iteration.
    batch: int = 32
    # Images that go through the networks at once in a process (to fit into memory); null: its share
    # of the batch.
    microbatch: int | None = None
    # Only so many of the training images, chosen by the seed; null: all.
    max_images: int | None = None
    # At least so many images are kept from training; the dataset's own held-out ones come first.
    min_heldout: int = 0
    # Learn the dataset's characters (labels), so that the model can be asked for one; null: where
    # it has several, and a model to start from knows as many.
    conditional: bool | None = None
    # Show every character equally often, however many pictures there are of it.
    balance: bool = False
    # Also use every image mirrored; off, for characters have one-sided features.
    xflip: bool = False
    # auto: fp16 on a GPU, fp32 on a CPU | fp32 | fp16 (GPU) | bf16.
    precision: str = "auto"
    # Channels last in memory, where layers run in half precision on a GPU.
    channels_last: bool = False
    # On a GPU, launch the main phases as CUDA graphs.
    cuda_graphs: bool = True
    # Run the main phases through torch.compile.
    compile: bool = False

    # What is null follows from the number of training images (pipeline/train/advice.py).
    advice: bool = False
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
    freeze_d: int | None = 0
    # G's mapping network keeps its weights (for resume_from).
    freeze_mapping: bool | None = False

    # Returns to an earlier state, with half the learning rates, when the training diverges.
    rollbacks: int = 3
    # A loss beyond this is a divergence.
    divergence_limit: float = 1000.0

    # Thousand images between lines of statistics, and between snapshots: saved states with sample
    # grids and scores.
    log_kimg: float = 1.0
    snapshot_kimg: float | None = 20.0
    # Training states that are kept, the newest ones; null: all.
    kept_states: int | None = 2
    # Columns and rows of the sample grids.
    sample_grid: list[int] = field(default_factory=lambda: [8, 4])
    # Samples a snapshot is judged by; 0: none is judged.
    score_samples: int = 64
    # Which snapshot becomes the model: the last, or the one with the best score.
    publish: str = "last"
    # Share of samples that may be near-copies of training images before it counts against a score.
    copies_allowed: float = 0.25
    # Keep the last training states in the model, so that it can be trained on (three times the
    # size of the networks each); otherwise they go when training is complete.
    keep_training_state: bool = False
    # Store the published networks in half precision.
    store_half: bool = False
    # Decoded images are kept in memory if they take less than this many gigabytes.
    cache_gb: float = 4.0
    # Threads for computing on the CPU; null: torch's default (one a core).
    threads: int | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_start()
        check_choice(self._key("device"), self.device, ("auto", "cpu", "cuda"))
        check_choice(self._key("precision"), self.precision, PRECISIONS)
        check_choice(self._key("publish"), self.publish, PUBLISHED)
        if len(self.sample_grid) != 2:
            raise ConfigError(
                f"{self._key('sample_grid')}={self.sample_grid} is not possible; give two numbers, "
                "columns and rows, such as [8, 4]."
            )
        for count in self.sample_grid:
            check_range(self._key("sample_grid"), count, 1, 64)
        if self.publish == "best" and self.score_samples < MIN_SCORE_SAMPLES:
            raise ConfigError(
                f"{self._key('publish')}=best needs scores; set {self._key('score_samples')}="
                f"{MIN_SCORE_SAMPLES} or more."
            )

    def _key(self, name: str) -> str:
        """A setting as the command line spells it."""
        return f"{self.STAGE}.{name}"

    def _check_numbers(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "batch": (1, 65536),
            "microbatch": (1, self.batch),
            "max_images": (1, 10_000_000),
            "min_heldout": (0, 100_000),
            "gamma": (0, 1e6),
            "r1_interval": (1, 10_000),
            "path_length_weight": (0, 1e6),
            "path_length_interval": (1, 10_000),
            "style_mixing": (0, 1),
            "ema_kimg": (0, 1e6),
            "blur_sigma": (0, 1000),
            "freeze_d": (0, 1000),
            "resume_at": (0, 1e6),
            "rollbacks": (0, 100),
            "kept_states": (1, 1_000_000),
            "score_samples": (0, 100_000),
            "copies_allowed": (0, 1),
            "cache_gb": (0, 1e6),
            "threads": (1, 4096),
        }
        above_zero: dict[str, float] = {
            "kimg": 1e6,
            "generator_lr": 1,
            "discriminator_lr": 1,
            "ema_rampup": 1e6,
            "blur_fade_kimg": 1e6,
            "divergence_limit": 1e30,
            "log_kimg": 1e6,
            "snapshot_kimg": 1e6,
        }
        for name, (low, high) in limits.items():
            _check_optional(self._key(name), getattr(self, name), high, low=low)
        for name, high in above_zero.items():
            _check_optional(self._key(name), getattr(self, name), high, low_open=True)

    def _check_start(self) -> None:
        """Settings that mean something only where training starts from another model."""
        if self.grow and self.resume_at is not None:
            raise ConfigError(
                f"{self._key('grow')}=true makes other networks than those whose training state "
                f"{self._key('resume_at')} would take up; leave one of them out."
            )
        if self.resume_from is not None:
            return
        meaningless = {
            "freeze_d": "would freeze random weights",
            "freeze_mapping": "would freeze random weights",
            "resume_at": "needs a model whose training states were kept",
            "grow": "needs a smaller model to begin with",
        }
        for name, why in meaningless.items():
            if getattr(self, name):
                raise ConfigError(
                    f"{self._key(name)}={getattr(self, name)} {why}; name the model to start from "
                    f"with {self._key('resume_from')}=model/NAME, or leave {name} out."
                )


@dataclass
class FinetuneConfig(TrainConfig):
    """The train stage with the defaults that suit a new character with few images."""

    STAGE: ClassVar[str] = "finetune"

    resume_from: str | None = "assets/start-64"
    kimg: float | None = None
    batch: int = 16
    min_heldout: int = 4
    advice: bool = True
    freeze_d: int | None = None
    freeze_mapping: bool | None = None
    snapshot_kimg: float | None = None
    publish: str = "best"

    def __post_init__(self) -> None:
        if self.resume_from is None:
            raise ConfigError(
                "finetune.resume_from=null leaves nothing to start from; name a model, such as "
                "finetune.resume_from=model/NAME, or train from scratch with stage=train."
            )
        super().__post_init__()


def _check_optional(
    name: str, value: float | None, high: float, *, low: float = 0, low_open: bool = False
) -> None:
    if value is not None:
        check_range(name, value, low, high, low_open=low_open)

"""Settings of the invert stage. Plain values only; knows nothing of tensors or files."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from omegaconf import MISSING

from pipeline.errors import ConfigError, check_choice, check_range

ALIGNMENTS = ("auto", "face", "none")
SPACES = ("w", "w+")
STARTS = ("auto", "w_avg", "best", "encoder")
OPTIMISERS = ("auto", "adam", "l-bfgs")
TRANSFORMS = ("fixed", "optimised")
WEIGHTS = ("low-rank", "all")
PERCEPTUALS = ("auto", "lpips-alex", "lpips-vgg", "efficientnet-lite0", "discriminator")
PRECISIONS = ("auto", "full", "mixed")


@dataclass
class ProjectConfig:
    """Finding the pivot (StyleGAN2, appendix D; constants of PTI)."""

    # One latent for all layers, or one a layer (closer to the picture, harder to edit).
    space: str = "w"
    # Begin at the mean latent, at the best of `start_samples` random ones, or where the encoder
    # says; auto: encoder where there is one of this model, else w_avg.
    start: str = "auto"
    start_samples: int = 128
    # Latents mapped to measure the mean and the deviation of w.
    w_samples: int = 10000
    steps: int = 450
    learning_rate: float = 0.01
    # The same where an encoder gave the start; 0 takes its word.
    encoder_steps: int = 20
    # adam: StyleGAN2's projector | l-bfgs: few and long steps | auto: l-bfgs after an encoder.
    optimiser: str = "auto"
    # Shares of the steps over which the rate rises and falls.
    rampup: float = 0.05
    rampdown: float = 0.25
    # Noise on w, in standard deviations of w, and the share of the steps after which it is gone.
    w_noise: float = 0.05
    w_noise_ramp: float = 0.75
    # Weight of the noise regulariser (StyleGAN2 only: StyleGAN3 has no noise maps).
    noise_weight: float = 1e5
    # Weight of the mean squared error beside the perceptual distance (StyleGAN2's projector: 0).
    mse_weight: float = 1.0
    # Weight of the prior that keeps w near the network's own latents (Zhu et al. 2020, P_N space).
    prior_weight: float = 0.0
    # StyleGAN3: whether the turn and shift of its Fourier input are found, too.
    transform: str = "fixed"
    # Steps without progress after which the last part begins, in which the rate falls; 0: never.
    plateau: int = 40
    plateau_gain: float = 0.005

    def __post_init__(self) -> None:
        check_choice("project.space", self.space, SPACES)
        check_choice("project.start", self.start, STARTS)
        check_range("project.start_samples", self.start_samples, 1, 100_000)
        check_range("project.w_samples", self.w_samples, 2, 1_000_000)
        check_choice("project.transform", self.transform, TRANSFORMS)
        check_range("project.steps", self.steps, 1, 100_000)
        check_range("project.encoder_steps", self.encoder_steps, 0, 100_000)
        check_choice("project.optimiser", self.optimiser, OPTIMISERS)
        check_range("project.learning_rate", self.learning_rate, 0, 10, low_open=True)
        for name in ("rampup", "rampdown", "w_noise_ramp"):
            check_range(f"project.{name}", getattr(self, name), 0, 1)
        check_range("project.w_noise", self.w_noise, 0, 10)
        check_range("project.noise_weight", self.noise_weight, 0, 1e12)
        check_range("project.mse_weight", self.mse_weight, 0, 1e6)
        check_range("project.prior_weight", self.prior_weight, 0, 1e6)
        check_range("project.plateau", self.plateau, 0, 100_000)
        check_range("project.plateau_gain", self.plateau_gain, 0, 1)


@dataclass
class TuneConfig:
    """Tuning the generator around the pivot (PTI)."""

    # At most so many steps a picture; 0 leaves the generator as it is.
    steps: int = 500
    learning_rate: float = 0.01
    # Share of the steps over which the rate falls to 0.
    rampdown: float = 0.5
    # low-rank: each large weight moves by a matrix of this rank; all: each number for itself.
    weights: str = "low-rank"
    # 0: as high as a delta of a fifth of the generator allows, at most 32.
    rank: int = 0
    # Which layers: names within the synthesis network, with * and ?.
    layers: list[str] = field(default_factory=lambda: ["*"])
    # Weights of the mean squared error and of the perceptual distance.
    mse_weight: float = 10.0
    perceptual_weight: float = 1.0
    # Perceptual distance and PSNR at which tuning has arrived and stops; both must be reached.
    stop_at: float = 0.06
    stop_at_db: float = 32.0
    # Steps without progress after which the last part begins, in which the rate falls; 0: never.
    plateau: int = 40
    plateau_gain: float = 0.01
    # Keep the pictures of other latents where they were (PTI, eqs. 5-6): slower by half or more.
    locality: bool = False
    # How far from the pivot, and with which weights.
    locality_alpha: float = 30.0
    locality_mse_weight: float = 0.1
    locality_perceptual_weight: float = 0.1

    def __post_init__(self) -> None:
        check_range("tune.steps", self.steps, 0, 100_000)
        check_range("tune.learning_rate", self.learning_rate, 0, 1, low_open=True)
        check_choice("tune.weights", self.weights, WEIGHTS)
        check_range("tune.rank", self.rank, 0, 4096)
        check_range("tune.rampdown", self.rampdown, 0, 1)
        check_range("tune.plateau", self.plateau, 0, 100_000)
        check_range("tune.plateau_gain", self.plateau_gain, 0, 1)
        if not self.layers:
            raise ConfigError('tune.layers is empty; name some, or all of them: tune.layers=["*"].')
        for name in ("mse_weight", "perceptual_weight", "stop_at", "stop_at_db"):
            check_range(f"tune.{name}", getattr(self, name), 0, 1e6)
        check_range("tune.locality_alpha", self.locality_alpha, 0, 1e6, low_open=True)
        for name in ("locality_mse_weight", "locality_perceptual_weight"):
            check_range(f"tune.{name}", getattr(self, name), 0, 1e6)


@dataclass
class LineArtConfig:
    """Weights of the line-art terms in both phases' losses; 0 leaves one out."""

    edges: float = 0.0
    flats: float = 0.0

    def __post_init__(self) -> None:
        for name in ("edges", "flats"):
            check_range(f"line_art.{name}", getattr(self, name), 0, 1e6)


@dataclass
class InvertConfig:
    """One inversion; the defaults and their reasons are in conf/stages/invert.yaml."""

    # Name of the inversion.
    name: str = "character"
    # Reference to the model ("model/ganyu", "model/ganyu:v3", a path).
    model: str = MISSING
    # Reference to an encoder of that model; left out while there is none.
    encoder: str | None = None
    # The uploaded picture: path of an image file, or of a folder of them.
    image: str = MISSING
    # Of a folder: its pictures show one character, and one generator is tuned to all of them.
    together: bool = False
    seed: int = 0
    # auto | cpu | cuda
    device: str = "auto"
    # face: find and level the face as preprocess does; none: the picture's middle square, as it is;
    # auto: none for a picture of the model's own size, else face, else (no face found) none.
    align: str = "auto"
    # Where the face lies, set by hand: "center-x,center-y,width" in the picture's pixels, or with
    # its lean in degrees as a fourth number; None: as `align` says.
    crop: str | None = None
    # How much of the picture belongs to a face, and the colour behind transparent pixels ("#rrggbb"
    # or a name); None: as in the model's training images.
    face_widths: float | None = None
    eye_height: float | None = None
    background: str | None = None
    # Character (name or class number) that the picture shows, for a model of several; null: the one
    # whose mean face is nearest.
    label: str | None = None
    # auto: lpips-vgg on a GPU, lpips-alex on a CPU, discriminator where the weights are missing.
    perceptual: str = "auto"
    # Pictures below and above these sides are resized for LPIPS (0: never).
    perceptual_smallest_px: int = 128
    perceptual_largest_px: int = 256
    # auto: LPIPS convolves in bfloat16 where a GPU can | full: in float32 | mixed: in bfloat16.
    precision: str = "auto"
    # Steps between saved states: what a kill can cost.
    save_every: int = 50
    project: ProjectConfig = field(default_factory=ProjectConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    line_art: LineArtConfig = field(default_factory=LineArtConfig)

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("name is empty; give the inversion a name, for example name=ganyu.")
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        check_choice("align", self.align, ALIGNMENTS)
        check_choice("perceptual", self.perceptual, PERCEPTUALS)
        check_choice("precision", self.precision, PRECISIONS)
        if self.crop is not None:
            parse_crop(self.crop)
        if self.face_widths is not None:
            check_range("face_widths", self.face_widths, 0.8, 6.0)
        if self.eye_height is not None:
            check_range("eye_height", self.eye_height, 0.1, 0.9)
        check_range("perceptual_smallest_px", self.perceptual_smallest_px, 0, 4096)
        check_range("perceptual_largest_px", self.perceptual_largest_px, 0, 4096)
        if 0 < self.perceptual_largest_px < self.perceptual_smallest_px:
            raise ConfigError(
                f"perceptual_largest_px={self.perceptual_largest_px} is below "
                f"perceptual_smallest_px={self.perceptual_smallest_px}; raise it, or set it to 0."
            )
        check_range("save_every", self.save_every, 1, 1_000_000)


def parse_crop(text: str) -> tuple[float, float, float, float]:
    """(center x, center y, width, roll in degrees) of `InvertConfig.crop`."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (3, 4) or not all(map(math.isfinite, numbers)) or numbers[2] < 1:
        raise ConfigError(
            f"crop={text} cannot be read; write center-x,center-y,width in the picture's pixels, "
            "for example crop='320,240,180'."
        )
    x, y, width, *roll = numbers
    return x, y, width, roll[0] if roll else 0.0

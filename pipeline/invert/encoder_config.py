"""Settings of the encoder stage. Plain values only; knows nothing of tensors or files."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from pipeline.errors import ConfigError, check_choice, check_range
from pipeline.invert.config import PERCEPTUALS, SPACES
from pipeline.train.config import PRECISIONS as TRAINING_PRECISIONS


@dataclass
class EncoderConfig:
    """One encoder; the defaults and their reasons are in conf/stages/encoder.yaml."""

    # Name of the encoder.
    name: str = "character"
    # Reference to the model whose latents it is to find.
    model: str = MISSING
    # Reference to a dataset whose pictures it learns from, beside the model's samples; null: none.
    dataset: str | None = None
    # Reference to an encoder to begin with (its shape is then that one's); null: no knowledge.
    resume_from: str | None = None
    seed: int = 0
    # auto | cpu | cuda
    device: str = "auto"
    # One latent for all layers, or one a layer.
    space: str = "w"
    # How often it looks at a picture, in use and in training.
    passes: int = 3
    training_passes: int = 2
    # Channels after its first convolution, and numbers between its two full layers.
    breadth: int = 32
    hidden: int = 512
    # As train.precision.
    precision: str = "auto"
    # Samples and pictures that it sees.
    images: int = 6000
    batch: int = 8
    # Share of a batch that is pictures of the dataset.
    pictures: float = 0.5
    learning_rate: float = 1e-3
    # Latents mapped to measure the mean and the deviation of w.
    w_samples: int = 10000
    # Weights of the latent's, the pixels' and the perceptual error.
    latent_weight: float = 0.3
    mse_weight: float = 1.0
    perceptual_weight: float = 1.0
    # As invert.perceptual; measured in one batch of so many, as it costs more than all else.
    perceptual: str = "auto"
    perceptual_every: int = 4
    # Chance that a sample is disturbed (colours, blur, a patch), as no drawing is one of its own.
    disturbed: float = 0.7
    # Samples between points of the learning curve, each measured on `validation` further samples.
    validate_every: int = 1000
    validation: int = 32
    # Samples between saved states: what a kill can cost.
    save_every: int = 1000
    # Store the network in half precision.
    store_half: bool = False

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("name is empty; give the encoder a name, for example name=ganyu.")
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        check_choice("space", self.space, SPACES)
        check_choice("perceptual", self.perceptual, PERCEPTUALS)
        for name in ("passes", "training_passes"):
            check_range(name, getattr(self, name), 1, 20)
        check_range("breadth", self.breadth, 4, 256)
        check_range("hidden", self.hidden, 1, 65536)
        check_choice("precision", self.precision, TRAINING_PRECISIONS)
        check_range("pictures", self.pictures, 0, 1)
        check_range("images", self.images, 1, 100_000_000)
        check_range("batch", self.batch, 1, 4096)
        check_range("learning_rate", self.learning_rate, 0, 1, low_open=True)
        check_range("w_samples", self.w_samples, 2, 1_000_000)
        for name in ("latent_weight", "mse_weight", "perceptual_weight"):
            check_range(name, getattr(self, name), 0, 1e6)
        check_range("perceptual_every", self.perceptual_every, 1, 1_000_000)
        check_range("disturbed", self.disturbed, 0, 1)
        for name in ("validate_every", "save_every"):
            check_range(name, getattr(self, name), 1, 100_000_000)
        check_range("validation", self.validation, 2, 10_000)

"""What all pictures of one inversion share: the model, the distance, the settings, the encoder.

Read once, changed by nobody but for the generator's own buffers (`pti.own_buffers`), which belong
to the picture at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import weights
from pipeline.console import say
from pipeline.data.crop_rule import CropRule, read_crop_rule
from pipeline.errors import ArtifactError, ConfigError, ModelError
from pipeline.invert import encoder, inversion, picture, placement, pti
from pipeline.invert.config import InvertConfig
from pipeline.invert.latent_prior import LatentPrior
from pipeline.metrics import features, perceptual
from pipeline.metrics.line_art import LineArt, LineArtWeights
from pipeline.models import checkpoint
from pipeline.models.characters import find_character, one_hot
from torch_utils import rng

IDENTITY = "efficientnet-lite0"
# Looks on: called after each step with the phase ("project", "tune"), the steps done, those there
# will be at most, and what draws the picture as it is now (1 x C x H x W in [-1, 1]).
Watch = Callable[[str, int, int, Callable[[], Tensor]], None]


@dataclass
class Subject:
    """The untuned model and how closeness to a picture is measured."""

    config: InvertConfig
    model_folder: Path
    device: torch.device
    generator: Any  # untuned
    metric: perceptual.PerceptualDistance
    rule: CropRule
    size: tuple[int, int]  # (width, height) of the model's pictures
    encoder: encoder.Finder | None
    watch: Watch | None = None
    _priors: dict[int | None, LatentPrior] = field(default_factory=dict)

    @classmethod
    def read(
        cls, config: InvertConfig, inputs: Mapping[str, Path], device: torch.device
    ) -> Subject:
        """Load the model, the distance's weights and the encoder."""
        folder = inputs["model"]
        generator = checkpoint.load(folder, names=("G_ema",), device=device)["G_ema"]
        generator.eval().requires_grad_(False)
        check_placement(config, generator)
        return cls(
            config=config,
            model_folder=folder,
            device=device,
            generator=generator,
            metric=choose_perceptual(config, device, folder),
            rule=crop_rule(config, folder),
            size=_picture_size(generator),
            encoder=_encoder(config, inputs, device),
        )

    @cached_property
    def identity(self) -> features.FeatureNetwork | None:
        """What says whether two pictures show the same face; None where its weights are not here.

        Always the same network, that figures can be compared.
        """
        return features.load(IDENTITY, self.device) if weights.find(IDENTITY) else None

    @property
    def start(self) -> str:
        """Where the search begins: w_avg, best or encoder."""
        asked = self.config.project.start
        return ("encoder" if self.encoder else "w_avg") if asked == "auto" else asked

    @property
    def optimiser(self) -> str:
        """What looks for the pivot: adam or l-bfgs."""
        asked = self.config.project.optimiser
        if asked != "auto":
            return asked
        return "l-bfgs" if self.start == "encoder" else "adam"

    @property
    def character(self) -> int | None:
        """The class that the settings name; None if they name none."""
        return find_character(
            "invert.label", self.config.label, self.model_folder, self.generator.c_dim
        )

    def latents(self, count: int, character: int | None, purpose: str) -> tuple[Tensor, Tensor]:
        """count x z_dim normal values for that purpose, and the character's labels."""
        z = self.normal((count, self.generator.z_dim), 0, purpose)
        return z, self.labels(character, count)

    def labels(self, character: int | None, count: int) -> Tensor:
        """count x c_dim, of the character."""
        return one_hot(character, self.generator.c_dim, count).to(self.device)

    def prior(self, character: int | None) -> LatentPrior:
        """P_N space of the character's latents."""
        if character not in self._priors:
            z, c = self.latents(self.config.project.w_samples, character, "invert w statistics")
            self._priors[character] = LatentPrior.of(self.generator, z, c)
        return self._priors[character]

    def normal(self, shape: tuple[int, ...], step: int, purpose: str) -> Tensor:
        """Standard normal values: a function of the seed, the step and what they are for."""
        draws = rng.generator(self.config.seed, 0, step, purpose)
        return torch.randn(shape, generator=draws).to(self.device)

    def term(self, target: Tensor) -> LineArt | None:
        """The line-art terms against that target; None where they have no weight."""
        asked = LineArtWeights(self.config.line_art.edges, self.config.line_art.flats)
        return LineArt(target, asked) if asked else None

    def encoded(self, target: Tensor) -> Tensor:
        """The encoder's latent of the target, 1 x 1 or num_ws (space W+) x w_dim."""
        assert self.encoder is not None, "start is encoder only where there is one"
        wanted = self.metric.features(target)

        def distance(image: Tensor) -> float:
            return float(self.metric.distance(self.metric.features(image), wanted))

        return self.encoder.ws(self.generator, target, self.config.project.space, distance)

    def nearest_character(self, target: Tensor) -> int:
        """The class whose mean face is nearest to the picture."""
        wanted = self.metric.features(target)
        distances = []
        for number in range(self.generator.c_dim):
            z, c = self.latents(self.config.project.w_samples, number, "invert character")
            mean, _ = pti.w_statistics(self.generator, z, c)
            with torch.no_grad():
                face = pti.picture_of(self.generator, mean.expand(-1, self.generator.num_ws, -1))
                found = self.metric.features(face)
            distances.append(float(self.metric.distance(wanted, found)))
        return min(range(self.generator.c_dim), key=distances.__getitem__)


def check_placement(config: InvertConfig, generator: Any) -> None:
    """ConfigError where a placement is to be found that this network does not have."""
    if config.project.transform == "optimised" and not placement.can_move(generator):
        raise ConfigError(
            "project.transform=optimised is StyleGAN3's alone, and this model is a StyleGAN2; "
            "use project.transform=fixed, and align=face for a picture that is not level."
        )


def model_crop_rule(model_folder: Path) -> CropRule:
    """How the model's training images were framed."""
    return read_crop_rule(model_folder) or picture.default_rule()


def crop_rule(config: InvertConfig, model_folder: Path) -> CropRule:
    """As the model's training images were framed, unless the settings say otherwise."""
    rule = model_crop_rule(model_folder)
    return CropRule(
        rule.face_widths if config.face_widths is None else config.face_widths,
        rule.eye_height if config.eye_height is None else config.eye_height,
        rule.background if config.background is None else config.background,
    )


def choose_perceptual(
    config: InvertConfig, device: torch.device, model_folder: Path
) -> perceptual.PerceptualDistance:
    """The distance that the config names; `auto` decides by device and by what is cached."""
    name = config.perceptual
    if name == "auto":
        name = "lpips-vgg" if device.type == "cuda" else "lpips-alex"
        if weights.find(name) is None:
            say(
                f"invert: the weights of {name} are not on this machine (`python -m "
                "scripts.fetch_weights` fetches them), so the model's own discriminator measures "
                "the distance; its figures cannot be compared with LPIPS, so tuning takes all its "
                "steps."
            )
            name = "discriminator"
    discriminator = None
    if name == "discriminator":
        try:
            discriminator = checkpoint.load(model_folder, names=("D",), device=device)["D"]
        except (ArtifactError, ModelError) as error:
            raise ModelError(
                f"perceptual={name} needs the model's discriminator, but {error} "
                "Use perceptual=lpips-alex after `python -m scripts.fetch_weights`."
            ) from error
    return perceptual.load(
        name,
        device,
        discriminator=discriminator,
        smallest_px=config.perceptual_smallest_px,
        largest_px=config.perceptual_largest_px,
        mixed=_mixes(config.precision, device),
    )


def _mixes(precision: str, device: torch.device) -> bool:
    """Whether LPIPS convolves in bfloat16."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "mixed"


def _encoder(
    config: InvertConfig, inputs: Mapping[str, Path], device: torch.device
) -> encoder.Finder | None:
    """The encoder, if the search is to begin with one; ArtifactError where it must and cannot."""
    start = config.project.start
    if start not in ("auto", "encoder"):
        return None
    folder = inputs.get("encoder")
    if folder is not None:
        found = encoder.Encoder.load(folder, device)
        if found.model_digest == inversion.model_digest(inputs["model"]):
            return found
    own = encoder.OwnEncoder.of_model(inputs["model"], device)
    if own is not None:
        return own
    if folder is None:
        if start == "encoder":
            raise ConfigError(
                "project.start=encoder needs an encoder of this model; run `make encoder "
                "MODEL=...` first, or use project.start=w_avg."
            )
        return None
    words = f"the encoder {folder} was trained on another model than {inputs['model']}"
    if start == "encoder":
        raise ArtifactError(
            f"{words[0].upper()}{words[1:]}; run `make encoder MODEL=...` for this one, or use "
            "project.start=w_avg."
        )
    say(f"invert: {words}, so the search begins at the mean latent.")
    return None


def _picture_size(generator: Any) -> tuple[int, int]:
    """(width, height) of the generator's pictures; asked of a picture, as some are not square."""
    device = next(generator.parameters()).device
    with torch.no_grad():
        label = torch.zeros(1, generator.c_dim, device=device)
        ws = generator.mapping(torch.zeros(1, generator.z_dim, device=device), label)
        height, width = pti.picture_of(generator, ws).shape[2:]
    return width, height

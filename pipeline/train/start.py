"""What a training starts from: networks with random weights, of a model, or of a saved state.

Settings and a dataset become a `TrainingState`; everything that does not fit is refused here,
before anything is trained. Knows nothing about the loop.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from pipeline.console import say
from pipeline.errors import ConfigError, DataError, ModelError
from pipeline.models import checkpoint, stylegan2, stylegan3
from pipeline.models.build import Generator, architecture_of, build, build_discriminator
from pipeline.models.precision import choose_precision, set_precision
from pipeline.models.stylegan2_layers import Conv2dLayer
from pipeline.train.augment import AdaController, AugmentPipe
from pipeline.train.config import TrainConfig
from pipeline.train.grow import grown_average, grown_discriminator, grown_generator
from pipeline.train.images import TrainingImages
from pipeline.train.loss import Objective
from pipeline.train.pieces import check_pieces
from pipeline.train.recipe import Recipe, magnitude_ema_beta
from pipeline.train.state import TrainingState, load_state, new_state, saved_states, state_file
from torch_utils import distributed, rng

# Training states beside a model's networks, and in a draft.
TRAINING_STATE = "training_state"


@dataclass(frozen=True)
class Start:
    """The state before the first step of this run, and which parameters stay as they are.

    frozen: names with the network in front, "D.b64.conv0.weight"; freeze_d: convolutions of D that
    are frozen; new_discriminator: whether D has random weights although G has not.
    """

    state: TrainingState
    frozen: tuple[str, ...]
    freeze_d: int
    new_discriminator: bool


@dataclass(frozen=True)
class _Networks:
    generator: Generator
    discriminator: stylegan2.Discriminator
    averaged: nn.Module | None
    new_discriminator: bool


def architecture(config: TrainConfig, base: Path | None) -> str:
    """The architecture that is trained: that of the model `base`, whatever the settings say."""
    described = {} if base is None else checkpoint.read_architecture(base)
    generator = described.get("G", described.get("G_ema"))
    return config.network.architecture if generator is None else architecture_of(generator)


def precision(config: TrainConfig, device: torch.device) -> str:
    """The numbers to compute with on this device; ConfigError where it has none such."""
    try:
        return choose_precision(config.precision, device)
    except ValueError as error:
        raise ConfigError(f"{config.STAGE}.precision={config.precision}: {error}.") from error


def prepare(
    config: TrainConfig,
    recipe: Recipe,
    images: TrainingImages,
    base: Path | None,
    device: torch.device,
) -> Start:
    """Networks with random weights, or those of the model `base`, and what trains them.

    With `config.resume_at` the whole training state that `base` kept there, the clock included.
    ConfigError, DataError or ModelError for what does not fit together.
    """
    rng.seed_global(config.seed, 0, 0, "weights")
    networks = _new(config, images) if base is None else _of_model(config, images, base, device)
    if config.grow:
        networks = _grown(config, networks, images.height)
    generator = networks.generator.to(device).train()
    discriminator = networks.discriminator.to(device).train()
    _check_size(generator, images)
    check_pieces(discriminator, recipe, distributed.current().size, config.STAGE)
    modules = [generator, discriminator, *([networks.averaged] if networks.averaged else [])]
    for network in modules:
        if isinstance(network, stylegan3.Generator):
            network.set_magnitude_ema_beta(magnitude_ema_beta(recipe.batch))
        set_precision(network, precision(config, device), config.channels_last, device)

    controller = AdaController(
        p=recipe.augment_p,
        target=config.augment.target,
        speed_kimg=recipe.augment_speed_kimg,
    )
    pipe = AugmentPipe.from_group(config.augment.pipe).to(device)
    objective = Objective(
        generator,
        discriminator,
        augment=lambda seen: pipe(seen, controller.p),
        r1_gamma=recipe.r1_gamma,
        path_length_weight=recipe.path_length_weight,
    )
    layers = _layers_to_freeze(config, recipe, discriminator, networks.new_discriminator)
    frozen = [f"D.{name}" for name in first_parameters(discriminator, layers)]
    if recipe.freeze_mapping:
        frozen += [f"G.mapping.{name}" for name, _ in generator.mapping.named_parameters()]
    state = new_state(
        objective, recipe, averaged=networks.averaged, controller=controller, frozen=frozen
    )
    if config.resume_at is not None and base is not None:
        load_state(state, _state_at(config, base))
    return Start(state, tuple(frozen), layers, networks.new_discriminator)


def _new(config: TrainConfig, images: TrainingImages) -> _Networks:
    generator, discriminator = build(
        config.network,
        images.height,
        images.channels,
        images.label_dim,
        square=images.height != 2 * images.width,
    )
    return _Networks(generator, discriminator, None, False)


def _of_model(
    config: TrainConfig, images: TrainingImages, base: Path, device: torch.device
) -> _Networks:
    """The networks of a model; what it lacks of G and D is made up for.

    Without G (PTI's files) the averaged generator is trained on, without D (StyleGAN-Human's
    published ones) a discriminator with random weights learns from the beginning.
    """
    there = [name for name in ("G", "D", "G_ema") if name in checkpoint.read_architecture(base)]
    if "G_ema" not in there and "G" not in there:
        raise ModelError(f"the model in {base} has no generator that could be trained on.")
    networks = checkpoint.load(base, there, device)
    averaged = networks.get("G_ema", networks.get("G"))
    assert averaged is not None
    generator = cast(Generator, networks.get("G") or copy.deepcopy(averaged))
    if "G_ema" not in networks:
        averaged = copy.deepcopy(averaged)
    if "D" in networks:
        discriminator = cast(stylegan2.Discriminator, networks["D"])
    else:
        say(
            f"{config.STAGE}: {base.name} has no discriminator, so one with random weights learns "
            "from the beginning; expect the first samples to become worse than the model's own."
        )
        discriminator = build_discriminator(
            config.network,
            generator.img_resolution,
            generator.img_channels,
            generator.c_dim,
            square=images.height != 2 * images.width,
        )
    return _Networks(generator, discriminator, averaged, "D" not in networks)


def _grown(config: TrainConfig, networks: _Networks, resolution: int) -> _Networks:
    """The networks for pictures of `resolution`, the old ones at their core."""
    generator, averaged = networks.generator, networks.averaged
    if generator.img_resolution >= resolution:
        raise ConfigError(
            f"{config.STAGE}.grow=true, but {config.resume_from} already makes pictures of "
            f"{generator.img_resolution} px and the dataset's have {resolution}; leave grow out, "
            "or give a dataset with larger images."
        )
    larger = grown_generator(generator, resolution)
    return replace(
        networks,
        generator=larger,
        averaged=None if averaged is None else grown_average(averaged, larger),
        discriminator=grown_discriminator(networks.discriminator, resolution),
    )


def _state_at(config: TrainConfig, base: Path) -> Path:
    """The file of the state at `config.resume_at`; ConfigError naming those that there are."""
    assert config.resume_at is not None
    path = state_file(base / TRAINING_STATE, round(config.resume_at * 1000))
    if not path.is_file():
        found = [f"{int(state.stem) / 1000:g}" for state in saved_states(path.parent)[::-1]]
        there = f"it has states at {', '.join(found)} kimg" if found else "it kept none"
        raise ConfigError(
            f"{config.STAGE}.resume_at={config.resume_at:g}: {config.resume_from} has no training "
            f"state there; {there} (keep_training_state and kept_states decide that)."
        )
    return path


def first_parameters(discriminator: nn.Module, layers: int) -> list[str]:
    """Names of the parameters of the first `layers` convolutions after the image (FreezeD)."""
    chosen = list(_convolutions(discriminator))[:layers]
    return [
        f"{name}.{parameter}"
        for name, module in chosen
        for parameter, _ in module.named_parameters()
    ]


def _convolutions(discriminator: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in discriminator.named_modules():
        if isinstance(module, Conv2dLayer):
            yield name, module


def _layers_to_freeze(
    config: TrainConfig, recipe: Recipe, discriminator: nn.Module, is_new: bool
) -> int:
    count = len(list(_convolutions(discriminator)))
    if config.freeze_d is None:
        return 0 if is_new else math.floor(recipe.freeze_d_share * count)
    if config.freeze_d and is_new:
        raise ConfigError(
            f"{config.STAGE}.freeze_d={config.freeze_d} would freeze random weights: the model has "
            "no discriminator; use freeze_d=0."
        )
    if config.freeze_d > count:
        raise ConfigError(
            f"{config.STAGE}.freeze_d={config.freeze_d} is out of range: this discriminator has "
            f"{count} convolutions; use at most that."
        )
    return config.freeze_d


def _check_size(generator: Generator, images: TrainingImages) -> None:
    height, width = generator.synthesis.img_size
    size = (images.height, images.width, images.channels, images.label_dim)
    wanted = (height, width, generator.img_channels, generator.c_dim)
    if size != wanted:
        raise DataError(
            f"The dataset's images are {images.width}x{images.height} with {images.channels} "
            f"channels and {images.label_dim} label values, but the network makes "
            f"{width}x{height} with {wanted[2]} and {wanted[3]}; preprocess the drawings for it "
            "(preprocess.like=model/NAME), or choose another model to start from."
        )

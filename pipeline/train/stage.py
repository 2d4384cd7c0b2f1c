"""The train stage: settings to objects, then the loop, then a model.

    dataset artifact -> images, networks, recipe -> loop.train -> model artifact

While training, `training_state/` in the draft holds what a resume needs; with the model it goes,
unless settings keep it.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.console import catch_stop, progress, say
from pipeline.data.crop_rule import read_crop_rule
from pipeline.data.dataset import Dataset
from pipeline.errors import ConfigError, DataError
from pipeline.models import checkpoint, stylegan2, stylegan3
from pipeline.models.build import Generator, architecture_of, build
from pipeline.train import loop
from pipeline.train.augment import AdaController, AugmentPipe
from pipeline.train.config import TrainConfig
from pipeline.train.images import TrainingImages
from pipeline.train.logbook import STATISTICS, Logbook, tile
from pipeline.train.loss import Objective
from pipeline.train.prefetch import Prefetched
from pipeline.train.recipe import Recipe, magnitude_ema_beta, make_recipe
from pipeline.train.state import TrainingState, new_state, restore_latest, saved_states
from torch_utils import rng
from torch_utils.device import choose_device, describe

TRAINING_STATE = "training_state"
REALS = "reals.png"
# Samples are made so many at a time, whatever the batch.
SAMPLE_BATCH = 16


def run(config: TrainConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, float | int | str]:
    """Train on `inputs["dataset"]` (from `inputs["resume_from"]`, if given) into `out`.

    Goes on from the newest state in `out`, if an earlier run was cut off. Returns metrics.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = choose_device(config.device)
    dataset = Dataset(inputs["dataset"])
    images = TrainingImages(
        dataset.images,
        dataset.train_indices,
        seed=config.seed,
        xflip=config.xflip,
        conditional=config.conditional,
        cache_bytes=round(config.cache_gb * 2**30),
    )
    base = inputs.get("resume_from")
    architecture = _architecture(config, base)
    recipe = make_recipe(config, architecture, images.width, images.height)
    if _was_finished(out):
        return _metrics(recipe, images, **_last_numbers(out))
    with threads(config.threads):
        state = prepare_state(config, recipe, images, base, device)
        resumed = restore_latest(state, out / TRAINING_STATE)
        _announce(config, architecture, recipe, images, state, resumed is not None)
        _train(config, recipe, images, state, out)
    # With the model complete, its states go: what else belongs to it is there by then.
    if rule := read_crop_rule(inputs["dataset"]):
        rule.write(out)
    return _finish(config, recipe, images, state, out)


def _architecture(config: TrainConfig, base: Path | None) -> str:
    """The architecture that is trained: that of the model `base`, whatever the settings say."""
    described = {} if base is None else checkpoint.read_architecture(base)
    return architecture_of(described["G"]) if "G" in described else config.network.architecture


def prepare_state(
    config: TrainConfig,
    recipe: Recipe,
    images: TrainingImages,
    base: Path | None,
    device: torch.device,
) -> TrainingState:
    """Networks with random weights, or those of the model `base`, and what trains them."""
    rng.seed_global(config.seed, 0, 0, "weights")
    if base is None:
        generator, discriminator = build(
            config.network,
            images.height,
            images.channels,
            images.label_dim,
            square=images.height != 2 * images.width,
        )
        averaged = None
    else:
        networks = checkpoint.load(base, ("G", "D", "G_ema"), device)
        generator = cast(Generator, networks["G"])
        discriminator = cast(stylegan2.Discriminator, networks["D"])
        averaged = networks["G_ema"]
    generator, discriminator = generator.to(device).train(), discriminator.to(device).train()
    _check_size(generator, images)
    _check_groups(discriminator, recipe)
    for module in generator.modules():
        if isinstance(module, stylegan3.SynthesisLayer):
            module.magnitude_ema_beta = magnitude_ema_beta(recipe.batch)

    controller = AdaController(
        p=0.0 if config.augment.mode == "none" else config.augment.p,
        target=config.augment.target,
        speed_kimg=config.augment.speed_kimg,
    )
    pipe = AugmentPipe.from_group(config.augment.pipe).to(device)
    objective = Objective(
        generator,
        discriminator,
        augment=lambda seen: pipe(seen, controller.p),
        r1_gamma=recipe.r1_gamma,
        path_length_weight=recipe.path_length_weight,
    )
    frozen = frozen_parameters(discriminator, config.freeze_d)
    return new_state(objective, recipe, averaged=averaged, controller=controller, frozen=frozen)


def frozen_parameters(discriminator: nn.Module, layers: int) -> list[str]:
    """Names of the parameters of the first `layers` convolutions after the image (FreezeD)."""
    convolutions = [
        (name, module)
        for name, module in discriminator.named_modules()
        if isinstance(module, stylegan2.Conv2dLayer)
    ]
    if layers > len(convolutions):
        raise ConfigError(
            f"train.freeze_d={layers} is out of range: this discriminator has "
            f"{len(convolutions)} convolutions; use at most that."
        )
    return [
        f"{name}.{parameter}"
        for name, module in convolutions[:layers]
        for parameter, _ in module.named_parameters()
    ]


@dataclass(frozen=True)
class SampleGrid:
    """The same latents and labels at every snapshot, so that one sees them change."""

    z: Tensor
    c: Tensor
    columns: int

    @classmethod
    def draw(cls, config: TrainConfig, images: TrainingImages, z_dim: int) -> SampleGrid:
        """Latents from the seed; labels with the set's frequencies."""
        columns, rows = config.sample_grid
        draws = rng.generator(config.seed, 0, 0, "samples")
        z = torch.randn(columns * rows, z_dim, generator=draws)
        return cls(z, images.draw_labels(len(z), draws), columns)

    @torch.no_grad()
    def render(self, generator: nn.Module, device: torch.device) -> Tensor:
        """N×C×H×W images in [-1, 1] on the CPU."""
        parts = zip(self.z.split(SAMPLE_BATCH), self.c.split(SAMPLE_BATCH), strict=True)
        made = [generator(z.to(device), c.to(device), noise_mode="const").cpu() for z, c in parts]
        return torch.cat(made)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads inside the block (None: as before)."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(
    config: TrainConfig, recipe: Recipe, images: TrainingImages, state: TrainingState, out: Path
) -> None:
    grid = SampleGrid.draw(config, images, state.objective.generator.z_dim)
    logbook = Logbook(out, state.images_seen)
    if not (out / REALS).exists():
        reals = images.first(len(grid.z)).numpy().transpose(0, 2, 3, 1)
        Image.fromarray(tile(reals, grid.columns).squeeze()).save(out / REALS)

    def on_snapshot(images_seen: int) -> dict[str, float]:
        pictures = grid.render(state.averaged, state.objective.device)
        logbook.write_samples(images_seen, pictures, grid.columns)
        return {}

    left = (recipe.total_images - state.images_seen) / 1000
    try:
        with (
            catch_stop() as stop,
            Prefetched(images, recipe.batch, state.objective.device) as batches,
            progress("train", left, "kimg") as bar,
        ):
            loop.train(
                state,
                recipe,
                batches,
                seed=config.seed,
                cadence=loop.Cadence(
                    log_images=max(round(config.log_kimg * 1000), 1),
                    snapshot_images=max(round(config.snapshot_kimg * 1000), 1),
                ),
                logbook=logbook,
                states=out / TRAINING_STATE,
                on_snapshot=on_snapshot,
                bar=bar,
                stop=stop,
            )
    finally:
        logbook.close()


def _finish(
    config: TrainConfig, recipe: Recipe, images: TrainingImages, state: TrainingState, out: Path
) -> dict[str, float | int | str]:
    """Write the model and return its metrics."""
    checkpoint.save(out, state.networks)
    if not config.keep_training_state:
        shutil.rmtree(out / TRAINING_STATE)
    return _metrics(recipe, images, state.controller.p, state.seconds)


def _was_finished(out: Path) -> bool:
    """Whether an earlier run was cut off when all was written and its states were just removed."""
    return (out / checkpoint.ARCHITECTURE_FILE).is_file() and not saved_states(out / TRAINING_STATE)


def _last_numbers(out: Path) -> dict[str, float]:
    """What `_metrics` needs of a finished training, from the last line of its statistics."""
    last = json.loads((out / STATISTICS).read_text(encoding="utf-8").splitlines()[-1])
    return {name: float(last[name]) for name in ("augment_p", "seconds")}


def _metrics(
    recipe: Recipe, images: TrainingImages, augment_p: float, seconds: float
) -> dict[str, float | int | str]:
    return {
        "images_seen": recipe.total_images,
        "training_images": len(images),
        "resolution": images.height,
        "gamma": recipe.r1_gamma,
        "augment_p": augment_p,
        "seconds_per_kimg": seconds / (recipe.total_images / 1000),
    }


def _announce(
    config: TrainConfig,
    architecture: str,
    recipe: Recipe,
    images: TrainingImages,
    state: TrainingState,
    resumed: bool,
) -> None:
    size = f"{images.width}x{images.height}"
    begin = f"going on from {state.images_seen / 1000:g} kimg" if resumed else "starting"
    say(
        f"train: {architecture} at {size} on {len(images)} images, "
        f"{recipe.total_images / 1000:g} kimg in batches of {recipe.batch}, "
        f"gamma {recipe.r1_gamma:.3g}, augmentation {config.augment.mode}; {begin} on "
        f"{describe(state.objective.device)}."
    )
    if not images.fit_memory:
        say(
            f"train: the images are more than train.cache_gb={config.cache_gb:g} holds, so each is "
            "decoded anew whenever it is used, which is slower."
        )


def _check_groups(discriminator: nn.Module, recipe: Recipe) -> None:
    """ConfigError unless the discriminator's minibatch statistics divide what it sees at once."""
    for module in discriminator.modules():
        if isinstance(module, stylegan2.MinibatchStdLayer):
            group = min(module.group_size or recipe.microbatch, recipe.microbatch)
            if recipe.microbatch % group:
                more = math.ceil(recipe.microbatch / group) * group
                raise ConfigError(
                    f"{recipe.microbatch} images at once (train.microbatch, else train.batch) do "
                    f"not split into the discriminator's groups of {group} (network.mbstd_group); "
                    f"use a multiple of {group} such as {more}."
                )


def _check_size(generator: Generator, images: TrainingImages) -> None:
    size = (images.height, images.width, images.channels, images.label_dim)
    synthesis = generator.synthesis
    if isinstance(synthesis, stylegan2.SynthesisNetwork):
        height, width = synthesis.img_size
    else:
        height, width = synthesis.img_resolution, synthesis.img_resolution
    wanted = (height, width, generator.img_channels, generator.c_dim)
    if size != wanted:
        raise DataError(
            f"The dataset's images are {images.width}x{images.height} with {images.channels} "
            f"channels and {images.label_dim} label values, but the network makes "
            f"{width}x{height} with {wanted[2]} and {wanted[3]}; preprocess the drawings "
            f"to {width}x{height}, or choose another model to start from."
        )

"""The train and finetune stages: settings to objects, then the loop, then a model.

    dataset artifact -> images, networks, recipe -> loop.train -> model artifact

While training, `training_state/` in the draft holds what a resume needs; with the model it goes,
unless settings keep it. `recipe.json` says what the settings were resolved to. A file called `stop`
beside them ends the training as Ctrl-C does. Several processes (torch_utils/distributed.py) go
through all of it together, and the first one writes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pipeline.console import catch_stop, progress, say
from pipeline.data.crop_rule import read_crop_rule
from pipeline.data.dataset import Dataset
from pipeline.errors import ConfigError, Interrupted, TrainingError
from pipeline.models import checkpoint
from pipeline.models.characters import read_characters, write_characters
from pipeline.train import loop
from pipeline.train.choice import choose
from pipeline.train.config import TrainConfig
from pipeline.train.divergence import (
    RATE_FACTOR,
    Diverged,
    Rollback,
    rate_after,
    read_rollbacks,
    state_to_take,
    write_rollbacks,
)
from pipeline.train.images import TrainingImages
from pipeline.train.logbook import STATISTICS, Logbook, tile
from pipeline.train.prefetch import Prefetched
from pipeline.train.publication import read_record
from pipeline.train.recipe import Recipe, make_recipe
from pipeline.train.recorded import RecordedObjective, recorded_losses
from pipeline.train.snapshots import FixedLatents, Judge, reals_grid
from pipeline.train.start import TRAINING_STATE, Start, architecture, precision, prepare
from pipeline.train.state import TrainingState, restore_latest, saved_states
from torch_utils import distributed, toolkit
from torch_utils.device import choose_device, describe
from torch_utils.recording import recorder_for

REALS = "reals.png"
RECIPE = "recipe.json"
STOP = "stop"
# kept_states=null.
ALL_STATES = 1_000_000_000


@dataclass(frozen=True)
class Job:
    """What one run of the stage works on. heldout: how many images the snapshots are judged by."""

    config: TrainConfig
    recipe: Recipe
    images: TrainingImages
    heldout: int
    base: Path | None
    out: Path
    device: torch.device
    judge: Judge


def check(config: TrainConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what can be told without training: the device, its numbers, its compiler."""
    device = choose_device(config.device)
    _check_compile(config, device)
    precision(config, device)


def run(config: TrainConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, float | int | str]:
    """Train on `inputs["dataset"]` (from `inputs["resume_from"]`, if given) into `out`.

    Goes on from the newest state in `out`, if an earlier run was cut off. Returns metrics.
    """
    world = distributed.current()
    out.mkdir(parents=True, exist_ok=True)
    if world.broadcast(_was_finished(out)):
        return _metrics(out)
    job = _prepare_job(config, inputs, out)
    (out / STOP).unlink(missing_ok=True)
    with threads(config.threads):
        state = _train_through(job)
        if not world.is_first:
            return {}
        # With the model complete, its states go: what else belongs to it is there by then.
        if job.images.classes:
            names = read_characters(inputs["dataset"])
            write_characters(out, names or [str(one) for one in range(job.images.classes)])
        if rule := read_crop_rule(inputs["dataset"]):
            rule.write(out)
        job.judge.publish(state.networks, state.images_seen)
    if not config.keep_training_state:
        shutil.rmtree(out / TRAINING_STATE)
    return _metrics(out)


def _prepare_job(config: TrainConfig, inputs: Mapping[str, Path], out: Path) -> Job:
    world = distributed.current()
    check(config, inputs)
    device = choose_device(config.device)
    dataset = Dataset(inputs["dataset"])
    base = inputs.get("resume_from")
    chosen = choose(
        dataset.train_indices,
        dataset.heldout_indices,
        seed=config.seed,
        min_heldout=config.min_heldout,
        max_images=config.max_images,
    )
    images = TrainingImages(
        dataset.images,
        chosen.train,
        seed=config.seed,
        xflip=config.xflip,
        conditional=_is_conditional(config, dataset, base),
        balance=config.balance,
        rows=world.rows,
        # What a machine may spend is shared by its processes.
        cache_bytes=round(config.cache_gb * 2**30 / world.local_size),
    )
    began = _taken_up(config, base)
    recipe = make_recipe(
        config, architecture(config, base), images.width, images.height, len(images), began
    )
    if began is not None and config.freeze_d is None:
        # The share is of a discriminator that came with the model; this one may have been new.
        config = replace(config, freeze_d=int(began["freeze_d"]))
    judge = Judge(config, images, dataset.images, chosen, out, device)
    return Job(config, recipe, images, len(chosen.heldout), base, out, device, judge)


def _check_compile(config: TrainConfig, device: torch.device) -> None:
    problem = toolkit.torch_compile_problem(device.type) if config.compile else None
    if problem is not None:
        raise ConfigError(
            f"{config.STAGE}.compile=true is not possible here: {problem}, or leave it out."
        )


def _is_conditional(config: TrainConfig, dataset: Dataset, base: Path | None) -> bool:
    """Whether labels are learned: as the settings say, else where all that is there has them."""
    if config.conditional is not None:
        return config.conditional
    known = dataset.images.label_dim
    if known < 2 or base is None:
        return known > 1
    described = checkpoint.read_architecture(base)
    generator = described.get("G", described.get("G_ema"))
    of_base = 0 if generator is None else int(generator.arguments.get("c_dim", 0))
    if of_base != known:
        say(
            f"{config.STAGE}: the dataset has {known} characters and {base.name} knows {of_base}, "
            "so all are trained as one."
        )
    return of_base == known


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads inside the block (None: as before)."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_through(job: Job) -> TrainingState:
    """Train to the end, from the last good state with lower rates each time it diverges."""
    world = distributed.current()
    announced = False
    while True:
        rollbacks = world.broadcast(read_rollbacks(job.out) if world.is_first else [])
        rate = rate_after(rollbacks)
        recipe = replace(
            job.recipe,
            generator_lr=job.recipe.generator_lr * rate,
            discriminator_lr=job.recipe.discriminator_lr * rate,
        )
        start = prepare(job.config, recipe, job.images, job.base, job.device)
        resumed = restore_latest(start.state, job.out / TRAINING_STATE, world) is not None
        if not announced:
            if world.is_first:
                _write_recipe(job, start)
            _announce(job, start, resumed)
            announced = True
        try:
            _train(replace(job, recipe=recipe), start.state)
        except Diverged as error:
            # All come to this together; the others wait above for the first one's decision.
            if world.is_first:
                _roll_back(job, rollbacks, error)
        else:
            return start.state


def _roll_back(job: Job, rollbacks: list[Rollback], error: Diverged) -> None:
    """Leave the state to be taken up as the newest one; TrainingError when it was tried enough."""
    stage = job.config.STAGE
    saved = {int(path.stem): path for path in saved_states(job.out / TRAINING_STATE)}
    back_to = state_to_take(list(saved), rollbacks)
    if len(rollbacks) >= job.config.rollbacks or back_to is None:
        tried = f", {len(rollbacks)} times in spite of lower rates" if rollbacks else ""
        raise TrainingError(
            f"{stage}: diverged{tried}: {error.reason} before {error.images_seen / 1000:g} kimg. "
            f"Train with lower rates ({stage}.generator_lr, {stage}.discriminator_lr), a larger "
            f"{stage}.gamma or more {stage}.rollbacks; the last good state is kept in "
            f"{job.out / TRAINING_STATE}."
        ) from error
    for seen, path in saved.items():
        if seen > back_to:
            path.unlink()
    rate = rate_after(rollbacks) * RATE_FACTOR
    write_rollbacks(job.out, [*rollbacks, Rollback(error.images_seen, back_to, rate, error.reason)])
    say(
        f"{stage}: diverged ({error.reason} before {error.images_seen / 1000:g} kimg); going back "
        f"to {back_to / 1000:g} kimg with {rate:g} of the learning rates "
        f"({len(rollbacks) + 1} of {job.config.rollbacks} times)."
    )


def _train(job: Job, state: TrainingState) -> None:
    world = distributed.current()
    config, recipe, out = job.config, job.recipe, job.out
    columns, rows = config.sample_grid
    z_dim = state.objective.generator.z_dim
    grid = FixedLatents.grid((columns, rows), job.images, z_dim, config.seed)
    logbook = Logbook(out, state.images_seen) if world.is_first else None
    job.judge.begin(state.images_seen)
    if world.is_first and not (out / REALS).exists():
        reals = reals_grid((columns, rows), job.images)
        Image.fromarray(tile(reals, columns).squeeze()).save(out / REALS)

    def on_snapshot(images_seen: int) -> dict[str, float]:
        assert logbook is not None
        pictures = grid.render(state.averaged, job.device)
        logbook.write_samples(images_seen, pictures, columns)
        return job.judge.measure(state.networks, images_seen)

    left = (recipe.total_images - state.images_seen) / 1000
    if config.compile:
        state.objective.compile_networks()
    losses = _recorded(job, state)
    try:
        with (
            catch_stop() as asked_to_stop,
            Prefetched(job.images, recipe.batch, job.device) as batches,
            progress(config.STAGE, left, "kimg") as bar,
        ):
            loop.train(
                state,
                recipe,
                batches,
                seed=config.seed,
                cadence=loop.Cadence(
                    log_images=max(round(config.log_kimg * 1000), 1),
                    snapshot_images=recipe.snapshot_images,
                    kept_states=ALL_STATES if config.kept_states is None else config.kept_states,
                ),
                logbook=logbook,
                states=out / TRAINING_STATE,
                on_snapshot=on_snapshot,
                bar=bar,
                stop=lambda: asked_to_stop() or (out / STOP).exists(),
                world=world,
                losses=losses,
            )
    except Interrupted:
        (out / STOP).unlink(missing_ok=True)
        raise
    finally:
        if logbook is not None:
            logbook.close()


def _recorded(job: Job, state: TrainingState) -> RecordedObjective | None:
    """The main losses as CUDA graphs, where those are wanted and there is a GPU."""
    recorder = recorder_for(job.device) if job.config.cuda_graphs else None
    if recorder is None:
        return None
    world = distributed.current()
    return recorded_losses(state, job.recipe, recorder, processes=world.size, name=job.config.STAGE)


def _was_finished(out: Path) -> bool:
    """Whether an earlier run was cut off when all was written and its states were just removed."""
    complete = (out / checkpoint.ARCHITECTURE_FILE).is_file() and (out / RECIPE).is_file()
    return complete and not saved_states(out / TRAINING_STATE)


def _taken_up(config: TrainConfig, base: Path | None) -> dict[str, Any] | None:
    """What `_write_recipe` wrote of the training that `config.resume_at` goes on with."""
    if config.resume_at is None or base is None or not (base / RECIPE).is_file():
        return None
    recipe: dict[str, Any] = json.loads((base / RECIPE).read_text(encoding="utf-8"))
    return recipe


def _write_recipe(job: Job, start: Start) -> None:
    """What the settings came to, beside the model."""
    content = asdict(job.recipe) | {
        "training_images": len(job.images),
        "heldout_images": job.heldout,
        "resolution": job.images.height,
        "freeze_d": start.freeze_d,
        "new_discriminator": start.new_discriminator,
        "frozen": list(start.frozen),
    }
    aside = job.out / f".{RECIPE}.part"
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    aside.replace(job.out / RECIPE)


def _metrics(out: Path) -> dict[str, float | int | str]:
    """What the manifest says of a finished training, read from its files."""
    recipe: dict[str, Any] = json.loads((out / RECIPE).read_text(encoding="utf-8"))
    last = json.loads((out / STATISTICS).read_text(encoding="utf-8").splitlines()[-1])
    total = int(recipe["total_images"])
    metrics: dict[str, float | int | str] = {
        "images_seen": total,
        **{name: int(recipe[name]) for name in ("training_images", "heldout_images")},
        "resolution": int(recipe["resolution"]),
        "gamma": float(recipe["r1_gamma"]),
        "generator_lr": float(recipe["generator_lr"]),
        "discriminator_lr": float(recipe["discriminator_lr"]),
        "freeze_d": int(recipe["freeze_d"]),
        "freeze_mapping": int(recipe["freeze_mapping"]),
        "augment_p_start": float(recipe["augment_p"]),
        "augment_p": float(last["augment_p"]),
        "seconds_per_kimg": float(last["seconds"]) / (total / 1000),
        "rollbacks": len(read_rollbacks(out)),
    }
    record = read_record(out)
    metrics["published_kimg"] = (total if record.published is None else record.published) / 1000
    if record.of_the_model is not None:
        metrics |= {
            "heldout_score": record.of_the_model.score,
            "copied": record.of_the_model.copied,
        }
    return metrics


def _announce(job: Job, start: Start, resumed: bool) -> None:
    config, recipe, images, state = job.config, job.recipe, job.images, start.state
    size = f"{images.width}x{images.height}"
    begin = f"going on from {state.images_seen / 1000:g} kimg" if resumed else "starting"
    say(
        f"{config.STAGE}: {architecture(config, job.base)} at {size} on {len(images)} images, "
        f"{recipe.total_images / 1000:g} kimg in batches of {recipe.batch}, "
        f"gamma {recipe.r1_gamma:.3g}, augmentation {config.augment.mode}, "
        f"{precision(config, job.device)}; {begin} on {describe(job.device)}."
    )
    if config.compile:
        say(f"{config.STAGE}: torch.compile translates the networks; the first steps take minutes.")
    if config.channels_last and job.device.type != "cuda":
        say(f"{config.STAGE}: channels_last=true is for a GPU; here it changes nothing.")
    if config.advice:
        kept = f"{start.freeze_d} layers of D" + (
            " and the mapping" if recipe.freeze_mapping else ""
        )
        say(
            f"{config.STAGE}: for so many images: rates {recipe.generator_lr:g} and "
            f"{recipe.discriminator_lr:g}, augmentation from {recipe.augment_p:g}, {kept} frozen, "
            f"{job.heldout} images held out to judge by."
        )
    say(f"{config.STAGE}: Ctrl-C, or a file {job.out / STOP}, ends it cleanly.")
    if not images.fit_memory:
        say(
            f"{config.STAGE}: the images are more than {config.STAGE}.cache_gb={config.cache_gb:g} "
            "holds, so each is decoded anew whenever it is used, which is slower."
        )

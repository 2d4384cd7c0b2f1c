"""The training loop: the phases of an iteration, and when to log, to save and to stop.

An iteration shows the discriminator one batch of real images. It has up to four phases:

    Gmain   the generator makes images that D takes for real
    Greg    every few iterations: path length regularisation
    Dmain   D tells made images from real ones; G's averages are updated
    Dreg    every few iterations: R1

and then the averaged generator follows. Everything drawn, and everything decided, is a function of
the seed and the number of images seen. Several processes share each batch (pieces.py) and take the
same steps; the first one writes. The formulas are in loss.py; the numbers in recipe.py.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.console import Progress
from pipeline.errors import Interrupted
from pipeline.train.divergence import Diverged, what_is_wrong
from pipeline.train.logbook import Logbook
from pipeline.train.loss import Objective, Reports, draw_latents, path_length_slopes
from pipeline.train.phases import MainLosses, Phase, PhaseInputs, phases
from pipeline.train.pieces import RunningMeans, passes
from pipeline.train.recipe import Recipe
from pipeline.train.state import KEPT_STATES, TrainingState, save_state, saved_states
from pipeline.train.statistics import Statistics
from torch_utils import rng
from torch_utils.device import send
from torch_utils.distributed import ALONE, Share, World

# Iterations between looks at whether all numbers are finite; each look waits for the device.
CHECK_EVERY = 4
BYTES_PER_MB = 1 << 20


class Images(Protocol):
    """Where real images and labels come from; see images.py."""

    def batch(self, images_seen: int, count: int) -> tuple[Tensor, Tensor]:
        """This process's rows of the `count` images and labels after the first `images_seen`."""

    def draw_labels(self, count: int, generator: torch.Generator) -> Tensor:
        """Random labels, N × c_dim."""


@dataclass(frozen=True)
class Cadence:
    """Images between lines of the log, and between snapshots; how many saved states are kept."""

    log_images: int
    snapshot_images: int
    kept_states: int = KEPT_STATES


def train(
    state: TrainingState,
    recipe: Recipe,
    images: Images,
    *,
    seed: int,
    cadence: Cadence,
    logbook: Logbook | None,
    states: Path,
    on_snapshot: Callable[[int], Mapping[str, float]],
    bar: Progress,
    stop: Callable[[], bool],
    world: World = ALONE,
    losses: MainLosses | None = None,
) -> None:
    """Train from where `state` is until `recipe.total_images` were seen.

    Saves states into the folder `states`, also before the first image, and calls
    `on_snapshot(images_seen)` before each; the numbers it returns go into the log. Interrupted when
    `stop` says so (the state is saved then), Diverged when numbers are not finite or far too large;
    the state is of no use then, the saved ones are.

    `losses` computes the main phases (default: the state's objective).

    Every process of `world` calls this with its own `images` and the same of everything else. The
    first one alone has a `logbook`, calls `on_snapshot` and writes into `states`.
    """
    pace = _Pace(state)
    if not world.broadcast(bool(saved_states(states))):
        measured = on_snapshot(state.images_seen) if logbook is not None else {}
        if logbook is not None and measured:
            logbook.write(state.images_seen, measured)
        save_state(state, states, cadence.kept_states, world)
    while state.images_seen < recipe.total_images:
        started = time.monotonic()
        iteration = state.images_seen // recipe.batch
        inputs = draw_inputs(state, recipe, images, seed, world)
        run_iteration(state, recipe, inputs, iteration, world, losses)

        before = state.images_seen
        state.images_seen += recipe.batch
        adjust_augmentation(state, recipe, iteration, world)
        state.seconds += time.monotonic() - started

        done = state.images_seen >= recipe.total_images
        save_due = done or _crosses(before, state.images_seen, cadence.snapshot_images)
        log_due = save_due or _crosses(before, state.images_seen, cadence.log_images)
        # All processes stop after the same iteration, whichever was told to.
        stopping = world.any(stop())
        if log_due or save_due or stopping or iteration % CHECK_EVERY == 0:
            statistics = state.statistics.total(world)
            _check_health(statistics, state, recipe)
        if log_due:
            summary = _summary(statistics, state, recipe, pace()) | world.largest(_memory())
            if logbook is not None:
                summary |= on_snapshot(state.images_seen) if save_due else {}
                logbook.write(state.images_seen, summary)
            state.statistics.clear()
        if save_due or stopping:
            if logbook is not None:
                logbook.flush()
            save_state(state, states, cadence.kept_states, world)
        bar.advance(recipe.batch / 1000, **_shown(state, pace()))
        if stopping and not done:
            raise Interrupted(
                f"Training stopped at {state.images_seen / 1000:g} of "
                f"{recipe.total_images / 1000:g} kimg, and everything is saved; run the same "
                "command again to continue."
            )


def draw_inputs(
    state: TrainingState, recipe: Recipe, images: Images, seed: int, world: World = ALONE
) -> dict[str, PhaseInputs]:
    """What each phase of the next iteration works on, by phase name."""
    seen, batch = state.images_seen, recipe.batch
    generator, device = state.objective.generator, state.objective.device
    real, labels = (send(tensor, device) for tensor in images.batch(seen, batch))
    inputs = {}
    for phase in phases(recipe):
        # For the whole batch, whatever its share here, so that the values do not depend on that.
        draws = rng.generator(seed, 0, seen, f"{phase.name}/latents")
        fake_labels = images.draw_labels(batch, draws)
        latents = draw_latents(
            batch, generator.z_dim, generator.num_ws, fake_labels, recipe.style_mixing, draws
        )
        layer_seed = rng.derive_seed(seed, 0, seen, f"{phase.name}/layers")
        inputs[phase.name] = PhaseInputs(
            real,
            labels,
            latents.rows(world.rows).to(device),
            seed=layer_seed,
            share=Share(world.rank, world.size),
        )
    return inputs


def run_iteration(
    state: TrainingState,
    recipe: Recipe,
    inputs: Mapping[str, PhaseInputs],
    iteration: int,
    world: World = ALONE,
    losses: MainLosses | None = None,
) -> None:
    """One iteration: every phase that is due, then the averaged generator."""
    state.objective.blur_sigma = recipe.blur(state.images_seen)
    for phase in phases(recipe):
        if iteration % phase.interval == 0:
            run_phase(state, recipe, phase, inputs[phase.name], world, losses)
    update_average(state.averaged, state.objective.generator, recipe.ema_beta(state.images_seen))


def run_phase(
    state: TrainingState,
    recipe: Recipe,
    phase: Phase,
    inputs: PhaseInputs,
    world: World = ALONE,
    losses: MainLosses | None = None,
) -> None:
    """Gradients of the phase's losses, and one step of the network's optimiser."""
    optimizer = state.optimizers[phase.network]
    parameters = list(state.trainable[phase.network].values())
    # A parameter without a gradient takes no step: it must be None, not zero.
    optimizer.zero_grad(set_to_none=True)
    for parameter in parameters:
        parameter.requires_grad_(True)
    add_gradients(state, phase, inputs.parts(passes(recipe, world.size)), world, losses)
    for parameter in parameters:
        parameter.requires_grad_(False)

    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    world.average(gradients)
    norm = nn.utils.get_total_norm(gradients)
    state.statistics.add({f"grad_norm_{phase.name}": norm})
    optimizer.step()


def add_gradients(
    state: TrainingState,
    phase: Phase,
    parts: Sequence[PhaseInputs],
    world: World = ALONE,
    losses: MainLosses | None = None,
) -> None:
    """Accumulate the gradients of the phase's losses over equal parts, and what they measure."""
    # Only phases without a regulariser have a recorded form.
    if losses is None or phase.regularise:
        losses = state.objective
    # A regulariser that acts every k-th iteration acts k times as strongly.
    gain = phase.interval / len(parts)
    if phase.network == "G":
        if phase.main:
            for part in parts:
                with part.drawing():
                    state.statistics.add(losses.generator_main(part.latents, gain))
        if phase.regularise:
            _add_path_length_gradients(state, parts, phase.interval * world.size, world)
        return
    means = RunningMeans(state.objective.generator, len(parts) if phase.main else 1)
    for part in parts:
        with part.drawing():
            reports = _add_discriminator_gradients(state.objective, losses, phase, part, gain)
        means.after_pass()
        state.statistics.add(reports)
        if "sign_real" in reports:
            state.recent_signs.add({"sign_real": reports["sign_real"]})
    means.after_batch()


def _add_discriminator_gradients(
    objective: Objective, losses: MainLosses, phase: Phase, part: PhaseInputs, gain: float
) -> Reports:
    if phase.main and not phase.regularise:
        return losses.discriminator_main(part.latents, part.images, part.labels, gain)
    reports: Reports = {}
    if phase.main:
        reports |= objective.discriminator_fake(part.latents, gain)
    return reports | objective.discriminator_real(
        part.images, part.labels, main=phase.main, r1=phase.regularise, gain=gain
    )


def _add_path_length_gradients(
    state: TrainingState, parts: Sequence[PhaseInputs], gain: float, world: World
) -> None:
    """Every length is compared with a mean that all lengths of the batch are part of, so all are
    measured before any is penalised: where there are several parts, each is computed twice."""
    objective = state.objective

    def measure(part: PhaseInputs) -> Tensor:
        with part.drawing():
            return objective.path_lengths(part.latents, part.path_length_noise)

    measured = [measure(part) if len(parts) == 1 else measure(part).detach() for part in parts]
    # Part k holds every len(parts)-th of this process's rows.
    mine = torch.stack(measured, dim=1).flatten()
    penalty, slopes, mean = path_length_slopes(world.gather(mine), objective.path_length_mean)
    for part, lengths in zip(parts, measured, strict=True):
        again = lengths if len(parts) == 1 else measure(part)
        objective.penalise_path_lengths(again, slopes[part.share.rows], gain)
        state.statistics.add(
            {"loss_path_length": penalty[part.share.rows], "path_length": lengths.detach()}
        )
    objective.path_length_mean = mean


@torch.no_grad()
def update_average(averaged: nn.Module, network: nn.Module, beta: float) -> None:
    """averaged = beta · averaged + (1 - beta) · network; buffers are copied."""
    torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - beta)
    for mine, theirs in zip(averaged.buffers(), network.buffers(), strict=True):
        mine.copy_(theirs)


def adjust_augmentation(
    state: TrainingState, recipe: Recipe, iteration: int, world: World = ALONE
) -> None:
    """Every few iterations, move p by what D answered to real images since."""
    interval = recipe.augment_interval
    if interval is None or (iteration + 1) % interval:
        return
    sign = state.recent_signs.total(world).means()["sign_real"]
    state.controller.update(sign, recipe.batch * interval)
    state.recent_signs.clear()


def _check_health(statistics: Statistics, state: TrainingState, recipe: Recipe) -> None:
    reason = what_is_wrong(statistics, recipe.explosion_limit)
    if reason:
        raise Diverged(reason, state.images_seen)


def _crosses(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return before // every != after // every


class _Pace:
    """Seconds a thousand images, since this process began to train."""

    def __init__(self, state: TrainingState) -> None:
        self._state = state
        self._began, self._seen = time.monotonic(), state.images_seen

    def __call__(self) -> float:
        kimg = (self._state.images_seen - self._seen) / 1000
        return (time.monotonic() - self._began) / kimg


def _summary(
    statistics: Statistics, state: TrainingState, recipe: Recipe, seconds_per_kimg: float
) -> dict[str, float]:
    """A line of the log."""
    values = statistics.means()
    if "loss_D_fake" in values:
        values["loss_D"] = values["loss_D_fake"] + values["loss_D_real"]
    values["path_length_mean"] = float(state.objective.path_length_mean)
    values["augment_p"] = state.controller.p
    values["ema_beta"] = recipe.ema_beta(state.images_seen)
    values["blur_sigma"] = recipe.blur(state.images_seen)
    values["seconds"] = state.seconds
    values["seconds_per_kimg"] = seconds_per_kimg
    left = (recipe.total_images - state.images_seen) / 1000
    values["eta_seconds"] = left * seconds_per_kimg
    return values


def _shown(state: TrainingState, seconds_per_kimg: float) -> dict[str, float | int | str]:
    """What stands beside the progress bar."""
    memory = _memory()
    return {
        "s/kimg": round(seconds_per_kimg, 1),
        "p": round(state.controller.p, 3),
        "MB": round(memory.get("gpu_memory_mb", memory["memory_mb"])),
    }


def _memory() -> dict[str, float]:
    """Largest memory use so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    values = {"memory_mb": peak / BYTES_PER_MB}
    if torch.cuda.is_initialized():
        values["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / BYTES_PER_MB
    return values

"""The training loop: the phases of an iteration, and when to log, to save and to stop.

An iteration shows the discriminator one batch of real images. It has up to four phases:

    Gmain   the generator makes images that D takes for real
    Greg    every few iterations: path length regularisation
    Dmain   D tells made images from real ones; G's averages are updated
    Dreg    every few iterations: R1

and then the averaged generator follows. Everything drawn, and everything decided, is a function of
the seed and the number of images seen. The formulas are in loss.py; the numbers in recipe.py.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.console import Progress
from pipeline.errors import Interrupted
from pipeline.train.divergence import Diverged, what_is_wrong
from pipeline.train.logbook import Logbook
from pipeline.train.loss import Latents, Reports, draw_latents
from pipeline.train.recipe import Recipe
from pipeline.train.state import KEPT_STATES, NetworkName, TrainingState, save_state, saved_states
from torch_utils import rng

# Iterations between looks at whether all numbers are finite; each look waits for the device.
CHECK_EVERY = 4
BYTES_PER_MB = 1 << 20


@dataclass(frozen=True)
class Phase:
    """One optimiser step: which network, which losses, every how many iterations."""

    name: str
    network: NetworkName
    main: bool
    regularise: bool
    interval: int


@dataclass(frozen=True)
class PhaseInputs:
    """What a phase works on.

    images: real ones, N×C×H×W in [-1, 1]; labels: N × c_dim; latents: for the images G makes.
    path_length_noise: unit normal, shaped as the part of the batch that is measured; None: drawn.
    seed: of whatever the networks and the augmentation draw for themselves.
    """

    images: Tensor
    labels: Tensor
    latents: Latents
    path_length_noise: Tensor | None = None
    seed: int = 0

    def parts(self, size: int) -> Iterator[PhaseInputs]:
        """Pieces of at most `size` images."""
        if len(self.images) <= size:
            yield self
            return
        for first in range(0, len(self.images), size):
            rows = slice(first, first + size)
            yield PhaseInputs(self.images[rows], self.labels[rows], self.latents.rows(rows))


class Images(Protocol):
    """Where real images and labels come from; see images.py."""

    def batch(self, images_seen: int, count: int) -> tuple[Tensor, Tensor]:
        """The images and labels that follow the first `images_seen`."""

    def draw_labels(self, count: int, generator: torch.Generator) -> Tensor:
        """Random labels, N × c_dim."""


@dataclass(frozen=True)
class Cadence:
    """Images between lines of the log, and between snapshots; how many saved states are kept."""

    log_images: int
    snapshot_images: int
    kept_states: int = KEPT_STATES


def phases(recipe: Recipe) -> list[Phase]:
    """The phases in their order; without an interval, the regulariser joins the main phase."""
    order: list[Phase] = []
    networks: tuple[tuple[NetworkName, int | None, float], ...] = (
        ("G", recipe.path_length_interval, recipe.path_length_weight),
        ("D", recipe.r1_interval, recipe.r1_gamma),
    )
    for network, interval, weight in networks:
        if interval is None:
            order.append(Phase(f"{network}both", network, True, weight > 0, 1))
        else:
            order.append(Phase(f"{network}main", network, True, False, 1))
            order.append(Phase(f"{network}reg", network, False, True, interval))
    return order


def train(
    state: TrainingState,
    recipe: Recipe,
    images: Images,
    *,
    seed: int,
    cadence: Cadence,
    logbook: Logbook,
    states: Path,
    on_snapshot: Callable[[int], Mapping[str, float]],
    bar: Progress,
    stop: Callable[[], bool],
) -> None:
    """Train from where `state` is until `recipe.total_images` were seen.

    Saves states into the folder `states`, also before the first image, and calls
    `on_snapshot(images_seen)` before each; the numbers it returns go into the log. Interrupted when
    `stop` says so (the state is saved then), Diverged when numbers are not finite or far too large;
    the state is of no use then, the saved ones are.
    """
    pace = _Pace(state)
    if not saved_states(states):
        measured = on_snapshot(state.images_seen)
        if measured:
            logbook.write(state.images_seen, measured)
        save_state(state, states, cadence.kept_states)
    while state.images_seen < recipe.total_images:
        started = time.monotonic()
        iteration = state.images_seen // recipe.batch
        inputs = draw_inputs(state, recipe, images, seed)
        run_iteration(state, recipe, inputs, iteration)

        before = state.images_seen
        state.images_seen += recipe.batch
        adjust_augmentation(state, recipe, iteration)
        state.seconds += time.monotonic() - started

        done = state.images_seen >= recipe.total_images
        save_due = done or _crosses(before, state.images_seen, cadence.snapshot_images)
        log_due = save_due or _crosses(before, state.images_seen, cadence.log_images)
        stopping = stop()
        if log_due or save_due or stopping or iteration % CHECK_EVERY == 0:
            _check_health(state, recipe)
        measured = on_snapshot(state.images_seen) if save_due else {}
        if log_due:
            logbook.write(state.images_seen, _summary(state, recipe, pace()) | dict(measured))
            state.statistics.clear()
        if save_due or stopping:
            logbook.flush()
            save_state(state, states, cadence.kept_states)
        bar.advance(recipe.batch / 1000, **_shown(state, pace()))
        if stopping and not done:
            raise Interrupted(
                f"Training stopped at {state.images_seen / 1000:g} of "
                f"{recipe.total_images / 1000:g} kimg, and everything is saved; run the same "
                "command again to continue."
            )


def draw_inputs(
    state: TrainingState, recipe: Recipe, images: Images, seed: int
) -> dict[str, PhaseInputs]:
    """What each phase of the next iteration works on, by phase name."""
    seen, batch = state.images_seen, recipe.batch
    generator, device = state.objective.generator, state.objective.device
    real, labels = (tensor.to(device) for tensor in images.batch(seen, batch))
    inputs = {}
    for phase in phases(recipe):
        draws = rng.generator(seed, 0, seen, f"{phase.name}/latents")
        fake_labels = images.draw_labels(batch, draws)
        latents = draw_latents(
            batch, generator.z_dim, generator.num_ws, fake_labels, recipe.style_mixing, draws
        )
        layer_seed = rng.derive_seed(seed, 0, seen, f"{phase.name}/layers")
        inputs[phase.name] = PhaseInputs(real, labels, latents.to(device), seed=layer_seed)
    return inputs


def run_iteration(
    state: TrainingState, recipe: Recipe, inputs: Mapping[str, PhaseInputs], iteration: int
) -> None:
    """One iteration: every phase that is due, then the averaged generator."""
    state.objective.blur_sigma = recipe.blur(state.images_seen)
    for phase in phases(recipe):
        if iteration % phase.interval == 0:
            run_phase(state, recipe, phase, inputs[phase.name])
    update_average(state.averaged, state.objective.generator, recipe.ema_beta(state.images_seen))


def run_phase(state: TrainingState, recipe: Recipe, phase: Phase, inputs: PhaseInputs) -> None:
    """Gradients of the phase's losses, and one step of the network's optimiser."""
    torch.manual_seed(inputs.seed)
    optimizer = state.optimizers[phase.network]
    parameters = list(state.trainable[phase.network].values())
    # A parameter without a gradient takes no step: it must be None, not zero.
    optimizer.zero_grad(set_to_none=True)
    for parameter in parameters:
        parameter.requires_grad_(True)
    for part in inputs.parts(recipe.microbatch):
        # A regulariser that acts every k-th iteration acts k times as strongly.
        gain = phase.interval * len(part.images) / len(inputs.images)
        reports = add_gradients(state, phase, part, gain)
        state.statistics.add(reports)
        if "sign_real" in reports:
            state.recent_signs.add({"sign_real": reports["sign_real"]})
    for parameter in parameters:
        parameter.requires_grad_(False)

    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    state.statistics.add({f"grad_norm_{phase.name}": norm})
    optimizer.step()


def add_gradients(state: TrainingState, phase: Phase, inputs: PhaseInputs, gain: float) -> Reports:
    """Accumulate the gradients of the phase's losses; returns what was measured."""
    objective = state.objective
    reports: Reports = {}
    if phase.network == "G":
        if phase.main:
            reports |= objective.generator_main(inputs.latents, gain)
        if phase.regularise:
            reports |= objective.generator_path_length(
                inputs.latents, inputs.path_length_noise, gain
            )
        return reports
    if phase.main:
        reports |= objective.discriminator_fake(inputs.latents, gain)
    return reports | objective.discriminator_real(
        inputs.images, inputs.labels, main=phase.main, r1=phase.regularise, gain=gain
    )


@torch.no_grad()
def update_average(averaged: nn.Module, network: nn.Module, beta: float) -> None:
    """averaged = beta · averaged + (1 - beta) · network; buffers are copied."""
    torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - beta)
    for mine, theirs in zip(averaged.buffers(), network.buffers(), strict=True):
        mine.copy_(theirs)


def adjust_augmentation(state: TrainingState, recipe: Recipe, iteration: int) -> None:
    """Every few iterations, move p by what D answered to real images since."""
    interval = recipe.augment_interval
    if interval is None or (iteration + 1) % interval:
        return
    sign = state.recent_signs.means()["sign_real"]
    state.controller.update(sign, recipe.batch * interval)
    state.recent_signs.clear()


def _check_health(state: TrainingState, recipe: Recipe) -> None:
    reason = what_is_wrong(state.statistics, recipe.explosion_limit)
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


def _summary(state: TrainingState, recipe: Recipe, seconds_per_kimg: float) -> dict[str, float]:
    """A line of the log."""
    values = state.statistics.means()
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
    values |= _memory()
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

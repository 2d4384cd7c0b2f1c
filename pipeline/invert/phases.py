"""The two phases of an inversion as resumable loops: looking for a pivot, tuning the generator.

Each takes its settings apart, drives its engine (`pti.Projection`, `tuning.Tuning`) step by step,
shows progress, writes the trace, saves every so many steps, and leaves with everything saved when
it is asked to stop.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.console import Progress, progress
from pipeline.errors import Interrupted
from pipeline.invert import inversion, placement, pti, weight_forms
from pipeline.invert.config import TuneConfig
from pipeline.invert.plateau import Plateau
from pipeline.invert.refinement import Refinement
from pipeline.invert.resume import State, Workspace
from pipeline.invert.subject import Subject
from pipeline.invert.tuning import LocalityOptions, Tuning, TuningOptions, View

Stop = Callable[[], bool]
PIVOT = "pivot."


@dataclass
class Pivot:
    """What the first phase finds for one picture."""

    ws: Tensor  # 1 x num_ws x w_dim
    buffers: dict[str, Tensor]  # see `pti.own_buffers`
    steps: int
    seconds: float
    start: str  # w_avg | best | encoder

    def tensors(self) -> dict[str, Tensor]:
        """As a state keeps them."""
        count = {"steps": torch.tensor(self.steps)}
        return {
            f"{PIVOT}{key}": value
            for key, value in (self.buffers | {"ws": self.ws} | count).items()
        }

    @classmethod
    def from_state(cls, state: State, subject: Subject) -> Pivot:
        """The inverse."""
        tensors = {
            name.removeprefix(PIVOT): value.to(subject.device)
            for name, value in state.tensors.items()
            if name.startswith(PIVOT)
        }
        steps = int(tensors.pop("steps"))
        return cls(tensors.pop("ws"), tensors, steps, state.seconds["project"], subject.start)


@dataclass
class Phase:
    """What both phases share: the clock, the trace, saving and stopping."""

    name: str  # one of resume.PHASES
    subject: Subject
    files: Workspace
    stop: Stop
    seconds: dict[str, float] = field(default_factory=lambda: {"project": 0.0, "tune": 0.0})
    _clock: Callable[[], float] = field(default=lambda: 0.0)

    @contextmanager
    def running(self, words: str, steps: int, done: int) -> Iterator[Progress]:
        """Measure the time and show how far the phase has come."""
        began = time.monotonic() - self.seconds[self.name]
        self._clock = lambda: time.monotonic() - began
        with progress(f"invert: {words}", steps, "steps") as bar:
            if done:
                bar.advance(done)
            yield bar
        self.seconds[self.name] = self._clock()

    def record(self, measured: object) -> None:
        """Add a step's figures to the trace."""
        self.seconds[self.name] = self._clock()
        values = dataclasses.asdict(measured)  # type: ignore[call-overload]
        self.files.record(phase=self.name, **values, seconds=round(self.seconds[self.name], 3))

    def maybe_save(self, step: int, tensors: Callable[[], Mapping[str, Tensor]]) -> None:
        """Save where it is time to, or the user wants to stop; then leave."""
        asked = self.stop()
        if asked or step % self.subject.config.save_every == 0:
            self.save(step, tensors())
        if asked:
            raise Interrupted(
                f"Stopped at step {step} of {self.name}; run the same command again to continue."
            )

    def save(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        self.files.save(State(self.name, step, self.seconds, tensors))


def find_pivot(
    subject: Subject,
    target: Tensor,
    character: int | None,
    files: Workspace,
    stop: Stop,
    state: State | None,
) -> Pivot:
    """The first phase, from the beginning or from `state`."""
    phase = Phase("project", subject, files, stop)
    began = time.monotonic()
    projection = _projection(subject, target, character)
    steps = projection.schedule.steps if projection is not None else 0
    plateau = Plateau(subject.config.project.plateau, subject.config.project.plateau_gain)
    if projection is None:  # the encoder's word is taken
        ws = subject.encoded(target)
        return Pivot(
            ws.expand(-1, subject.generator.num_ws, -1).clone(),
            dict(pti.noise_maps(subject.generator)),
            0,
            time.monotonic() - began,
            subject.start,
        )
    phase.seconds["project"] = time.monotonic() - began
    if state is not None:
        phase.seconds.update(state.seconds)
        projection.load(state.tensors, state.step)
        plateau.restore(files.values("project", "loss"))

    def picture() -> Tensor:
        with torch.no_grad():
            image: Tensor = torch.func.functional_call(
                subject.generator.synthesis,
                projection.buffers(),
                (projection.ws(),),
                pti.rendering("const"),
            )
        return image

    with phase.running("pivot", steps, projection.step_index) as bar:
        while not projection.finished:
            if subject.watch is not None:
                subject.watch("project", projection.step_index, steps, picture)
            noise = subject.normal(
                tuple(projection.w.shape), projection.step_index, "invert w noise"
            )
            measured = projection.step(noise)
            phase.record(measured)
            if plateau.add(measured.loss) and projection.settle():
                plateau = Plateau(0, 0)
            bar.advance(distance=measured.distance)
            phase.maybe_save(projection.step_index, projection.tensors)
    return Pivot(
        projection.ws(),
        projection.buffers(),
        projection.step_index,
        phase.seconds["project"],
        subject.start,
    )


def _projection(subject: Subject, target: Tensor, character: int | None) -> pti.Projection | None:
    """The engine of the first phase at its start; None where the encoder's word is taken."""
    options, generator = subject.config.project, subject.generator
    z, c = subject.latents(options.w_samples, character, "invert w statistics")
    start, deviation = pti.w_statistics(generator, z, c)
    steps = options.steps
    if subject.start == "encoder":
        steps = options.encoder_steps
        if steps == 0:
            return None
        start = subject.encoded(target)
    elif subject.start == "best":
        z, c = subject.latents(options.start_samples, character, "invert start")
        start = pti.best_start(generator, subject.metric, target, z, c)
    if options.space == "w+":
        start = start.expand(-1, generator.num_ws, -1)
    moves = options.transform == "optimised"
    extras = pti.Extras(
        prior_weight=options.prior_weight,
        prior=subject.prior(character) if options.prior_weight else None,
        mse_weight=options.mse_weight,
        term=subject.term(target),
        motion=_nearest_motion(subject, target, start) if moves else None,
    )
    if subject.optimiser == "l-bfgs":
        return Refinement(generator, subject.metric, target, start, steps, extras)
    return pti.Projection(
        generator,
        subject.metric,
        target,
        start,
        deviation,
        {
            name: subject.normal(tuple(value.shape), 0, f"invert noise {name}")
            for name, value in pti.noise_maps(generator).items()
        },
        pti.ProjectionSchedule(
            steps=steps,
            learning_rate=options.learning_rate,
            rampup=options.rampup,
            rampdown=options.rampdown,
            # It would lead away from a start that is near.
            w_noise=0.0 if subject.start == "encoder" else options.w_noise,
            w_noise_ramp=options.w_noise_ramp,
            noise_weight=options.noise_weight,
        ),
        extras,
    )


def _nearest_motion(subject: Subject, target: Tensor, start: Tensor) -> Tensor:
    """The turn and shift, of a coarse grid, with which the start's picture is nearest."""
    wanted = subject.metric.features(target)
    ws = start.expand(-1, subject.generator.num_ws, -1)

    def distance(matrix: Tensor) -> float:
        image = torch.func.functional_call(
            subject.generator.synthesis, {placement.BUFFER: matrix}, (ws,), pti.rendering("const")
        )
        return float(subject.metric.distance(subject.metric.features(image), wanted))

    return placement.nearest(distance, subject.device)


@dataclass
class Tuned:
    """What the second phase leaves."""

    stored: dict[str, Tensor]  # see `weight_forms`
    rank: int  # of low-rank changes
    steps: int
    seconds: float
    ended: str  # arrived | plateau | steps


def tune(
    subject: Subject,
    views: Sequence[View],
    character: int | None,
    files: Workspace,
    stop: Stop,
    state: State | None,
    kept: Mapping[str, Tensor],
) -> Tuned:
    """The second phase, from the beginning or from `state`; `kept` is saved with every state."""
    options = subject.config.tune
    steps = options.steps * len(views)
    parameters = weight_forms.tuned_parameters(subject.generator, options.layers)
    rank = options.rank or _fitting_rank(subject, parameters)
    tuning = Tuning(
        subject.generator,
        subject.metric,
        views,
        _tuning_options(options, steps, _stop_at(subject)),
        weight_forms.make(options.weights, parameters, rank),
    )
    phase = Phase("tune", subject, files, stop)
    plateau = Plateau(options.plateau * len(views), options.plateau_gain)
    if state is not None:
        phase.seconds.update(state.seconds)
    goes_on = state is not None and "near" in state.tensors
    if state is not None and goes_on:
        tuning.load(state.tensors, state.step)
        plateau.restore(files.values("tune", "loss"))
    arrived = False
    with phase.running("tuning", steps, tuning.step_index) as bar:
        if steps and not goes_on:
            tuning.aim()
        while steps and not tuning.finished:
            if subject.watch is not None:
                subject.watch("tune", tuning.step_index, steps, tuning.picture)
            measured = tuning.step(_other_w(subject, character, tuning.step_index))
            phase.record(measured)
            bar.advance(mse=measured.mse, perceptual=measured.perceptual)
            arrived = measured.arrived
            if arrived:
                break
            if plateau.add(measured.loss):
                tuning.settle()
            phase.maybe_save(tuning.step_index, lambda: tuning.tensors() | dict(kept))
    ended = "arrived" if arrived else "plateau" if tuning.settled else "steps"
    return Tuned(tuning.stored(), rank, tuning.step_index, phase.seconds["tune"], ended)


def _fitting_rank(subject: Subject, parameters: Mapping[str, Tensor]) -> int:
    numbers = inversion.generator_bytes(subject.generator) // 4
    return weight_forms.fitting_rank(parameters, numbers)


def _stop_at(subject: Subject) -> float:
    """tune.stop_at, which speaks of LPIPS: 0 where `auto` had to take another distance."""
    stand_in = subject.config.perceptual == "auto" and subject.metric.name == "discriminator"
    return 0.0 if stand_in else subject.config.tune.stop_at


def _other_w(subject: Subject, character: int | None, step: int) -> Tensor | None:
    """A random latent for the locality regularisation (truncated by half, as PTI's)."""
    if not subject.config.tune.locality:
        return None
    z = subject.normal((1, subject.generator.z_dim), step, "invert locality")
    labels = subject.labels(character, 1)
    with torch.no_grad():
        other: Tensor = subject.generator.mapping(z, labels, truncation_psi=0.5)
    return other


def _tuning_options(options: TuneConfig, steps: int, stop_at: float) -> TuningOptions:
    locality = LocalityOptions(
        alpha=options.locality_alpha,
        mse_weight=options.locality_mse_weight,
        perceptual_weight=options.locality_perceptual_weight,
    )
    return TuningOptions(
        learning_rate=options.learning_rate,
        mse_weight=options.mse_weight,
        perceptual_weight=options.perceptual_weight,
        stop_at=stop_at,
        stop_at_db=options.stop_at_db,
        steps=steps,
        rampdown=options.rampdown,
        locality=locality if options.locality else None,
    )

"""The invert stage: model + uploaded picture -> inversion.

Aligns the picture as preprocess aligned the training set, finds the pivot, tunes the generator
around it, writes the inversion. Interrupted, it goes on from the last saved state; on a CPU the
result is then the same, bit for bit, as without the interruption.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline import files, weights
from pipeline.console import Progress, catch_stop, progress, say
from pipeline.data.crop_rule import CropRule, read_crop_rule
from pipeline.errors import ArtifactError, Interrupted, ModelError
from pipeline.invert import inversion, picture, pti
from pipeline.invert.config import InvertConfig, ProjectConfig, TuneConfig
from pipeline.invert.resume import State, Workspace
from pipeline.metrics import perceptual
from pipeline.models import checkpoint
from pipeline.models.characters import find_character, names_of, one_hot
from torch_utils import rng
from torch_utils.device import choose_device, describe
from torch_utils.pixels import to_tensor, to_uint8

# Looked at in pictures of 64 px: at 18 dB the same character, softly drawn; at 15 dB nobody.
FAR_DB = 17


def check(config: InvertConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what can be told without weights and detectors: device, class, picture."""
    choose_device(config.device)
    generator: Any = checkpoint.blank(inputs["model"], "G_ema")
    _character(config, generator, inputs["model"])
    picture.read(inputs["image"], _crop_rule(config, inputs["model"]).background)


def run(
    config: InvertConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Invert `inputs["image"]` with the model in `inputs["model"]`; see `inversion` for `out`."""
    if metrics := _finished_before(out, inputs["model"]):
        return metrics
    device = choose_device(config.device)
    generator = _generator(inputs["model"], device)
    metric = choose_perceptual(config, device, inputs["model"])
    character = _character(config, generator, inputs["model"])
    width, height = _picture_size(generator, one_hot(character, generator.c_dim))
    rule = _crop_rule(config, inputs["model"])
    prepared = picture.prepare(inputs["image"], width, height, config.align, rule)
    out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(prepared.source).save(out / "source.png")
    Image.fromarray(prepared.aligned).save(out / "aligned.png")
    say(f"invert: {prepared.word}; distances by {metric.name}; on {describe(device)}.")
    target = to_tensor(prepared.aligned, generator.img_channels).to(device)
    if generator.c_dim and character is None:
        character = _nearest_character(config, generator, metric, target)
    if character is not None:
        name = names_of(inputs["model"], generator.c_dim)[character]
        say(f"invert: the picture is taken for the character {name}.")
    work = _Work(
        config=config,
        generator=generator,
        metric=metric,
        target=target,
        character=character,
        files=Workspace(out),
    )
    with catch_stop() as stop:
        work.stop = stop
        ws, noise, tuned = work.run()
    metrics = _write(work, prepared, ws, noise, tuned, inputs["model"], out)
    work.files.clear()
    return metrics


def _finished_before(out: Path, model_folder: Path) -> dict[str, float | int | str]:
    """The metrics of an earlier run that was cut off after its last file; {} if none was."""
    if Workspace(out).in_use or not (out / "inversion.json").is_file():
        return {}
    try:
        found = inversion.Inversion.load(out, model_folder)
    except ArtifactError:
        return {}  # not whole: a power cut
    metrics: dict[str, float | int | str] = found.info["metrics"]
    return metrics


def _crop_rule(config: InvertConfig, model_folder: Path) -> CropRule:
    """As the model's training images were framed, unless the settings say otherwise."""
    rule = read_crop_rule(model_folder) or picture.default_rule()
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


def _generator(folder: Path, device: torch.device) -> Any:
    generator = checkpoint.load(folder, names=("G_ema",), device=device)["G_ema"]
    return generator.eval().requires_grad_(False)


def _character(config: InvertConfig, generator: Any, model: Path) -> int | None:
    """The class that the settings name; None if they name none."""
    return find_character("invert.label", config.label, model, generator.c_dim)


def _nearest_character(
    config: InvertConfig, generator: Any, metric: perceptual.PerceptualDistance, target: Tensor
) -> int:
    """The class whose mean face is nearest to the picture."""
    draws = rng.generator(config.seed, 0, 0, "invert character")
    z = torch.randn(config.project.w_samples, generator.z_dim, generator=draws).to(target.device)
    wanted = metric.features(target)
    distances = []
    for number in range(generator.c_dim):
        labels = one_hot(number, generator.c_dim, len(z)).to(target.device)
        mean, _ = pti.w_statistics(generator, z, labels)
        with torch.no_grad():
            face = pti.picture_of(generator, mean.expand(-1, generator.num_ws, -1))
            distances.append(float(metric.distance(wanted, metric.features(face))))
    return min(range(generator.c_dim), key=distances.__getitem__)


def _picture_size(generator: Any, label: Tensor) -> tuple[int, int]:
    """(width, height) of the generator's pictures; asked of a picture, as some are not square."""
    device = next(generator.parameters()).device
    with torch.no_grad():
        ws = generator.mapping(torch.zeros(1, generator.z_dim, device=device), label.to(device))
        height, width = pti.picture_of(generator, ws).shape[2:]
    return width, height


@dataclass
class _Work:
    """The two phases over one picture, and what they share."""

    config: InvertConfig
    generator: Any  # untuned; changed in its noise maps only
    metric: perceptual.PerceptualDistance
    target: Tensor  # 1 x C x H x W in [-1, 1]
    character: int | None  # class, where the model has several
    files: Workspace
    stop: Callable[[], bool] = field(default=lambda: False)
    seconds: dict[str, float] = field(default_factory=lambda: {"project": 0.0, "tune": 0.0})
    steps: dict[str, int] = field(default_factory=lambda: {"project": 0, "tune": 0})
    arrived: bool = False
    _clock: Callable[[], float] = field(default=lambda: 0.0)

    def run(self) -> tuple[Tensor, dict[str, Tensor], Any]:
        """The pivot's ws, its noise maps, and the tuned generator."""
        state = self.files.load()
        if state is not None:
            self.seconds.update(state.seconds)
            say(f"invert: going on with {state.phase} at step {state.step}.")
        if state is not None and state.phase == "tune":
            ws = state.tensors["pivot.ws"].to(self.target.device)
            noise = _unprefixed(state.tensors, "pivot.noise.", self.target.device)
            self.steps["project"] = self.config.project.steps
        else:
            ws, noise = self._project(state)
            state = None
        pti.set_noise(self.generator, noise)
        return ws, noise, self._tune(ws, noise, state)

    def _project(self, state: State | None) -> tuple[Tensor, dict[str, Tensor]]:
        options = self.config.project
        projection = self._new_projection(options)
        if state is not None:
            projection.load(state.tensors, state.step)
        with self._phase("project", options.steps, projection.step_index) as bar:
            while not projection.finished:
                noise = self._normal(projection.w.shape, projection.step_index, "invert w noise")
                measured = projection.step(noise)
                self._record("project", measured)
                bar.advance(distance=measured.distance)
                self._maybe_save("project", projection.step_index, projection.tensors, {})
        self.steps["project"] = projection.step_index
        noise_maps = {name: value.detach() for name, value in projection.noise.items()}
        return projection.ws(), noise_maps

    def _new_projection(self, options: ProjectConfig) -> pti.Projection:
        generator = self.generator
        z = self._normal((options.w_samples, generator.z_dim), 0, "invert w statistics")
        labels = self._labels(options.w_samples)
        start, deviation = pti.w_statistics(generator, z, labels)
        if options.start == "best":
            count = options.start_samples
            z = self._normal((count, generator.z_dim), 0, "invert start")
            labels = self._labels(count)
            start = pti.best_start(generator, self.metric, self.target, z, labels)
        if options.space == "w+":
            start = start.expand(-1, generator.num_ws, -1)
        return pti.Projection(
            generator,
            self.metric,
            self.target,
            start,
            deviation,
            {
                name: self._normal(value.shape, 0, f"invert noise {name}")
                for name, value in pti.noise_maps(generator).items()
            },
            pti.ProjectionSchedule(
                steps=options.steps,
                learning_rate=options.learning_rate,
                rampup=options.rampup,
                rampdown=options.rampdown,
                w_noise=options.w_noise,
                w_noise_ramp=options.w_noise_ramp,
                noise_weight=options.noise_weight,
            ),
        )

    def _tune(self, ws: Tensor, noise: Mapping[str, Tensor], state: State | None) -> Any:
        options = self.config.tune
        pivot = {"pivot.ws": ws} | {f"pivot.noise.{name}": value for name, value in noise.items()}
        tuning = pti.Tuning(
            copy.deepcopy(self.generator),
            self.metric,
            self.target,
            ws,
            _tuning_options(options, self._stop_at()),
            self.generator,
        )
        if state is not None:
            tuning.load(state.tensors, state.step)
        elif options.steps:
            self._save("tune", 0, tuning.tensors() | pivot)  # the pivot is never lost again
        with self._phase("tune", options.steps, tuning.step_index) as bar:
            while tuning.step_index < options.steps and not self.arrived:
                measured = tuning.step(self._other_w(tuning.step_index))
                self.arrived = measured.arrived
                self._record("tune", measured)
                bar.advance(mse=measured.mse, perceptual=measured.perceptual)
                if not self.arrived:
                    self._maybe_save("tune", tuning.step_index, tuning.tensors, pivot)
        self.steps["tune"] = tuning.step_index
        return tuning.generator.requires_grad_(False)

    def _stop_at(self) -> float:
        """tune.stop_at, which speaks of LPIPS: 0 where `auto` had to take another distance."""
        stand_in = self.config.perceptual == "auto" and self.metric.name == "discriminator"
        return 0.0 if stand_in else self.config.tune.stop_at

    def _other_w(self, step: int) -> Tensor | None:
        """A random latent for the locality regularisation (truncated by half, as PTI's)."""
        if not self.config.tune.locality:
            return None
        z = self._normal((1, self.generator.z_dim), step, "invert locality")
        labels = self._labels(1)
        with torch.no_grad():
            return self.generator.mapping(z, labels, truncation_psi=0.5)

    def _labels(self, count: int) -> Tensor:
        """count x c_dim, of the character."""
        return one_hot(self.character, self.generator.c_dim, count).to(self.target.device)

    def _normal(self, shape: tuple[int, ...], step: int, purpose: str) -> Tensor:
        """Standard normal values: a function of the seed, the step and what they are for."""
        generator = rng.generator(self.config.seed, 0, step, purpose)
        return torch.randn(shape, generator=generator).to(self.target.device)

    @contextmanager
    def _phase(self, phase: str, steps: int, done: int) -> Iterator[Progress]:
        words = {"project": "invert: pivot", "tune": "invert: tuning"}
        began = time.monotonic() - self.seconds[phase]
        self._clock = lambda: time.monotonic() - began
        with progress(words[phase], steps, "steps") as bar:
            if done:
                bar.advance(done)
            yield bar
        self.seconds[phase] = self._clock()

    def _record(self, phase: str, measured: pti.ProjectionStep | pti.TuningStep) -> None:
        self.seconds[phase] = self._clock()
        values = dataclasses.asdict(measured) | {"seconds": round(self.seconds[phase], 3)}
        self.files.record(phase=phase, **values)

    def _maybe_save(
        self,
        phase: str,
        step: int,
        tensors: Callable[[], dict[str, Tensor]],
        more: Mapping[str, Tensor],
    ) -> None:
        asked = self.stop()
        if asked or step % self.config.save_every == 0:
            self._save(phase, step, tensors() | dict(more))
        if asked:
            raise Interrupted(
                f"Stopped at step {step} of {phase}; run the same command again to continue."
            )

    def _save(self, phase: str, step: int, tensors: Mapping[str, Tensor]) -> None:
        self.files.save(State(phase, step, self.seconds, tensors))


def _tuning_options(options: TuneConfig, stop_at: float) -> pti.TuningOptions:
    locality = pti.LocalityOptions(
        alpha=options.locality_alpha,
        mse_weight=options.locality_mse_weight,
        perceptual_weight=options.locality_perceptual_weight,
    )
    return pti.TuningOptions(
        learning_rate=options.learning_rate,
        mse_weight=options.mse_weight,
        perceptual_weight=options.perceptual_weight,
        stop_at=stop_at,
        locality=locality if options.locality else None,
    )


def _unprefixed(
    tensors: Mapping[str, Tensor], prefix: str, device: torch.device
) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value.to(device)
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _write(
    work: _Work,
    prepared: picture.Prepared,
    ws: Tensor,
    noise: Mapping[str, Tensor],
    tuned: Any,
    model_folder: Path,
    out: Path,
) -> dict[str, float | int | str]:
    """Write the inversion; its figures are those of what a reader gets back."""
    inversion.write_latents(out / "latents.safetensors", ws, noise)
    delta = inversion.write_delta(out / "delta.safetensors", tuned, work.generator, ws)
    work.files.write_trace()
    info: dict[str, Any] = {
        "format": inversion.FORMAT,
        "model": {
            "digest": inversion.model_digest(model_folder),
            "num_ws": work.generator.num_ws,
            "w_dim": work.generator.w_dim,
            "width": work.target.shape[3],
            "height": work.target.shape[2],
        },
        "picture": {"width": prepared.source.shape[1], "height": prepared.source.shape[0]},
        "alignment": {
            "method": prepared.method,
            "detector": prepared.detector,
            "score": prepared.score,
            "transform": prepared.transform.to_json(),
        },
        "perceptual": {
            "name": work.metric.name,
            "smallest_px": work.metric.smallest_px,
            "largest_px": work.metric.largest_px,
        },
        "space": work.config.project.space,
        "label": work.character,
        "seed": work.config.seed,
        "delta": delta,
        "metrics": {},
    }
    _write_json(out / "inversion.json", info)
    restored = inversion.Inversion.load(out, model_folder, work.target.device)
    metrics = _metrics(work, ws, restored.generator, out)
    _write_json(out / "inversion.json", info | {"metrics": metrics})
    return metrics


def _metrics(work: _Work, ws: Tensor, tuned: Any, out: Path) -> dict[str, float | int | str]:
    """Figures of the pivot's and the tuned picture against the target; writes both pictures."""
    metrics: dict[str, float | int | str] = {"perceptual": work.metric.name}
    with torch.no_grad():
        wanted = work.metric.features(work.target)
        for name, generator in (("pivot", work.generator), ("tuned", tuned)):
            image = pti.picture_of(generator, ws).clamp(-1, 1)
            distance = work.metric.distance(work.metric.features(image), wanted)
            metrics[f"psnr_{name}_db"] = _rounded(pti.psnr_db(image, work.target))
            metrics[f"ssim_{name}"] = _rounded(pti.ssim(image, work.target))
            metrics[f"perceptual_{name}"] = _rounded(float(distance))
            Image.fromarray(to_uint8(image)[0]).save(out / f"{name}.png")
    for phase in ("project", "tune"):
        metrics[f"{phase}_steps"] = work.steps[phase]
        metrics[f"{phase}_seconds"] = round(work.seconds[phase], 2)
    metrics["stopped_early"] = int(work.arrived)
    say(
        f"invert: PSNR {metrics['psnr_pivot_db']:.1f} -> {metrics['psnr_tuned_db']:.1f} dB, "
        f"{work.metric.name} {metrics['perceptual_pivot']:.3f} -> "
        f"{metrics['perceptual_tuned']:.3f}."
    )
    if float(metrics["psnr_tuned_db"]) < FAR_DB:
        say(
            f"invert: that is far from the picture (below {FAR_DB} dB), so an edit of it will not "
            "look like it; compare aligned.png with tuned.png. Perhaps the model was trained on "
            "other faces, or for too short; invert.tune.steps takes it nearer."
        )
    return metrics


def _rounded(value: float) -> float:
    return round(value, 6) if math.isfinite(value) else value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    files.put_text(path, json.dumps(value, indent=1) + "\n")

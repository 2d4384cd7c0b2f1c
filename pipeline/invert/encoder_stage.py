"""The encoder stage: model -> encoder, trained on the model's own samples and on pictures.

Each step draws latents, lets the model draw them, disturbs some of the samples, puts pictures of a
dataset beside them, if there is one, and has the encoder look `training_passes` times; each look is
judged by the latent (in standard deviations, of samples only), the pixels and, in some steps, a
perceptual distance. Beside the encoder lie stats.jsonl and tensorboard/ (the learning curve on
samples and held-out pictures it never saw) and samples/ (those, and what it made of them).
Interrupted, it goes on from the last saved state; on a CPU the result is then the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.console import catch_stop, progress, say
from pipeline.errors import ConfigError, Interrupted, ModelError
from pipeline.invert import inversion
from pipeline.invert.adam import ADAM_BETAS, adam_tensors, check_finite, load_adam
from pipeline.invert.config import InvertConfig
from pipeline.invert.encoder import LARGEST_SIDE_PX, Encoder, EncoderNetwork
from pipeline.invert.encoder_config import EncoderConfig
from pipeline.invert.encoder_samples import Pictures, Samples
from pipeline.invert.resume import State, Workspace
from pipeline.invert.subject import choose_perceptual
from pipeline.metrics.closeness import psnr_db
from pipeline.metrics.perceptual import PerceptualDistance
from pipeline.models import checkpoint
from pipeline.models.precision import choose_precision, set_precision
from pipeline.train.logbook import Logbook
from torch_utils import rng
from torch_utils.device import choose_device, describe

# Pictures of the validation that are shown, each above what the encoder made of it.
SHOWN = 8


def check(config: EncoderConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what can be told without training: the device, its numbers, the model."""
    _precision(config, choose_device(config.device))
    checkpoint.blank(inputs["model"], "G_ema")


def run(
    config: EncoderConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Train an encoder for `inputs["model"]`; returns how near it comes on unseen samples."""
    device = choose_device(config.device)
    precision = _precision(config, device)
    generator: Any = checkpoint.load(inputs["model"], names=("G_ema",), device=device)["G_ema"]
    generator.eval().requires_grad_(False)
    set_precision(generator, precision, False, device)
    # On a CPU LPIPS in bfloat16 pays only where the processor has instructions for it.
    mixed = "mixed" if precision == "bf16" else "auto"
    metric = choose_perceptual(
        InvertConfig(model="", image="", perceptual=config.perceptual, precision=mixed),
        device,
        inputs["model"],
    )
    out.mkdir(parents=True, exist_ok=True)
    samples = Samples(generator, config, device)
    found = _new_encoder(samples, inputs)
    shape = samples.picture(found.start(1)).shape[1:]
    pictures = Pictures.read(config, inputs, shape, device)
    of_them = f", {pictures.batch} in {config.batch} of them pictures" if pictures.batch else ""
    say(
        f"encoder: {config.images} samples{of_them}; distances by {metric.name}; {precision}; on "
        f"{describe(device)}."
    )
    training = Training(config, samples, pictures, found, metric, Workspace(out), precision)
    with catch_stop() as stop:
        metrics = training.run(out, stop)
    found.save(out, config.store_half)
    training.files.write_trace()
    training.files.clear()
    return metrics


def _precision(config: EncoderConfig, device: torch.device) -> str:
    try:
        return choose_precision(config.precision, device)
    except ValueError as error:
        raise ConfigError(f"encoder.precision={config.precision}: {error}.") from error


def _new_encoder(samples: Samples, inputs: Mapping[str, Path]) -> Encoder:
    """Without knowledge, or with that of `inputs["resume_from"]`."""
    config = samples.config
    w = samples.latents(config.w_samples, 0, "w statistics")[:, 0]
    mean, deviation = w.mean(dim=0), w.std(dim=0).clamp(min=1e-6)
    image = samples.picture(mean[None, None])
    height, width = image.shape[2:]
    factor = max(1, min(height, width) // LARGEST_SIDE_PX)
    rows = 1 if config.space == "w" else int(samples.generator.num_ws)
    digest = inversion.model_digest(inputs["model"])
    if "resume_from" in inputs:
        base = Encoder.load(inputs["resume_from"], samples.device)
        made = tuple(base.network.arguments[name] for name in ("channels", "rows", "w_dim"))
        if made != (image.shape[1], rows, len(mean)):
            raise ModelError(
                f"encoder.resume_from={config.resume_from} finds {made[1]} x {made[2]} numbers in "
                f"pictures of {made[0]} channels, but here {rows} x {len(mean)} in "
                f"{image.shape[1]} are wanted; leave it out, or change encoder.space."
            )
        base.network.train().requires_grad_(True)
        # Its own mean and deviation: they are what its numbers count in.
        return Encoder(base.network, base.mean, base.deviation, config.passes, digest)
    torch.manual_seed(rng.derive_seed(config.seed, "encoder network"))
    network = EncoderNetwork(
        image.shape[1], height // factor, width // factor, rows, len(mean), config.breadth,
        config.hidden,
    ).to(samples.device)  # fmt: skip
    return Encoder(network, mean, deviation, config.passes, digest)


@dataclass
class Training:
    """The loop, and what it needs."""

    config: EncoderConfig
    samples: Samples
    pictures: Pictures
    encoder: Encoder
    metric: PerceptualDistance
    files: Workspace
    precision: str = "fp32"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        network = self.encoder.network
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            self._mean_image = self.samples.picture(self.encoder.start(1))
        self._names = [name for name, _ in network.named_parameters()]
        self._adam = torch.optim.Adam(
            network.parameters(), lr=self.config.learning_rate, betas=ADAM_BETAS
        )

    def run(self, out: Path, stop: Callable[[], bool]) -> dict[str, float | int | str]:
        config = self.config
        steps = math.ceil(config.images / config.batch)
        done = self._restore()
        book = Logbook(out, done * config.batch)
        began = time.monotonic() - self.seconds
        figures: dict[str, float] = {}
        with progress("encoder", config.images, "samples") as bar:
            if done:
                bar.advance(done * config.batch)
            for step in range(done, steps):
                losses = self.step(step, steps)
                seen = (step + 1) * config.batch
                self.seconds = time.monotonic() - began
                self.files.record(phase="train", step=step, **losses)
                if _crosses(seen, config.batch, config.validate_every) or step + 1 == steps:
                    figures = self._validate(book, seen)
                asked = stop()
                if asked or _crosses(seen, config.batch, config.save_every):
                    book.flush()
                    self._save(step + 1)
                if asked:
                    raise Interrupted(
                        f"Stopped after {seen} samples; run the same command again to continue."
                    )
                bar.advance(config.batch, **(losses | figures))
        book.close()
        if not figures:  # a run that was cut off after its last step
            figures = self._measured()[0]
        say(
            f"encoder: on unseen samples PSNR {figures['psnr_db']:.1f} dB, "
            f"{self.metric.name} {figures['perceptual']:.3f} (the mean latent: "
            f"{figures['mean_psnr_db']:.1f} dB, {figures['mean_perceptual']:.3f})."
        )
        if "heldout_psnr_db" in figures:
            say(
                f"encoder: on held-out pictures PSNR {figures['heldout_psnr_db']:.1f} dB, "
                f"{self.metric.name} {figures['heldout_perceptual']:.3f}."
            )
        metrics: dict[str, float | int | str] = {
            "perceptual_network": self.metric.name,
            "samples": steps * config.batch,
            "seconds": round(self.seconds, 2),
        }
        metrics.update((name, round(value, 6)) for name, value in figures.items())
        return metrics

    def step(self, step: int, steps: int) -> dict[str, float]:
        """One update; step counts from 0 to steps. Returns the losses."""
        config, samples = self.config, self.samples
        for group in self._adam.param_groups:
            group["lr"] = config.learning_rate * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        wanted = samples.latents(config.batch - self.pictures.batch, step, "latents")
        own = len(wanted)
        with torch.no_grad():
            drawn = samples.picture(wanted) if own else self._mean_image[:0]
            shown = self.pictures.of_step(step)
            target = torch.cat([drawn, shown])
            given = torch.cat([samples.disturbed(drawn, step), shown])
        measures = config.perceptual_weight > 0 and step % config.perceptual_every == 0
        features = None
        if measures:
            with torch.no_grad():
                features = self.metric.features(target)
        w = self.encoder.start(config.batch)
        image = self._mean_image.expand(config.batch, -1, -1, -1)
        total = target.new_zeros([])
        losses: dict[str, float] = {}
        for look in range(config.training_passes):
            w = self._refined(given, w.detach(), image.detach())
            image = samples.picture(w)
            latent = ((w[:own] - wanted) / self.encoder.deviation).square().sum() / max(
                1, wanted.numel()
            )
            mse = F.mse_loss(image, target)
            total = total + config.latent_weight * latent + config.mse_weight * mse
            if features is not None and look == config.training_passes - 1:
                far = self.metric.distance(self.metric.features(image), features).mean()
                total = total + config.perceptual_weight * far
                losses["perceptual"] = far.item()
            losses |= {"latent": latent.item(), "mse": mse.item()}
        losses["loss"] = total.item()
        check_finite(losses["loss"], "training the encoder", step)
        self._adam.zero_grad(set_to_none=True)
        total.backward()
        self._adam.step()
        return losses

    def _refined(self, given: Tensor, w: Tensor, image: Tensor) -> Tensor:
        with torch.autocast(given.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.encoder.refined(given, w, image).float()

    def _found(self, target: Tensor) -> Tensor:
        """What the encoder makes of pictures, as it is used: all its looks."""
        w = self.encoder.start(len(target))
        for _ in range(self.config.passes):
            image = torch.cat([self.samples.picture(part) for part in w.split(16)])
            w = self._refined(target, w, image)
        return w

    @torch.no_grad()
    def _validate(self, book: Logbook, seen: int) -> dict[str, float]:
        """A point of the learning curve."""
        figures, target, w = self._measured()
        book.write(seen, figures)
        made = self.samples.picture(w[:SHOWN])
        book.write_samples(seen, torch.cat([target[:SHOWN], made]).clamp(-1, 1), len(made))
        return figures

    @torch.no_grad()
    def _measured(self) -> tuple[dict[str, float], Tensor, Tensor]:
        """Figures of unseen samples and of held-out pictures; the last pictures and their w."""
        wanted = self.samples.latents(self.config.validation, 0, "validation")
        target = torch.cat([self.samples.picture(part) for part in wanted.split(16)])
        w = self._found(target)
        figures = {"latent": float(((w - wanted) / self.encoder.deviation).square().mean())}
        mean = self.encoder.start(len(w))
        figures |= self._closeness("", w, target) | self._closeness("mean_", mean, target)
        if len(self.pictures.heldout):
            target = self.pictures.heldout
            w = self._found(target)
            figures |= self._closeness("heldout_", w, target)
        return figures, target, w

    def _closeness(self, name: str, latents: Tensor, target: Tensor) -> dict[str, float]:
        """How near the latents' pictures are to the targets, in the mean."""
        psnr, far = 0.0, 0.0
        for some_w, some_target in zip(latents.split(8), target.split(8), strict=True):
            image = self.samples.picture(some_w).clamp(-1, 1)
            features = self.metric.features
            far += float(self.metric.distance(features(image), features(some_target)).sum())
            pairs = zip(image, some_target, strict=True)
            psnr += sum(psnr_db(a, b.clamp(-1, 1)) for a, b in pairs)
        return {f"{name}psnr_db": psnr / len(latents), f"{name}perceptual": far / len(latents)}

    def _restore(self) -> int:
        """Steps that an earlier run did."""
        state = self.files.load()
        if state is None:
            return 0
        say(f"encoder: going on after {state.step * self.config.batch} samples.")
        self.seconds = state.seconds["train"]
        own = "network."
        self.encoder.network.load_state_dict(
            {key.removeprefix(own): value for key, value in state.tensors.items() if own in key}
        )
        load_adam(self._adam, self._names, state.tensors)
        return state.step

    def _save(self, step: int) -> None:
        network = {
            f"network.{name}": value for name, value in self.encoder.network.state_dict().items()
        }
        tensors = network | adam_tensors(self._adam, self._names)
        self.files.save(State("train", step, {"train": self.seconds}, tensors))


def _crosses(seen: int, batch: int, every: int) -> bool:
    """Whether a multiple of `every` was passed with the last `batch`."""
    return seen // every > (seen - batch) // every

"""The encoder stage: model -> encoder, trained on the model's own samples.

Each step draws latents, lets the model draw them, disturbs some of the pictures, and has the
encoder look `training_passes` times; each look is judged by the latent (in standard deviations),
the pixels and, in some steps, a perceptual distance. Beside the encoder lie stats.jsonl and
tensorboard/ (the learning curve on samples it never saw) and samples/ (those, and what it made of
them). Interrupted, it goes on from the last saved state; on a CPU the result is then the same.
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
from pipeline.errors import Interrupted
from pipeline.invert import inversion, pti
from pipeline.invert.adam import ADAM_BETAS, adam_tensors, check_finite, load_adam
from pipeline.invert.config import InvertConfig
from pipeline.invert.encoder import LARGEST_SIDE_PX, Encoder, EncoderNetwork
from pipeline.invert.encoder_config import EncoderConfig
from pipeline.invert.resume import State, Workspace
from pipeline.invert.subject import choose_perceptual
from pipeline.metrics.closeness import psnr_db
from pipeline.metrics.perceptual import PerceptualDistance
from pipeline.models import checkpoint
from pipeline.train.logbook import Logbook
from torch_utils import rng
from torch_utils.device import choose_device, describe

# Pictures of the validation that are shown, each above what the encoder made of it.
SHOWN = 8


def check(config: EncoderConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what can be told without training: the device, the model."""
    choose_device(config.device)
    checkpoint.blank(inputs["model"], "G_ema")


def run(
    config: EncoderConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Train an encoder for `inputs["model"]`; returns how near it comes on unseen samples."""
    device = choose_device(config.device)
    generator: Any = checkpoint.load(inputs["model"], names=("G_ema",), device=device)["G_ema"]
    generator.eval().requires_grad_(False)
    metric = choose_perceptual(
        InvertConfig(model="", image="", perceptual=config.perceptual), device, inputs["model"]
    )
    out.mkdir(parents=True, exist_ok=True)
    say(f"encoder: {config.images} samples; distances by {metric.name}; on {describe(device)}.")
    samples = Samples(generator, config, device)
    found = _new_encoder(samples, inputs["model"])
    training = Training(config, samples, found, metric, Workspace(out))
    with catch_stop() as stop:
        metrics = training.run(out, stop)
    found.save(out)
    training.files.write_trace()
    training.files.clear()
    return metrics


@dataclass
class Samples:
    """The model's own latents and pictures: functions of the seed and of a number."""

    generator: Any
    config: EncoderConfig
    device: torch.device

    def latents(self, count: int, number: int, purpose: str) -> Tensor:
        """count x rows x w_dim. For W+ the half of them change latent at some layer, for pictures
        are found there that no single latent has."""
        draws = rng.generator(self.config.seed, 0, number, f"encoder {purpose}")
        rows = 1 if self.config.space == "w" else int(self.generator.num_ws)
        w, other = (self._mapped(count, draws) for _ in range(2))
        w = w.expand(-1, rows, -1).clone()
        if rows > 1:
            cuts = torch.randint(1, 2 * rows, (count,), generator=draws)
            for index, cut in enumerate(cuts.tolist()):
                w[index, cut:] = other[index]
        return w

    def picture(self, w: Tensor) -> Tensor:
        """Their pictures."""
        options = pti.rendering("const") | {"fused_modconv": False}
        image: Tensor = self.generator.synthesis(w.expand(-1, self.generator.num_ws, -1), **options)
        return image

    def disturbed(self, images: Tensor, number: int) -> Tensor:
        """Some of the images with other colours, softer, or with a patch that is none of theirs."""
        draws = rng.generator(self.config.seed, 0, number, "encoder disturbance")
        chosen = torch.rand(len(images), generator=draws) < self.config.disturbed
        changed = [
            _disturb(image[None], draws)[0] if take else image
            for image, take in zip(images, chosen.tolist(), strict=True)
        ]
        return torch.stack(changed).clamp(-1, 1)

    def _mapped(self, count: int, draws: torch.Generator) -> Tensor:
        """count x 1 x w_dim; of random classes, where there are several."""
        z = torch.randn(count, self.generator.z_dim, generator=draws)
        c = torch.zeros(count, self.generator.c_dim)
        if self.generator.c_dim:
            classes = torch.randint(self.generator.c_dim, (count,), generator=draws)
            c = F.one_hot(classes, self.generator.c_dim).float()
        with torch.no_grad():
            w: Tensor = self.generator.mapping(z.to(self.device), c.to(self.device))[:, :1]
        return w


def _disturb(image: Tensor, draws: torch.Generator) -> Tensor:
    """1 x C x H x W with another contrast and tint, a blur of up to a pixel, and a flat patch."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand([], generator=draws))

    tint = torch.randn(image.shape[1], generator=draws).to(image).reshape(1, -1, 1, 1)
    image = image * between(0.85, 1.15) + 0.06 * tint
    if between(0, 1) < 0.5:
        soft = F.avg_pool2d(F.pad(image, [1, 1, 1, 1], mode="replicate"), 3, stride=1)
        image = image.lerp(soft, between(0, 1))
    if between(0, 1) < 0.5:
        height, width = image.shape[2:]
        down, right = int(height * between(0.1, 0.35)), int(width * between(0.1, 0.35))
        top, left = int((height - down) * between(0, 1)), int((width - right) * between(0, 1))
        colour = torch.rand(image.shape[1], generator=draws).to(image).reshape(1, -1, 1, 1) * 2 - 1
        image = image.clone()
        image[:, :, top : top + down, left : left + right] = colour
    return image


def _new_encoder(samples: Samples, model_folder: Path) -> Encoder:
    config = samples.config
    w = samples.latents(config.w_samples, 0, "w statistics")[:, 0]
    mean, deviation = w.mean(dim=0), w.std(dim=0).clamp(min=1e-6)
    image = samples.picture(mean[None, None])
    height, width = image.shape[2:]
    factor = max(1, min(height, width) // LARGEST_SIDE_PX)
    torch.manual_seed(rng.derive_seed(config.seed, "encoder network"))
    rows = 1 if config.space == "w" else int(samples.generator.num_ws)
    network = EncoderNetwork(
        image.shape[1], height // factor, width // factor, rows, len(mean), config.breadth
    ).to(samples.device)
    digest = inversion.model_digest(model_folder)
    return Encoder(network, mean, deviation, config.passes, digest)


@dataclass
class Training:
    """The loop, and what it needs."""

    config: EncoderConfig
    samples: Samples
    encoder: Encoder
    metric: PerceptualDistance
    files: Workspace
    seconds: float = 0.0

    def __post_init__(self) -> None:
        network = self.encoder.network
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
            figures = self._figures(*self._validation())
        say(
            f"encoder: on unseen samples PSNR {figures['psnr_db']:.1f} dB, "
            f"{self.metric.name} {figures['perceptual']:.3f} (the mean latent: "
            f"{figures['mean_psnr_db']:.1f} dB, {figures['mean_perceptual']:.3f})."
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
        wanted = samples.latents(config.batch, step, "latents")
        with torch.no_grad():
            target = samples.picture(wanted)
            given = samples.disturbed(target, step)
        measures = config.perceptual_weight > 0 and step % config.perceptual_every == 0
        features = None
        if measures:
            with torch.no_grad():
                features = self.metric.features(target)
        w = self.encoder.start(config.batch)
        with torch.no_grad():
            image = samples.picture(w[:1]).expand(config.batch, -1, -1, -1)
        total = target.new_zeros([])
        losses: dict[str, float] = {}
        for look in range(config.training_passes):
            w = self.encoder.refined(given, w.detach(), image.detach())
            image = samples.picture(w)
            latent = ((w - wanted) / self.encoder.deviation).square().mean()
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

    def _validation(self) -> tuple[Tensor, Tensor, Tensor]:
        """Unseen latents, their pictures, and what the encoder makes of these."""
        wanted = self.samples.latents(self.config.validation, 0, "validation")
        with torch.no_grad():
            target = torch.cat([self.samples.picture(part) for part in wanted.split(16)])
            w = self.encoder.start(len(target))
            for _ in range(self.config.passes):
                image = torch.cat([self.samples.picture(part) for part in w.split(16)])
                w = self.encoder.refined(target, w, image)
        return wanted, target, w

    def _validate(self, book: Logbook, seen: int) -> dict[str, float]:
        """A point of the learning curve."""
        wanted, target, w = self._validation()
        figures = self._figures(wanted, target, w)
        book.write(seen, figures)
        with torch.no_grad():
            made = self.samples.picture(w[:SHOWN])
        book.write_samples(seen, torch.cat([target[:SHOWN], made]).clamp(-1, 1), len(made))
        return figures

    @torch.no_grad()
    def _figures(self, wanted: Tensor, target: Tensor, w: Tensor) -> dict[str, float]:
        figures = {
            "latent": float(((w - wanted) / self.encoder.deviation).square().mean()),
        }
        for name, latents in (("", w), ("mean_", self.encoder.start(len(w)))):
            psnr, far = 0.0, 0.0
            for some_w, some_target in zip(latents.split(8), target.split(8), strict=True):
                image = self.samples.picture(some_w).clamp(-1, 1)
                distances = self.metric.distance(
                    self.metric.features(image), self.metric.features(some_target)
                )
                far += float(distances.sum())
                pairs = zip(image, some_target, strict=True)
                psnr += sum(psnr_db(a, b.clamp(-1, 1)) for a, b in pairs)
            figures |= {f"{name}psnr_db": psnr / len(w), f"{name}perceptual": far / len(w)}
        return figures

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

"""The mathematics of inversion: find a pivot latent, then tune the generator around it.

Projection: Karras et al. 2020 (StyleGAN2), appendix D: Adam on one w (or one w a layer: W+) and on
the noise maps, with noise added to w at first and a regulariser that keeps the maps free of signal.
Tuning: Roich et al. 2021, "Pivotal Tuning for Latent-based Editing of Real Images" (PTI): the
pivot is fixed and the weights move; eq. 2 is the reconstruction loss, eqs. 5-6 the locality
regularisation that keeps other latents' pictures where they were.

Two engines, one step a call, with all of a resume's state in `tensors()`. Nothing here draws random
numbers by itself, reads files, or knows about stages: latents and noise are handed in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ModelError, TrainingError

# Noise maps are compared with themselves shifted down to this side (StyleGAN2, appendix D).
NOISE_PYRAMID_SMALLEST_PX = 8
ADAM_BETAS = (0.9, 0.999)


class Perceptual(Protocol):
    """What the losses need of a perceptual distance (see pipeline.metrics.perceptual)."""

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps of NCHW images in [-1, 1]."""

    def distance(self, features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
        """One value a pair of images."""


@dataclass(frozen=True)
class ProjectionSchedule:
    """How the pivot is looked for; t runs from 0 to 1 over `steps`."""

    steps: int = 450
    learning_rate: float = 0.01
    rampup: float = 0.05  # share of the steps over which the rate rises from 0
    rampdown: float = 0.25  # share of the steps over which it falls to 0 (cosine)
    w_noise: float = 0.05  # standard deviation of the noise on w, in standard deviations of w
    w_noise_ramp: float = 0.75  # share of the steps after which there is none
    noise_weight: float = 1e5  # of the noise regulariser

    def rate(self, step: int) -> float:
        """Learning rate of `step` (counted from 0)."""
        t = step / self.steps
        down = min(1.0, (1.0 - t) / self.rampdown) if self.rampdown > 0 else 1.0
        up = min(1.0, t / self.rampup) if self.rampup > 0 else 1.0
        return self.learning_rate * (0.5 - 0.5 * math.cos(math.pi * down)) * up

    def w_noise_scale(self, step: int) -> float:
        """Noise on w at `step`, in standard deviations of w: 0.05 (1 - t / 0.75)^2, then 0."""
        if self.w_noise_ramp <= 0:
            return 0.0
        t = step / self.steps
        return self.w_noise * max(0.0, 1.0 - t / self.w_noise_ramp) ** 2


@dataclass(frozen=True)
class ProjectionStep:
    """What one step of the projection measured, before its update."""

    step: int
    learning_rate: float
    distance: float
    noise_penalty: float  # not yet weighted
    loss: float


@dataclass(frozen=True)
class LocalityOptions:
    """PTI's locality regularisation (Roich 2021, eqs. 5-6)."""

    alpha: float = 30.0  # distance in W+ from the pivot at which pictures must not change
    mse_weight: float = 0.1
    perceptual_weight: float = 0.1


@dataclass(frozen=True)
class TuningOptions:
    """How the generator is tuned around the pivot."""

    learning_rate: float = 3e-4
    mse_weight: float = 1.0
    perceptual_weight: float = 1.0
    stop_at: float = 0.06  # perceptual distance at which tuning has arrived
    locality: LocalityOptions | None = None


@dataclass(frozen=True)
class TuningStep:
    """What one step of the tuning measured, before its update; `arrived`: there was no update."""

    step: int
    mse: float
    perceptual: float
    locality: float
    loss: float
    arrived: bool


def noise_regulariser(noise: Tensor) -> Tensor:
    """How much signal hides in one noise map (height x width), a scalar.

    StyleGAN2 appendix D: squared means of the map times itself shifted by one pixel, along both
    axes, over a pyramid halved by 2x2 averages down to 8 px.
    """
    level = noise[None, None]
    total = noise.new_zeros([])
    while True:
        total = total + (level * level.roll(1, dims=3)).mean().square()
        total = total + (level * level.roll(1, dims=2)).mean().square()
        if min(level.shape[2:]) <= NOISE_PYRAMID_SMALLEST_PX:
            return total
        level = F.avg_pool2d(level, 2)


def normalise_noise(noise: Tensor) -> Tensor:
    """The map with mean 0 and mean square 1."""
    centred = noise - noise.mean()
    return centred * centred.square().mean().rsqrt()


def noise_maps(generator: nn.Module) -> dict[str, Tensor]:
    """The generator's fixed noise maps by name within its synthesis network; StyleGAN3 has none."""
    buffers = synthesis_of(generator).named_buffers()
    return {name: value for name, value in buffers if name.endswith("noise_const")}


def set_noise(generator: nn.Module, noise: Mapping[str, Tensor]) -> None:
    """Put noise maps (as `noise_maps` names them) into the generator."""
    own = noise_maps(generator)
    if own.keys() != noise.keys():
        raise ModelError("The noise maps do not belong to this generator.")
    for name, value in noise.items():
        if own[name].shape != value.shape:
            raise ModelError(f"The noise map {name} does not have this generator's size.")
        own[name].copy_(value.detach())


def synthesis_of(generator: nn.Module) -> nn.Module:
    """The part of the generator that turns ws into a picture."""
    return generator.get_submodule("synthesis")


def picture_of(generator: Any, ws: Tensor, noise_mode: str = "const") -> Tensor:
    """The generator's picture of ws, in full precision (half precision's gradients vanish)."""
    return generator.synthesis(ws, **_rendering(noise_mode))


def _rendering(noise_mode: str) -> dict[str, Any]:
    return {"noise_mode": noise_mode, "force_fp32": True}


def w_statistics(generator: Any, z: Tensor, c: Tensor) -> tuple[Tensor, float]:
    """Mean (1 x 1 x w_dim) and overall standard deviation of mapped latents z (N x z_dim).

    The deviation is one number: the root of the mean squared distance from the mean.
    """
    with torch.no_grad():
        w = torch.cat(
            [
                generator.mapping(some_z, some_c)[:, :1]
                for some_z, some_c in zip(z.split(1000), c.split(1000), strict=True)
            ]
        )
        mean = w.double().mean(dim=0, keepdim=True)
        deviation = ((w - mean).square().sum() / w.shape[0]).sqrt()
    return mean.to(w.dtype), float(deviation)


def best_start(
    generator: Any, perceptual: Perceptual, target: Tensor, z: Tensor, c: Tensor
) -> Tensor:
    """The w (1 x 1 x w_dim), among the mapped latents z, whose picture is nearest to `target`."""
    nearest: tuple[float, Tensor] | None = None
    with torch.no_grad():
        wanted = perceptual.features(target)
        for some_z, some_c in zip(z.split(8), c.split(8), strict=True):
            ws = generator.mapping(some_z, some_c)
            found = perceptual.features(picture_of(generator, ws))
            distances = perceptual.distance(
                [layer.expand(len(ws), -1, -1, -1) for layer in wanted], found
            )
            index = int(distances.argmin())
            if nearest is None or float(distances[index]) < nearest[0]:
                nearest = (float(distances[index]), ws[index : index + 1, :1].clone())
    if nearest is None:
        raise ModelError("The best of no samples cannot be a start; draw at least one.")
    return nearest[1]


class Projection:
    """Looks for the latent (and the noise) whose picture is nearest to a target.

    The generator is not changed. `w` is 1 x 1 x w_dim (space W) or 1 x num_ws x w_dim (W+).
    """

    def __init__(
        self,
        generator: Any,
        perceptual: Perceptual,
        target: Tensor,
        start: Tensor,
        w_std: float,
        noise: Mapping[str, Tensor],
        schedule: ProjectionSchedule | None = None,
    ) -> None:
        """
        Args:
            generator: its parameters must not require gradients (they are left alone).
            target: 1 x channels x height x width in [-1, 1].
            start: 1 x 1 x w_dim, or 1 x num_ws x w_dim for W+.
            w_std: standard deviation of w, see `w_statistics`.
            noise: start of the noise maps, see `noise_maps`; empty for StyleGAN3.
        """
        self.schedule = schedule or ProjectionSchedule()
        self.step_index = 0
        self.w = start.detach().clone().requires_grad_(True)
        self.noise = {key: value.detach().clone().requires_grad_() for key, value in noise.items()}
        self._generator = generator
        self._perceptual = perceptual
        self._w_std = w_std
        with torch.no_grad():
            self._target = perceptual.features(target)
        self._adam = torch.optim.Adam(
            [self.w, *self.noise.values()], lr=self.schedule.learning_rate, betas=ADAM_BETAS
        )

    @property
    def finished(self) -> bool:
        return self.step_index >= self.schedule.steps

    def ws(self) -> Tensor:
        """The pivot found so far, 1 x num_ws x w_dim."""
        return self.w.detach().expand(-1, self._generator.num_ws, -1).clone()

    def step(self, unit_noise: Tensor) -> ProjectionStep:
        """One update; `unit_noise`: standard normal of w's shape, scaled here by the schedule."""
        step = self.step_index
        rate = self.schedule.rate(step)
        for group in self._adam.param_groups:
            group["lr"] = rate
        jitter = self._w_std * self.schedule.w_noise_scale(step)
        ws = (self.w + unit_noise * jitter).expand(-1, self._generator.num_ws, -1)
        image = self._picture(ws)
        distance = self._perceptual.distance(self._perceptual.features(image), self._target).sum()
        penalty = distance.new_zeros([])
        for value in self.noise.values():
            penalty = penalty + noise_regulariser(value)
        loss = distance + self.schedule.noise_weight * penalty
        measured = ProjectionStep(step, rate, distance.item(), penalty.item(), loss.item())
        _check_finite(measured.loss, "looking for the pivot", step)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        self._adam.step()
        with torch.no_grad():
            for value in self.noise.values():
                value.copy_(normalise_noise(value))
        self.step_index += 1
        return measured

    def _picture(self, ws: Tensor) -> Tensor:
        # The maps take the place of the generator's own for this call only.
        # Activations are modulated, not weights: those would each need a gradient back to w.
        options = _rendering("const") | {"fused_modconv": False}
        return torch.func.functional_call(
            self._generator.synthesis, dict(self.noise), (ws,), options
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name."""
        return self._variables() | _adam_tensors(self._adam, list(self._variables()))

    def load(self, tensors: Mapping[str, Tensor], step_index: int) -> None:
        """Go on where `tensors` were taken, before step `step_index`."""
        with torch.no_grad():
            for name, value in self._variables().items():
                value.copy_(tensors[name])
        _load_adam(self._adam, list(self._variables()), tensors)
        self.step_index = step_index

    def _variables(self) -> dict[str, Tensor]:
        return {"w": self.w} | {f"noise.{name}": value for name, value in self.noise.items()}


class Tuning:
    """Moves the generator's weights until its picture of the pivot is the target.

    All parameters that the picture depends on are tuned, but for StyleGAN3's Fourier input (which
    places the picture on the plane: tuned, every latent's picture would move with it).
    """

    def __init__(
        self,
        generator: Any,
        perceptual: Perceptual,
        target: Tensor,
        ws: Tensor,
        options: TuningOptions | None = None,
        untuned: Any = None,
    ) -> None:
        """
        Args:
            generator: tuned in place; its noise maps are used as they are.
            target: 1 x channels x height x width in [-1, 1].
            ws: the pivot, 1 x num_ws x w_dim.
            untuned: the generator before tuning; needed for the locality regularisation only.
        """
        self.options = options or TuningOptions()
        self.step_index = 0
        self.generator = generator
        self._ws = ws.detach()
        self._perceptual = perceptual
        self._target = target
        self._untuned = untuned
        if self.options.locality and untuned is None:
            raise ModelError("The locality regularisation needs the generator before tuning.")
        with torch.no_grad():
            self._features = perceptual.features(target)
        self._parameters = tuned_parameters(generator)
        generator.requires_grad_(False)
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        self._adam = torch.optim.Adam(
            list(self._parameters.values()), lr=self.options.learning_rate, betas=ADAM_BETAS
        )

    def step(self, locality_w: Tensor | None = None) -> TuningStep:
        """One update, unless the perceptual distance has arrived.

        `locality_w`: another latent, 1 x num_ws x w_dim, for the locality regularisation.
        """
        step = self.step_index
        image = picture_of(self.generator, self._ws)
        mse = F.mse_loss(image, self._target)
        perceptual = self._perceptual.distance(
            self._perceptual.features(image), self._features
        ).sum()
        loss = self.options.mse_weight * mse + self.options.perceptual_weight * perceptual
        arrived = perceptual.item() <= self.options.stop_at
        locality = loss.new_zeros([])
        if self.options.locality and not arrived:
            if locality_w is None:
                raise ModelError("The locality regularisation needs another latent at every step.")
            locality = self._locality(locality_w, self.options.locality)
        loss = loss + locality
        measured = TuningStep(
            step, mse.item(), perceptual.item(), locality.item(), loss.item(), arrived
        )
        _check_finite(measured.loss, "tuning the generator", step)
        if not arrived:
            self._adam.zero_grad(set_to_none=True)
            loss.backward()
            self._adam.step()
            self.step_index += 1
        return measured

    def _locality(self, other_w: Tensor, options: LocalityOptions) -> Tensor:
        """Weighted change of the picture `alpha` away from the pivot (Roich 2021, eqs. 5-6)."""
        direction = other_w - self._ws
        ws = self._ws + options.alpha * direction / direction.norm()
        now = picture_of(self.generator, ws, "none")
        with torch.no_grad():
            before = picture_of(self._untuned, ws, "none")
            wanted = self._perceptual.features(before)
        perceptual = self._perceptual.distance(self._perceptual.features(now), wanted).sum()
        return options.mse_weight * F.mse_loss(now, before) + options.perceptual_weight * perceptual

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name."""
        weights = {f"weight.{name}": value.detach() for name, value in self._parameters.items()}
        return weights | _adam_tensors(self._adam, list(self._parameters))

    def load(self, tensors: Mapping[str, Tensor], step_index: int) -> None:
        """Go on where `tensors` were taken, before step `step_index`."""
        with torch.no_grad():
            for name, value in self._parameters.items():
                value.copy_(tensors[f"weight.{name}"])
        _load_adam(self._adam, list(self._parameters), tensors)
        self.step_index = step_index


def tuned_parameters(generator: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that tuning moves, by their name in the generator."""
    return {
        f"synthesis.{name}": parameter
        for name, parameter in synthesis_of(generator).named_parameters()
        if not name.startswith("input.")  # StyleGAN3's Fourier features
    }


def psnr_db(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of two images in [-1, 1], in dB; capped at 100 (equal images)."""
    mse = float(F.mse_loss(a.double(), b.double()))
    return min(100.0, 10 * math.log10(4 / mse)) if mse > 0 else 100.0


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of two NCHW images in [-1, 1] (Wang 2004, eq. 13), mean over all.

    11-pixel Gaussian window of sigma 1.5 (smaller where the image is), valid positions only.
    """
    size = min(11, *a.shape[2:])
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    row = torch.exp(-x.square() / (2 * 1.5**2))
    window = torch.outer(row, row)
    window = (window / window.sum()).to(a.device).expand(a.shape[1], 1, -1, -1)

    def local_mean(value: Tensor) -> Tensor:
        return F.conv2d(value, window, groups=value.shape[1])

    a, b = a.double(), b.double()
    mean_a, mean_b = local_mean(a), local_mean(b)
    var_a = local_mean(a * a) - mean_a.square()
    var_b = local_mean(b * b) - mean_b.square()
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # 2: the images' range
    score = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    score = score / ((mean_a.square() + mean_b.square() + c1) * (var_a + var_b + c2))
    return float(score.mean())


def _check_finite(loss: float, doing: str, step: int) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"The loss stopped being a number while {doing} (step {step}); lower the learning rate."
        )


def _adam_tensors(adam: torch.optim.Adam, names: Sequence[str]) -> dict[str, Tensor]:
    """Adam's moments and step counts by variable name; variables without a gradient have none."""
    tensors: dict[str, Tensor] = {}
    for name, variable in zip(names, adam.param_groups[0]["params"], strict=True):
        for key, value in adam.state.get(variable, {}).items():
            tensors[f"adam.{key}.{name}"] = value
    return tensors


def _load_adam(adam: torch.optim.Adam, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `_adam_tensors`."""
    for name, variable in zip(names, adam.param_groups[0]["params"], strict=True):
        keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"adam.{key}.{name}" in tensors]
        # Step counts stay on the CPU, as Adam keeps them.
        adam.state[variable] = {
            key: tensors[f"adam.{key}.{name}"]
            .to("cpu" if key == "step" else variable.device)
            .clone()
            for key in keys
        }

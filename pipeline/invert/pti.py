"""Finding the pivot: the latent whose picture is nearest to a target.

Karras et al. 2020 (StyleGAN2), appendix D: Adam on one w (or one w a layer: W+) and on the noise
maps, with noise added to w at first and a regulariser that keeps the maps free of signal. Beyond
the paper, each left out unless asked for: the prior of Zhu et al. 2020 (`latent_prior`), a further
term of the loss, and StyleGAN3's turn and shift of the plane (`placement`). Tuning the generator
around the pivot is in `tuning`.

One step a call, with all of a resume's state in `tensors()`. Nothing here draws random numbers by
itself, reads files, or knows about stages: latents and noise are handed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.invert import placement
from pipeline.invert.adam import ADAM_BETAS, adam_tensors, check_finite, load_adam
from pipeline.invert.latent_prior import LatentPrior

# Noise maps are compared with themselves shifted down to this side (StyleGAN2, appendix D).
NOISE_PYRAMID_SMALLEST_PX = 8


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
    prior: float  # not yet weighted; 0 where it has no weight
    loss: float
    evaluations: int = 1  # pictures with their gradients that the step took


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


def own_buffers(generator: nn.Module) -> dict[str, Tensor]:
    """The buffers of the synthesis network that an inversion may have its own values of: noise
    maps (StyleGAN2), the placement on the plane (StyleGAN3)."""
    buffers = dict(synthesis_of(generator).named_buffers())
    names = [*noise_maps(generator), *({placement.BUFFER} & buffers.keys())]
    return {name: buffers[name] for name in names}


def set_buffers(generator: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put an inversion's own buffers into the generator: all its noise maps, and a placement."""
    own = own_buffers(generator)
    if not noise_maps(generator).keys() <= values.keys() <= own.keys():
        raise ModelError("The noise maps do not belong to this generator.")
    for name, value in values.items():
        if own[name].shape != value.shape:
            raise ModelError(f"The buffer {name} does not have this generator's size.")
        own[name].copy_(value.detach())


def synthesis_of(generator: nn.Module) -> nn.Module:
    """The part of the generator that turns ws into a picture."""
    return generator.get_submodule("synthesis")


def picture_of(generator: Any, ws: Tensor, noise_mode: str = "const") -> Tensor:
    """The generator's picture of ws, in full precision (half precision's gradients vanish)."""
    return generator.synthesis(ws, **rendering(noise_mode))


def rendering(noise_mode: str) -> dict[str, Any]:
    """Arguments of the synthesis network that every picture here is made with."""
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


@dataclass(frozen=True)
class Extras:
    """What the projection may be asked for beyond the paper."""

    # Weight of the latents' mean squared distance from their mean in P_N, and the prior itself.
    prior_weight: float = 0.0
    prior: LatentPrior | None = None
    # Weight of the mean squared error of the pixels, beside the perceptual distance.
    mse_weight: float = 0.0
    # A further distance of a picture from the target, added to the loss.
    term: Callable[[Tensor], Tensor] | None = None
    # StyleGAN3: start of the plane's turn and shift (see `placement`), which are then optimised.
    motion: Tensor | None = None


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
        extras: Extras | None = None,
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
        self._extras = extras or Extras()
        if self._extras.prior_weight and self._extras.prior is None:
            raise ModelError("A weight of the prior needs the prior.")
        motion = self._extras.motion
        self.motion = None if motion is None else motion.detach().clone().requires_grad_(True)
        # Steps that a plateau spared: the schedule's clock runs ahead by as many.
        self._skipped = 0
        self._generator = generator
        self._perceptual = perceptual
        self._w_std = w_std
        self._target_image = target
        with torch.no_grad():
            self._target = perceptual.features(target)
        self._adam = torch.optim.Adam(
            list(self._variables().values()), lr=self.schedule.learning_rate, betas=ADAM_BETAS
        )

    @property
    def finished(self) -> bool:
        return self.step_index + self._skipped >= self.schedule.steps

    def ws(self) -> Tensor:
        """The pivot found so far, 1 x num_ws x w_dim."""
        return self.w.detach().expand(-1, self._generator.num_ws, -1).clone()

    def buffers(self) -> dict[str, Tensor]:
        """The synthesis network's buffers that belong to the pivot: noise maps and placement."""
        return {name: value.detach().clone() for name, value in self._own_buffers().items()}

    def settle(self) -> bool:
        """There is no more progress: go on with the last part of the schedule, in which the rate
        falls to 0. False where it has begun already."""
        ahead = math.ceil(self.schedule.steps * (1 - self.schedule.rampdown))
        spared = ahead - (self.step_index + self._skipped)
        self._skipped += max(0, spared)
        return spared > 0

    def step(self, unit_noise: Tensor) -> ProjectionStep:
        """One update; `unit_noise`: standard normal of w's shape, scaled here by the schedule."""
        step = self.step_index
        rate = self.schedule.rate(step + self._skipped)
        for group in self._adam.param_groups:
            group["lr"] = rate
        jitter = self._w_std * self.schedule.w_noise_scale(step + self._skipped)
        loss, measured = self.loss(self.w + unit_noise * jitter, step, rate)
        check_finite(measured.loss, "looking for the pivot", step)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        self._adam.step()
        with torch.no_grad():
            for value in self.noise.values():
                value.copy_(normalise_noise(value))
        self.step_index += 1
        return measured

    def loss(self, w: Tensor, step: int, rate: float) -> tuple[Tensor, ProjectionStep]:
        """The loss at w (of self.w's shape), differentiable, and what it consists of."""
        image = self._picture(w.expand(-1, self._generator.num_ws, -1))
        distance = self._perceptual.distance(self._perceptual.features(image), self._target).sum()
        penalty = distance.new_zeros([])
        for value in self.noise.values():
            penalty = penalty + noise_regulariser(value)
        loss = distance + self.schedule.noise_weight * penalty
        prior, extra = self._extra_losses(image)
        loss = loss + extra
        # One wait for the device, not four.
        parts = torch.stack([value.detach() for value in (distance, penalty, prior, loss)])
        return loss, ProjectionStep(step, rate, *parts.tolist())

    def _extra_losses(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The prior's penalty, not yet weighted, and the weighted sum of all that was asked for."""
        extras = self._extras
        total, prior = image.new_zeros([]), image.new_zeros([])
        if extras.prior is not None and extras.prior_weight:
            prior = extras.prior.penalty(self.w)
            total = total + extras.prior_weight * prior
        if extras.mse_weight:
            total = total + extras.mse_weight * F.mse_loss(image, self._target_image)
        if extras.term is not None:
            total = total + extras.term(image)
        return prior, total

    def _picture(self, ws: Tensor) -> Tensor:
        # The buffers take the place of the generator's own for this call only.
        # Activations are modulated, not weights: those would each need a gradient back to w.
        options = rendering("const") | {"fused_modconv": False}
        return torch.func.functional_call(
            self._generator.synthesis, self._own_buffers(), (ws,), options
        )

    def _own_buffers(self) -> dict[str, Tensor]:
        if self.motion is None:
            return dict(self.noise)
        return dict(self.noise) | {placement.BUFFER: placement.matrix(self.motion)}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name."""
        variables = self._variables()
        skipped = {"skipped": torch.tensor(self._skipped)}
        return skipped | variables | adam_tensors(self._adam, list(variables))

    def load(self, tensors: Mapping[str, Tensor], step_index: int) -> None:
        """Go on where `tensors` were taken, before step `step_index`."""
        with torch.no_grad():
            for name, value in self._variables().items():
                value.copy_(tensors[name])
        load_adam(self._adam, list(self._variables()), tensors)
        self._skipped = int(tensors["skipped"])
        self.step_index = step_index

    def _variables(self) -> dict[str, Tensor]:
        motion = {} if self.motion is None else {"motion": self.motion}
        noise = {f"noise.{name}": value for name, value in self.noise.items()}
        return {"w": self.w} | noise | motion

"""Moving the generator's weights around pivots until its pictures are the targets.

Roich et al. 2021, "Pivotal Tuning for Latent-based Editing of Real Images" (PTI): pivots are fixed
and the weights move; eq. 2 is the reconstruction loss, eqs. 5-6 the locality regularisation that
keeps other latents' pictures where they were. Several views (pictures of one character, each with
its own pivot) are tuned into one generator, one view a step in turn.

One step a call, with all of a resume's state in `tensors()`. Draws no random numbers, reads no
files, knows nothing about stages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.invert.adam import ADAM_BETAS, adam_tensors, check_finite, load_adam
from pipeline.invert.pti import Perceptual, picture_of, rendering
from pipeline.invert.weight_forms import WeightForm, Whole, tuned_parameters

Term = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LocalityOptions:
    """PTI's locality regularisation (Roich 2021, eqs. 5-6)."""

    alpha: float = 30.0  # distance in W+ from the pivot at which pictures must not change
    mse_weight: float = 0.1
    perceptual_weight: float = 0.1


@dataclass(frozen=True)
class TuningOptions:
    """How the generator is tuned around the pivots. The defaults are PTI's."""

    learning_rate: float = 3e-4
    mse_weight: float = 1.0
    perceptual_weight: float = 1.0
    # Perceptual distance, and PSNR, at which a view has arrived; it must reach both.
    stop_at: float = 0.06
    stop_at_db: float = 0.0
    # The rate falls to 0 over the last share of so many steps (cosine); 0 steps: it stays.
    steps: int = 0
    rampdown: float = 0.0
    locality: LocalityOptions | None = None

    def rate(self, step: int) -> float:
        """Learning rate of `step` (counted from 0)."""
        if self.steps == 0 or self.rampdown == 0:
            return self.learning_rate
        down = min(1.0, max(0.0, 1 - step / self.steps) / self.rampdown)
        return self.learning_rate * (0.5 - 0.5 * math.cos(math.pi * down))


@dataclass(frozen=True)
class View:
    """One picture to be drawn, and its pivot.

    Attributes:
        target: 1 x channels x height x width in [-1, 1].
        ws: the pivot, 1 x num_ws x w_dim.
        buffers: of the synthesis network by name, this picture's own (see `pti.own_buffers`).
        term: a further distance of a picture from the target, added to the loss.
    """

    target: Tensor
    ws: Tensor
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    term: Term | None = None


@dataclass(frozen=True)
class TuningStep:
    """What one step of the tuning measured, before its update; `arrived`: there was no update."""

    step: int
    view: int
    mse: float
    perceptual: float
    term: float
    locality: float
    loss: float
    arrived: bool


class Tuning:
    """Tunes one generator to its views.

    All parameters that the pictures depend on are tuned unless a `form` says otherwise, but for
    StyleGAN3's Fourier input (which places the picture on the plane).
    """

    def __init__(
        self,
        generator: Any,
        perceptual: Perceptual,
        views: Sequence[View],
        options: TuningOptions | None = None,
        form: WeightForm | None = None,
    ) -> None:
        """
        Args:
            generator: untuned; stays so until `tuned()`.
            views: one at least.
            form: which weights move, and how; None: all, each for itself.
        """
        if not views:
            raise ModelError("There is no picture to tune the generator to.")
        self.options = options or TuningOptions()
        self.step_index = 0
        # Steps that a plateau spared: the rate's clock runs ahead by as many.
        self._skipped = 0
        self._form = form or Whole(tuned_parameters(generator))
        self._generator = generator
        self._views = tuple(views)
        self._near = [False] * len(self._views)
        self._perceptual = perceptual
        with torch.no_grad():
            self._features = [perceptual.features(view.target) for view in self._views]
        self._variables = self._form.variables()
        variables = list(self._variables.values())
        self._adam = torch.optim.Adam(
            variables,
            lr=self.options.learning_rate,
            betas=ADAM_BETAS,
            # On a CPU one loop over all tensors; a GPU's own choice is as good there.
            fused=True if variables[0].device.type == "cpu" else None,
        )

    def aim(self) -> None:
        """Before the first step: let the form choose its directions by the views' gradients."""
        if not self._form.aims:
            return
        weights = self._form.weights()
        total = {name: torch.zeros_like(value) for name, value in weights.items()}
        for index in range(len(self._views)):
            loss, _ = self._loss(weights, index)
            found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, found, strict=True):
                if gradient is not None:
                    total[name] += gradient
        self._form.aim(total)

    @property
    def finished(self) -> bool:
        """Whether all of `options.steps` are done, or spared; never where they are 0."""
        return 0 < self.options.steps <= self.step_index + self._skipped

    @property
    def settled(self) -> bool:
        """Whether `settle` has spared steps."""
        return self._skipped > 0

    def settle(self) -> None:
        """There is no more progress at this rate: go on with the last part, in which it falls to 0
        (without such a part this is the end). Changes nothing where that has begun."""
        ahead = math.ceil(self.options.steps * (1 - self.options.rampdown))
        self._skipped += max(0, ahead - (self.step_index + self._skipped))

    def step(self, locality_w: Tensor | None = None) -> TuningStep:
        """One update for the view whose turn it is, unless that view has arrived.

        `locality_w`: another latent, 1 x num_ws x w_dim, for the locality regularisation. Where
        all views have arrived nothing changes any more, the count of steps included.
        """
        step = self.step_index
        index = step % len(self._views)
        view = self._views[index]
        weights = self._form.weights()
        loss, parts = self._loss(weights, index)
        # One wait for the device, not five.
        mse, perceptual, term, plain = torch.stack([*parts, loss.detach()]).tolist()
        self._near[index] = self._has_arrived(mse, perceptual)
        arrived = all(self._near)
        locality = 0.0
        if self.options.locality and not self._near[index]:
            if locality_w is None:
                raise ModelError("The locality regularisation needs another latent at every step.")
            added = self._locality(weights, view, locality_w, self.options.locality)
            loss, locality = loss + added, added.item()
        measured = TuningStep(
            step, index, mse, perceptual, term, locality, plain + locality, arrived
        )
        check_finite(measured.loss, "tuning the generator", step)
        if not self._near[index]:
            for group in self._adam.param_groups:
                group["lr"] = self.options.rate(step + self._skipped)
            self._adam.zero_grad(set_to_none=True)
            loss.backward()
            self._adam.step()
        if not arrived:
            self.step_index += 1
        return measured

    def stored(self) -> dict[str, Tensor]:
        """What changed, as the form stores it; see `weight_forms.restore`."""
        return self._form.stored()

    def picture(self) -> Tensor:
        """The first view as it is now, 1 x C x H x W in [-1, 1]."""
        with torch.no_grad():
            view = self._views[0]
            return self._picture(self._form.weights(), view.buffers, view.ws)

    def tuned(self) -> Any:
        """The generator, tuned (in place)."""
        parameters = dict(self._generator.named_parameters())
        with torch.no_grad():
            for name, value in self._form.weights().items():
                parameters[name].copy_(value)
        return self._generator

    def _loss(
        self, weights: Mapping[str, Tensor], index: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """A view's loss; its mean squared error, its distance, its further term, detached."""
        view = self._views[index]
        image = self._picture(weights, view.buffers, view.ws)
        mse = F.mse_loss(image, view.target)
        features = self._perceptual.features(image)
        perceptual = self._perceptual.distance(features, self._features[index]).sum()
        term = mse.new_zeros([]) if view.term is None else view.term(image)
        loss = self.options.mse_weight * mse + self.options.perceptual_weight * perceptual + term
        return loss, (mse.detach(), perceptual.detach(), term.detach())

    def _has_arrived(self, mse: float, perceptual: float) -> bool:
        options = self.options
        close = options.stop_at_db <= 0 or mse <= 4 * 10 ** (-options.stop_at_db / 10)
        return close and perceptual <= options.stop_at

    def _picture(
        self,
        weights: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        ws: Tensor,
        noise_mode: str = "const",
    ) -> Tensor:
        own = {name.removeprefix("synthesis."): value for name, value in weights.items()}
        return torch.func.functional_call(
            self._generator.synthesis, own | dict(buffers), (ws,), rendering(noise_mode)
        )

    def _locality(
        self,
        weights: Mapping[str, Tensor],
        view: View,
        other_w: Tensor,
        options: LocalityOptions,
    ) -> Tensor:
        """Weighted change of the picture `alpha` away from the pivot (Roich 2021, eqs. 5-6)."""
        direction = other_w - view.ws
        ws = view.ws + options.alpha * direction / direction.norm()
        now = self._picture(weights, {}, ws, "none")
        with torch.no_grad():
            before = picture_of(self._generator, ws, "none")
            wanted = self._perceptual.features(before)
        perceptual = self._perceptual.distance(self._perceptual.features(now), wanted).sum()
        return options.mse_weight * F.mse_loss(now, before) + options.perceptual_weight * perceptual

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name."""
        variables = {f"tuned.{name}": value.detach() for name, value in self._variables.items()}
        near = {"near": torch.tensor(self._near), "skipped": torch.tensor(self._skipped)}
        return near | variables | adam_tensors(self._adam, list(self._variables))

    def load(self, tensors: Mapping[str, Tensor], step_index: int) -> None:
        """Go on where `tensors` were taken, before step `step_index`."""
        with torch.no_grad():
            for name, value in self._variables.items():
                value.copy_(tensors[f"tuned.{name}"])
        self._near = tensors["near"].tolist()
        self._skipped = int(tensors["skipped"])
        load_adam(self._adam, list(self._variables), tensors)
        self.step_index = step_index

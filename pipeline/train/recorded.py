"""The main phases as recordings: on a GPU few launches of CUDA graphs instead of thousands.

What an `Objective` computes in one go falls into pieces of fixed work, which are recorded
(torch_utils/recording.py), with the augmentation between them, which decides by drawn numbers what
it computes and so cannot be recorded:

    G    make images | augmentation | D's answer and its slope | back through it | gradients of G
    D    make images | augmentation | gradients of D for them  | augmentation    | and for real ones

Gradients are summed where they stay; averaging over processes and the optimiser's step come after,
as ever. Values and draws are those of the `Objective`. The regularisers, which differentiate twice,
are left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.console import complain
from pipeline.train.loss import (
    Latents,
    Objective,
    Reports,
    discriminator_loss_fake,
    discriminator_loss_real,
    generator_loss,
)
from pipeline.train.pieces import passes
from pipeline.train.recipe import Recipe
from pipeline.train.state import NetworkName, TrainingState
from torch_utils.recording import CannotRecordError, Outputs, Recorder, Recording


class RecordedObjective:
    """`Objective`'s main losses, recorded; where that turns out impossible, the `Objective` itself.

    Args:
        objective: what computes the losses. Its networks' weights must stay where they are.
        parameters: those that learn, by network ("G", "D").
        gain: of every loss, as the methods of `Objective` take it.
        recorder: how work is recorded.
        processes: how many there are; the pass that updates G's averages exchanges them, which is
            not recorded.
        name: of the stage, for messages.
    """

    def __init__(
        self,
        objective: Objective,
        parameters: Mapping[NetworkName, Sequence[nn.Parameter]],
        *,
        gain: float,
        recorder: Recorder,
        processes: int = 1,
        name: str = "train",
    ) -> None:
        self._objective = objective
        self._name = name
        self._gain = gain
        # None once recording has failed: what was recorded before, and its memory, is let go.
        self._pieces: tuple[_GeneratorPieces, _DiscriminatorPieces] | None = (
            _GeneratorPieces(objective, parameters["G"], gain, recorder),
            _DiscriminatorPieces(objective, parameters["D"], gain, recorder, processes),
        )

    @property
    def recorded(self) -> bool:
        """Whether every piece has been recorded."""
        return self._pieces is not None and all(pieces.recorded for pieces in self._pieces)

    def generator_main(self, latents: Latents, gain: float) -> Reports:
        """As `Objective.generator_main`."""
        if self._pieces is None:
            return self._objective.generator_main(latents, gain)
        g, _ = self._pieces
        return self._try(
            g,
            gain,
            lambda: g.run(latents),
            lambda: self._objective.generator_main(latents, gain),
        )

    def discriminator_main(
        self, latents: Latents, images: Tensor, c: Tensor, gain: float
    ) -> Reports:
        """As `Objective.discriminator_main`."""
        if self._pieces is None:
            return self._objective.discriminator_main(latents, images, c, gain)
        _, d = self._pieces
        return self._try(
            d,
            gain,
            lambda: d.run(latents, images, c),
            lambda: self._objective.discriminator_main(latents, images, c, gain),
        )

    def _try(
        self,
        pieces: _Pieces,
        gain: float,
        recorded: Callable[[], Reports],
        plain: Callable[[], Reports],
    ) -> Reports:
        if gain != self._gain:
            raise ValueError(f"recorded with gain {self._gain}, called with {gain}")
        before = None if pieces.recorded else pieces.snapshot()
        try:
            return recorded()
        except CannotRecordError as error:
            self._pieces = None
            complain(
                f"{self._name}: the training step cannot be recorded as CUDA graphs ({error}); it "
                f"goes on without them, which is slower. {self._name}.cuda_graphs=false skips the "
                "attempt."
            )
            assert before is not None
            before()
            # What was drawn so far is drawn again.
            torch.manual_seed(torch.initial_seed())
            return plain()


def recorded_losses(
    state: TrainingState,
    recipe: Recipe,
    recorder: Recorder,
    processes: int = 1,
    name: str = "train",
) -> RecordedObjective:
    """The main losses of a training, recorded; `processes` and `name` as `RecordedObjective`'s."""
    return RecordedObjective(
        state.objective,
        {network: list(found.values()) for network, found in state.trainable.items()},
        gain=1 / passes(recipe, processes),
        recorder=recorder,
        processes=processes,
        name=name,
    )


class _Pieces:
    """What the pieces of a phase share: its gradients, and the images' way to D."""

    def __init__(self, objective: Objective, parameters: Sequence[nn.Parameter]) -> None:
        self._objective = objective
        self._parameters = list(parameters)
        self._sums = [torch.zeros_like(parameter) for parameter in self._parameters]
        # Whether a parameter has a gradient: one without must keep none, or it would take a step.
        self._used = [False] * len(self._parameters)
        self._recordings: list[Recording] = []

    @property
    def recorded(self) -> bool:
        """Whether all pieces are."""
        return all(recording.recorded for recording in self._recordings)

    def snapshot(self) -> Callable[[], None]:
        """What puts back all that a call changes."""
        moving = [*self._objective.generator.buffers(), *self._sums]
        values = [tensor.clone() for tensor in moving]
        gradients = [parameter.grad for parameter in self._parameters]

        def put_back() -> None:
            with torch.no_grad():
                for tensor, value in zip(moving, values, strict=True):
                    tensor.copy_(value)
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient

        return put_back

    def _begin(self) -> None:
        """The first call since gradients were dropped starts new sums."""
        if all(parameter.grad is None for parameter in self._parameters):
            torch._foreach_zero_(self._sums)

    def _end(self) -> None:
        for parameter, total, used in zip(self._parameters, self._sums, self._used, strict=True):
            parameter.grad = total if used else None

    def _add_gradients(self, of: Tensor, slope: Tensor | None = None) -> None:
        """Add the parameters' gradients of `of` (times `slope`) to the sums."""
        found = torch.autograd.grad(of, self._parameters, slope, allow_unused=True)
        self._used = [
            used or gradient is not None for used, gradient in zip(self._used, found, strict=True)
        ]
        pairs = [
            (total, gradient)
            for total, gradient in zip(self._sums, found, strict=True)
            if gradient is not None
        ]
        torch._foreach_add_([total for total, _ in pairs], [gradient for _, gradient in pairs])


class _GeneratorPieces(_Pieces):
    """G makes images that D takes for real."""

    def __init__(
        self,
        objective: Objective,
        parameters: Sequence[nn.Parameter],
        gain: float,
        recorder: Recorder,
    ) -> None:
        super().__init__(objective, parameters)
        self._gain = gain
        # With the way back to the weights; only from the first piece to the last of a call.
        self._made: Tensor | None = None
        self._make = Recording(self._make_images, recorder)
        self._judge = Recording(self._judge_images, recorder)
        self._learn = Recording(self._learn_from, recorder)
        self._recordings = [self._make, self._judge, self._learn]

    def run(self, latents: Latents) -> Reports:
        self._begin()
        (images,) = self._make(*latents.tensors())
        images = images.detach().requires_grad_()
        seen = self._objective.shown(images)
        loss, logits, slope = self._judge(seen, latents.c)
        if seen is not images:
            (slope,) = torch.autograd.grad(seen, images, slope)
        self._learn(slope)
        self._end()
        return {"loss_G": loss, "logits_generated": logits}

    def _make_images(self, *latents: Tensor) -> Outputs:
        self._made = self._objective.generate(Latents(*latents))
        return (self._made.detach(),)

    def _judge_images(self, seen: Tensor, c: Tensor) -> Outputs:
        seen = seen.detach().requires_grad_()
        logits = self._objective.answer(seen, c)
        loss = generator_loss(logits)
        (slope,) = torch.autograd.grad(loss.mean().mul(self._gain), seen)
        return loss.detach(), logits.detach(), slope

    def _learn_from(self, slope: Tensor) -> Outputs:
        made, self._made = self._made, None
        assert made is not None
        self._add_gradients(made, slope)
        return ()


class _DiscriminatorPieces(_Pieces):
    """D tells made images from real ones; G's averages are updated."""

    def __init__(
        self,
        objective: Objective,
        parameters: Sequence[nn.Parameter],
        gain: float,
        recorder: Recorder,
        processes: int,
    ) -> None:
        super().__init__(objective, parameters)
        self._gain = gain
        self._fake = Recording(self._judge_fake, recorder)
        self._real = Recording(self._judge_real, recorder)
        self._recordings = [self._fake, self._real]
        self._make: Callable[..., Outputs] = self._make_images
        if processes == 1:
            make = Recording(self._make_images, recorder)
            self._make = make
            self._recordings.append(make)

    def run(self, latents: Latents, images: Tensor, c: Tensor) -> Reports:
        self._begin()
        (made,) = self._make(*latents.tensors())
        loss_fake, logits_fake, sign_fake = self._fake(self._objective.shown(made), latents.c)
        loss, logits, sign = self._real(self._objective.shown(images), c)
        self._end()
        return {
            "loss_D_fake": loss_fake,
            "logits_fake": logits_fake,
            "sign_fake": sign_fake,
            "loss_D_real": loss,
            "logits_real": logits,
            "sign_real": sign,
        }

    def _make_images(self, *latents: Tensor) -> Outputs:
        with torch.no_grad():
            return (self._objective.generate(Latents(*latents), update_averages=True),)

    def _judge_fake(self, seen: Tensor, c: Tensor) -> Outputs:
        return self._judge(seen, c, discriminator_loss_fake)

    def _judge_real(self, seen: Tensor, c: Tensor) -> Outputs:
        return self._judge(seen, c, discriminator_loss_real)

    def _judge(self, seen: Tensor, c: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Outputs:
        logits = self._objective.answer(seen, c)
        loss = loss_of(logits)
        self._add_gradients(loss.mean().mul(self._gain))
        return loss.detach(), logits.detach(), logits.detach().sign()

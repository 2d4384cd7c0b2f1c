"""Taking a near start home in few steps: L-BFGS instead of Adam.

Liu and Nocedal 1989, "On the limited memory BFGS method", with a line search for the strong Wolfe
conditions. Where an encoder has found the neighbourhood, the loss is smooth enough for curvature to
tell more than momentum: 20 steps do what 450 of the projector's do. Noise maps stay the
generator's own, and nothing is random.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.invert import pti
from pipeline.invert.adam import check_finite
from pipeline.invert.pti import Extras, Perceptual, Projection, ProjectionSchedule, ProjectionStep

# Steps whose curvature is remembered.
HISTORY = 20
# Pictures a step may take; the line search mostly takes one.
MOST_EVALUATIONS = 6
_LISTS = ("old_dirs", "old_stps", "ro")
_TENSORS = ("d", "prev_flat_grad")
_NUMBERS = ("t", "H_diag", "prev_loss", "n_iter", "func_evals")


class Refinement(Projection):
    """As `Projection`, by L-BFGS: `step` takes no noise, and the noise maps are left alone."""

    def __init__(
        self,
        generator: Any,
        perceptual: Perceptual,
        target: Tensor,
        start: Tensor,
        steps: int,
        extras: Extras | None = None,
    ) -> None:
        schedule = ProjectionSchedule(steps=steps, w_noise=0.0)
        super().__init__(generator, perceptual, target, start, 0.0, {}, schedule, extras)
        self._lbfgs = torch.optim.LBFGS(
            list(self._variables().values()),
            lr=1,
            max_iter=1,
            max_eval=MOST_EVALUATIONS,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
        )
        # Where the loss was last taken, and what it was: each step begins where the last one ended.
        self._known: tuple[Tensor, Tensor, list[Tensor], ProjectionStep] | None = None

    def settle(self) -> bool:
        """There is no more progress: it ends here."""
        self._skipped = max(0, self.schedule.steps - self.step_index)
        return True

    def buffers(self) -> dict[str, Tensor]:
        return dict(pti.noise_maps(self._generator)) | super().buffers()

    def step(self, unit_noise: Tensor | None = None) -> ProjectionStep:
        """One step along the direction that curvature says, as far as the line search goes."""
        step, first, taken = self.step_index, None, 0

        def closure() -> Tensor:
            nonlocal first, taken
            loss, measured, is_new = self._evaluate(step)
            first, taken = first or measured, taken + is_new
            return loss

        self._lbfgs.step(closure)
        assert first is not None
        self.step_index += 1
        return dataclasses.replace(first, step=step, evaluations=taken)

    def _evaluate(self, step: int) -> tuple[Tensor, ProjectionStep, int]:
        """Loss (its gradient is then in the variables), its parts, and 1 if it was not known."""
        variables = list(self._variables().values())
        where = torch.cat([value.detach().flatten() for value in variables])
        if self._known is not None and torch.equal(self._known[0], where):
            _, loss, gradients, measured = self._known
            for value, gradient in zip(variables, gradients, strict=True):
                value.grad = gradient.clone()
            return loss, measured, 0
        loss, measured = self.loss(self.w, step, 1.0)
        check_finite(measured.loss, "looking for the pivot", step)
        gradients = list(torch.autograd.grad(loss, variables))
        for value, gradient in zip(variables, gradients, strict=True):
            value.grad = gradient.clone()
        self._known = (where, loss.detach(), gradients, measured)
        return loss.detach(), measured, 1

    def tensors(self) -> dict[str, Tensor]:
        state = self._lbfgs.state[self.w]
        kept: dict[str, Tensor] = {"skipped": torch.tensor(self._skipped)}
        for name in _LISTS:
            if state.get(name):
                kept[f"lbfgs.{name}"] = torch.stack([torch.as_tensor(v) for v in state[name]])
        for name in _TENSORS:
            if state.get(name) is not None:
                kept[f"lbfgs.{name}"] = state[name]
        for name in _NUMBERS:
            if state.get(name) is not None:
                kept[f"lbfgs.{name}"] = torch.as_tensor(state[name], dtype=torch.float64)
        return kept | self._variables()

    def load(self, tensors: Mapping[str, Tensor], step_index: int) -> None:
        with torch.no_grad():
            for name, value in self._variables().items():
                value.copy_(tensors[name])
        state = self._lbfgs.state[self.w]
        device = self.w.device
        for name in _LISTS:
            found = tensors.get(f"lbfgs.{name}")
            state[name] = [] if found is None else list(found.to(device).clone().unbind())
        for name in _TENSORS:
            if f"lbfgs.{name}" in tensors:
                state[name] = tensors[f"lbfgs.{name}"].to(device).clone()
        for name in _NUMBERS:
            if f"lbfgs.{name}" in tensors:
                number = tensors[f"lbfgs.{name}"].item()
                if name == "H_diag":
                    state[name] = self.w.new_tensor(number)
                else:
                    state[name] = int(number) if name in ("n_iter", "func_evals") else number
        self._skipped = int(tensors["skipped"])
        self._known = None
        self.step_index = step_index

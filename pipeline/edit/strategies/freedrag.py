"""FreeDrag: adaptive templates and a line search instead of point tracking (Ling et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.edit.drag import DragModel, DragState, Handle, Proposal
from pipeline.edit.sampling import sample
from pipeline.edit.strategies.base import Pulling
from pipeline.edit.strategies.measuring import (
    Measured,
    adam_step,
    at,
    mask_loss,
    offsets_of,
    scaled_px,
)

# A loss (in standard deviations) that counts as none.
_LEAST_LOSS = 0.01


@dataclass(frozen=True)
class FreeDrag(Pulling):
    """Feature dragging without tracking, Ling et al. 2024 (section 3).

    A handle carries a template. It is asked for at a point a little further on (the goal); after
    at most `inner_steps` the handle stands there if the loss has halved, is asked for at the same
    point again if the loss has fallen, else nearer. The better it fared, the more the template
    takes up of what is there now. Losses are in units of the first map's standard deviation (about
    1 in a StyleGAN), so that the paper's constants hold for any layer. The paper calls a motion
    done below l / 2; where a goal begins with less than l, as in flat areas, that would be before
    anything has moved, so half of what it began with is asked for there.
    """

    reach: float = 12.0  # d: how far the line search looks (3 pixels of a quarter map)
    expected_loss: float = 0.3  # l: the loss that the next goal should begin with
    inner_steps: float = 5.0
    candidates: float = 10.0  # of the line search
    smallest_reach_px: float = 2.0

    name = "freedrag"
    source = "Ling et al. 2024, FreeDrag, section 3"

    def propose(self, state: DragState, model: DragModel) -> Proposal:
        """Judge the goals asked for so far, set new ones, then one Adam step towards them."""
        radius = self.radius_px(model)
        handles = state.handles
        if state.goal_step == 0:
            # Targets may have moved: what was asked for on the way to the old ones is void.
            handles = tuple(replace(handle, memory={}) for handle in handles)

        def motion(features: Tensor) -> Measured:
            seen = features.detach()[0]
            first = seen if state.base is None else state.base[0]
            unit = float(first.std((1, 2)).mean().clamp_min(1e-6))
            judged = tuple(self._judge(h, seen, model, radius, unit) for h in handles)
            goals = torch.cat([_goal(h) + offsets_of(h, radius).to(seen.device) for h in judged])
            there = sample(features[0], model.frame, goals)
            wanted = torch.cat([_template(handle) for handle in judged])
            sizes = [len(_template(handle)) for handle in judged]
            each = (there - wanted).abs().mean(1).split(sizes)
            return Measured(judged, torch.stack([part.mean() for part in each]).sum())

        return adam_step(
            state, model, motion, mask_loss(state, model, self.mask_weight), self.learning_rate
        )

    def _judge(
        self, handle: Handle, features: Tensor, model: DragModel, radius: float, unit: float
    ) -> Handle:
        """The handle after what the last step brought, with the goal that is asked for next."""
        around = offsets_of(handle, radius).to(features.device)

        def values(points: Tensor) -> Tensor:
            return sample(features, model.frame, points.unsqueeze(-2) + around)

        if handle.reference is None:
            place = at([handle.position], features.device)
            handle = replace(handle, reference=values(place)[0])
        template = _template(handle)
        if not handle.memory:
            return self._ask(handle, handle.position, values, model, unit)

        goal = _goal(handle)
        found = values(goal)[0]
        loss = float((found - template).abs().mean()) / unit
        begun, last = float(handle.memory["begun"]), float(handle.memory["last"])
        inner = int(handle.memory["inner"]) + 1
        done = max(min(self.expected_loss, begun) / 2, _LEAST_LOSS)
        typical = float((features.flatten(1).t() - template.mean(0)).abs().mean()) / unit
        confidence = max(0.0, 1 - loss / max(typical, 1e-6))
        handle = replace(handle, confidence=confidence)
        if loss > done and inner < self.inner_steps:
            return _remember(handle, goal, begun, last, inner)
        # The motion ends: the template takes up what is there, the more the better it went.
        blend = 1 / (1 + math.exp(min(self._alpha * (loss - self._beta), 50)))
        handle = replace(handle, reference=template + blend * (found - template))
        if loss <= done:
            x, y = goal[0].tolist()
            handle = replace(handle, position=(x, y))
            return self._ask(handle, handle.position, values, model, unit)
        if loss < last:
            return _remember(handle, goal, begun, loss, 0)
        return self._ask(handle, self._back(handle, model), values, model, unit)

    @property
    def _alpha(self) -> float:
        return math.log(9) / (0.6 * self.expected_loss)

    @property
    def _beta(self) -> float:
        return 0.2 * self.expected_loss

    def _reach_px(self, model: DragModel) -> float:
        return scaled_px(self.reach, self.smallest_reach_px, model)

    def _back(self, handle: Handle, model: DragModel) -> tuple[float, float]:
        """A reach behind the handle, inside the picture."""
        (x, y), (to_x, to_y) = handle.position, handle.target
        length = max(handle.distance_px, 1e-6)
        reach = self._reach_px(model)
        back = (x - reach * (to_x - x) / length, y - reach * (to_y - y) / length)
        return min(max(back[0], 0.0), model.width), min(max(back[1], 0.0), model.height)

    def _ask(
        self,
        handle: Handle,
        start: tuple[float, float],
        values: Callable[[Tensor], Tensor],
        model: DragModel,
        unit: float,
    ) -> Handle:
        """The handle with the goal on the line from `start` whose loss is nearest to l."""
        device = _template(handle).device
        here, target = at([start], device), at([handle.target], device)
        way = target - here
        length = max(float(way.norm()), 1e-9)
        reach = min(self._reach_px(model), length)
        count = int(self.candidates)
        shares = torch.arange(1, count + 1, dtype=torch.float64, device=device) / count
        places = here + way * (reach / length) * shares[:, None]
        losses = (values(places) - _template(handle)).abs().mean((1, 2)) / unit
        off = (losses - self.expected_loss).abs()
        # Of equal ones the farthest: where nothing changes, nothing is in the way.
        best = count - 1 - int(off.flip(0).argmin())
        loss = float(losses[best])
        return _remember(handle, places[best : best + 1], loss, loss, 0)


def _remember(handle: Handle, goal: Tensor, begun: float, last: float, inner: int) -> Handle:
    """`begun`: loss when this goal was first asked for; `last`: before these inner steps."""
    numbers = {"begun": begun, "last": last, "inner": inner}
    memory = {name: torch.tensor(value) for name, value in numbers.items()}
    return replace(handle, memory={"goal": goal, **memory})


def _goal(handle: Handle) -> Tensor:
    return handle.memory["goal"]


def _template(handle: Handle) -> Tensor:
    assert handle.reference is not None
    return handle.reference

"""A discriminative tracker with confidence, after StableDrag (Cui et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.edit.drag import DragModel, DragState, Handle, Proposal
from pipeline.edit.sampling import sample
from pipeline.edit.strategies.base import Pulling, Tracking
from pipeline.edit.strategies.draggan import pull, settle
from pipeline.edit.strategies.measuring import (
    Measured,
    adam_step,
    at,
    grid,
    mask_loss,
    offsets_of,
    place,
    read_reference,
)


@dataclass(frozen=True)
class Stable(Pulling, Tracking):
    """Motion supervision whose tracker knows what the handle is *not*; after Cui et al. 2024.

    On a handle's first picture a linear filter is fitted (ridge regression, in closed form) that
    answers 1 on the handle's patch and falls to 0 beside it, so that look-alikes nearby answer
    little. The handle is where filter and likeness together answer most; the filter's answer there
    is the confidence. While that is high the features on the spot are pulled on (as DragGAN does);
    when it is low the handle's first features are asked for instead, which mends what has faded.
    """

    filter_share: float = 0.6  # of the filter in the score, against the likeness
    ridge: float = 0.01  # of the fit, in units of the patches' own energy
    trusted: float = 0.5  # confidence above which the features on the spot are pulled on

    name = "stable"
    source = "after Cui et al. 2024, StableDrag, section 3 (filter fitted in closed form)"

    def propose(self, state: DragState, model: DragModel) -> Proposal:
        """Measure `state.ws`: find every handle by its filter, then one Adam step."""
        radius = self.radius_px(model)
        stop_px = self.stop_distance_px(model)

        def motion(features: Tensor) -> Measured:
            seen = features.detach()[0]
            found = tuple(self._find(handle, seen, model, radius) for handle in state.handles)
            handles = tuple(settle(h, seen, model, radius, stop_px) for h in found)
            wanted = [None if h.confidence >= self.trusted else h.memory["disc"] for h in handles]
            return Measured(handles, pull(handles, features[0], model, radius, wanted))

        return adam_step(
            state, model, motion, mask_loss(state, model, self.mask_weight), self.learning_rate
        )

    def _find(self, handle: Handle, features: Tensor, model: DragModel, radius: float) -> Handle:
        search, template = self.search_px(model), self.template_px(model)
        around = offsets_of(handle, template).to(features.device)
        centre = at([handle.position], features.device)
        if handle.reference is None:
            handle = read_reference(handle, features, model, template)
            disc = offsets_of(handle, radius).to(features.device)
            first = sample(features, model.frame, centre + disc)
            # Fitted over twice the search window: what may come into it later. In large pictures
            # every other pixel or so is enough.
            spacing = max(1, round(search / 6))
            places = grid(2 * search / spacing).to(features.device) * spacing
            patches = sample(features, model.frame, (places + centre).unsqueeze(-2) + around)
            memory = _fit(patches, places, self.ridge)
            return replace(handle, memory={**memory, "disc": first})
        places = grid(search).to(features.device) + centre
        patches = sample(features, model.frame, places.unsqueeze(-2) + around)
        answer = _answer(patches, handle.memory)
        unlike = (patches - handle.reference).square().mean((-2, -1))
        typical = unlike.median().clamp_min(1e-12)
        share = self.filter_share
        score = share * answer + (1 - share) * (1 - unlike / typical)
        # `place` looks for the lowest value of a map of squared distances.
        there = place(handle, 1 - score, model, search)
        nearest = (places.reshape(-1, 2) - at([there.position], places.device)).norm(dim=1).argmin()
        confidence = float(answer.reshape(-1)[nearest].clamp(0, 1))
        return replace(there, confidence=confidence)


def _fit(patches: Tensor, offsets: Tensor, ridge: float) -> dict[str, Tensor]:
    """The filter over patches (side × side × n × C) that answers a Gaussian around offset (0, 0).

    Ridge regression in its dual form: as many unknowns as patches, not as channels.
    """
    rows = patches.reshape(-1, patches.shape[-2] * patches.shape[-1])
    mean = rows.mean(0)
    centred = (rows - mean).double()
    distance = offsets.reshape(-1, 2).norm(dim=1)
    # As wide as the patches are apart.
    spacing = distance[distance > 0].min()
    wanted = torch.exp(-0.5 * (distance / spacing).square())
    kernel = centred @ centred.t()
    kernel.diagonal().add_(ridge * kernel.diagonal().mean())
    weights = centred.t() @ torch.linalg.solve(kernel, wanted)
    here = int(distance.argmin())
    # What ridge regression takes from the peak is given back: the handle itself answers 1.
    weights = weights / (centred[here] @ weights).clamp_min(1e-9)
    return {"filter": weights.to(rows.dtype), "mean": mean}


def _answer(patches: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
    rows = patches.reshape(*patches.shape[:2], -1)
    return (rows - memory["mean"]) @ memory["filter"]

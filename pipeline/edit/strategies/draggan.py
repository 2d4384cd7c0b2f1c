"""DragGAN: motion supervision and point tracking after Pan et al. 2023 (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.edit.drag import DragModel, DragState, Handle, Proposal
from pipeline.edit.sampling import sample
from pipeline.edit.strategies.base import Pulling, Tracking
from pipeline.edit.strategies.measuring import (
    Measured,
    adam_step,
    at,
    mask_loss,
    offsets_of,
    track,
)


@dataclass(frozen=True)
class DragGan(Pulling, Tracking):
    """Motion supervision and tracking, Pan et al. 2023, in true image coordinates.

    Tracked is a patch, where the paper tracks one feature: in the flat areas of a drawing a single
    feature is soon found again in what merely changed colour, and the tracker runs ahead of the
    picture.
    """

    name = "draggan"
    source = "Pan et al. 2023, Drag Your GAN, section 3.2"

    def propose(self, state: DragState, model: DragModel) -> Proposal:
        """Measure `state.ws`: track every handle, then one Adam step on the motion loss."""
        radius = self.radius_px(model)
        search, template = self.search_px(model), self.template_px(model)
        stop_px = self.stop_distance_px(model)

        def motion(features: Tensor) -> Measured:
            seen = features.detach()[0]
            tracked = track(state.handles, seen, model, search, template)
            handles = tuple(settle(h, seen, model, radius, stop_px) for h in tracked)
            return Measured(handles, pull(handles, features[0], model, radius))

        return adam_step(
            state, model, motion, mask_loss(state, model, self.mask_weight), self.learning_rate
        )


def settle(
    handle: Handle, features: Tensor, model: DragModel, radius_px: float, stop_px: float
) -> Handle:
    """Give a handle that has arrived its anchor; take it from one that was carried away."""
    if handle.distance_px > stop_px:
        return handle if handle.anchor is None else replace(handle, anchor=None)
    if handle.anchor is not None:
        return handle
    around = offsets_of(handle, radius_px).to(features.device)
    points = at([handle.position], features.device) + around
    return replace(handle, anchor=sample(features, model.frame, points))


def pull(
    handles: Sequence[Handle],
    features: Tensor,
    model: DragModel,
    radius_px: float,
    wanted: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """L1 between the discs' features and those one step towards the targets (paper, eq. 1).

    The step is one pixel, or what is left. An arrived handle is held: the features it arrived
    with are asked for at its target, so that it neither drifts nor is left out.

    Args:
        features: C × h × w, differentiable.
        wanted: for each handle the features (n × C) to ask for instead of those of its disc.
    """
    device = features.device
    asked, sources, weights = [], [], []
    places = []
    for index, handle in enumerate(handles):
        around = offsets_of(handle, radius_px).to(device)
        position, target = at([handle.position], device), at([handle.target], device)
        instead = None if wanted is None else wanted[index]
        held = handle.anchor is not None
        direction = (target - position) / max(handle.distance_px, 1.0)
        asked.append((target if held else position + direction) + around)
        places.append(position + around)
        sources.append(handle.anchor if held else instead)
        weights.append(features.new_full((len(around),), 1 / len(around)))
    if not asked:
        return features.new_zeros(())
    there = sample(features, model.frame, torch.cat(asked))
    here = sample(features.detach(), model.frame, torch.cat(places))
    sizes = [len(part) for part in places]
    here = torch.cat(
        [
            own if other is None else other
            for own, other in zip(here.split(sizes), sources, strict=True)
        ]
    )
    return ((here - there).abs().mean(1) * torch.cat(weights)).sum()

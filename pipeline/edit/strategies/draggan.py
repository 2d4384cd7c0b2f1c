"""DragGAN: motion supervision and point tracking after Pan et al. 2023 (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.edit.drag import DragModel, DragState, Handle, Proposal
from pipeline.edit.sampling import sample
from pipeline.edit.strategies.measuring import (
    LARGEST_LENGTH,
    Measured,
    adam_step,
    at,
    mask_loss,
    offsets_of,
    scaled_px,
    track,
)
from pipeline.errors import check_range


@dataclass(frozen=True)
class DragGan:
    """Motion supervision and tracking, Pan et al. 2023, in true image coordinates.

    Lengths are pixels of a 512-pixel picture and scale with the model's; each has a smallest
    value in the model's own pixels, since a disc of 3 px at 512 would be a third of a pixel at 64.
    Tracked is a patch, where the paper tracks one feature: in the flat areas of a drawing a single
    feature is soon found again in what merely changed colour, and the tracker runs ahead of the
    picture.
    """

    radius: float = 3.0  # r1: disc that is pulled
    search_radius: float = 12.0  # r2: window the tracker searches
    template_radius: float = 3.0  # of the patch that is tracked
    stop_distance: float = 2.0
    smallest_radius_px: float = 2.0
    smallest_search_px: float = 3.0
    smallest_template_px: float = 3.0  # 0, with template_radius 0, is the paper's single feature
    smallest_stop_px: float = 0.5
    mask_weight: float = 20.0  # lambda
    learning_rate: float = 2e-3

    name = "draggan"
    source = "Pan et al. 2023, Drag Your GAN, section 3.2"

    def __post_init__(self) -> None:
        for name in ("radius", "search_radius", "stop_distance"):
            check_range(name, getattr(self, name), 0, LARGEST_LENGTH, low_open=True)
        for name in ("smallest_radius_px", "smallest_search_px"):
            check_range(name, getattr(self, name), 1, LARGEST_LENGTH)
        for name in ("template_radius", "smallest_template_px", "smallest_stop_px"):
            check_range(name, getattr(self, name), 0, LARGEST_LENGTH)
        check_range("mask_weight", self.mask_weight, 0, 1e6)
        check_range("learning_rate", self.learning_rate, 0, 10, low_open=True)

    def stop_distance_px(self, model: DragModel) -> float:
        """The stop distance in the model's pixels."""
        return scaled_px(self.stop_distance, self.smallest_stop_px, model)

    def propose(self, state: DragState, model: DragModel) -> Proposal:
        """Measure `state.ws`: track every handle, then one Adam step on the motion loss."""
        radius = scaled_px(self.radius, self.smallest_radius_px, model)
        search = scaled_px(self.search_radius, self.smallest_search_px, model)
        template = scaled_px(self.template_radius, self.smallest_template_px, model)
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

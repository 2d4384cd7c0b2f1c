"""The ways of taking a drag step, behind the engine's `Strategy`.

`DragGan` is motion supervision and point tracking after Pan et al. 2023 (section 3.2), read in
true image coordinates. `DragGanCompatible` computes the numbers of the public program, faults
included, so that ours can be checked against its traces. Both are constants only: state in,
proposal out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.edit.drag import (
    DragModel,
    DragState,
    Handle,
    Point,
    Proposal,
    Strategy,
    adam,
)
from pipeline.edit.sampling import disc, mask_weights, resized_at, sample, vertex, window
from pipeline.errors import check_choice, check_range

# Radii and distances are given for a picture of this height.
REFERENCE_HEIGHT = 512
# Half that picture: a larger disc or window is a mistake, and would fill the memory.
LARGEST_LENGTH = 256.0


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
        return max(self.stop_distance * model.height / REFERENCE_HEIGHT, self.smallest_stop_px)

    def propose(self, state: DragState, model: DragModel) -> Proposal:
        """Measure `state.ws`: track every handle, then one Adam step on the motion loss."""
        scale = model.height / REFERENCE_HEIGHT
        pulled = disc(max(self.radius * scale, self.smallest_radius_px)).to(state.ws.device)
        searched = window(max(self.search_radius * scale, self.smallest_search_px))
        searched = searched.to(state.ws.device)
        template = disc(max(self.template_radius * scale, self.smallest_template_px))
        template = template.to(state.ws.device)
        stop_px = self.stop_distance_px(model)

        def motion(features: Tensor) -> tuple[tuple[Handle, ...], Tensor]:
            seen = features.detach()[0]
            handles = tuple(
                _settle(_track(h, seen, model, searched, template), seen, model, pulled, stop_px)
                for h in state.handles
            )
            loss = features.new_zeros(())
            for handle in handles:
                loss = loss + _pull(handle, features[0], model, pulled)
            return handles, loss

        def kept(features: Tensor, base: Tensor) -> Tensor:
            # Mean over the visible part of |(F - F0) m|, the paper's mask term.
            assert state.mask is not None
            size = (features.shape[2], features.shape[3])
            weights = mask_weights(state.mask, model.frame, size)
            visible = mask_weights(torch.ones_like(state.mask), model.frame, size).sum()
            change = ((features - base) * weights).abs().sum()
            return self.mask_weight * change / (visible * features.shape[1])

        return _proposal(state, model, motion, kept, self.learning_rate)


@dataclass(frozen=True)
class DragGanCompatible:
    """The public program's step, number for number (golden traces), for comparison only.

    Works on whole pixels (row, column), stretches the feature map over the picture together with
    its margin, and measures the disc on a grid whose last pixel lies at `height`, not at
    `height - 1`, so that the disc's far edge is lost. Not for editing.
    """

    radius: float = 3.0
    search_radius: float = 12.0
    mask_weight: float = 20.0
    learning_rate: float = 1e-3

    name = "draggan-compatible"
    source = "the public program of Pan et al. 2023, as recorded in its traces"

    def __post_init__(self) -> None:
        for name in ("radius", "search_radius"):
            check_range(name, getattr(self, name), 0, LARGEST_LENGTH, low_open=True)
        check_range("mask_weight", self.mask_weight, 0, 1e6)
        check_range("learning_rate", self.learning_rate, 0, 10, low_open=True)

    def stop_distance_px(self, model: DragModel) -> float:
        """Two pixels at 512, never less than two."""
        return max(2 * model.height / REFERENCE_HEIGHT, 2.0)

    def propose(self, state: DragState, model: DragModel) -> Proposal:
        """One step as the traces have it."""
        size = (model.height, model.width)
        scale = model.height / REFERENCE_HEIGHT
        radius = round(self.radius * scale)
        reach = round(self.search_radius * scale)

        def motion(features: Tensor) -> tuple[tuple[Handle, ...], Tensor]:
            seen = features.detach()[0]
            handles = tuple(_track_whole_pixels(h, seen, size, reach) for h in state.handles)
            loss = features.new_zeros(())
            for handle in handles:
                # Within one pixel of its target a handle is left alone (and may drift).
                if handle.distance_px > 1:
                    loss = loss + _pull_whole_pixels(handle, features[0], size, radius)
            return handles, loss

        def kept(features: Tensor, base: Tensor) -> Tensor:
            assert state.mask is not None
            rows, columns = torch.meshgrid(
                torch.arange(size[0], dtype=torch.float64),
                torch.arange(size[1], dtype=torch.float64),
                indexing="ij",
            )
            centres = torch.stack([columns, rows], -1).to(features.device) + 0.5
            change = resized_at(features[0], size, centres) - resized_at(base[0], size, centres)
            return self.mask_weight * (change * state.mask.unsqueeze(-1)).abs().mean()

        return _proposal(state, model, motion, kept, self.learning_rate)


STRATEGIES: dict[str, Callable[..., Strategy]] = {
    DragGan.name: DragGan,
    DragGanCompatible.name: DragGanCompatible,
}


def build_strategy(name: str, **constants: float) -> Strategy:
    """A strategy by name with some of its constants changed.

    Raises:
        ConfigError: naming the nearest valid strategy or constant.
    """
    check_choice("strategy", name, STRATEGIES)
    factory = STRATEGIES[name]
    for constant in constants:
        check_choice(f"constant of {name}", constant, strategy_constants(name))
    return factory(**constants)


def strategy_constants(name: str) -> dict[str, float]:
    """The constants of a strategy and their defaults."""
    made = STRATEGIES[name]()
    return {key: getattr(made, key) for key in made.__dataclass_fields__}  # type: ignore[attr-defined]


def _proposal(
    state: DragState,
    model: DragModel,
    motion: Callable[[Tensor], tuple[tuple[Handle, ...], Tensor]],
    kept: Callable[[Tensor, Tensor], Tensor],
    learning_rate: float,
) -> Proposal:
    """Features, losses, gradient of the free rows and Adam's step; what the strategies share."""
    first, last = state.free_rows
    free = state.ws[:, first:last].detach().clone().requires_grad_(True)
    with torch.enable_grad():
        ws = torch.cat([state.ws[:, :first], free, state.ws[:, last:]], 1)
        features = model.features(ws)
        base = features.detach() if state.base is None else state.base
        handles, motion_loss = motion(features)
        mask_loss = features.new_zeros(())
        if state.mask is not None:
            mask_loss = kept(features, base)
        loss = motion_loss + mask_loss
        gradient = torch.zeros_like(free)
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, free)
    moments, move = adam(state.moments, gradient, learning_rate)
    next_ws = state.ws.clone()
    next_ws[:, first:last] += move
    return Proposal(
        handles=handles,
        motion_loss=float(motion_loss.detach()),
        mask_loss=float(mask_loss.detach()),
        gradient=gradient,
        next_ws=next_ws,
        moments=moments,
        base=base,
    )


def _at(point: Point, device: torch.device) -> Tensor:
    return torch.tensor(point, dtype=torch.float64, device=device)


# --- draggan ---


def _track(
    handle: Handle, features: Tensor, model: DragModel, searched: Tensor, template: Tensor
) -> Handle:
    """Where the handle's reference is now, to a fraction of a pixel.

    The nearest feature in the window (paper, eq. 2), then the vertex of the parabola through the
    squared distances beside it. The first call for a handle reads its reference instead.
    """
    centre = _at(handle.position, features.device)
    if handle.reference is None:
        return replace(handle, reference=sample(features, model.frame, centre + template))

    reference = handle.reference

    def distances(points: Tensor) -> Tensor:
        values = sample(features, model.frame, points.unsqueeze(-2) + template)
        return (values - reference).square().mean((-2, -1))

    candidates = centre + searched
    far = distances(candidates)
    extent = torch.tensor([model.width, model.height], device=features.device)
    outside = ((candidates < 0) | (candidates > extent)).any(-1)
    far = far.masked_fill(outside, math.inf)
    found = int(far.argmin())
    x, y = candidates[found].tolist()
    beside = torch.tensor([[x - 1, y], [x + 1, y], [x, y - 1], [x, y + 1]], dtype=torch.float64).to(
        features.device
    )
    left, right, above, below = distances(beside).tolist()
    nearest = float(far[found])
    position = (
        min(max(x + vertex(left, nearest, right), 0.0), float(model.width)),
        min(max(y + vertex(above, nearest, below), 0.0), float(model.height)),
    )
    typical = float(far[~outside].median())
    # 1: the very reference was found; 0: nothing in the window is more like it than the rest.
    confidence = 1 - math.sqrt(nearest / typical) if typical > 0 else 0.0
    return replace(handle, position=position, confidence=max(confidence, 0.0))


def _settle(
    handle: Handle, features: Tensor, model: DragModel, pulled: Tensor, stop_px: float
) -> Handle:
    """Give a handle that has arrived its anchor; take it from one that was carried away."""
    if handle.distance_px > stop_px:
        return handle if handle.anchor is None else replace(handle, anchor=None)
    if handle.anchor is not None:
        return handle
    around = _at(handle.position, features.device) + pulled
    return replace(handle, anchor=sample(features, model.frame, around))


def _pull(handle: Handle, features: Tensor, model: DragModel, pulled: Tensor) -> Tensor:
    """L1 between the disc's features and those one step towards the target (paper, eq. 1).

    The step is one pixel, or what is left. An arrived handle is held: the features it arrived
    with are asked for at its target, so that it neither drifts nor is left out.
    """
    position = _at(handle.position, features.device)
    target = _at(handle.target, features.device)
    if handle.anchor is not None:
        there = sample(features, model.frame, target + pulled)
        return (handle.anchor - there).abs().mean()
    way = target - position
    direction = way / max(handle.distance_px, 1.0)
    here = sample(features.detach(), model.frame, position + pulled)
    there = sample(features, model.frame, position + pulled + direction)
    return (here - there).abs().mean()


# --- draggan-compatible ---


def _row_column(point: Point) -> tuple[int, int]:
    return math.floor(point[1]), math.floor(point[0])


def _track_whole_pixels(
    handle: Handle, features: Tensor, size: tuple[int, int], reach: int
) -> Handle:
    row, column = _row_column(handle.position)
    device = features.device
    reference = handle.reference
    if reference is None:
        reference = resized_at(features, size, _at((column + 0.5, row + 0.5), device)[None])
    rows = torch.arange(max(row - reach, 0), min(row + reach + 1, size[0]), dtype=torch.float64)
    columns = torch.arange(
        max(column - reach, 0), min(column + reach + 1, size[1]), dtype=torch.float64
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    candidates = (torch.stack([x, y], -1).reshape(-1, 2) + 0.5).to(device)
    distance = (resized_at(features, size, candidates) - reference).norm(dim=-1)
    x_found, y_found = candidates[int(distance.argmin())].tolist()
    return replace(handle, position=(x_found, y_found), reference=reference)


def _pull_whole_pixels(
    handle: Handle, features: Tensor, size: tuple[int, int], radius: int
) -> Tensor:
    row, column = _row_column(handle.position)
    y = torch.linspace(0, size[0], size[0])
    x = torch.linspace(0, size[1], size[1])
    distance = ((y[:, None] - row).square() + (x[None, :] - column).square()).sqrt()
    rows, columns = torch.where(distance < radius)
    points = (torch.stack([columns, rows], -1).double() + 0.5).to(features.device)
    way = _at(handle.target, features.device) - _at(handle.position, features.device)
    here = resized_at(features.detach(), size, points)
    there = resized_at(features, size, points + way / (way.norm() + 1e-7))
    return (here - there).abs().mean()

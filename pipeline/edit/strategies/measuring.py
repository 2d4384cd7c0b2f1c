"""What the strategies share: Adam as a function, one measured step, tracking, the mask's loss.

Knows feature maps, handles and latents; nothing of networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.edit.drag import DragModel, DragState, Handle, Moments, Proposal
from pipeline.edit.sampling import disc, mask_weights, sample, vertex, window
from torch_utils.device import send

# Radii and distances are given for a picture of this height.
REFERENCE_HEIGHT = 512
# Half that picture: a larger disc or window is a mistake, and would fill the memory.
LARGEST_LENGTH = 256.0
# A region handle is read at about so many points across its radius, however large it is.
_REGION_RINGS = 5


def scaled_px(length: float, smallest_px: float, model: DragModel) -> float:
    """A length at 512 px in the model's own pixels, and at least `smallest_px` of them."""
    return max(length * model.height / REFERENCE_HEIGHT, smallest_px)


def at(points: Sequence[tuple[float, float]], device: torch.device) -> Tensor:
    """Points as K × 2 float64."""
    return send(torch.tensor(points, dtype=torch.float64).reshape(-1, 2), device)


def region(radius_px: float) -> Tensor:
    """Offsets (n × 2, float64) spread evenly over a disc of any size."""
    spacing = max(1.0, radius_px / _REGION_RINGS)
    return disc(radius_px / spacing) * spacing


def offsets_of(handle: Handle, radius_px: float) -> Tensor:
    """The points around a handle that are pulled or tracked: its region's, else a small disc."""
    return disc(radius_px) if handle.radius_px is None else region(handle.radius_px)


def adam(moments: Moments, gradient: Tensor, rate: float) -> tuple[Moments, Tensor]:
    """Adam (Kingma 2015, algorithm 1; beta 0.9, 0.999) as a function.

    Returns the new moments and the step to add to what is optimised.
    """
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    count = moments.count + 1
    first = moments.first.lerp(gradient, 1 - beta1)
    second = moments.second * beta2 + gradient.square() * (1 - beta2)
    scale = second.sqrt() / math.sqrt(1 - beta2**count) + epsilon
    return Moments(first, second, count), -(rate / (1 - beta1**count)) * first / scale


# --- one step ---


@dataclass(frozen=True, eq=False)
class Measured:
    """What a strategy made of the features: handles as they are now, and the loss that moves."""

    handles: tuple[Handle, ...]
    motion_loss: Tensor
    memory: Mapping[str, Tensor] = field(default_factory=dict)


def adam_step(
    state: DragState,
    model: DragModel,
    motion: Callable[[Tensor], Measured],
    kept: Callable[[Tensor, Tensor], Tensor],
    learning_rate: float,
) -> Proposal:
    """Features, losses, gradient of the free rows and Adam's step.

    Args:
        motion: features (1 × C × h × w) -> what was measured.
        kept: features and those of the first step -> the mask's loss; asked only with a mask.
    """
    first, last = state.free_rows
    free = state.ws[:, first:last].detach().clone().requires_grad_(True)
    with torch.enable_grad():
        ws = torch.cat([state.ws[:, :first], free, state.ws[:, last:]], 1)
        features = model.features(ws)
        base = features.detach() if state.base is None else state.base
        measured = motion(features)
        mask_loss = features.new_zeros(())
        if state.mask is not None:
            mask_loss = kept(features, base)
        loss = measured.motion_loss + mask_loss
        gradient = torch.zeros_like(free)
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, free)
    moments, move = adam(state.moments, gradient, learning_rate)
    next_ws = state.ws.clone()
    next_ws[:, first:last] += move
    # Read together: each reading waits for the device.
    motion_value, mask_value = torch.stack([measured.motion_loss, mask_loss]).detach().tolist()
    return Proposal(
        handles=measured.handles,
        motion_loss=motion_value,
        mask_loss=mask_value,
        gradient=gradient,
        next_ws=next_ws,
        moments=moments,
        base=base,
        memory=measured.memory,
    )


def mask_loss(
    state: DragState, model: DragModel, weight: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """The paper's mask term: the mean over the visible part of |(F - F0) m|, times `weight`."""

    def kept(features: Tensor, base: Tensor) -> Tensor:
        assert state.mask is not None
        size = (features.shape[2], features.shape[3])
        weights = mask_weights(state.mask, model.frame, size)
        visible = mask_weights(torch.ones_like(state.mask), model.frame, size).sum()
        change = ((features - base) * weights).abs().sum()
        return weight * change / (visible * features.shape[1])

    return kept


# --- tracking ---


def track(
    handles: Sequence[Handle],
    features: Tensor,
    model: DragModel,
    search_px: float,
    template_px: float,
) -> tuple[Handle, ...]:
    """Where every handle's reference is now, to a fraction of a pixel.

    The nearest feature in the window (Pan 2023, eq. 2), then the vertex of the parabola through
    the squared distances beside it. The first call for a handle reads its reference instead.

    Args:
        features: C × h × w.
        search_px: half the side of the window.
        template_px: radius of the patch that is compared; a region handle's own is its region.
    """
    fresh = [handle for handle in handles if handle.reference is None]
    known = [handle for handle in handles if handle.reference is not None]
    done = {h.id: read_reference(h, features, model, template_px) for h in fresh}
    points = [handle for handle in known if handle.radius_px is None]
    if points:
        maps = _distance_maps(points, features, model, search_px, template_px).cpu()
        for handle, distances in zip(points, maps, strict=True):
            done[handle.id] = place(handle, distances, model, search_px)
    for handle in known:
        if handle.radius_px is not None:
            distances = _region_distances(handle, features, model, search_px)
            done[handle.id] = place(handle, distances, model, search_px)
    return tuple(done[handle.id] for handle in handles)


def read_reference(
    handle: Handle, features: Tensor, model: DragModel, template_px: float
) -> Handle:
    """The handle with the features around it as its reference."""
    around = send(offsets_of(handle, template_px), features.device)
    points = at([handle.position], features.device) + around
    return replace(handle, reference=sample(features, model.frame, points))


def place(handle: Handle, distances: Tensor, model: DragModel, search_px: float) -> Handle:
    """The handle where the map of squared distances around its last place is lowest.

    Args:
        distances: square, one value a whole pixel, one ring wider than the search window (the
            parabola needs neighbours).
    """
    distances = distances.cpu()  # the one wait for the device
    side = distances.shape[0]
    offsets = window(search_px)
    candidates = offsets + at([handle.position], offsets.device)
    far = distances[1:-1, 1:-1].reshape(-1)
    extent = torch.tensor([model.width, model.height])
    outside = ((candidates < 0) | (candidates > extent)).any(-1)
    far = far.masked_fill(outside, math.inf)
    found = int(far.argmin())
    row, column = divmod(found, side - 2)
    around = distances[row : row + 3, column : column + 3].tolist()
    nearest = around[1][1]
    x, y = candidates[found].tolist()
    position = (
        min(max(x + vertex(around[1][0], nearest, around[1][2]), 0.0), float(model.width)),
        min(max(y + vertex(around[0][1], nearest, around[2][1]), 0.0), float(model.height)),
    )
    typical = float(far[~outside].median())
    # 1: the very reference was found; 0: nothing in the window is more like it than the rest.
    confidence = 1 - math.sqrt(max(nearest, 0.0) / typical) if typical > 0 else 0.0
    return replace(handle, position=position, confidence=max(confidence, 0.0))


def grid(search_px: float) -> Tensor:
    """Offsets (side × side × 2, float64) of the search window and one ring around it."""
    offsets = window(max(1, int(search_px + 0.5)) + 1)
    side = math.isqrt(len(offsets))
    return offsets.reshape(side, side, 2)


def _distance_maps(
    handles: Sequence[Handle],
    features: Tensor,
    model: DragModel,
    search_px: float,
    template_px: float,
) -> Tensor:
    """Mean squared distances of the reference patches, K × side × side, whole pixels.

    |a - r|^2 = |a|^2 - 2 a r + |r|^2: both sums over the patch are convolutions of one sampled
    square, which reads every place once instead of once a candidate.
    """
    device = features.device
    template = disc(template_px)
    reach = int(template_px)
    wide = send(grid(search_px + reach), device)
    centres = at([handle.position for handle in handles], device)
    squares = sample(features, model.frame, centres[:, None, None] + wide)  # K × S × S × C
    squares = squares.permute(0, 3, 1, 2)
    count, channels = squares.shape[:2]
    rows, columns = (template[:, axis].long() + reach for axis in (1, 0))
    kernel = squares.new_zeros(count, channels, 2 * reach + 1, 2 * reach + 1)
    references = torch.stack([_reference(handle) for handle in handles])  # K × n × C
    kernel[:, :, rows, columns] = references.transpose(1, 2)
    ones = squares.new_zeros(1, 1, 2 * reach + 1, 2 * reach + 1)
    ones[:, :, rows, columns] = 1
    energy = F.conv2d(squares.square().sum(1, keepdim=True), ones)[:, 0]
    flat = squares.reshape(1, count * channels, *squares.shape[2:])
    product = F.conv2d(flat, kernel, groups=count)[0]
    own = references.square().sum((1, 2))[:, None, None]
    total = energy - 2 * product + own
    return total.clamp_min(0) / (len(template) * channels)


def _region_distances(
    handle: Handle, features: Tensor, model: DragModel, search_px: float
) -> Tensor:
    """The same for one region handle, read at its region's points."""
    assert handle.radius_px is not None
    around = send(region(handle.radius_px), features.device)
    places = send(grid(search_px), features.device) + at([handle.position], features.device)
    values = sample(features, model.frame, places.unsqueeze(-2) + around)
    return (values - _reference(handle)).square().mean((-2, -1))


def _reference(handle: Handle) -> Tensor:
    assert handle.reference is not None
    return handle.reference

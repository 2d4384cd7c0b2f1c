"""Where handles are, as numbers that have a derivative by the latents.

A handle on one of the face's lines is *bound* to the landmarks beside it, which the face reader
finds in the picture itself, however its look changes: a shut eye has lids, too. Any other handle is
tracked by its features, and its derivative is that of optical flow (Lucas & Kanade 1981): a patch
that the features show at p moves, when these change by dF, by dp = -(g g^T)^-1 g dF, with g their
gradient over the patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.data import landmarks as lm
from pipeline.data.face_reader import CONFIDENT
from pipeline.edit.drag import DragModel, Handle
from pipeline.edit.sampling import sample
from pipeline.edit.strategies.measuring import at, offsets_of

# A handle within so many face widths of a landmark is bound to it.
NEAR = 0.05
# Half the step of the finite difference over a patch, in feature pixels.
_HALF_STEP = 0.5
# Of the patch's structure tensor: an edge says nothing of motion along it.
_APERTURE = 0.02


def bound(handle: Handle) -> bool:
    """Whether the handle is where landmarks say."""
    return "weights" in handle.memory


def bind(handles: Sequence[Handle], landmarks: Tensor, error: float) -> tuple[Handle, ...]:
    """The handles, those beside a landmark bound to it and its neighbours.

    Args:
        landmarks: 28×2 px of the picture that the handles were put on.
        error: what the reader expects, in face widths; above `CONFIDENT` none is bound.
    """
    if error > CONFIDENT:
        return tuple(handles)
    points = landmarks.detach().double().cpu()
    width = max(lm.face_width(points.numpy()), 1.0)
    return tuple(h if bound(h) else _bind(h, points, width) for h in handles)


def _bind(handle: Handle, points: Tensor, width: float) -> Handle:
    if handle.radius_px is not None:
        return handle  # it takes hold of what is inside, not of a line
    here = torch.tensor(handle.position, dtype=torch.float64)
    distances = (points - here).norm(dim=1) / width
    nearest = int(distances.argmin())
    if float(distances[nearest]) > NEAR:
        return handle
    part = next(place for place in lm.PARTS.values() if place.start <= nearest < place.stop)
    # On a landmark that alone counts; between two of a part both do.
    weights = torch.zeros(lm.NUM_LANDMARKS, dtype=torch.float64)
    weights[part] = 1 / (distances[part].square().square() + 1e-12)
    weights /= weights.sum()
    offset = here - weights @ points
    return replace(handle, memory={**handle.memory, "weights": weights, "offset": offset})


def read_places(
    handles: Sequence[Handle], landmarks: Tensor, error: float, model: DragModel
) -> tuple[Handle, ...]:
    """Bound handles where the landmarks (28×2 px) have them; the others as they are."""
    points = landmarks.detach().double().cpu()
    # 0.5 at the limit of what is believed, 0 at twice that.
    confidence = min(max(1 - error / (2 * CONFIDENT), 0.0), 1.0)
    placed = []
    for handle in handles:
        if bound(handle):
            x, y = (
                handle.memory["weights"].cpu() @ points + handle.memory["offset"].cpu()
            ).tolist()
            x, y = min(max(x, 0.0), model.width), min(max(y, 0.0), model.height)
            handle = replace(handle, position=(x, y), confidence=confidence)
        placed.append(handle)
    return tuple(placed)


def positions(handles: Sequence[Handle]) -> Tensor:
    """x, y of every handle in a row: float64."""
    return torch.tensor([h.position for h in handles], dtype=torch.float64).reshape(-1)


def flow(handle: Handle, features: Tensor, model: DragModel, template_px: float) -> Tensor:
    """A value each for x and y whose derivative by the features is that of the handle's place."""
    around = offsets_of(handle, template_px).to(features.device)
    points = at([handle.position], features.device) + around
    half = _HALF_STEP / model.frame.scale
    seen = features.detach()
    gradient = []
    for axis in (0, 1):
        step = torch.zeros(2, dtype=torch.float64, device=points.device)
        step[axis] = half
        ahead = sample(seen, model.frame, points + step)
        behind = sample(seen, model.frame, points - step)
        gradient.append(((ahead - behind) / (2 * half)).reshape(-1))
    slope = torch.stack(gradient)  # 2 × n C
    tensor = slope @ slope.t()
    tensor.diagonal().add_(_APERTURE * tensor.diagonal().sum() + 1e-12)
    values = sample(features, model.frame, points).reshape(-1)
    return -torch.linalg.solve(tensor, slope) @ values


def landmark_rows(handle: Handle) -> Tensor:
    """What makes a bound handle's x and y out of the 56 numbers of the landmarks: 2 × 56."""
    weights = handle.memory["weights"].cpu()
    rows = weights.new_zeros(2, lm.NUM_LANDMARKS, 2)
    rows[0, :, 0] = rows[1, :, 1] = weights
    return rows.reshape(2, -1)


def free_share(handles: Sequence[Handle], size: tuple[int, int], model: DragModel) -> Tensor:
    """Where change is kept away from when nothing says otherwise: h × w in [0, 1].

    0 around the handles' ways, 1 elsewhere, with a soft edge.
    """
    height, width = size
    y, x = torch.meshgrid(
        (torch.arange(height, dtype=torch.float64) + 0.5) * model.height / height,
        (torch.arange(width, dtype=torch.float64) + 0.5) * model.width / width,
        indexing="ij",
    )
    centres = torch.stack([x, y], -1)
    side = min(model.width, model.height)
    kept = torch.ones(height, width, dtype=torch.float64)
    for handle in handles:
        start, end = (
            torch.tensor(p, dtype=torch.float64) for p in (handle.position, handle.target)
        )
        way = end - start
        share = ((centres - start) @ way / way.square().sum().clamp_min(1e-12)).clamp(0, 1)
        distance = (centres - start - share[..., None] * way).norm(dim=-1)
        room = max(0.08 * side, 0.6 * math.dist(handle.position, handle.target))
        room += handle.radius_px or 0.0
        kept = torch.minimum(kept, ((distance - room) / (0.1 * side)).clamp(0, 1))
    return kept

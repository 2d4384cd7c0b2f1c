"""Ours: Gauss-Newton steps on where the handles are, within latents that the model draws from.

Motion supervision pulls one pixel ahead at a time with a first-order optimiser, and takes a hundred
steps. But where a handle's patch lies is a function of the latents whose derivative is known: by
the equation of optical flow (Lucas & Kanade 1981) a patch T that F shows at p moves, when the
features change by dF, by dp = -(g g^T)^-1 g dF, with g the gradient of F over the patch. One
backward pass a coordinate gives its derivative by the latents, J. A step then solves

    minimise  |J dw - (wanted move)|^2 / noise^2  +  |u|^2,    dw = spread u,

where u are the *whole* drag's latents, whitened by the model's own distribution (`LatentPrior`):
of all ways to bring the handles there the likeliest is taken, whatever the way that led to it. J is
corrected by what each step really moved (Broyden 1965), and computed anew only now and then. How
far a step may go follows from how well the last one was foretold (trust region, Levenberg 1944).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.edit.drag import DragModel, DragState, Handle, Proposal
from pipeline.edit.sampling import mask_weights, sample
from pipeline.edit.strategies.measuring import (
    LARGEST_LENGTH,
    at,
    mask_loss,
    offsets_of,
    scaled_px,
    track,
)
from pipeline.errors import check_range

# Half the step of the finite difference over a patch, in feature pixels.
_HALF_STEP = 0.5
# Of the patch's structure tensor: an edge says nothing of motion along it.
_APERTURE = 0.02
# How well a step must have been foretold (share of the way) to go farther, or back.
_WELL, _BADLY = 0.6, 0.1
# Random sums over what the mask keeps, each a measurement that should not change.
_SKETCHES = 4


@dataclass(frozen=True)
class Auto:
    """Gauss-Newton on the handles' places with a prior on the latents.

    Lengths are pixels of a 512-pixel picture, except those called px, of the model's own.
    """

    stop_distance: float = 1.0
    search_radius: float = 12.0
    template_radius: float = 3.0
    smallest_stop_px: float = 0.25
    smallest_search_px: float = 3.0
    smallest_template_px: float = 3.0
    trust: float = 24.0  # how far a first step may bring a handle
    smallest_trust_px: float = 2.0
    noise: float = 0.4  # error of a handle's place that is as likely as one deviation of w
    smallest_noise_px: float = 0.5
    common_share: float = 0.9  # of the prior's variance that all rows of ws have in common
    refresh: float = 4.0  # steps after which J is computed anew
    mask_weight: float = 20.0  # of the reported loss; the mask itself acts as measurements

    name = "auto"
    source = "this program: Gauss-Newton on tracked places, whitened latents, trust region"

    def __post_init__(self) -> None:
        for name in ("search_radius", "stop_distance", "trust", "noise"):
            check_range(name, getattr(self, name), 0, LARGEST_LENGTH, low_open=True)
        for name in ("smallest_search_px", "smallest_trust_px"):
            check_range(name, getattr(self, name), 1, LARGEST_LENGTH)
        for name in ("template_radius", "smallest_template_px", "smallest_stop_px"):
            check_range(name, getattr(self, name), 0, LARGEST_LENGTH)
        check_range("smallest_noise_px", self.smallest_noise_px, 0, 100, low_open=True)
        check_range("common_share", self.common_share, 0, 1)
        check_range("refresh", self.refresh, 1, 1000)
        check_range("mask_weight", self.mask_weight, 0, 1e6)

    def stop_distance_px(self, model: DragModel) -> float:
        """The stop distance in the model's pixels."""
        return scaled_px(self.stop_distance, self.smallest_stop_px, model)

    def propose(self, state: DragState, model: DragModel) -> Proposal:
        """Measure `state.ws`, correct J and the trust region, solve for the next latents."""
        memory = state.memory
        first, last = state.free_rows
        anew = not memory or int(memory["age"]) >= int(self.refresh)
        # The mask's random sums stay the same while J does.
        drawn = state.step if anew else int(memory["drawn"])
        free = state.ws[:, first:last].detach().clone().requires_grad_(anew)
        with torch.set_grad_enabled(anew):
            features = model.features(torch.cat([state.ws[:, :first], free, state.ws[:, last:]], 1))
            base = features.detach() if state.base is None else state.base
            handles = self._track(state, features.detach()[0], model)
            kept = self._kept(state, features, base, model, drawn)
            jacobian = (
                self._jacobian(handles, features[0], kept, free, model)
                if anew
                else memory["jacobian"]
            )
        found = torch.cat([_positions(handles), kept.detach().double().cpu()])
        ws, trust, settled = state.ws, self._first_trust(model), False
        if memory:
            trust, foretold = self._judge(found, memory, 2 * len(handles), model)
            settled = trust < 0.5 * self.stop_distance_px(model)
            if foretold < 0:
                # Worse than standing still: back to where the step began, for a shorter one.
                ws, found, jacobian = memory["from_ws"], memory["from"], memory["jacobian"]
                anew, drawn = False, int(memory["drawn"])
            elif not anew:
                moved = (state.ws - memory["from_ws"])[0, first:last]
                jacobian = _broyden(memory, found, moved)
        move = self._solve(state, found, jacobian, ws, trust, model)
        next_ws = ws.clone()
        next_ws[:, first:last] += move
        change = features.new_zeros(())
        if state.mask is not None:
            change = mask_loss(state, model, self.mask_weight)(features.detach(), base)
        return Proposal(
            handles=handles,
            motion_loss=sum(handle.distance_px for handle in handles) / len(handles),
            mask_loss=float(change),
            gradient=-move,
            next_ws=next_ws,
            moments=state.moments,
            base=base,
            memory={
                "jacobian": jacobian,
                "age": torch.tensor(1 if anew else int(memory["age"]) + 1),
                "drawn": torch.tensor(drawn),
                "trust": torch.tensor(trust),
                "from": found,
                "from_ws": ws,
                "foretold": found + torch.einsum("mrd,rd->m", jacobian, move[0]).double().cpu(),
            },
            settled=settled,
        )

    def _first_trust(self, model: DragModel) -> float:
        return scaled_px(self.trust, self.smallest_trust_px, model)

    def _track(self, state: DragState, features: Tensor, model: DragModel) -> tuple[Handle, ...]:
        """The handles, looked for around where the last step should have brought them."""
        search = scaled_px(self.search_radius, self.smallest_search_px, model)
        template = scaled_px(self.template_radius, self.smallest_template_px, model)
        looked = state.handles
        if state.memory:
            places = state.memory["foretold"][: 2 * len(looked)].reshape(-1, 2).tolist()
            looked = tuple(
                replace(h, position=(min(max(x, 0.0), model.width), min(max(y, 0.0), model.height)))
                for h, (x, y) in zip(looked, places, strict=True)
            )
        return track(looked, features, model, search, template)

    # --- J ---

    def _jacobian(
        self,
        handles: Sequence[Handle],
        features: Tensor,
        kept: Tensor,
        free: Tensor,
        model: DragModel,
    ) -> Tensor:
        """Derivative of every measurement by the free rows, m × rows × w_dim."""
        template = scaled_px(self.template_radius, self.smallest_template_px, model)
        values = [place for h in handles for place in _flow(h, features, model, template)]
        rows = [torch.autograd.grad(v, free, retain_graph=True)[0][0] for v in [*values, *kept]]
        # Clones: graphs recorded on a GPU give every gradient in the same memory.
        return torch.stack([row.clone() for row in rows])

    def _kept(
        self, state: DragState, features: Tensor, base: Tensor, model: DragModel, drawn: int
    ) -> Tensor:
        """What the mask keeps, as measurements in pixels: random sums of the change, scaled so that
        a change of one standard deviation everywhere counts as `mask_weight` pixels."""
        if state.mask is None:
            return features.new_zeros(0)
        weights = mask_weights(state.mask, model.frame, (features.shape[2], features.shape[3]))
        draws = torch.Generator().manual_seed(drawn)
        signs = torch.randn(_SKETCHES, *features.shape[1:], generator=draws).to(features)
        change = (features - base)[0] * weights / base.std().clamp_min(1e-6)
        count = (weights.sum() * features.shape[1]).clamp_min(1)
        return self.mask_weight * (signs * change).sum((1, 2, 3)) / (count * _SKETCHES).sqrt()

    # --- the step ---

    def _judge(
        self, found: Tensor, memory: Mapping[str, Tensor], count: int, model: DragModel
    ) -> tuple[float, float]:
        """The trust region's new radius, and how well the last step was foretold (1: exactly)."""
        trust = float(memory["trust"])
        meant = memory["foretold"][:count] - memory["from"][:count]
        missed = memory["foretold"][:count] - found[:count]
        share = 1 - float(missed.norm()) / max(float(meant.norm()), 1e-6)
        if share > _WELL:
            trust = min(trust * 1.5, 4 * self._first_trust(model))
        elif share < _BADLY:
            trust *= 0.5
        return trust, share

    def _solve(
        self,
        state: DragState,
        found: Tensor,
        jacobian: Tensor,
        ws: Tensor,
        trust: float,
        model: DragModel,
    ) -> Tensor:
        """The move of the free rows (1 × rows × w_dim): the regularised least squares above."""
        first, last = state.free_rows
        target = at([h.target for h in state.handles], found.device).reshape(-1)
        handles = len(target)
        wanted = found.new_zeros(len(found), dtype=torch.float64)
        way = (target - found[:handles]).reshape(-1, 2)
        length = way.norm(dim=1, keepdim=True)
        wanted[:handles] = (way * (trust / length.clamp_min(trust))).reshape(-1)
        wanted[handles:] = -found[handles:]
        j = jacobian.double().cpu()
        spread = _spread(model, j)
        white = j @ spread  # m × rows × w_dim, by the whitened latents
        common, own = self.common_share, 1 - self.common_share
        total = white.sum(1)
        matrix = common * total @ total.t() + own * torch.einsum("ird,jrd->ij", white, white)
        noise = scaled_px(self.noise, self.smallest_noise_px, model)
        matrix.diagonal().add_(noise**2)
        done = (ws - state.start_ws)[0, first:last].double().cpu()
        asked = wanted + torch.einsum("mrd,rd->m", j, done)
        solved = torch.linalg.solve(matrix, asked)
        u = common * (solved @ total) + own * torch.einsum("m,mrd->rd", solved, white)
        return (u @ spread.t() - done)[None].to(ws)


def _positions(handles: Sequence[Handle]) -> Tensor:
    """x, y of every handle in a row: float64."""
    return torch.tensor([h.position for h in handles], dtype=torch.float64).reshape(-1)


def _spread(model: DragModel, like: Tensor) -> Tensor:
    if model.prior is None:
        return torch.eye(like.shape[2], dtype=like.dtype, device=like.device)
    return model.prior.spread.to(like)


def _flow(handle: Handle, features: Tensor, model: DragModel, template_px: float) -> Tensor:
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


def _broyden(memory: Mapping[str, Tensor], found: Tensor, move: Tensor) -> Tensor:
    """J corrected so that it explains the last step (Broyden 1965, the "good" update)."""
    jacobian = memory["jacobian"]
    missed = (found - memory["foretold"]).to(jacobian.dtype)
    length = move.square().sum()
    if float(length) < 1e-12:
        return jacobian
    return jacobian + missed[:, None, None] * move / length

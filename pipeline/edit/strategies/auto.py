"""Ours: Gauss-Newton steps on where the handles are, within latents that the model draws from.

Motion supervision pulls one pixel ahead at a time with a first-order optimiser: a hundred steps,
each of which follows the derivative at one place. Where a change is not small - an eye that shuts -
that derivative leads out of what the model can draw: it stretches the open eye. `auto` looks around
first (a *survey*): it moves the latents at random, as the model's own vary, reads the landmarks of
the faces that come of it, and regresses these on the moves. The derivative J found so is that of
the whole neighbourhood. A step then solves

    minimise  |J dw - (way to the targets)|^2 / noise^2 + |change elsewhere|^2 / ... + |u|^2

where u are the *whole* drag's latents, whitened by the model's own distribution (`LatentPrior`): of
all ways to bring the handles there the likeliest is taken. J is corrected by what each step really
moved (Broyden 1965); how far a step may go follows from how well the last one was foretold (trust
region, Levenberg 1944). A step that does not bring the handles nearer is taken back, and there J is
computed exactly, by the chain rule through picture and face reader.

A handle that lies on no line of a readable face is tracked by its features, see `places`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.edit.drag import DragModel, DragState, Handle, Proposal
from pipeline.edit.strategies import gauss_newton, places
from pipeline.edit.strategies.base import Tracking
from pipeline.edit.strategies.gauss_newton import Prior
from pipeline.edit.strategies.measuring import mask_loss, scaled_px, track

# How well a step must have been foretold (share of the way) to go farther, or back.
_WELL, _BADLY = 0.6, 0.1
# A step brings the handles nearer if at most this share of the distance is left.
_NEARER = 0.99
# Directions of change elsewhere that are measured, the largest first.
_KEPT = 24
# Exact derivatives a goal may cost, and steps without gain after which no further one would help.
_EXACT, _FAILURES = 3, 3
# Times the demand may be loosened to stay within reach.
_LOOSER = 24
# Of so few handles on the face's lines the survey learns only what the exact derivative at the
# start, which is cheap then, does not foretell: so many faces a handle are enough. Else all.
_FEW, _FACES_EACH, _FACES = 2, 20, 64


@dataclass(frozen=True, eq=False)
class _Measured:
    """What one step saw. `small`: the picture less the start's, None where nothing asks for it."""

    handles: tuple[Handle, ...]
    features: Tensor | None  # None where nothing asks for them
    base: Tensor  # the features of the drag's first step
    small: Tensor | None

    def numbers(self, kept: Tensor) -> Tensor:
        """Places of the handles, then the change elsewhere as `kept` (k × P) measures it."""
        found = places.positions(self.handles)
        if not len(kept):
            return found
        assert self.small is not None
        return torch.cat([found, kept @ self.small.flatten().double().cpu()])


@dataclass(frozen=True)
class Auto(Tracking):
    """Gauss-Newton on the handles' places with a prior on the latents.

    Lengths are pixels of a 512-pixel picture, except those called px, of the model's own.
    """

    stop_distance: float = 1.0
    smallest_stop_px: float = 0.2
    trust: float = 24.0  # how far a first step may bring a handle
    smallest_trust_px: float = 3.0
    noise: float = 0.8  # error of a handle's place that is as likely as one deviation of w
    smallest_noise_px: float = 0.1
    # The whole drag's length in deviations of w, beyond what its handles make likely: farther out
    # the model draws no faces.
    likely: float = 4.0
    common_share: float = 0.9  # of the prior's variance that all rows of ws have in common
    keep_levels: float = 2.0  # change elsewhere (of 255, rms) as likely as one deviation of w

    name = "auto"
    source = "this program: surveyed Gauss-Newton on landmarks and features, in whitened latents"

    def propose(self, state: DragState, model: DragModel) -> Proposal:
        """Measure `state.ws`, correct J and the trust region, solve for the next latents."""
        memory = state.memory
        rows = slice(*state.free_rows)
        prior = self._prior(state, model)
        measured = self._measure(state, model)
        handles = measured.handles
        ws, trust, exact, failures = state.ws, self._trust_px(model), 0, 0
        if not memory:
            if all(h.distance_px <= self.stop_distance_px(model) for h in handles):
                return self._stay(state, measured)
            jacobian, kept = self._first(state, handles, model, prior)
            found = measured.numbers(kept)
        else:
            jacobian, kept = memory["jacobian"], memory["kept"]
            found = measured.numbers(kept)
            exact, failures = int(memory["exact"]), int(memory["failures"])
            trust, gained = self._judge(found, handles, memory, model)
            step = (state.ws - memory["from_ws"])[0, rows].double().cpu()
            missed = found - memory["foretold"]
            jacobian = gauss_newton.broyden(jacobian, missed, step, prior)
            failures = 0 if gained else failures + 1
            if not gained:
                # No nearer: back to where the step began, for a better or a shorter one.
                ws, found = memory["from_ws"], memory["from"]
                if failures == 1 and exact < _EXACT:
                    jacobian, exact = self._exact(state, ws, handles, jacobian, model), exact + 1
                    trust = max(trust, 0.5 * self._trust_px(model))
        move = self._solve(state, found, jacobian, ws, trust, model, prior)
        next_ws = ws.clone()
        next_ws[:, rows] += move[None].to(ws)
        change = 0.0
        if state.mask is not None:
            assert measured.features is not None
            change = float(
                mask_loss(state, model, self.mask_weight)(measured.features, measured.base)
            )
        return Proposal(
            handles=handles,
            motion_loss=sum(handle.distance_px for handle in handles) / len(handles),
            mask_loss=change,
            gradient=-move[None].to(ws),
            next_ws=next_ws,
            moments=state.moments,
            base=measured.base,
            memory={
                "jacobian": jacobian,
                "kept": kept,
                "trust": torch.tensor(trust),
                "exact": torch.tensor(exact),
                "failures": torch.tensor(failures),
                "from": found,
                "from_ws": ws,
                "foretold": found + torch.einsum("mrd,rd->m", jacobian, move),
            },
            settled=failures >= _FAILURES or trust < 0.25 * self.stop_distance_px(model),
        )

    def _stay(self, state: DragState, measured: _Measured) -> Proposal:
        """The proposal of a drag that has arrived before it began: no survey, no move."""
        rows = slice(*state.free_rows)
        return Proposal(
            handles=measured.handles,
            motion_loss=sum(h.distance_px for h in measured.handles) / len(measured.handles),
            mask_loss=0.0,
            gradient=torch.zeros_like(state.ws[:, rows]),
            next_ws=state.ws,
            moments=state.moments,
            base=measured.base,
        )

    def _trust_px(self, model: DragModel) -> float:
        return scaled_px(self.trust, self.smallest_trust_px, model)

    def _prior(self, state: DragState, model: DragModel) -> Prior:
        if model.prior is None:
            return Prior(torch.eye(state.ws.shape[2], dtype=torch.float64), self.common_share)
        return Prior(model.prior.spread.double().cpu(), self.common_share)

    # --- measuring ---

    @torch.no_grad()
    def _measure(self, state: DragState, model: DragModel) -> _Measured:
        """The handles as `state.ws` has them, and what there is to see."""
        memory = state.memory
        handles = state.handles
        features = state.base
        asked = state.mask is not None or not all(map(places.bound, handles))
        if not memory or asked or features is None:
            features = model.features(state.ws)
        base = features if state.base is None else state.base
        seen = None
        # Later on a picture is of use to handles that are bound and to what is kept.
        if model.view is not None and (not memory or len(memory["kept"])):
            seen = model.view.see(state.ws, state.start_ws, state.mask)
            if not memory:
                handles = places.bind(handles, seen.landmarks, seen.error)
            handles = places.read_places(handles, seen.landmarks, seen.error, model)
        handles = self._track(handles, memory, features[0], model)
        small = None if seen is None else seen.small
        return _Measured(handles, features if asked else None, base, small)

    def _track(
        self,
        handles: tuple[Handle, ...],
        memory: Mapping[str, Tensor],
        features: Tensor,
        model: DragModel,
    ) -> tuple[Handle, ...]:
        """The handles; those that are not bound looked for where they should have come to."""
        search = self.search_px(model)
        template = self.template_px(model)
        looked = []
        for index, handle in enumerate(handles):
            if places.bound(handle):
                continue
            if memory:
                x, y = memory["foretold"][2 * index : 2 * index + 2].tolist()
                x, y = min(max(x, 0.0), model.width), min(max(y, 0.0), model.height)
                handle = replace(handle, position=(x, y))
            looked.append(handle)
        tracked = {h.id: h for h in track(looked, features, model, search, template)}
        return tuple(tracked.get(handle.id, handle) for handle in handles)

    # --- J ---

    def _first(
        self, state: DragState, handles: Sequence[Handle], model: DragModel, prior: Prior
    ) -> tuple[Tensor, Tensor]:
        """J before anything has moved, and what measures the change elsewhere (k × P)."""
        rows = state.free_rows[1] - state.free_rows[0]
        jacobian = torch.zeros(2 * len(handles), rows, state.ws.shape[2], dtype=torch.float64)
        kept = torch.zeros(0, 1, dtype=torch.float64)
        unknown = list(range(len(handles)))
        if model.view is not None and (any(map(places.bound, handles)) or state.mask is not None):
            ours = [handle for handle in handles if places.bound(handle)]
            few = 0 < len(ours) <= _FEW
            faces = _FACES_EACH * len(ours) if few else _FACES
            survey = model.view.survey(state.start_ws, state.free_rows, state.mask, faces)
            kept = self._kept(state, handles, survey.pictures, model)
            values = survey.pictures.flatten(1) @ kept.t()
            there = torch.zeros(len(kept), *jacobian.shape[1:], dtype=torch.float64)
            if survey.landmarks is not None:
                unknown = [i for i in unknown if not places.bound(handles[i])]
                read = [survey.landmarks @ places.landmark_rows(h).t() for h in ours]
                values = torch.cat([values, *read], 1)
                exact = torch.zeros(2 * len(ours), *jacobian.shape[1:], dtype=torch.float64)
                if few:
                    exact = self._exact(state, state.ws, ours, exact[:0], model)
                there = torch.cat([there, exact])
            values = values - survey.moves @ there.sum(1).t()
            found = there + gauss_newton.regressed(survey.moves, values, rows, prior)
            jacobian = torch.cat([jacobian, found[: len(kept)]])
            known = [i for i in range(len(handles)) if i not in unknown]
            for place, index in enumerate(known):
                at_row = len(kept) + 2 * place
                jacobian[2 * index : 2 * index + 2] = found[at_row : at_row + 2]
        exact = self._exact(state, state.ws, [handles[i] for i in unknown], jacobian[:0], model)
        for place, index in enumerate(unknown):
            jacobian[2 * index : 2 * index + 2] = exact[2 * place : 2 * place + 2]
        return jacobian, kept

    def _kept(
        self, state: DragState, handles: Sequence[Handle], pictures: Tensor, model: DragModel
    ) -> Tensor:
        """The survey's largest directions of change where change is not wanted, k × P; scaled so
        that a change of `keep_levels` (rms) counts as much as `noise`."""
        channels, *size = pictures.shape[1:]
        if state.mask is None:
            weights = places.free_share(handles, (size[0], size[1]), model)
        else:
            weights = F.adaptive_avg_pool2d(state.mask[None].double().cpu(), (size[0], size[1]))[0]
        each = weights.flatten().repeat(channels)
        changed = (pictures - pictures.mean(0)).flatten(1) * each
        directions = torch.linalg.svd(changed, full_matrices=False)[2][:_KEPT]
        unit = self._noise_px(model) / (self.keep_levels * float(each.sum().clamp_min(1)) ** 0.5)
        return directions * each * unit

    def _exact(
        self,
        state: DragState,
        ws: Tensor,
        handles: Sequence[Handle],
        jacobian: Tensor,
        model: DragModel,
    ) -> Tensor:
        """J with the handles' rows computed by the chain rule at `ws`; its other rows stay."""
        if not handles:
            return jacobian
        first, last = state.free_rows
        template = self.template_px(model)
        free = ws[:, first:last].detach().clone().requires_grad_(True)
        values: list[Tensor] = []
        with torch.enable_grad():
            whole = torch.cat([ws[:, :first], free, ws[:, last:]], 1)
            landmarks = features = None
            for handle in handles:
                if places.bound(handle):
                    if landmarks is None:
                        assert model.view is not None
                        landmarks = model.view.landmarks(whole, state.start_ws, state.mask)
                    weights = handle.memory["weights"].to(landmarks)
                    values += list(weights @ landmarks)
                else:
                    if features is None:
                        features = model.features(whole)[0]
                    values += list(places.flow(handle, features, model, template))
        found = [torch.autograd.grad(v, free, retain_graph=True)[0][0] for v in values]
        # Clones: graphs recorded on a GPU give every gradient in the same memory.
        exact = torch.stack([row.double().cpu().clone() for row in found])
        return torch.cat([exact, jacobian[len(exact) :]])

    # --- the step ---

    def _noise_px(self, model: DragModel) -> float:
        return scaled_px(self.noise, self.smallest_noise_px, model)

    def _judge(
        self,
        found: Tensor,
        handles: Sequence[Handle],
        memory: Mapping[str, Tensor],
        model: DragModel,
    ) -> tuple[float, bool]:
        """The trust region's new radius, and whether the handles came nearer."""
        trust, target = float(memory["trust"]), _targets(handles)
        began, foretold, ended = (
            values[: len(target)] for values in (memory["from"], memory["foretold"], found)
        )
        before, after = (
            float((target - values).reshape(-1, 2).norm(dim=1).mean()) for values in (began, ended)
        )
        meant = max(float((foretold - began).norm()), 1e-6)
        share = 1 - float((foretold - ended).norm()) / meant
        if share > _WELL:
            trust = min(trust * 1.5, 4 * self._trust_px(model))
        elif share < _BADLY:
            trust *= 0.5
        return trust, after < _NEARER * before

    def _solve(
        self,
        state: DragState,
        found: Tensor,
        jacobian: Tensor,
        ws: Tensor,
        trust: float,
        model: DragModel,
        prior: Prior,
    ) -> Tensor:
        """The move of the free rows (rows × w_dim): the regularised least squares above."""
        target = _targets(state.handles)
        count = len(target)
        way = (target - found[:count]).reshape(-1, 2)
        length = way.norm(dim=1, keepdim=True)
        wanted = torch.cat([(way * (trust / length.clamp_min(trust))).reshape(-1), -found[count:]])
        done = (ws - state.start_ws)[0, slice(*state.free_rows)].double().cpu()
        asked = wanted + torch.einsum("mrd,rd->m", jacobian, done)
        noise = torch.full_like(asked, self._noise_px(model))
        # Faces at random differ in `count` numbers by about sqrt(count) deviations.
        limit = self.likely + count**0.5
        move = prior.solve(jacobian, asked, noise)
        for _ in range(_LOOSER):
            if prior.deviations(move) <= limit:
                break
            # What is asked for is nothing that the model draws: less of it, by a looser demand.
            noise[:count] *= 1.4
            move = prior.solve(jacobian, asked, noise)
        return move - done


def _targets(handles: Sequence[Handle]) -> Tensor:
    return torch.tensor([h.target for h in handles], dtype=torch.float64).reshape(-1)

"""Ours: Gauss-Newton steps on where the handles are, within latents that the model draws from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.edit.drag import DragModel, DragState, Handle, Moments, Proposal
from pipeline.edit.sampling import mask_weights, sample
from pipeline.edit.strategies.measuring import (
    LARGEST_LENGTH,
    at,
    offsets_of,
    scaled_px,
    track,
)
from pipeline.errors import check_range


@dataclass(frozen=True)
class Auto:
    stop_distance: float = 1.0
    search_radius: float = 12.0
    template_radius: float = 3.0
    smallest_search_px: float = 3.0
    smallest_template_px: float = 3.0
    smallest_stop_px: float = 0.25
    trust: float = 16.0
    smallest_trust_px: float = 2.0
    noise_px: float = 0.3
    common: float = 1.0
    own: float = 0.3
    mask_weight: float = 20.0

    name = "auto"
    source = "this program: Gauss-Newton on tracked places with a latent prior"

    def stop_distance_px(self, model: DragModel) -> float:
        """The stop distance in the model's pixels."""
        return scaled_px(self.stop_distance, self.smallest_stop_px, model)

    def propose(self, state: DragState, model: DragModel) -> Proposal:
        search = scaled_px(self.search_radius, self.smallest_search_px, model)
        template = scaled_px(self.template_radius, self.smallest_template_px, model)
        first, last = state.free_rows
        free = state.ws[:, first:last].detach().clone().requires_grad_(True)
        with torch.enable_grad():
            ws = torch.cat([state.ws[:, :first], free, state.ws[:, last:]], 1)
            features = model.features(ws)
            base = features.detach() if state.base is None else state.base
            seen = features.detach()[0]
            guess = tuple(
                replace(h, position=tuple(h.memory["expected"].tolist()))
                if "expected" in h.memory and state.goal_step > 0 else h
                for h in state.handles
            )
            handles = track(guess, seen, model, search, template)
            places = _places(handles, features[0], model, template)  # 2K
            rows = []
            for i in range(len(places)):
                (g,) = torch.autograd.grad(places[i], free, retain_graph=True)
                rows.append(g[0])
        jacobian = torch.stack(rows).double()  # 2K × R × D
        position = at([h.position for h in handles], seen.device)
        target = at([h.target for h in handles], seen.device)
        way = target - position
        length = way.norm(dim=1, keepdim=True)
        trust = scaled_px(self.trust, self.smallest_trust_px, model)
        wanted = (way * (trust / length.clamp_min(trust))).reshape(-1)
        spread = (
            torch.eye(jacobian.shape[2], dtype=torch.float64)
            if model.prior is None
            else model.prior.spread.double()
        )
        gl = jacobian @ spread  # 2K × R × D
        common = gl.sum(1)
        matrix = self.common**2 * common @ common.t() + self.own**2 * torch.einsum(
            "ird,jrd->ij", gl, gl
        )
        done = (state.ws - state.start_ws)[0, first:last].double()
        asked = wanted + torch.einsum("ird,rd->i", jacobian, done)
        noise = self.noise_px**2
        solved = torch.linalg.solve(matrix + noise * torch.eye(len(matrix)), asked)
        u = self.common**2 * (solved @ common)[None] + self.own**2 * torch.einsum(
            "i,ird->rd", solved, gl
        )
        total = u @ spread.t()
        move = total - done
        expected = position + torch.einsum("ird,rd->i", jacobian, move).reshape(-1, 2)
        handles = tuple(
            replace(h, memory={"expected": e.clamp(0, model.width)}) for h, e in zip(handles, expected)
        )
        next_ws = state.ws.clone()
        next_ws[:, first:last] += move.float()
        return Proposal(
            handles=handles, motion_loss=float(length.mean()), mask_loss=0.0,
            gradient=-move.float()[None], next_ws=next_ws, moments=state.moments, base=base,
        )


def _places(handles, features, model, template_px):
    parts = []
    for h in handles:
        around = offsets_of(h, template_px).to(features.device)
        p = at([h.position], features.device) + around
        step = 0.5
        seen = features.detach()
        gx = (sample(seen, model.frame, p + torch.tensor([step, 0.0])) - sample(seen, model.frame, p - torch.tensor([step, 0.0]))) / (2 * step)
        gy = (sample(seen, model.frame, p + torch.tensor([0.0, step])) - sample(seen, model.frame, p - torch.tensor([0.0, step]))) / (2 * step)
        g = torch.stack([gx, gy]).reshape(2, -1).double()
        H = g @ g.t()
        H = H + 1e-3 * H.diagonal().mean() * torch.eye(2)
        value = sample(features, model.frame, p).reshape(-1).double()
        parts.append(-torch.linalg.solve(H, g) @ value)
    return torch.cat(parts)

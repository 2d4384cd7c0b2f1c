"""Finds the latents in which a face has an emotion: a learnt direction, then a short search.

The search minimises, over latents near the face's own,

    sum_k v_k |l_k - t_k|^2 / (2 s^2)  +  b H(shares, expressions)  +  p |u|^2 / 2,

with l_k the landmarks that the face reader reads of the picture, t_k those of the plan, H the cross
entropy with the expressions that the goal stands for, and u the whole change of the latents,
whitened by the model's own distribution (`LatentPrior`), most of it common to all rows. The reader
can be differentiated, so L-BFGS takes a dozen steps. It starts where a learnt direction (see
`directions`) scores best, else at the face itself. What the mask keeps is the face's own picture.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.data import landmarks as lm
from pipeline.data.face_reader import FaceReader
from pipeline.edit.drag import LatentPrior
from pipeline.edit.emotions.directions import LEAST_CHANCE, Directions, log_odds
from pipeline.edit.emotions.plan import EmotionPlan
from pipeline.invert.pti import picture_of

# A landmark's error, in face widths, that is as likely as one deviation of the latents.
SIGMA = 0.018
# Weight of the cross entropy, and what the contour and the nose count beside eyes, brows and mouth.
EXPRESSION_WEIGHT, STEADY_WEIGHT = 2.5, 0.4
# Share of the change that is common to all rows of ws.
COMMON = 0.9
# How far along a direction is tried, as multiples: of what the regression foretells, and of a
# logistic direction's unit length.
ALONG_SOLVED, ALONG_TOWARDS = (0.6, 1.0, 1.5, 2.2, 3.0), (1.0, 2.0, 3.0, 4.5, 6.0)


@dataclass(frozen=True, eq=False)
class Canvas:
    """A face as a model draws it: generator, latents (1 × num_ws × w_dim), who reads it, where
    likely latents lie, and the first and one past the last row that may change."""

    generator: Any
    ws: Tensor
    reader: FaceReader
    prior: LatentPrior
    rows: tuple[int, int]


@dataclass(frozen=True)
class Candidate:
    """A start that was tried: what it is called, how far along, its loss."""

    name: str
    along: float
    loss: float


@dataclass(frozen=True, eq=False)
class Reached:
    """What was found. `loss` and `begun`: at its end and at the face as it was; `start`: what the
    search began from; `method`: what the result is due to."""

    ws: Tensor
    method: str
    start: str
    begun: float
    started: float
    loss: float
    pictures: int  # drawn and read on the way
    seconds: float
    candidates: tuple[Candidate, ...] = ()
    path: tuple[Tensor, ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """What an edit's record says of it."""
        return {
            "method": self.method,
            "start": self.start,
            "loss_before": round(self.begun, 4),
            "loss_at_start": round(self.started, 4),
            "loss": round(self.loss, 4),
            "pictures": self.pictures,
            "candidates": [
                {"name": c.name, "along": c.along, "loss": round(c.loss, 4)}
                for c in self.candidates
            ],
        }


class Wish:
    """The loss of pictures under a plan."""

    def __init__(self, canvas: Canvas, plan: EmotionPlan, prior: float = 1.0) -> None:
        self.canvas, self.prior = canvas, prior
        device = canvas.ws.device
        self.target = torch.tensor(plan.landmark_targets, dtype=torch.float32, device=device)
        self.sigma = SIGMA * plan.face_px
        weights = torch.ones(lm.NUM_LANDMARKS, device=device)
        weights[lm.CONTOUR] = weights[lm.NOSE] = STEADY_WEIGHT
        self.weights = weights
        named = plan.goal.reads_as
        names = canvas.reader.expressions
        self.shares = torch.tensor([named.get(name, 0.0) for name in names], device=device)
        # A half-hearted smile may be read as either; it is led by the landmarks.
        self.expression_weight = EXPRESSION_WEIGHT * (1 - float(named.get("neutral", 0.0)))
        if named.get("neutral", 0.0) >= 1:
            self.expression_weight = EXPRESSION_WEIGHT
        with torch.no_grad():
            self.base = picture_of(canvas.generator, canvas.ws)
        keep = None if plan.mask is None else torch.from_numpy(plan.mask).to(device).float() / 255
        self.keep = keep

    def pictures(self, ws: Tensor) -> Tensor:
        """N×3×H×W: with what the mask keeps as it was."""
        drawn: Tensor = picture_of(self.canvas.generator, ws)
        return drawn if self.keep is None else drawn + self.keep * (self.base - drawn)

    def losses(self, ws: Tensor, unlikely: Tensor) -> Tensor:
        """N losses of N × num_ws × w_dim; `unlikely`: N squared lengths of the change."""
        reading = self.canvas.reader.tensors(self.pictures(ws), mirror=False)
        misses = (reading.landmarks - self.target).square().sum(2) / self.sigma**2
        # One far miss (a lid taken for a brow) must not outvote all the rest (Huber 1964).
        robust = torch.where(misses < 9, misses, 6 * misses.clamp_min(1e-9).sqrt() - 9)
        loss = 0.5 * (robust * self.weights).sum(1)
        chances = reading.expressions.clamp_min(LEAST_CHANCE).log()
        loss = loss - self.expression_weight * (chances * self.shares).sum(1)
        return loss + 0.5 * self.prior * unlikely


def reach(
    canvas: Canvas,
    plan: EmotionPlan,
    directions: Directions | None,
    method: str = "auto",
    steps: int = 14,
    prior: float = 1.0,
) -> Reached:
    """The latents for a plan.

    Args:
        method: "auto", "search": from the best start; "direction": the best start among the
            directions as it is; "solve": from the face itself, without directions.
    """
    began = time.process_time()
    wish = Wish(canvas, plan, prior)
    moves = {"itself": canvas.ws.new_zeros(canvas.ws.shape[2])}
    along = {"itself": 0.0}
    if directions is not None and method != "solve":
        for name, step, move in _directed(canvas, plan, directions, wish):
            moves[f"{name} {step:g}"], along[f"{name} {step:g}"] = move, step
    losses = _tried(wish, list(moves.values()))
    candidates = tuple(
        Candidate(name.partition(" ")[0], along[name], loss)
        for name, loss in zip(moves, losses, strict=True)
    )
    order = range(len(candidates))
    if method == "direction" and len(candidates) > 1:
        order = range(1, len(candidates))
    best = min(order, key=lambda index: losses[index])
    move = list(moves.values())[best]
    count = len(candidates)
    if method == "direction":
        ws, loss, path = _moved(canvas, move[None]), losses[best], tuple[Tensor, ...]()
    else:
        ws, loss, path, taken = _search(wish, move, steps)
        count += taken
    return Reached(
        ws=ws,
        method="direction" if method == "direction" else "search",
        start=candidates[best].name,
        begun=losses[0],
        started=losses[best],
        loss=loss,
        pictures=count,
        seconds=time.process_time() - began,
        candidates=candidates,
        path=path,
    )


def _directed(
    canvas: Canvas, plan: EmotionPlan, directions: Directions, wish: Wish
) -> list[tuple[str, float, Tensor]]:
    """Moves (w_dim) along the learnt directions: "solved" and "towards", each at some lengths."""
    with torch.no_grad():
        now = canvas.reader.tensors(wish.base, mirror=False)
    side = float(max(wish.base.shape[2:]))
    change = torch.zeros(len(directions.measures))
    places = 2 * lm.NUM_LANDMARKS
    change[:places] = ((wish.target - now.landmarks[0]) / side).flatten().cpu()
    found = []
    named = plan.goal.reads_as
    if named and directions.expressions == canvas.reader.expressions:
        odds = log_odds(0.9 * wish.shares.cpu()) - log_odds(now.expressions[0].cpu())
        change[places : places + len(odds)] = odds
        present = {
            name: float(value)
            for name, value in zip(canvas.reader.expressions, now.expressions[0], strict=True)
        }
        move = directions.towards(named, present).to(canvas.ws)
        found += [("towards", step, step * move) for step in ALONG_TOWARDS]
    solved = directions.solve(change).to(canvas.ws)
    return found + [("solved", step, step * solved) for step in ALONG_SOLVED]


@torch.no_grad()
def _tried(wish: Wish, moves: Sequence[Tensor]) -> list[float]:
    spread = wish.canvas.prior.spread
    losses = []
    for move in moves:
        u = torch.linalg.solve_triangular(spread, move.to(spread)[:, None], upper=False)
        ws = _moved(wish.canvas, move[None])
        losses.append(float(wish.losses(ws, u.square().sum()[None].to(ws))[0]))
    return losses


def _moved(canvas: Canvas, move: Tensor) -> Tensor:
    """ws with w_dim or rows × w_dim added to the free rows."""
    first, last = canvas.rows
    ws = canvas.ws.clone()
    ws[:, first:last] = ws[:, first:last] + move
    return ws


def _search(wish: Wish, move: Tensor, steps: int) -> tuple[Tensor, float, tuple[Tensor, ...], int]:
    """L-BFGS from a move; the latents, their loss, those of every round, pictures drawn."""
    canvas = wish.canvas
    first, last = canvas.rows
    spread = canvas.prior.spread.to(canvas.ws)
    u = torch.linalg.solve_triangular(spread, move[:, None], upper=False)[:, 0]
    common = (COMMON**0.5 * u).requires_grad_(True)
    own = ((1 - COMMON) ** 0.5 * u).repeat(last - first, 1).requires_grad_(True)
    solver = torch.optim.LBFGS(
        [common, own],
        max_iter=1,
        max_eval=3,
        history_size=12,
        line_search_fn="strong_wolfe",
        tolerance_change=1e-7,
    )
    taken = 0
    seen: list[tuple[float, Tensor]] = []

    def latents() -> Tensor:
        whole = COMMON**0.5 * common + (1 - COMMON) ** 0.5 * own
        change = whole @ spread.T
        head, tail = canvas.ws[:, :first], canvas.ws[:, last:]
        return torch.cat([head, canvas.ws[:, first:last] + change, tail], 1)

    def closure() -> Tensor:
        nonlocal taken
        solver.zero_grad()
        ws = latents()
        unlikely = common.square().sum() + own.square().sum()
        loss = wish.losses(ws, unlikely[None])[0]
        loss.backward()
        taken += 1
        seen.append((float(loss.detach()), ws.detach()))
        return loss

    path = []
    before = float("inf")
    for _ in range(steps):
        with torch.enable_grad():
            solver.step(closure)
        loss, ws = min(seen, key=lambda pair: pair[0])
        path.append(ws)
        if before - loss < 2e-3 * abs(loss) + 1e-4:
            break
        before = loss
    return ws, loss, tuple(path), taken

"""The drag engine: frozen state and an event in, new state and events out.

Written from Pan et al. 2023, "Drag Your GAN". One drag moves *handles* (points of the picture)
to *targets* by optimising the leading rows of `ws`. The engine keeps the books: which events are
legal when, tracked positions, the best state seen, when to stop and why. How a step measures and
moves is a `Strategy` (strategies.py). It knows no file, clock, thread, network class or page.

    state = start(ws, free_rows)
    state, events = advance(state, AddHandle((40.0, 52.5), (44.0, 50.0)), model, strategy, limits)
    while state.status is Status.DRAGGING:
        state, events = advance(state, Step(), model, strategy, limits)
    ws = result(state)

Points are (x, y) in continuous pixels of the model's picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor

from pipeline.edit.sampling import Frame
from pipeline.errors import AnimedragError, check_range

Point = tuple[float, float]


class DragError(AnimedragError):
    """The caller asked for something a drag cannot do; the state is unchanged."""


class Status(Enum):
    """Where a drag stands."""

    EMPTY = "empty"  # no handle yet
    DRAGGING = "dragging"  # a step is possible
    ARRIVED = "arrived"  # every handle is within the stop distance
    STUCK = "stuck"  # no progress for `patience` steps
    EXHAUSTED = "exhausted"  # the step budget is used up
    STOPPED = "stopped"  # the user said stop


# --- state ---


@dataclass(frozen=True, eq=False)
class Handle:
    """One point being dragged.

    `reference` (n × C) is what the tracker looks for: features around the point when it was set.
    `anchor` (m × C) is what a handle that has arrived is held to; None while it travels.
    """

    id: int
    start: Point
    position: Point
    target: Point
    reference: Tensor | None = None
    anchor: Tensor | None = None
    confidence: float = 1.0

    @property
    def distance_px(self) -> float:
        """Distance left to the target."""
        return math.dist(self.position, self.target)


@dataclass(frozen=True, eq=False)
class Moments:
    """Adam's running averages over the free rows (1 × rows × w_dim) and its step count."""

    first: Tensor
    second: Tensor
    count: int = 0


@dataclass(frozen=True, eq=False)
class Best:
    """The best measured step of the present goal. A smaller score is better.

    The score is (mean distance beyond the stop distance, mean distance), in pixels.
    """

    score: tuple[float, float]
    ws: Tensor
    step: int
    positions: tuple[tuple[int, Point], ...]


@dataclass(frozen=True, eq=False)
class DragState:
    """Everything a drag needs to go on. Tensors in it are never changed in place."""

    ws: Tensor  # 1 × num_ws × w_dim: what the next step measures
    shown_ws: Tensor  # the ws of the last measured step, i.e. of the picture last shown
    start_ws: Tensor
    free_rows: tuple[int, int]  # first and one past the last row that is optimised
    moments: Moments
    status: Status = Status.EMPTY
    handles: tuple[Handle, ...] = ()
    mask: Tensor | None = None  # H × W in [0, 1]; 1 keeps, 0 is free
    base: Tensor | None = None  # 1 × C × h × w features of the first step
    step: int = 0
    goal_step: int = 0  # steps since handles, targets or mask last changed
    best: Best | None = None
    progress: tuple[float, int] = (math.inf, 0)  # score last improved clearly, and at which step
    next_id: int = 1


# --- events in ---


@dataclass(frozen=True)
class AddHandle:
    """Put a handle on the picture last shown."""

    position: Point
    target: Point


@dataclass(frozen=True)
class MoveHandle:
    """Put a handle elsewhere; it gets a new reference there."""

    id: int
    position: Point


@dataclass(frozen=True)
class MoveTarget:
    """Give a handle another target; its reference stays."""

    id: int
    target: Point


@dataclass(frozen=True)
class RemoveHandle:
    """Take a handle away."""

    id: int


@dataclass(frozen=True, eq=False)
class SetMask:
    """Set (H × W in [0, 1], 1 keeps) or remove the keep-mask."""

    mask: Tensor | None


@dataclass(frozen=True)
class Step:
    """Measure once and move once."""


@dataclass(frozen=True)
class Stop:
    """Stop at the user's word."""


@dataclass(frozen=True)
class Continue:
    """Go on after a stop, with a fresh step budget."""


EventIn = AddHandle | MoveHandle | MoveTarget | RemoveHandle | SetMask | Step | Stop | Continue

_EDITS: frozenset[type] = frozenset({AddHandle, MoveHandle, MoveTarget, RemoveHandle, SetMask})
# Which events each status accepts. Handles and mask may change at any time.
LEGAL: dict[Status, frozenset[type]] = {
    Status.EMPTY: frozenset({AddHandle, SetMask}),
    Status.DRAGGING: _EDITS | {Step, Stop},
    Status.ARRIVED: _EDITS,
    Status.STUCK: _EDITS | {Continue},
    Status.EXHAUSTED: _EDITS | {Continue},
    Status.STOPPED: _EDITS | {Continue},
}


# --- events out ---


@dataclass(frozen=True)
class HandleReport:
    """One handle as a step measured it."""

    id: int
    position: Point
    target: Point
    distance_px: float
    confidence: float
    held: bool


@dataclass(frozen=True, eq=False)
class Stepped:
    """A step was taken. Positions and `ws` belong together; the move comes after them."""

    step: int
    loss: float
    motion_loss: float
    mask_loss: float
    handles: tuple[HandleReport, ...]
    ws: Tensor
    gradient: Tensor  # 1 × rows × w_dim

    @property
    def mean_distance_px(self) -> float:
        """Mean distance of the handles to their targets."""
        return sum(handle.distance_px for handle in self.handles) / max(len(self.handles), 1)


@dataclass(frozen=True)
class HandleAdded:
    """A handle was accepted under this id."""

    id: int


@dataclass(frozen=True)
class Ended:
    """The drag left DRAGGING by itself; `reason` is one sentence."""

    status: Status
    reason: str


EventOut = Stepped | HandleAdded | Ended


# --- model and strategy ---


@dataclass(frozen=True)
class DragModel:
    """What the engine needs of a generator."""

    features: Callable[[Tensor], Tensor]  # ws 1 × num_ws × w_dim -> 1 × C × h × w
    frame: Frame
    width: int  # of the picture, pixels
    height: int


@dataclass(frozen=True, eq=False)
class Proposal:
    """What a strategy measured, and the move it proposes."""

    handles: tuple[Handle, ...]
    motion_loss: float
    mask_loss: float
    gradient: Tensor
    next_ws: Tensor
    moments: Moments
    base: Tensor


class Strategy(Protocol):
    """One way of measuring and moving; holds constants only, never state."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str:
        """The paper it is from."""
        ...

    def stop_distance_px(self, model: DragModel) -> float:
        """A handle at most this far from its target has arrived."""
        ...

    def propose(self, state: DragState, model: DragModel) -> Proposal:
        """Measure `state.ws` and propose the next one; pure."""
        ...


@dataclass(frozen=True)
class Limits:
    """When a drag ends although its handles have not arrived."""

    max_steps: int = 300
    patience: int = 80  # steps without clear progress
    min_progress: float = 0.01  # of the distance left: what counts as clear progress

    def __post_init__(self) -> None:
        check_range("max_steps", self.max_steps, 1)
        check_range("patience", self.patience, 1)
        check_range("min_progress", self.min_progress, 0, 1)


# --- the engine ---


def start(ws: Tensor, free_rows: tuple[int, int]) -> DragState:
    """A drag without handles.

    Args:
        ws: 1 × num_ws × w_dim float32, the picture to start from.
        free_rows: first and one past the last row of `ws` that may change.

    Raises:
        DragError: if the shape or the rows are impossible.
    """
    if ws.ndim != 3 or ws.shape[0] != 1:
        raise DragError(f"ws has shape {tuple(ws.shape)}; a drag needs 1 × num_ws × w_dim.")
    first, last = free_rows
    if not 0 <= first < last <= ws.shape[1]:
        raise DragError(f"rows {first}:{last} are not within the {ws.shape[1]} rows of ws.")
    ws = ws.detach().clone()
    return DragState(
        ws=ws, shown_ws=ws, start_ws=ws, free_rows=free_rows, moments=_fresh_moments(ws, free_rows)
    )


def advance(
    state: DragState, event: EventIn, model: DragModel, strategy: Strategy, limits: Limits
) -> tuple[DragState, tuple[EventOut, ...]]:
    """Apply one event. Pure: an illegal event raises DragError and changes nothing."""
    if type(event) not in LEGAL[state.status]:
        raise DragError(
            f"{type(event).__name__} is not possible while a drag is {state.status.value}."
        )
    match event:
        case Step():
            return _step(state, model, strategy, limits)
        case Stop():
            return replace(state, status=Status.STOPPED), ()
        case Continue():
            return _new_goal(state), ()
        case SetMask(mask):
            return _new_goal(replace(state, mask=_checked_mask(mask, model))), ()
        case AddHandle(position, target):
            _check_inside("handle", position, model)
            _check_inside("target", target, model)
            handle = Handle(state.next_id, position, position, target)
            added = replace(state, handles=(*state.handles, handle), next_id=state.next_id + 1)
            return _new_goal(added), (HandleAdded(handle.id),)
        case MoveHandle(id, position):
            _check_inside("handle", position, model)
            old = _find(state, id)
            return _with_handle(state, Handle(id, position, position, old.target)), ()
        case MoveTarget(id, target):
            _check_inside("target", target, model)
            # A held handle has another place to go to now, so it is released.
            return _with_handle(state, replace(_find(state, id), target=target, anchor=None)), ()
        case RemoveHandle(id):
            gone = _find(state, id)
            left = tuple(handle for handle in state.handles if handle is not gone)
            return _new_goal(replace(state, handles=left)), ()


def result(state: DragState) -> Tensor:
    """The ws to keep: those of the best step measured, never worse than any seen."""
    return state.best.ws if state.best is not None else state.shown_ws


def scores(handles: tuple[Handle, ...], stop_px: float) -> tuple[float, float]:
    """(mean distance beyond the stop distance, mean distance) in pixels."""
    distances = [handle.distance_px for handle in handles]
    excess = [max(distance - stop_px, 0.0) for distance in distances]
    return sum(excess) / len(excess), sum(distances) / len(distances)


def _step(
    state: DragState, model: DragModel, strategy: Strategy, limits: Limits
) -> tuple[DragState, tuple[EventOut, ...]]:
    proposal = strategy.propose(state, model)
    stop_px = strategy.stop_distance_px(model)
    score = scores(proposal.handles, stop_px)
    step, goal_step = state.step + 1, state.goal_step + 1
    loss = proposal.motion_loss + proposal.mask_loss
    stepped = Stepped(
        step=step,
        loss=loss,
        motion_loss=proposal.motion_loss,
        mask_loss=proposal.mask_loss,
        handles=tuple(
            HandleReport(
                h.id, h.position, h.target, h.distance_px, h.confidence, h.distance_px <= stop_px
            )
            for h in proposal.handles
        ),
        ws=state.ws,
        gradient=proposal.gradient,
    )
    best = state.best
    if best is None or score < best.score:
        positions = tuple((handle.id, handle.position) for handle in proposal.handles)
        best = Best(score, state.ws, step, positions)
    progress = state.progress
    if score[0] < progress[0] * (1 - limits.min_progress):
        progress = (score[0], goal_step)
    ended = _ending(score, goal_step, progress, proposal, limits)
    after = replace(
        state,
        handles=proposal.handles,
        base=proposal.base,
        shown_ws=state.ws,
        step=step,
        goal_step=goal_step,
        best=best,
        progress=progress,
    )
    if ended is not None:
        return replace(_back_to_best(after), status=ended.status), (stepped, ended)
    return replace(after, ws=proposal.next_ws, moments=proposal.moments), (stepped,)


def _ending(
    score: tuple[float, float],
    goal_step: int,
    progress: tuple[float, int],
    proposal: Proposal,
    limits: Limits,
) -> Ended | None:
    if score[0] == 0:
        return Ended(Status.ARRIVED, f"every handle arrived after {goal_step} steps")
    if not bool(torch.isfinite(proposal.next_ws).all()):
        return Ended(Status.STUCK, "the loss is no longer finite; the best step is kept")
    if goal_step >= limits.max_steps:
        return Ended(
            Status.EXHAUSTED,
            f"{limits.max_steps} steps were not enough, {score[1]:.1f} px are left on average",
        )
    if goal_step - progress[1] >= limits.patience:
        return Ended(
            Status.STUCK,
            f"no progress for {limits.patience} steps, {score[1]:.1f} px are left on average; "
            "the best step is kept",
        )
    return None


def _back_to_best(state: DragState) -> DragState:
    """The state with the ws and positions of its best step, so that it may go on from there."""
    assert state.best is not None
    positions = dict(state.best.positions)
    handles = tuple(replace(h, position=positions[h.id]) for h in state.handles)
    return replace(state, ws=state.best.ws, shown_ws=state.best.ws, handles=handles)


def _new_goal(state: DragState) -> DragState:
    """The goal changed: forget what was best for the old one, keep references and ws.

    The next step measures the picture last shown, so that a new handle's reference is read from
    the very picture it was put on.
    """
    return replace(
        state,
        status=Status.DRAGGING if state.handles else Status.EMPTY,
        ws=state.shown_ws,
        moments=_fresh_moments(state.ws, state.free_rows),
        goal_step=0,
        best=None,
        progress=(math.inf, 0),
    )


def _with_handle(state: DragState, changed: Handle) -> DragState:
    handles = tuple(changed if h.id == changed.id else h for h in state.handles)
    return _new_goal(replace(state, handles=handles))


def _find(state: DragState, handle_id: int) -> Handle:
    for handle in state.handles:
        if handle.id == handle_id:
            return handle
    raise DragError(
        f"there is no handle {handle_id}; there are {[handle.id for handle in state.handles]}."
    )


def _fresh_moments(ws: Tensor, free_rows: tuple[int, int]) -> Moments:
    zero = torch.zeros_like(ws[:, free_rows[0] : free_rows[1]])
    return Moments(zero, zero, 0)


def _check_inside(what: str, point: Point, model: DragModel) -> None:
    x, y = point
    if not (0 <= x <= model.width and 0 <= y <= model.height):
        raise DragError(
            f"the {what} ({x:g}, {y:g}) lies outside the {model.width}×{model.height} picture."
        )


def _checked_mask(mask: Tensor | None, model: DragModel) -> Tensor | None:
    if mask is None:
        return None
    if tuple(mask.shape) != (model.height, model.width):
        raise DragError(
            f"the mask has shape {tuple(mask.shape)}; the picture has "
            f"{(model.height, model.width)} (height, width)."
        )
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise DragError("the mask has values outside [0, 1].")
    return mask.detach().clone()


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

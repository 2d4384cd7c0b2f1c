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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
    LOST = "lost"  # a handle was no longer recognised; the last good state is back
    EXHAUSTED = "exhausted"  # the step budget is used up
    STOPPED = "stopped"  # the user said stop


# --- state ---


@dataclass(frozen=True, eq=False)
class Handle:
    """One point being dragged.

    `reference` (n × C) is what the tracker looks for: features around the point when it was set.
    `anchor` (m × C) is what a handle that has arrived is held to; None while it travels.
    `radius_px`: a region handle takes hold of the whole disc of that radius; None: of a point.
    `memory`: what the strategy wants to know of this handle at the next step; its own business.
    """

    id: int
    start: Point
    position: Point
    target: Point
    reference: Tensor | None = None
    anchor: Tensor | None = None
    confidence: float = 1.0
    radius_px: float | None = None
    memory: Mapping[str, Tensor] = field(default_factory=dict)

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
    """The best measured step of the present goal in which no handle was lost.

    A smaller score is better.

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
    lost_steps: int = 0  # steps in a row in which a handle was not recognised
    memory: Mapping[str, Tensor] = field(default_factory=dict)  # the strategy's, for this goal


# --- events in ---


@dataclass(frozen=True)
class AddHandle:
    """Put a handle on the picture last shown; with a radius, on the whole disc around the point."""

    position: Point
    target: Point
    radius_px: float | None = None


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
    Status.LOST: _EDITS | {Continue},
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


@dataclass(frozen=True, eq=False)
class LatentPrior:
    """Which latents the model was trained to draw from: mean and spread of its w.

    w = mean + spread @ u, with u of unit variance (w_dim; w_dim × w_dim, lower triangular).
    """

    mean: Tensor
    spread: Tensor


@dataclass(frozen=True, eq=False)
class Survey:
    """What faces near the dragged one look like: N small random moves of the free rows, alike in
    all rows, and what each did to the picture.

    `landmarks` is None where the face cannot be read; samples whose face cannot are left out.
    """

    moves: Tensor  # N × w_dim
    landmarks: Tensor | None  # N × 56, pixels of the picture
    pictures: Tensor  # N × 3 × h × w, change of small pictures, in grey levels of 255


@dataclass(frozen=True, eq=False)
class Seen:
    """What one picture shows."""

    landmarks: Tensor  # 28×2, pixels of the picture
    error: float  # of them, expected, in face widths
    # 3 × h × w: change of a small picture since the start, in grey levels; without the mask.
    small: Tensor


class View(Protocol):
    """The pictures of a drag, and the face that is seen in them.

    `start_ws` and `mask` are the drag's: what the mask keeps is drawn as the start has it.
    """

    def see(self, ws: Tensor, start_ws: Tensor, mask: Tensor | None) -> Seen:
        """The picture of ws (1 × num_ws × w_dim) and the face in it."""
        ...

    def landmarks(self, ws: Tensor, start_ws: Tensor, mask: Tensor | None) -> Tensor:
        """28×2 px, a little less exact than `see` has them; differentiable by ws."""
        ...

    def survey(self, start_ws: Tensor, rows: tuple[int, int], mask: Tensor | None) -> Survey:
        """Faces near the start's; the same for the same arguments."""
        ...


@dataclass(frozen=True)
class DragModel:
    """What the engine needs of a generator."""

    # ws N × num_ws × w_dim -> N × C × h × w; a step asks for N = 1, `auto` for more.
    features: Callable[[Tensor], Tensor]
    frame: Frame
    width: int  # of the picture, pixels
    height: int
    # What latents are likely; None: unknown, all directions are alike.
    prior: LatentPrior | None = None
    # The pictures and the faces in them; None: there are features only.
    view: View | None = None


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
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    settled: bool = False  # the strategy knows that no further step would help


class Strategy(Protocol):
    """One way of measuring and moving; holds constants only, never state.

    What it must know at the next step it puts into `Proposal.memory` and `Handle.memory`. The
    former is empty again when the goal changed (`state.goal_step == 0`), the latter stays.
    """

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
    # A handle below this confidence is not recognised; after so many steps of that in a row the
    # drag is lost. One step alone may be a blink.
    min_confidence: float = 0.05
    lost_after: int = 8

    def __post_init__(self) -> None:
        check_range("max_steps", self.max_steps, 1)
        check_range("patience", self.patience, 1)
        check_range("min_progress", self.min_progress, 0, 1)
        check_range("min_confidence", self.min_confidence, 0, 1)
        check_range("lost_after", self.lost_after, 1)


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
        case AddHandle(position, target, radius_px):
            _check_inside("handle", position, model)
            _check_inside("target", target, model)
            _check_radius(radius_px, model)
            handle = Handle(state.next_id, position, position, target, radius_px=radius_px)
            added = replace(state, handles=(*state.handles, handle), next_id=state.next_id + 1)
            return _new_goal(added), (HandleAdded(handle.id),)
        case MoveHandle(id, position):
            _check_inside("handle", position, model)
            old = _find(state, id)
            moved = Handle(id, position, position, old.target, radius_px=old.radius_px)
            return _with_handle(state, moved), ()
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
    # A handle that is not recognised is not where the tracker says: such a step is no good one.
    lost = any(handle.confidence < limits.min_confidence for handle in proposal.handles)
    lost_steps = state.lost_steps + 1 if lost else 0
    if best is None or (not lost and score < best.score):
        positions = tuple((handle.id, handle.position) for handle in proposal.handles)
        best = Best(score, state.ws, step, positions)
    progress = state.progress
    if score[0] < progress[0] * (1 - limits.min_progress):
        progress = (score[0], goal_step)
    ended = _ending(score, goal_step, progress, lost_steps, proposal, limits)
    after = replace(
        state,
        handles=proposal.handles,
        base=proposal.base,
        shown_ws=state.ws,
        step=step,
        goal_step=goal_step,
        best=best,
        progress=progress,
        lost_steps=lost_steps,
        memory=proposal.memory,
    )
    if ended is not None:
        return replace(_back_to_best(after), status=ended.status), (stepped, ended)
    return replace(after, ws=proposal.next_ws, moments=proposal.moments), (stepped,)


def _ending(
    score: tuple[float, float],
    goal_step: int,
    progress: tuple[float, int],
    lost_steps: int,
    proposal: Proposal,
    limits: Limits,
) -> Ended | None:
    if lost_steps >= limits.lost_after:
        lost = [h.id for h in proposal.handles if h.confidence < limits.min_confidence]
        return Ended(
            Status.LOST,
            f"handle {', '.join(map(str, lost))} was no longer recognised for "
            f"{limits.lost_after} steps; the last good step is kept",
        )
    if score[0] == 0 and not lost_steps:
        return Ended(Status.ARRIVED, f"every handle arrived after {goal_step} steps")
    if not bool(torch.isfinite(proposal.next_ws).all()):
        return Ended(Status.STUCK, "the loss is no longer finite; the best step is kept")
    if proposal.settled:
        return Ended(
            Status.STUCK,
            f"no step helps any more after {goal_step}, {score[1]:.1f} px are left on average; "
            "the best step is kept",
        )
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
        lost_steps=0,
        memory={},
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


def _check_radius(radius_px: float | None, model: DragModel) -> None:
    largest = max(model.width, model.height) / 2
    if radius_px is not None and not 0 < radius_px <= largest:
        raise DragError(
            f"the handle's radius is {radius_px:g} px; it must be above 0 and at most {largest:g}, "
            "half the picture."
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

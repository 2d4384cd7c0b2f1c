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
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.edit.drag_model import (
    DragModel,
    LatentPrior,
    Limits,
    Proposal,
    Seen,
    Strategy,
    Survey,
    View,
)
from pipeline.edit.drag_state import (
    LEGAL,
    AddHandle,
    Best,
    Continue,
    DragError,
    DragState,
    Ended,
    EventIn,
    EventOut,
    Handle,
    HandleAdded,
    HandleReport,
    Moments,
    MoveHandle,
    MoveTarget,
    Point,
    RemoveHandle,
    SetMask,
    Status,
    Step,
    Stepped,
    Stop,
)

__all__ = [
    "LEGAL",
    "AddHandle",
    "Best",
    "Continue",
    "DragError",
    "DragModel",
    "DragState",
    "Ended",
    "EventIn",
    "EventOut",
    "Handle",
    "HandleAdded",
    "HandleReport",
    "LatentPrior",
    "Limits",
    "Moments",
    "MoveHandle",
    "MoveTarget",
    "Point",
    "Proposal",
    "RemoveHandle",
    "Seen",
    "SetMask",
    "Status",
    "Step",
    "Stepped",
    "Stop",
    "Strategy",
    "Survey",
    "View",
    "advance",
    "result",
    "scores",
    "start",
]


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
            f"no step helps any more after {goal_step}; the best step is kept",
        )
    if goal_step >= limits.max_steps:
        return Ended(
            Status.EXHAUSTED,
            f"{limits.max_steps} steps were not enough; the best step is kept",
        )
    if goal_step - progress[1] >= limits.patience:
        return Ended(
            Status.STUCK,
            f"no progress for {limits.patience} steps; the best step is kept",
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

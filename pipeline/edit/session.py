"""The studio's session: messages in, a new session and events out; no socket, clock or thread.

A session is a drag with a memory. Every picture that was made is a *frame*; frames know which one
they came from, so that scrubbing back and dragging on from there begins a branch and loses nothing.
Every thing the artist did is a *node* of the undo tree: the drag's state, and the frame shown.
Nothing is ever removed, so undo, redo and scrubbing only choose what is shown.

    session = begin(ws, free_rows)
    session, events = receive(session, Add((40.0, 52.5), (44.0, 50.0)), engine)
    session, _ = receive(session, Run(), engine)
    while session.running:
        session, events = receive(session, Tick(), engine)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from pipeline.edit import drag
from pipeline.edit.drag import (
    AddHandle,
    Continue,
    DragModel,
    DragState,
    HandleAdded,
    Limits,
    MoveHandle,
    MoveTarget,
    Point,
    RemoveHandle,
    SetMask,
    Status,
    Step,
    Stepped,
    Strategy,
)
from pipeline.errors import AnimedragError

# A frame keeps its latents (some 20 KB) and its picture; beyond this a session is an accident.
MAX_FRAMES = 5000
# Each handle costs time at every step, and a face has 28 landmarks.
MAX_HANDLES = 40


class SessionError(AnimedragError):
    """The message cannot be carried out; the session is unchanged."""


# --- state ---


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture that was made, and where the handles were in it."""

    id: int
    parent: int | None
    step: int  # of the drag that made it; 0 for the start picture
    ws: Tensor  # 1 × num_ws × w_dim
    positions: Mapping[int, Point] = field(default_factory=dict)
    distance_px: float | None = None  # mean distance left


@dataclass(frozen=True, eq=False)
class Node:
    """One thing that was done: the state after it, the frame shown, the last frame beyond it."""

    id: int
    parent: int | None
    label: str
    state: DragState
    frame: int
    tip: int


@dataclass(frozen=True)
class Engine:
    """What a session needs in order to drag."""

    model: DragModel
    strategy: Strategy
    limits: Limits


@dataclass(frozen=True, eq=False)
class Session:
    """Everything there is; `current` is the node shown, `visited` the children redo returns to."""

    frames: tuple[Frame, ...]
    nodes: tuple[Node, ...]
    current: int = 0
    running: bool = False
    reason: str = ""  # why the drag stopped by itself; "" while it did not
    pairs: tuple[tuple[int, int], ...] = ()
    visited: Mapping[int, int] = field(default_factory=dict)

    @property
    def node(self) -> Node:
        return self.nodes[self.current]

    @property
    def state(self) -> DragState:
        return self.node.state

    @property
    def frame(self) -> Frame:
        return self.frames[self.node.frame]

    @property
    def can_undo(self) -> bool:
        return self.node.parent is not None

    @property
    def can_redo(self) -> bool:
        return self.current in self.visited

    def timeline(self) -> list[int]:
        """The frames from the first one to the last one beyond the frame shown."""
        path = []
        at: int | None = self.node.tip
        while at is not None:
            path.append(at)
            at = self.frames[at].parent
        return path[::-1]

    def partner(self, handle: int) -> int | None:
        """The other handle of a mirrored pair."""
        for one, other in self.pairs:
            if handle in (one, other):
                return other if handle == one else one
        return None


# --- messages in ---


@dataclass(frozen=True)
class Add:
    """Put a handle on the picture shown; `mirrored`: and another one on the other half."""

    position: Point
    target: Point
    mirrored: bool = False


@dataclass(frozen=True)
class Move:
    """Give a handle another place, another target, or both; its partner follows."""

    id: int
    position: Point | None = None
    target: Point | None = None


@dataclass(frozen=True)
class Remove:
    """Take a handle and its partner away."""

    id: int


@dataclass(frozen=True, eq=False)
class Mask:
    """H × W in [0, 1]: 1 keeps; None removes it."""

    mask: Tensor | None


@dataclass(frozen=True)
class Run:
    """Drag until the handles arrive or somebody stops it."""


@dataclass(frozen=True)
class Pause:
    """Stop dragging; the picture stays as it is."""


@dataclass(frozen=True)
class StepOnce:
    """One step, then pause."""


@dataclass(frozen=True)
class Tick:
    """The time for a step has come; nothing happens while paused."""


@dataclass(frozen=True)
class Seek:
    """Show a frame of the timeline, and go on from there."""

    frame: int


@dataclass(frozen=True)
class Undo:
    """Back to before the last thing that was done."""


@dataclass(frozen=True)
class Redo:
    """The opposite of undo."""


MessageIn = Add | Move | Remove | Mask | Run | Pause | StepOnce | Tick | Seek | Undo | Redo


# --- events out ---


@dataclass(frozen=True, eq=False)
class FrameMade:
    """A step made this picture."""

    frame: Frame
    loss: float


@dataclass(frozen=True)
class Changed:
    """Something else than the frame changed: handles, mask, the node, running."""


@dataclass(frozen=True)
class Ended:
    """The drag stopped by itself; `reason` is one sentence."""

    status: Status
    reason: str


EventOut = FrameMade | Changed | Ended
_Answer = tuple[Session, tuple[EventOut, ...]]


# --- the machine ---


def begin(ws: Tensor, free_rows: tuple[int, int]) -> Session:
    """A session on the picture of `ws` (1 × num_ws × w_dim), see `drag.start`."""
    state = drag.start(ws, free_rows)
    return Session((Frame(0, None, 0, state.ws),), (Node(0, None, "start", state, 0, 0),))


def receive(session: Session, message: MessageIn, engine: Engine) -> _Answer:
    """Carry out one message. Pure: what is impossible raises and changes nothing.

    Raises:
        AnimedragError: one sentence about what is wrong with the message.
    """
    match message:
        case Add(position, target, mirrored):
            return _add(session, position, target, mirrored, engine)
        case Move():
            return _move(session, message, engine)
        case Remove(id):
            return _remove(session, id, engine)
        case Mask(mask):
            state, _ = _advance(session.state, SetMask(mask), engine)
            return _did(session, "mask", state, again=True), (Changed(),)
        case Run():
            return _run(session, engine)
        case Pause():
            return replace(session, running=False), (Changed(),)
        case StepOnce():
            ready, events = _run(session, engine)
            if not ready.running:
                return ready, events
            stepped, more = _tick(ready, engine)
            return replace(stepped, running=False), (*more, Changed())
        case Tick():
            return _tick(session, engine) if session.running else (session, ())
        case Seek(frame):
            return _seek(session, frame, engine)
        case Undo():
            if session.node.parent is None:
                raise SessionError("There is nothing to undo.")
            back = session.node.parent
            visited = {**session.visited, back: session.current}
            return _at(replace(session, visited=visited), back), (Changed(),)
        case Redo():
            if not session.can_redo:
                raise SessionError("There is nothing to redo.")
            return _at(session, session.visited[session.current]), (Changed(),)


def _add(
    session: Session, position: Point, target: Point, mirrored: bool, engine: Engine
) -> _Answer:
    if len(session.state.handles) + 1 + mirrored > MAX_HANDLES:
        raise SessionError(f"There are {MAX_HANDLES} points already; take one away first.")
    state, first = _with_handle(session.state, position, target, engine)
    pairs = session.pairs
    if mirrored:
        width = engine.model.width
        state, second = _with_handle(
            state, _mirror(position, width), _mirror(target, width), engine
        )
        pairs = (*pairs, (first, second))
    return replace(_did(session, "add", state), pairs=pairs), (Changed(),)


def _with_handle(
    state: DragState, position: Point, target: Point, engine: Engine
) -> tuple[DragState, int]:
    state, events = _advance(state, AddHandle(position, target), engine)
    (added,) = (event for event in events if isinstance(event, HandleAdded))
    return state, added.id


def _move(session: Session, message: Move, engine: Engine) -> _Answer:
    state = _moved(session.state, message, engine)
    partner = session.partner(message.id)
    if partner is not None:
        width = engine.model.width
        position, target = (
            None if point is None else _mirror(point, width)
            for point in (message.position, message.target)
        )
        state = _moved(state, Move(partner, position, target), engine)
    return _did(session, f"move {message.id}", state, again=True), (Changed(),)


def _moved(state: DragState, message: Move, engine: Engine) -> DragState:
    if message.position is not None:
        state, _ = _advance(state, MoveHandle(message.id, message.position), engine)
    if message.target is not None:
        state, _ = _advance(state, MoveTarget(message.id, message.target), engine)
    return state


def _remove(session: Session, handle: int, engine: Engine) -> _Answer:
    state, _ = _advance(session.state, RemoveHandle(handle), engine)
    partner = session.partner(handle)
    if partner is not None:
        state, _ = _advance(state, RemoveHandle(partner), engine)
    pairs = tuple(pair for pair in session.pairs if handle not in pair)
    running = session.running and bool(state.handles)
    return replace(_did(session, "remove", state), pairs=pairs, running=running), (Changed(),)


def _run(session: Session, engine: Engine) -> _Answer:
    state = session.state
    if state.status is Status.EMPTY:
        raise SessionError("There is no point to drag yet: click a point, then where it is to go.")
    if state.status is Status.ARRIVED:
        reason = "Every point has arrived; move a target to go on."
        return replace(session, running=False, reason=reason), (Ended(state.status, reason),)
    if state.status is not Status.DRAGGING:
        state, _ = _advance(state, Continue(), engine)
    ready = session if session.node.label == "drag" and _is_leaf(session) else None
    if ready is None:
        ready = _did(session, "drag", state)
    else:
        ready = _updated(session, state, session.node.frame)
    return replace(ready, running=True, reason=""), (Changed(),)


def _tick(session: Session, engine: Engine) -> _Answer:
    if len(session.frames) >= MAX_FRAMES:
        reason = f"This session holds {MAX_FRAMES} pictures; save it and begin another one."
        ended = Ended(session.state.status, reason)
        return replace(session, running=False, reason=reason), (ended, Changed())
    if session.node.label != "drag" or not _is_leaf(session):  # points changed while it ran
        session = _did(session, "drag", session.state)
    state, events = _advance(session.state, Step(), engine)
    out: list[EventOut] = []
    for event in events:
        if isinstance(event, Stepped):
            positions = {handle.id: handle.position for handle in event.handles}
            session, frame = _framed(
                session, event.step, event.ws, positions, event.mean_distance_px
            )
            out.append(FrameMade(frame, event.loss))
        elif isinstance(event, drag.Ended):
            if state.shown_ws is not session.frame.ws:  # it went back to its best step
                at = {handle.id: handle.position for handle in state.handles}
                mean = sum(handle.distance_px for handle in state.handles) / len(state.handles)
                session, frame = _framed(session, state.step, state.shown_ws, at, mean)
                out.append(FrameMade(frame, 0.0))
            session = replace(session, running=False, reason=event.reason)
            out += [Ended(event.status, event.reason), Changed()]
    return _updated(session, state, session.node.frame), tuple(out)


def _seek(session: Session, frame_id: int, engine: Engine) -> _Answer:
    if not 0 <= frame_id < len(session.frames):
        raise SessionError(f"There is no frame {frame_id}.")
    frame = session.frames[frame_id]
    # Handles that came later are where they were put; what they are recognised by is read anew.
    handles = tuple(
        replace(handle, position=frame.positions[handle.id])
        if handle.id in frame.positions
        else drag.Handle(handle.id, handle.start, handle.start, handle.target)
        for handle in session.state.handles
    )
    state = replace(session.state, ws=frame.ws, shown_ws=frame.ws, handles=handles)
    state, _ = _advance(
        state, SetMask(state.mask), engine
    )  # a new goal: averages and best forgotten
    tip = session.node.tip if frame_id in session.timeline() else frame_id
    sought = _did(session, "seek", state, again=True)
    sought = _replaced(sought, replace(sought.node, frame=frame_id, tip=tip))
    return replace(sought, running=False), (Changed(),)


def _advance(
    state: DragState, event: drag.EventIn, engine: Engine
) -> tuple[DragState, tuple[drag.EventOut, ...]]:
    return drag.advance(state, event, engine.model, engine.strategy, engine.limits)


def _did(session: Session, label: str, state: DragState, again: bool = False) -> Session:
    """A new node after the current one; `again`: the same thing twice in a row is done once."""
    here = session.node
    if again and here.label == label and here.parent is not None and _is_leaf(session):
        return replace(_replaced(session, replace(here, state=state)), reason="")
    node = Node(len(session.nodes), here.id, label, state, here.frame, here.tip)
    visited = {**session.visited, here.id: node.id}
    nodes = (*session.nodes, node)
    return replace(session, nodes=nodes, current=node.id, visited=visited, reason="")


def _is_leaf(session: Session) -> bool:
    return session.current not in session.visited


def _framed(
    session: Session, step: int, ws: Tensor, positions: Mapping[int, Point], distance: float
) -> tuple[Session, Frame]:
    frame = Frame(len(session.frames), session.node.frame, step, ws, positions, distance)
    session = replace(session, frames=(*session.frames, frame))
    return _replaced(session, replace(session.node, frame=frame.id, tip=frame.id)), frame


def _updated(session: Session, state: DragState, frame: int) -> Session:
    return _replaced(session, replace(session.node, state=state, frame=frame))


def _replaced(session: Session, node: Node) -> Session:
    nodes = (*session.nodes[: node.id], node, *session.nodes[node.id + 1 :])
    return replace(session, nodes=nodes)


def _at(session: Session, node: int) -> Session:
    return replace(session, current=node, running=False, reason="")


def _mirror(point: Point, width: int) -> Point:
    return width - point[0], point[1]

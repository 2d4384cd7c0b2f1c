"""What the studio's session does: a message in, a new session and events out.

No socket, clock or thread. Pure: what is impossible raises and changes nothing.

    session = begin(ws, free_rows)
    session, events = receive(session, Add((40.0, 52.5), (44.0, 50.0)), engine)
    session, _ = receive(session, Run(), engine)
    while session.running:
        session, events = receive(session, Tick(), engine)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from pipeline.edit import drag
from pipeline.edit.drag import (
    AddHandle,
    Continue,
    DragState,
    HandleAdded,
    MoveHandle,
    MoveTarget,
    Point,
    RemoveHandle,
    SetMask,
    Status,
    Step,
    Stepped,
)
from pipeline.edit.session import (
    MAX_FRAMES,
    MAX_HANDLES,
    Add,
    Changed,
    Ended,
    Engine,
    EventOut,
    Frame,
    FrameMade,
    Go,
    Mask,
    MessageIn,
    Move,
    Node,
    Pause,
    Play,
    Redo,
    Remove,
    Run,
    Seek,
    Session,
    SessionError,
    StepOnce,
    Tick,
    Undo,
)

_Answer = tuple[Session, tuple[EventOut, ...]]


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
                raise SessionError("no_undo")
            back = session.node.parent
            visited = {**session.visited, back: session.current}
            return _at(replace(session, visited=visited), back), (Changed(),)
        case Redo():
            if not session.can_redo:
                raise SessionError("no_redo")
            return _at(session, session.visited[session.current]), (Changed(),)
        case Go(node):
            return _go(session, node), (Changed(),)
        case Play():
            return _play(session, message, engine)


def _add(
    session: Session, position: Point, target: Point, mirrored: bool, engine: Engine
) -> _Answer:
    if len(session.state.handles) + 1 + mirrored > MAX_HANDLES:
        raise SessionError("many_points", most=MAX_HANDLES)
    state, first = _with_handle(session.state, position, target, engine)
    pairs = session.node.pairs
    if mirrored:
        width = engine.model.width
        state, second = _with_handle(
            state, _mirror(position, width), _mirror(target, width), engine
        )
        pairs = (*pairs, (first, second))
    return _paired(_did(session, "add", state), pairs), (Changed(),)


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
    pairs = tuple(pair for pair in session.node.pairs if handle not in pair)
    removed = _paired(_did(session, "remove", state), pairs)
    return replace(removed, running=session.running and bool(state.handles)), (Changed(),)


def _run(session: Session, engine: Engine) -> _Answer:
    state = session.state
    if state.status is Status.EMPTY:
        raise SessionError("no_points")
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
        raise SessionError("no_frame", number=frame_id)
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
    node = Node(len(session.nodes), here.id, label, state, here.frame, here.tip, here.pairs)
    visited = {**session.visited, here.id: node.id}
    nodes = (*session.nodes, node)
    return replace(session, nodes=nodes, current=node.id, visited=visited, reason="")


def _paired(session: Session, pairs: tuple[tuple[int, int], ...]) -> Session:
    return _replaced(session, replace(session.node, pairs=pairs))


def _is_leaf(session: Session) -> bool:
    return session.current not in session.visited


def _framed(
    session: Session, step: int, ws: Tensor, positions: Mapping[int, Point], distance: float | None
) -> tuple[Session, Frame]:
    frame = Frame(len(session.frames), session.node.frame, step, ws, positions, distance)
    session = replace(session, frames=(*session.frames, frame))
    return _replaced(session, replace(session.node, frame=frame.id, tip=frame.id)), frame


def _updated(session: Session, state: DragState, frame: int) -> Session:
    return _replaced(session, replace(session.node, state=state, frame=frame))


def _replaced(session: Session, node: Node) -> Session:
    nodes = (*session.nodes[: node.id], node, *session.nodes[node.id + 1 :])
    return replace(session, nodes=nodes)


def _play(session: Session, message: Play, engine: Engine) -> _Answer:
    """The points stay where they are; what they are recognised by is read anew."""
    if not message.ws or len(session.frames) + len(message.ws) > MAX_FRAMES:
        raise SessionError("full")
    sought, _ = _seek(session, message.after, engine)
    handles = tuple(
        drag.Handle(handle.id, handle.start, handle.position, handle.target)
        for handle in session.state.handles
    )
    last = message.ws[-1]
    state = replace(sought.state, ws=last, shown_ws=last, handles=handles)
    state, _ = _advance(state, SetMask(state.mask), engine)
    played = _did(replace(session, running=False), message.label, state)
    played = _replaced(played, replace(played.node, frame=message.after))
    positions = {handle.id: handle.position for handle in handles}
    out: list[EventOut] = []
    for number, ws in enumerate(message.ws, 1):
        played, frame = _framed(played, number, ws, positions, None)
        out.append(FrameMade(frame, float("nan")))
    return played, (*out, Changed())


def _go(session: Session, node: int) -> Session:
    """There, with redo leading back along the way that was gone."""
    if not 0 <= node < len(session.nodes):
        raise SessionError("no_node", number=node)
    visited = dict(session.visited)
    # What lies below the node shown stays redo's way; the node's own way up is made redo's, too.
    at = node
    while (parent := session.nodes[at].parent) is not None:
        visited[parent] = at
        at = parent
    return _at(replace(session, visited=visited), node)


def _at(session: Session, node: int) -> Session:
    return replace(session, current=node, running=False, reason="")


def _mirror(point: Point, width: int) -> Point:
    return width - point[0], point[1]

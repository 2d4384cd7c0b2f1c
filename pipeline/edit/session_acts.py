"""What a session's drags did, one after the other: for carrying them out on the drawing itself.

An *act* is one set of handles, each with the way that it went while they were dragged together. A
handle that was taken away, or set somewhere else, begins another act.
"""

from __future__ import annotations

from pipeline.edit.drag import Point, Status
from pipeline.edit.recipe import Move
from pipeline.edit.session import Frame, Node, Session

Act = tuple[Move, ...]

# A drag that ended so has gone as far as its model can: on the drawing it goes all the way.
_AS_FAR_AS_IT_GOES = (Status.ARRIVED, Status.STUCK, Status.LOST, Status.EXHAUSTED)


def acts_of(session: Session) -> tuple[Act, ...]:
    """The acts that led to the frame shown, in pixels of the face.

    None at all where something else than drags led there, such as an emotion that was entered: ways
    of handles would not tell what became of the face.
    """
    makers = _makers(session)
    # The last frame of each act, and its handles: number -> where that handle had been set.
    acts: list[tuple[dict[int, Point], Frame]] = []
    for frame in _led_to_shown(session):
        if makers[frame.id].label != "drag":
            return ()
        known = {handle.id: handle.start for handle in makers[frame.id].state.handles}
        starts = {number: known.get(number, at) for number, at in frame.positions.items()}
        if acts and acts[-1][0] == starts:
            acts.pop()
        acts.append((starts, frame))
    found: list[Act] = []
    ends: dict[tuple[int, Point], Point] = {}  # where each handle, set there, has come to
    for starts, frame in acts:
        ways = {
            number: (ends.get((number, start), start), _end(number, start, frame, makers, ends))
            for number, start in starts.items()
        }
        ends |= {(number, starts[number]): end for number, (_, end) in ways.items()}
        found.append(tuple(Move(*way) for way in ways.values()))
    return tuple(found)


def _led_to_shown(session: Session) -> list[Frame]:
    """The frames from the one after the start picture to the one shown."""
    chain: list[Frame] = []
    frame = session.frame
    while frame.parent is not None:
        chain.insert(0, frame)
        frame = session.frames[frame.parent]
    return chain


def _end(
    number: int,
    start: Point,
    frame: Frame,
    makers: dict[int, Node],
    ends: dict[tuple[int, Point], Point],
) -> Point:
    """Where an act that ends with the frame leaves a handle."""
    node = makers[frame.id]
    target = next((h.target for h in node.state.handles if h.id == number), None)
    all_the_way = node.tip == frame.id and node.state.status in _AS_FAR_AS_IT_GOES
    # What an earlier act took all the way stays there, wherever the model has it.
    if target is not None and (all_the_way or ends.get((number, start)) == target):
        return target
    return frame.positions[number]


def _makers(session: Session) -> dict[int, Node]:
    """Frame -> the node that it was made in."""
    found: dict[int, Node] = {}
    for node in session.nodes:
        at: int | None = node.tip
        # Frames belong to the first node that reaches them.
        while at is not None and at not in found:
            found[at] = node
            at = session.frames[at].parent
    return found

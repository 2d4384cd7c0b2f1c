"""What a session's drags did, one after the other: for carrying them out on the drawing itself.

An *act* is one set of handles, each with the way that it went while they were dragged together. A
handle that was taken away, or set somewhere else, begins another act.
"""

from __future__ import annotations

from pipeline.edit.drag import Point, Status
from pipeline.edit.recipe import Move
from pipeline.edit.session import Frame, Session

Act = tuple[Move, ...]

# A drag that ended so has gone as far as its model can: on the drawing it goes all the way.
_AS_FAR_AS_IT_GOES = (Status.ARRIVED, Status.STUCK, Status.LOST, Status.EXHAUSTED)


def acts_of(session: Session, last: int | None = None) -> tuple[Act, ...]:
    """The acts that led to a frame (None: the one shown), in pixels of the face."""
    chain: list[Frame] = []
    at: int | None = session.frame.id if last is None else last
    while at is not None:
        chain.insert(0, session.frames[at])
        at = session.frames[at].parent
    starts = _starts(session)
    acts: list[Act] = []
    before: dict[int, Point] = {}  # where the handles were when the act before ended
    running: dict[int, Point] = {}  # the starts of the act at hand
    ends: dict[int, Point] = {}
    for frame in chain:
        if not frame.positions:
            continue
        own = {number: starts[frame.id].get(number, at) for number, at in frame.positions.items()}
        if own != running and ends:
            acts.append(_act(running, before, ends))
            before = dict(ends)
        running, ends = own, dict(frame.positions)
    if ends:
        shown_last = chain[-1].id == session.node.tip
        if shown_last and session.state.status in _AS_FAR_AS_IT_GOES:
            ends |= {h.id: h.target for h in session.state.handles if h.id in ends}
        acts.append(_act(running, before, ends))
    return tuple(acts)


def _act(starts: dict[int, Point], before: dict[int, Point], ends: dict[int, Point]) -> Act:
    """A handle that stood in the act before goes on from where it was then."""
    return tuple(Move(before.get(number, starts[number]), end) for number, end in ends.items())


def _starts(session: Session) -> dict[int, dict[int, Point]]:
    """Frame -> handle -> where that handle had been set when the frame was made."""
    found: dict[int, dict[int, Point]] = {}
    for node in session.nodes:
        own = {handle.id: handle.start for handle in node.state.handles}
        at: int | None = node.tip
        # Frames belong to the first node that reaches them.
        while at is not None and at not in found:
            found[at] = own
            at = session.frames[at].parent
    return found

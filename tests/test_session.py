"""The studio's session: every message, undo and redo as a tree, the timeline, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from drag_models import AffinePicture

from pipeline.edit.drag import Limits, Status
from pipeline.edit.session import (
    Add,
    Ended,
    Engine,
    FrameMade,
    Go,
    Mask,
    MessageIn,
    Move,
    Pause,
    Redo,
    Remove,
    Run,
    Seek,
    Session,
    StepOnce,
    Tick,
    Undo,
    begin,
)
from pipeline.edit.session_file import SessionFile
from pipeline.edit.session_machine import receive
from pipeline.edit.strategies import DragGan
from pipeline.errors import AnimedragError

PICTURE = AffinePicture()
ENGINE = Engine(PICTURE.model(), DragGan(learning_rate=0.05), Limits())


def after(*messages: MessageIn, session: Session | None = None) -> Session:
    """The session after these messages."""
    session = session or begin(PICTURE.ws(), (1, 5))
    for message in messages:
        session, _ = receive(session, message, ENGINE)
    return session


def dragged(steps: int, session: Session | None = None) -> Session:
    """One point, and so many steps of a drag, paused."""
    if session is None:
        session = after(Add((20.0, 30.0), (30.0, 30.0)))
    return after(Run(), *[Tick()] * steps, Pause(), session=session)


def test_a_drag_runs_until_its_point_arrives_and_tells_of_every_step() -> None:
    session, frames, end = after(Add((20.0, 30.0), (24.0, 30.0)), Run()), [], None
    while session.running:
        session, events = receive(session, Tick(), ENGINE)
        frames += [event.frame for event in events if isinstance(event, FrameMade)]
        end = next((event for event in events if isinstance(event, Ended)), end)
    assert end is not None
    assert end.status is Status.ARRIVED
    assert session.reason == end.reason
    (handle,) = session.state.handles
    assert handle.distance_px < 1
    x, y = PICTURE.place(session.frame.ws, (20.0, 30.0))
    assert abs(x - 24) < 1
    assert abs(y - 30) < 1
    assert session.timeline() == [0, *(frame.id for frame in frames)]
    left = [frame.distance_px for frame in frames]
    assert left[-1] < left[0] < 4.5


def test_nothing_is_dragged_while_paused() -> None:
    session = dragged(2)
    again, events = receive(session, Tick(), ENGINE)
    assert again is session
    assert events == ()
    once = after(StepOnce(), session=session)
    assert len(once.frames) == len(session.frames) + 1
    assert not once.running


def test_undo_and_redo_walk_what_was_done() -> None:
    start = after(Add((20.0, 30.0), (30.0, 30.0)), Add((40.0, 30.0), (40.0, 36.0)))
    assert [len(after(*[Undo()] * n, session=start).state.handles) for n in range(3)] == [2, 1, 0]
    session = dragged(3, start)
    back = after(Undo(), session=session)
    assert back.frame.id == 0
    assert back.can_redo
    assert len(back.state.handles) == 2
    forth = after(Redo(), session=back)
    assert forth.frame.id == 3
    assert forth.state is session.state


def test_what_is_done_after_an_undo_is_a_branch_and_the_other_one_stays() -> None:
    session = dragged(3)
    branch = dragged(2, after(Undo(), session=session))
    assert branch.timeline() == [0, 4, 5]
    assert session.timeline() == [0, 1, 2, 3]
    other = after(Seek(3), session=branch)  # a frame of the branch that was left
    assert other.timeline() == [0, 1, 2, 3]
    assert other.frame.ws is session.frame.ws


def test_scrubbing_back_shows_a_frame_and_drags_on_from_there() -> None:
    session = dragged(5)
    sought = after(Seek(2), session=session)
    assert sought.frame.id == 2
    assert sought.timeline() == [0, 1, 2, 3, 4, 5]
    assert sought.state.handles[0].position == session.frames[2].positions[1]
    on = dragged(1, sought)
    assert on.timeline() == [0, 1, 2, 6]
    assert on.frames[6].parent == 2
    assert torch.equal(sought.state.ws, session.frames[2].ws)
    forth = after(Seek(5), Seek(1), session=session)  # scrubbing is one thing done, not two
    assert after(Undo(), session=forth).frame.id == 5


def test_points_move_while_it_runs() -> None:
    session = after(Add((20.0, 30.0), (30.0, 30.0)), Run(), Tick(), Tick())
    moved = after(Move(1, target=(20.0, 40.0)), Tick(), session=session)
    assert moved.running
    assert moved.state.handles[0].target == (20.0, 40.0)
    assert moved.timeline() == [0, 1, 2, 3]
    assert not after(Remove(1), session=moved).running


def test_pairs_mirror_each_other() -> None:
    session = after(Add((20.0, 30.0), (22.0, 26.0), mirrored=True))
    one, other = session.state.handles
    assert (other.position, other.target) == ((44.0, 30.0), (42.0, 26.0))
    assert session.partner(one.id) == other.id
    session = after(Move(other.id, target=(40.0, 28.0)), session=session)
    assert session.state.handles[0].target == (24.0, 28.0)
    assert after(Remove(one.id), session=session).state.handles == ()


def test_what_was_undone_leaves_no_partner_behind() -> None:
    paired = after(Add((20.0, 30.0), (22.0, 26.0), mirrored=True))
    single = after(Undo(), Add((10.0, 30.0), (12.0, 26.0)), session=paired)
    (handle,) = single.state.handles
    assert single.partner(handle.id) is None
    moved = after(Move(handle.id, target=(14.0, 26.0)), session=single)
    assert moved.state.handles[0].target == (14.0, 26.0)
    again = after(Go(paired.current), session=moved)
    assert again.partner(1) == 2


def test_any_branch_can_be_gone_to_and_redo_leads_along_it() -> None:
    session = dragged(3)
    left = session.current
    branch = dragged(2, after(Undo(), session=session))
    assert branch.timeline() == [0, 4, 5]
    back = after(Go(left), session=branch)
    assert back.timeline() == [0, 1, 2, 3]
    assert after(Undo(), Redo(), session=back).current == left
    assert after(Go(branch.current), session=back).frame.id == 5


def test_a_mask_is_kept_undone_and_removed() -> None:
    mask = torch.zeros(64, 64)
    mask[:20] = 1
    session = after(Add((20.0, 30.0), (30.0, 30.0)), Mask(mask))
    assert session.state.mask is not None
    assert torch.equal(session.state.mask, mask)
    assert after(Undo(), session=session).state.mask is None
    assert after(Mask(None), session=session).state.mask is None


@pytest.mark.parametrize(
    "message",
    [
        Add((-3.0, 5.0), (4.0, 4.0)),
        Add((4.0, 4.0), (400.0, 4.0)),
        Add((float("nan"), 5.0), (4.0, 4.0)),
        Add((4.0, 4.0), (70.0, 4.0), mirrored=True),
        Move(7, target=(3.0, 3.0)),
        Move(1, position=(3.0, 3.0), target=(99.0, 3.0)),
        Remove(7),
        Seek(99),
        Seek(-1),
        Go(99),
        Go(-1),
        Mask(torch.zeros(3, 3)),
        Mask(torch.full((64, 64), 2.0)),
        Redo(),
    ],
    ids=repr,
)
def test_what_is_impossible_is_refused_and_changes_nothing(message: MessageIn) -> None:
    session = after(Add((20.0, 30.0), (30.0, 30.0)))
    nodes, state = session.nodes, session.state
    with pytest.raises(AnimedragError, match=r".\Z"):
        receive(session, message, ENGINE)
    assert session.nodes is nodes
    assert session.state is state
    assert not session.running


def test_an_empty_session_has_nothing_to_run_or_undo() -> None:
    for message in (Run(), StepOnce(), Undo()):
        with pytest.raises(AnimedragError, match="There is no"):
            after(message)


def test_a_session_comes_back_from_disk_and_drags_on_alike(tmp_path: Path) -> None:
    session = after(Mask(torch.ones(64, 64) * 0.5), session=dragged(3))
    session = after(Seek(2), session=session)
    SessionFile(tmp_path).write(session)
    again = SessionFile(tmp_path).read()
    assert again is not None
    assert again.timeline() == session.timeline()
    assert again.frame.id == 2
    one, other = dragged(2, session), dragged(2, again)
    assert torch.equal(one.frame.ws, other.frame.ws)
    assert after(Undo(), session=again).state.mask is not None


def test_a_damaged_session_is_one_sentence(tmp_path: Path) -> None:
    SessionFile(tmp_path).write(dragged(1))
    next((tmp_path / "nodes").iterdir()).write_bytes(b"torn")
    with pytest.raises(AnimedragError, match="is damaged"):
        SessionFile(tmp_path).read()

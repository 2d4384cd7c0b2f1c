"""The drag engine on pictures whose truth is known, and its books: events, best state, ends."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from drag_models import AffinePicture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.edit import drag
from pipeline.edit.drag import (
    AddHandle,
    Continue,
    DragError,
    DragState,
    Ended,
    EventIn,
    HandleAdded,
    Limits,
    MoveHandle,
    MoveTarget,
    RemoveHandle,
    SetMask,
    Status,
    Step,
    Stepped,
    Stop,
)
from pipeline.edit.sampling import disc, sample
from pipeline.edit.strategies import DragGan, build_strategy
from pipeline.errors import ConfigError

LIMITS = Limits()
FAST = DragGan(learning_rate=0.01)


def begin(picture: AffinePicture, *moves: tuple[drag.Point, drag.Point]) -> DragState:
    state = drag.start(picture.ws(), (1, 5))
    for position, target in moves:
        state = apply(state, AddHandle(position, target), picture)
    return state


def apply(
    state: DragState,
    event: EventIn,
    picture: AffinePicture,
    strategy: DragGan = FAST,
    limits: Limits = LIMITS,
) -> DragState:
    return drag.advance(state, event, picture.model(), strategy, limits)[0]


def run(
    state: DragState,
    picture: AffinePicture,
    strategy: DragGan = FAST,
    limits: Limits = LIMITS,
    steps: int = 400,
) -> tuple[DragState, list[Stepped], Ended | None]:
    seen: list[Stepped] = []
    for _ in range(steps):
        state, events = drag.advance(state, Step(), picture.model(), strategy, limits)
        seen += [event for event in events if isinstance(event, Stepped)]
        for event in events:
            if isinstance(event, Ended):
                return state, seen, event
    return state, seen, None


def snapshot(state: DragState) -> list[object]:
    return [
        value.clone() if isinstance(value, Tensor) else value
        for value in (getattr(state, f.name) for f in fields(state))
    ]


def same(one: list[object], two: list[object]) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
        for a, b in zip(one, two, strict=True)
    )


# --- arriving ---


@pytest.mark.parametrize(
    ("size", "scale", "margin"), [(64, 0.5, 0), (64, 1.0, 0), (128, 0.5, 10), (256, 0.5, 0)]
)
def test_a_handle_arrives_where_its_content_truly_is(size: int, scale: float, margin: int) -> None:
    picture = AffinePicture(size, scale, margin)
    start, target = (size * 0.41, size * 0.53), (size * 0.52, size * 0.45)
    state, _, ended = run(begin(picture, (start, target)), picture)

    assert ended is not None
    assert ended.status is Status.ARRIVED
    truth = picture.place(drag.result(state), start)
    stop = FAST.stop_distance_px(picture.model())
    # The tracker reads a map of pixels 1 / scale wide; a third of one is its error.
    assert math.dist(truth, target) < stop + 0.33 / scale
    assert math.dist(truth, state.handles[0].position) < 0.33 / scale


@pytest.mark.parametrize("turn", [0.0, 1.1, 2.6, 4.0, 5.5])
def test_tracking_follows_the_truth_below_a_pixel(turn: float) -> None:
    picture = AffinePicture(64, 0.5, mode="affine")
    x, y = 22.3, 41.8
    target = (x + 8 * math.cos(turn), y + 8 * math.sin(turn))
    _, seen, _ = run(begin(picture, ((x, y), target)), picture, steps=12)
    places = [step.handles[0].position for step in seen]
    errors = [
        math.dist(picture.place(step.ws, (x, y)), place)
        for step, place in zip(seen, places, strict=True)
    ]
    # Half a pixel is a quarter of one of this map's; whole-pixel tracking is off by more.
    assert max(errors) < 0.75
    assert sum(errors) / len(errors) < 0.35
    assert any(abs(place[0] - x - round(place[0] - x)) > 0.1 for place in places)


@pytest.mark.parametrize("margin", [0, 10])
@pytest.mark.parametrize(
    ("start", "target"), [((1.0, 30.0), (5.0, 30.0)), ((63.5, 62.0), (60.0, 60.0))]
)
def test_handles_at_the_border_follow_the_picture(
    start: drag.Point, target: drag.Point, margin: int
) -> None:
    picture = AffinePicture(64, 0.5, margin)
    state, _, ended = run(begin(picture, (start, target)), picture)
    assert ended is not None
    assert ended.status is Status.ARRIVED
    assert math.dist(picture.place(drag.result(state), start), target) < 1.5


def test_with_the_margin_left_in_a_border_handle_is_read_elsewhere() -> None:
    # What the public program does with StyleGAN3: the map is stretched over the picture together
    # with its margin. At the border that is many pixels off; in the frame it is exact.
    picture = AffinePicture(64, 0.5, 10)
    model = picture.model()
    features = picture.features(picture.ws())[0]
    point = torch.tensor([[2.0, 32.0]], dtype=torch.float64)
    right = sample(features, model.frame, point)
    stretched = replace(model, frame=type(picture.frame)(52 / 64, 0.0))
    wrong = sample(features, stretched.frame, point)
    truth = torch.sin(point.float() @ picture.waves.T + picture.phases)
    assert (right - truth).abs().max() < 0.05
    assert (wrong - truth).abs().max() > 0.5


# --- held handles ---


def test_a_handle_that_has_arrived_is_held_while_another_travels() -> None:
    picture = AffinePicture(64, 0.5, mode="affine")
    pinned, far = (20.0, 20.0), (44.0, 44.0)
    state = begin(picture, (pinned, pinned), (far, (49.0, 40.0)))
    state, seen, ended = run(state, picture)
    assert ended is not None
    assert ended.status is Status.ARRIVED
    drift = [math.dist(picture.place(step.ws, pinned), pinned) for step in seen]
    assert max(drift) < 1.3
    # Without holding, the same drag carries it away: the test would notice.
    free = begin(picture, (far, (49.0, 40.0)))
    _, free_seen, _ = run(free, picture)
    free_drift = [math.dist(picture.place(step.ws, pinned), pinned) for step in free_seen]
    assert max(free_drift) > 2 * max(drift)


# --- what may change ---


def test_only_the_free_rows_change_and_nothing_is_changed_in_place() -> None:
    picture = AffinePicture()
    first = begin(picture, ((20.0, 20.0), (26.0, 24.0)))
    before = snapshot(first)
    state, _, _ = run(first, picture, steps=5)
    assert same(before, snapshot(first))
    assert torch.equal(state.ws[:, :1], picture.ws()[:, :1])
    assert torch.equal(state.ws[:, 5:], picture.ws()[:, 5:])
    assert not torch.equal(state.ws, picture.ws())
    again, _, _ = run(first, picture, steps=5)
    assert torch.equal(again.ws, state.ws)


def test_a_mask_keeps_the_map_and_a_soft_mask_keeps_it_less() -> None:
    picture = AffinePicture(64, 0.5, mode="affine")
    keep = torch.zeros(64, 64)
    keep[:, 40:] = 1

    def change(mask: Tensor | None) -> float:
        state = begin(picture, ((16.0, 30.0), (24.0, 30.0)))
        state = apply(state, SetMask(mask), picture)
        state, _, _ = run(state, picture, steps=40)
        difference = picture.features(state.ws) - picture.features(picture.ws())
        return float(difference[..., 20:].abs().mean())

    free, soft, hard = change(None), change(keep * 0.02), change(keep)
    assert hard < soft < free
    assert hard < 0.3 * free


def test_a_mask_is_compared_with_the_first_picture_even_if_set_later() -> None:
    picture = AffinePicture()
    state = begin(picture, ((16.0, 30.0), (24.0, 30.0)))
    state, _, _ = run(state, picture, steps=10)
    state = apply(state, SetMask(torch.ones(64, 64)), picture)
    _, seen, _ = run(state, picture, steps=1)
    assert seen[0].mask_loss > 0.1


# --- changing handles during the drag ---


def test_adding_and_removing_handles_leaves_the_other_references() -> None:
    picture = AffinePicture(mode="affine")
    state = begin(picture, ((20.0, 20.0), (27.0, 22.0)), ((40.0, 44.0), (36.0, 40.0)))
    state, _, _ = run(state, picture, steps=6)
    kept = state.handles[0].reference
    position = state.handles[0].position
    state, events = drag.advance(
        state, AddHandle((50.0, 12.0), (52.0, 14.0)), picture.model(), FAST, LIMITS
    )
    assert events == (HandleAdded(3),)
    state = apply(state, RemoveHandle(2), picture)
    assert [handle.id for handle in state.handles] == [1, 3]
    assert state.handles[0].reference is kept
    assert state.handles[0].position == position
    # The new handle's reference is what the picture last shown has there.
    shown = state.shown_ws
    state, _, _ = run(state, picture, steps=1)
    wanted = sample(
        picture.features(shown)[0],
        picture.frame,
        torch.tensor([50.0, 12.0], dtype=torch.float64) + disc(FAST.smallest_template_px),
    )
    torch.testing.assert_close(state.handles[1].reference, wanted)
    assert state.handles[0].reference is kept


def test_a_new_target_keeps_the_reference_and_goes_on() -> None:
    picture = AffinePicture()
    start = (30.0, 30.0)
    state, _, ended = run(begin(picture, (start, (34.0, 30.0))), picture)
    assert ended is not None
    assert state.status is Status.ARRIVED
    reference = state.handles[0].reference
    state = apply(state, MoveTarget(1, (30.0, 36.0)), picture)
    assert state.status is Status.DRAGGING
    state, _, _ = run(state, picture)
    assert state.handles[0].reference is reference
    assert math.dist(picture.place(drag.result(state), start), (30.0, 36.0)) < 1.4


def test_a_moved_handle_gets_a_new_reference() -> None:
    picture = AffinePicture()
    state, _, _ = run(begin(picture, ((30.0, 30.0), (40.0, 30.0))), picture, steps=3)
    state = apply(state, MoveHandle(1, (20.0, 20.0)), picture)
    assert state.handles[0].reference is None
    assert state.handles[0].start == (20.0, 20.0)


# --- ends ---


def test_the_result_is_the_best_step_seen() -> None:
    picture = AffinePicture(mode="affine")
    wild = DragGan(learning_rate=0.2)
    state = begin(picture, ((20.0, 20.0), (34.0, 22.0)), ((40.0, 40.0), (28.0, 40.0)))
    state, seen, _ = run(state, picture, strategy=wild, limits=Limits(max_steps=60))
    excess = [sum(max(handle.distance_px - 0.5, 0) for handle in step.handles) / 2 for step in seen]
    best = seen[min(range(len(seen)), key=lambda i: (excess[i], seen[i].mean_distance_px))]
    assert torch.equal(drag.result(state), best.ws)
    assert excess[-1] > min(excess), "the drag never got worse: nothing was tested"
    # And the drag can go on from there.
    assert [handle.position for handle in state.handles] == [h.position for h in best.handles]


def test_it_says_when_it_is_stuck() -> None:
    picture = AffinePicture(mode="shift")
    # A shift cannot bring two points together: opposite targets for the same picture.
    state = begin(picture, ((20.0, 32.0), (30.0, 32.0)), ((44.0, 32.0), (34.0, 32.0)))
    state, seen, ended = run(state, picture, limits=Limits(max_steps=300, patience=25))
    assert ended is not None
    assert ended.status is Status.STUCK
    assert "25 steps" in ended.reason
    assert len(seen) < 150


def test_it_ends_after_its_steps_and_can_go_on() -> None:
    picture = AffinePicture()
    slow, limits = DragGan(learning_rate=1e-4), Limits(max_steps=5)
    state, seen, ended = run(begin(picture, ((20.0, 20.0), (40.0, 20.0))), picture, slow, limits)
    assert ended is not None
    assert (ended.status, len(seen)) == (Status.EXHAUSTED, 5)
    state = apply(state, Continue(), picture)
    state, seen, ended = run(state, picture, slow, limits)
    assert (state.step, len(seen)) == (10, 5)


def test_a_loss_that_is_not_finite_ends_the_drag_with_the_best_state() -> None:
    picture = AffinePicture()
    state, _, _ = run(begin(picture, ((20.0, 20.0), (40.0, 20.0))), picture, steps=3)
    model = picture.model()

    def broken(ws: Tensor) -> Tensor:
        return picture.features(ws) * torch.where(ws.sum() > -1e9, math.nan, 1.0)

    state, events = drag.advance(state, Step(), replace(model, features=broken), FAST, LIMITS)
    assert isinstance(events[-1], Ended)
    assert events[-1].status is Status.STUCK
    assert "finite" in events[-1].reason
    assert torch.isfinite(drag.result(state)).all()


# --- legal events ---


EVENTS: tuple[EventIn, ...] = (
    AddHandle((1.0, 1.0), (2.0, 2.0)),
    MoveHandle(1, (3.0, 3.0)),
    MoveTarget(1, (4.0, 4.0)),
    RemoveHandle(1),
    SetMask(None),
    Step(),
    Stop(),
    Continue(),
)


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_illegal_events_are_refused_and_change_nothing(status: Status, event: EventIn) -> None:
    picture = AffinePicture()
    moves = () if status is Status.EMPTY else (((20.0, 20.0), (40.0, 20.0)),)
    state = replace(begin(picture, *moves), status=status)
    before = snapshot(state)
    if type(event) in drag.LEGAL[status]:
        after = apply(state, event, picture)
        assert after.status in Status
        assert (after.status is Status.EMPTY) == (not after.handles)
    else:
        with pytest.raises(DragError, match=status.value):
            apply(state, event, picture)
    assert same(before, snapshot(state))


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (AddHandle((65.0, 1.0), (2.0, 2.0)), "handle"),
        (AddHandle((1.0, 1.0), (2.0, -2.0)), "target"),
        (AddHandle((math.nan, 1.0), (2.0, 2.0)), "handle"),
        (MoveTarget(9, (1.0, 1.0)), "no handle 9"),
        (SetMask(torch.zeros(3, 3)), "shape"),
        (SetMask(torch.full((64, 64), 2.0)), "outside"),
    ],
)
def test_impossible_events_say_what_is_wrong(event: EventIn, says: str) -> None:
    picture = AffinePicture()
    with pytest.raises(DragError, match=says):
        apply(begin(picture, ((20.0, 20.0), (40.0, 20.0))), event, picture)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(EVENTS), max_size=12))
def test_any_sequence_of_events_leaves_a_sound_state(events: list[EventIn]) -> None:
    picture = AffinePicture(32)
    state = drag.start(picture.ws(), (1, 5))
    for event in events:
        if type(event) not in drag.LEGAL[state.status]:
            continue
        known = {handle.id for handle in state.handles}
        if isinstance(event, MoveHandle | MoveTarget | RemoveHandle) and event.id not in known:
            with pytest.raises(DragError, match="no handle"):
                apply(state, event, picture)
            continue
        state = apply(state, event, picture)
        ids = [handle.id for handle in state.handles]
        assert len(set(ids)) == len(ids)
        assert (state.status is Status.EMPTY) == (not state.handles)
        assert drag.result(state).shape == (1, 6, 6)


def test_strategies_are_built_by_name_with_constants_checked() -> None:
    assert build_strategy("draggan", mask_weight=5).mask_weight == 5  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="draggan"):
        build_strategy("dragan")
    with pytest.raises(ConfigError, match="mask_weight"):
        build_strategy("draggan", mask_wieght=5)
    with pytest.raises(ConfigError, match="learning_rate"):
        build_strategy("draggan", learning_rate=-1)

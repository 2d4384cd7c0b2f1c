"""Every way of dragging, on pictures whose truth is known, and what each one has of its own."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from drag_models import AffinePicture
from torch import Tensor

from pipeline.edit import drag
from pipeline.edit.drag import AddHandle, DragError, DragModel, Limits, Status, Step, Stepped
from pipeline.edit.strategies import STRATEGIES, Auto, FreeDrag, Stable, build_strategy
from pipeline.edit.strategies.measuring import region, track

NAMES = ("draggan", "freedrag", "stable", "auto")
# A picture of 6 latents in place of 512: each must move further.
RATES = {"draggan": 0.01, "freedrag": 0.01, "stable": 0.01}
LIMITS = Limits()
# FreeDrag calls a motion done when its loss has halved, so that it ends about that short.
HALF_WAY = {"freedrag": 0.5}


def strategy_for(name: str) -> drag.Strategy:
    return build_strategy(name, **({"learning_rate": RATES[name]} if name in RATES else {}))


def dragged(
    picture: AffinePicture, name: str, *moves: tuple[drag.Point, drag.Point], steps: int = 300
) -> tuple[drag.DragState, list[Stepped]]:
    model, strategy = picture.model(), strategy_for(name)
    state = drag.start(picture.ws(), (1, 5))
    for start, target in moves:
        state, _ = drag.advance(state, AddHandle(start, target), model, strategy, LIMITS)
    seen: list[Stepped] = []
    while state.status is Status.DRAGGING and len(seen) < steps:
        state, events = drag.advance(state, Step(), model, strategy, LIMITS)
        seen += [event for event in events if isinstance(event, Stepped)]
    return state, seen


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("margin", [0, 10])
def test_every_strategy_brings_a_handle_where_its_content_truly_is(name: str, margin: int) -> None:
    picture = AffinePicture(64, 0.5, margin)
    start, target = (26.2, 34.0), (32.7, 29.4)
    state, _ = dragged(picture, name, (start, target))
    truth = picture.place(drag.result(state), start)
    assert math.dist(truth, target) < max(1.2, HALF_WAY.get(name, 0) * math.dist(start, target))


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_follows_a_handle_at_the_border(name: str) -> None:
    picture = AffinePicture(64, 0.5, 10)
    start, target = (1.5, 30.0), (6.0, 32.0)
    state, _ = dragged(picture, name, (start, target))
    assert math.dist(picture.place(drag.result(state), start), target) < 1.5


@pytest.mark.parametrize("name", NAMES)
def test_two_handles_one_of_them_pinned(name: str) -> None:
    picture = AffinePicture(64, 0.5, mode="affine")
    pinned, far = (20.0, 20.0), (44.0, 44.0)
    state, _ = dragged(picture, name, (pinned, pinned), (far, (49.0, 41.0)))
    ws = drag.result(state)
    assert math.dist(picture.place(ws, pinned), pinned) < 1.5
    assert math.dist(picture.place(ws, far), (49.0, 41.0)) < (4.0 if name in HALF_WAY else 1.5)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_pure_and_repeats_bit_for_bit(name: str) -> None:
    picture = AffinePicture(64, 0.5)
    model, strategy = picture.model(), strategy_for(name)
    state, _ = dragged(picture, name, ((20.0, 20.0), (40.0, 24.0)), steps=2)
    before = state.ws.clone()
    one, _ = drag.advance(state, Step(), model, strategy, LIMITS)
    two, _ = drag.advance(state, Step(), model, strategy, LIMITS)
    assert torch.equal(state.ws, before)
    assert torch.equal(one.ws, two.ws)
    assert not torch.equal(one.ws, state.ws)
    assert torch.equal(one.ws[:, :1], picture.ws()[:, :1])


@pytest.mark.parametrize("name", NAMES)
def test_a_new_target_is_gone_to_after_the_first(name: str) -> None:
    picture = AffinePicture(64, 0.5)
    start = (30.0, 30.0)
    state, _ = dragged(picture, name, (start, (34.0, 30.0)))
    model, strategy = picture.model(), strategy_for(name)
    state, _ = drag.advance(state, drag.MoveTarget(1, (30.0, 35.0)), model, strategy, LIMITS)
    for _ in range(300):
        if state.status is not Status.DRAGGING:
            break
        state, _ = drag.advance(state, Step(), model, strategy, LIMITS)
    short = 3.0 if name in HALF_WAY else 1.5
    assert math.dist(picture.place(drag.result(state), start), (30.0, 35.0)) < short


def test_every_strategy_names_its_source() -> None:
    for name in STRATEGIES:
        made = build_strategy(name)
        assert made.name == name
        assert len(made.source) > 10


def test_auto_takes_far_fewer_steps_than_motion_supervision() -> None:
    moves = (((20.0, 20.0), (34.0, 26.0)),)
    picture = AffinePicture(64, 0.5)
    _, first_order = dragged(picture, "draggan", *moves)
    _, ours = dragged(picture, "auto", *moves)
    assert len(ours) < len(first_order) / 3


def test_autos_derivative_is_the_truth() -> None:
    picture = AffinePicture(64, 1.0, mode="affine")
    model, point = picture.model(), (28.0, 36.0)
    state = drag.start(picture.ws(), (1, 5))
    state, _ = drag.advance(state, AddHandle(point, (40.0, 36.0)), model, Auto(), LIMITS)
    state, _ = drag.advance(state, Step(), model, Auto(), LIMITS)
    found = state.memory["jacobian"]
    for row, column in ((0, 1), (2, 4), (3, 0)):
        ahead, behind = picture.ws(), picture.ws()
        ahead[0, 1 + row, column] += 1e-3
        behind[0, 1 + row, column] -= 1e-3
        ends = [picture.place(ws, point) for ws in (ahead, behind)]
        wanted = [(a - b) / 2e-3 for a, b in zip(*ends, strict=True)]
        assert found[:, row, column].tolist() == pytest.approx(wanted, rel=0.25, abs=0.8)


def test_auto_takes_the_likely_of_two_ways() -> None:
    # Two latents do the same to the picture; the model draws one of them ten times as wide.
    class Twins(AffinePicture):
        def numbers(self, ws: Tensor) -> Tensor:
            x = 10 * (ws[0, 1, 0] + ws[0, 1, 1])
            return torch.stack([x, *[x * 0] * 5])

    picture = Twins(64, 0.5)
    spread = torch.eye(6, dtype=torch.float64)
    spread[0, 0] = 10
    model = replace(picture.model(), prior=drag.LatentPrior(torch.zeros(6), spread))
    state = drag.start(picture.ws(), (1, 5))
    state, _ = drag.advance(state, AddHandle((30.0, 30.0), (34.0, 30.0)), model, Auto(), LIMITS)
    state, _ = drag.advance(state, Step(), model, Auto(), LIMITS)
    moved = state.ws[0, 1]
    assert abs(float(moved[0])) > 50 * abs(float(moved[1]))


def test_freedrags_template_takes_up_more_the_better_it_goes() -> None:
    def kept(loss_scale: float) -> float:
        picture = AffinePicture(64, 0.5)
        model = picture.model()
        strategy = FreeDrag(learning_rate=0.01, inner_steps=1, expected_loss=loss_scale)
        state = drag.start(picture.ws(), (1, 5))
        event = AddHandle((20.0, 20.0), (40.0, 20.0))
        state, _ = drag.advance(state, event, model, strategy, LIMITS)
        state, _ = drag.advance(state, Step(), model, strategy, LIMITS)
        first = state.handles[0].reference
        state, _ = drag.advance(state, Step(), model, strategy, LIMITS)
        second = state.handles[0].reference
        assert first is not None
        assert second is not None
        return float((first - second).abs().mean())

    # A loss far below what was expected is taken up, one far above is not.
    assert kept(5.0) > 10 * kept(0.02)


class Repeating(AffinePicture):
    """Two look-alikes side by side: the same waves every 6 px, and a little that differs."""

    def features(self, ws: Tensor) -> Tensor:
        axis = (torch.arange(self.side) + 0.5) / self.frame.scale
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        n = self.numbers(ws)
        x, y = x + n[0], y + n[1]
        waves = [torch.sin(2 * torch.pi * k * x / 6 + k) for k in (1,)]
        waves += [torch.sin(2 * torch.pi * k * y / 9 + k) for k in (1,)]
        return torch.stack([*waves, 0.35 * torch.sin(x / 12), 0.35 * torch.cos(y / 14)])[None]


def test_stables_filter_answers_less_to_a_look_alike() -> None:
    picture = Repeating(64, 1.0)
    features = picture.features(picture.ws())[0]
    model, strategy = picture.model(), Stable()
    handle = strategy._find(drag.Handle(1, (30.0, 30.0), (30.0, 30.0), (40.0, 30.0)), features,
                            model, 2.0)  # fmt: skip
    own = strategy._find(handle, features, model, 2.0)
    other = strategy._find(replace(handle, position=(36.0, 30.0)), features, model, 2.0)
    assert own.confidence > 0.95
    assert other.confidence < 0.85
    plain = drag.Handle(1, (30.0, 30.0), (30.0, 30.0), (40.0, 30.0))
    (plain,) = track([plain], features, model, 3.0, 3.0)
    (likeness,) = track([replace(plain, position=(36.0, 30.0))], features, model, 3.0, 3.0)
    # Likeness alone takes the other for the handle.
    assert likeness.confidence > other.confidence


# --- region handles ---


def test_a_region_handle_moves_its_disc_and_is_checked() -> None:
    picture = AffinePicture(64, 0.5)
    model, strategy = picture.model(), strategy_for("draggan")
    state = drag.start(picture.ws(), (1, 5))
    event = AddHandle((30.0, 30.0), (35.0, 30.0), radius_px=9.0)
    state, _ = drag.advance(state, event, model, strategy, LIMITS)
    state, _ = drag.advance(state, Step(), model, strategy, LIMITS)
    reference = state.handles[0].reference
    assert reference is not None
    assert len(reference) == len(region(9.0))
    assert float(region(9.0).norm(dim=1).max()) == pytest.approx(9.0)
    for _ in range(200):
        if state.status is not Status.DRAGGING:
            break
        state, _ = drag.advance(state, Step(), model, strategy, LIMITS)
    assert state.status is Status.ARRIVED
    assert math.dist(picture.place(drag.result(state), (30.0, 30.0)), (35.0, 30.0)) < 1.2
    with pytest.raises(DragError, match="radius"):
        drag.advance(state, AddHandle((3.0, 3.0), (4.0, 4.0), 40.0), model, strategy, LIMITS)


# --- lost ---


def test_a_handle_that_is_no_longer_recognised_ends_the_drag_at_the_last_good_state() -> None:
    picture = AffinePicture(64, 0.5)
    model, strategy = picture.model(), strategy_for("draggan")
    limits = Limits(min_confidence=0.3, lost_after=3)
    state = drag.start(picture.ws(), (1, 5))
    event = AddHandle((20.0, 20.0), (40.0, 20.0))
    state, _ = drag.advance(state, event, model, strategy, limits)
    good: list[Stepped] = []
    for _ in range(6):
        state, events = drag.advance(state, Step(), model, strategy, limits)
        good += [event for event in events if isinstance(event, Stepped)]

    def noise(ws: Tensor) -> Tensor:
        # The face is gone: nothing there is like the handle.
        draws = torch.Generator().manual_seed(1)
        return torch.randn(1, 12, 32, 32, generator=draws) + 0 * picture.features(ws)

    gone: DragModel = replace(model, features=noise)
    ends: list[drag.Ended] = []
    for _ in range(3):
        state, events = drag.advance(state, Step(), gone, strategy, limits)
        ends += [event for event in events if isinstance(event, drag.Ended)]
    assert state.status is Status.LOST
    assert "no longer recognised" in ends[0].reason
    assert torch.equal(drag.result(state), good[-1].ws)
    # It may go on from there.
    state, _ = drag.advance(state, drag.Continue(), model, strategy, limits)
    assert state.status is Status.DRAGGING

"""`auto` on the small model that ships: it steers by landmarks, within what the model draws."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data import landmarks as lm
from pipeline.data.face_reader import FaceReader
from pipeline.edit import drag, state_file
from pipeline.edit.blending import Blend
from pipeline.edit.drag import AddHandle, DragModel, DragState, Limits, Status, Step
from pipeline.edit.generator import choose_layer, drag_model, free_rows
from pipeline.edit.proposed_mask import propose_mask
from pipeline.edit.recipe import Move
from pipeline.edit.strategies import Auto, gauss_newton, places
from pipeline.edit.strategies.gauss_newton import Prior
from pipeline.invert.pti import picture_of
from pipeline.models import checkpoint
from torch_utils.pixels import to_uint8

LIMITS = Limits()
UPPER, LOWER = "right_eye_upper_middle", "right_eye_lower_middle"


@pytest.fixture(scope="module")
def network(root: Path) -> Any:
    made: Any = checkpoint.load(root / "assets/start-64", ("G_ema",), "cpu")["G_ema"]
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def reader() -> FaceReader:
    return FaceReader.shipped()


@pytest.fixture(scope="module")
def model(network: Any) -> DragModel:
    return drag_model(network, choose_layer(network))


@torch.no_grad()
def open_eyed(network: Any) -> Tensor:
    """1 × num_ws × w_dim of a face whose eyes are wide open: near the mean one."""
    z = torch.randn(1, network.z_dim, generator=torch.Generator().manual_seed(2))
    ws: Tensor = network.mapping(z, None, truncation_psi=0.4)
    return ws


def begun(network: Any, ws: Tensor, model: DragModel, *moves: Move) -> DragState:
    state = drag.start(ws, free_rows(network, choose_layer(network), 6, False))
    for move in moves:
        event = AddHandle(move.start, move.target)
        state, _ = drag.advance(state, event, model, Auto(), LIMITS)
    return state


def finished(state: DragState, model: DragModel) -> DragState:
    while state.status is Status.DRAGGING:
        state, _ = drag.advance(state, Step(), model, Auto(), LIMITS)
    return state


def shutting(landmarks: np.ndarray, share: float) -> tuple[Move, ...]:
    """Both upper lids brought down to the lower ones, by a share of the way."""
    moves = []
    for side in ("left", "right"):
        upper = landmarks[lm.INDEX[f"{side}_eye_upper_middle"]]
        lower = landmarks[lm.INDEX[f"{side}_eye_lower_middle"]]
        target = upper + share * (lower - upper)
        moves.append(Move((float(upper[0]), float(upper[1])), (float(target[0]), float(target[1]))))
    return tuple(moves)


@torch.no_grad()
def seen(network: Any, ws: Tensor) -> np.ndarray:
    picture: np.ndarray = to_uint8(picture_of(network, ws))[0]
    return picture


def opening(landmarks: np.ndarray) -> float:
    return float(landmarks[lm.INDEX[LOWER], 1] - landmarks[lm.INDEX[UPPER], 1])


def test_it_shuts_an_eye_which_is_no_small_change(
    network: Any, model: DragModel, reader: FaceReader
) -> None:
    ws = open_eyed(network)
    before = reader.read(seen(network, ws))
    state = finished(begun(network, ws, model, *shutting(before.landmarks, 0.4)), model)
    after = reader.read(seen(network, drag.result(state)))
    # It is a face still, whose eyes are about as shut as was asked for.
    assert after.confident
    assert opening(after.landmarks) < 0.5 * opening(before.landmarks)
    left = [handle.distance_px for handle in state.handles]
    assert sum(left) / len(left) < 0.5
    assert state.step < 30


def test_a_step_is_pure_and_a_state_on_disk_goes_on_alike(
    network: Any, model: DragModel, reader: FaceReader, tmp_path: Path
) -> None:
    ws = open_eyed(network)
    moves = shutting(reader.read(seen(network, ws)).landmarks, 0.5)
    state = begun(network, ws, model, *moves)
    state, _ = drag.advance(state, Step(), model, Auto(), LIMITS)
    kept = state.ws.clone()
    one, _ = drag.advance(state, Step(), model, Auto(), LIMITS)
    assert torch.equal(state.ws, kept)
    state_file.write(state, tmp_path / "state")
    # Another process would make the model anew, and look around anew.
    fresh = drag_model(network, choose_layer(network))
    two, _ = drag.advance(state_file.read(tmp_path / "state"), Step(), fresh, Auto(), LIMITS)
    assert torch.equal(one.ws, two.ws)
    assert not torch.equal(one.ws, kept)


def test_under_a_tight_mask_the_eye_shuts_and_all_else_keeps_every_bit(
    network: Any, model: DragModel, reader: FaceReader
) -> None:
    ws = open_eyed(network)
    before = seen(network, ws)
    read = reader.read(before)
    moves = shutting(read.landmarks, 0.7)
    mask = propose_mask(moves, 64, 64, read.landmarks)
    assert (mask == 255).mean() > 0.6
    keep = torch.from_numpy(mask.astype(np.float32) / 255)
    state = begun(network, ws, model, *moves)
    state, _ = drag.advance(state, drag.SetMask(keep), model, Auto(), LIMITS)
    state = finished(state, model)
    with torch.no_grad():
        blend = Blend(network, ws, keep, choose_layer(network), picture_of)
        after = to_uint8(blend.picture(drag.result(state)))[0]
    assert np.array_equal(after[mask == 255], before[mask == 255])
    # Where the handles say they are is what the blended picture shows.
    again = reader.read(after).landmarks
    for index, handle in zip((12, 18), state.handles, strict=True):
        assert math.dist(handle.position, again[index]) < 0.3
    assert opening(again) < 0.75 * opening(read.landmarks)


def test_a_handle_on_a_line_of_the_face_is_bound_and_one_elsewhere_is_tracked(
    network: Any, model: DragModel, reader: FaceReader
) -> None:
    ws = open_eyed(network)
    landmarks = reader.read(seen(network, ws)).landmarks
    chin = (float(landmarks[2, 0]), float(landmarks[2, 1]))
    moves = (Move(chin, (chin[0], chin[1] + 1.0)), Move((32.0, 6.0), (32.0, 7.0)))
    state = begun(network, ws, model, *moves)
    state, _ = drag.advance(state, Step(), model, Auto(), LIMITS)
    on_face, in_hair = state.handles
    assert places.bound(on_face)
    assert not places.bound(in_hair)
    assert in_hair.reference is not None
    assert float(on_face.memory["weights"][2]) > 0.99
    # Set down exactly where the user put it.
    assert math.dist(on_face.position, chin) < 1e-6
    # Both have a derivative.
    assert (state.memory["jacobian"][:4].flatten(1).norm(dim=1) > 0).all()
    state = finished(state, model)
    ended = [handle.distance_px for handle in state.handles]
    assert sum(ended) < 1.5


def test_a_drag_that_has_arrived_already_looks_at_no_further_faces(
    network: Any, reader: FaceReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = open_eyed(network)
    model = drag_model(network, choose_layer(network))
    asked: list[object] = []
    monkeypatch.setattr(model.view, "survey", lambda *arguments: asked.append(arguments))
    x, y = reader.read(seen(network, ws)).landmarks[2].tolist()
    state = begun(network, ws, model, Move((x, y), (x + 0.1, y)))
    state, _ = drag.advance(state, Step(), model, Auto(), LIMITS)
    assert state.status is Status.ARRIVED
    assert torch.equal(drag.result(state), ws)
    assert not asked


@pytest.mark.parametrize(("handles", "faces"), [(1, 20), (2, 40), (5, 64)])
def test_few_handles_ask_for_few_faces(
    network: Any, reader: FaceReader, monkeypatch: pytest.MonkeyPatch, handles: int, faces: int
) -> None:
    ws = open_eyed(network)
    model = drag_model(network, choose_layer(network))
    view: Any = model.view
    survey, asked = view.survey, []

    def counted(*arguments: Any) -> Any:
        *others, count = arguments
        asked.append(count)
        return survey(*others, 8)  # as many as the quickest asks for, to save time

    monkeypatch.setattr(view, "survey", counted)
    points = reader.read(seen(network, ws)).landmarks[[2, 12, 18, 23, 27][:handles]].tolist()
    state = begun(network, ws, model, *(Move((x, y), (x + 2, y)) for x, y in points))
    drag.advance(state, Step(), model, Auto(), LIMITS)
    assert asked == [faces]


def test_what_is_no_face_is_dragged_by_its_features(network: Any) -> None:
    # Latents far from all faces: the reader believes in nothing.
    noise = torch.Generator().manual_seed(0)
    shape = (1, network.num_ws, network.w_dim)
    ws = 30 * torch.randn(*shape, generator=noise)
    model = drag_model(network, choose_layer(network))
    state = begun(network, ws, model, Move((30.0, 30.0), (31.0, 30.0)))
    state, _ = drag.advance(state, Step(), model, Auto(), LIMITS)
    assert not places.bound(state.handles[0])
    assert len(state.memory["kept"]) == 0


def test_the_regression_finds_a_linear_map_and_the_solution_does_what_is_asked() -> None:
    draws = torch.Generator().manual_seed(1)
    size, rows = 8, 3
    spread = torch.randn(size, size, generator=draws, dtype=torch.float64).tril() + 3 * torch.eye(8)
    prior = Prior(spread, 0.9)
    truth = torch.randn(4, size, generator=draws, dtype=torch.float64)
    moves = torch.randn(60, size, generator=draws, dtype=torch.float64) @ spread.t()
    values = moves @ truth.t()
    values += 0.01 * values.std() * torch.randn(60, 4, generator=draws, dtype=torch.float64)
    jacobian = gauss_newton.regressed(moves, values + 7.0, rows, prior)
    assert jacobian.shape == (4, rows, size)
    torch.testing.assert_close(jacobian.sum(1), truth, atol=0.1, rtol=0.1)
    asked = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    move = prior.solve(jacobian, asked, torch.full((4,), 1e-3, dtype=torch.float64))
    done = torch.einsum("mrd,rd->m", jacobian, move)
    torch.testing.assert_close(done, asked, atol=1e-2, rtol=1e-2)
    # Of all such moves the likeliest: any other has a larger Mahalanobis length.
    flat = jacobian.flatten(1)
    other = torch.linalg.lstsq(flat, asked[:, None]).solution.reshape(rows, size)
    assert (prior.weighed(move) * move).sum() < (prior.weighed(other) * other).sum()


def test_broyden_explains_the_last_step_and_changes_nothing_across_it() -> None:
    draws = torch.Generator().manual_seed(2)
    prior = Prior(torch.eye(4, dtype=torch.float64), 0.5)
    jacobian = torch.randn(2, 3, 4, generator=draws, dtype=torch.float64)
    move = torch.randn(3, 4, generator=draws, dtype=torch.float64)
    missed = torch.tensor([0.3, -0.2], dtype=torch.float64)
    after = gauss_newton.broyden(jacobian, missed, move, prior)
    change = torch.einsum("mrd,rd->m", after - jacobian, move)
    torch.testing.assert_close(change, missed)
    still = torch.randn(3, 4, generator=draws, dtype=torch.float64)
    blame = prior.weighed(move)
    still -= (blame * still).sum() / blame.square().sum() * blame
    across = torch.einsum("mrd,rd->m", after - jacobian, still)
    torch.testing.assert_close(across, torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)

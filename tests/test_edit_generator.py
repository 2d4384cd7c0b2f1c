"""The drag's view of real networks: layers, rows, and StyleGAN3's true image coordinates."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.edit import drag, generator
from pipeline.edit.drag import AddHandle, Limits, Status, Step
from pipeline.edit.generator import captured, choose_layer, drag_model, free_rows
from pipeline.edit.sampling import Frame, sample
from pipeline.edit.strategies import DragGan
from pipeline.models import stylegan2, stylegan3
from torch_utils.recording import CannotRecordError

SMALL: dict[str, Any] = {
    "z_dim": 16,
    "c_dim": 0,
    "w_dim": 16,
    "img_channels": 3,
    "mapping_kwargs": {"num_layers": 2},
}


def sg2(resolution: int = 64) -> Any:
    torch.manual_seed(1)
    network = stylegan2.Generator(
        img_resolution=resolution, channel_base=1024, channel_max=16, **SMALL
    )
    return network.eval().requires_grad_(False)


def sg3(kernel: int = 3) -> Any:
    torch.manual_seed(1)
    network = stylegan3.Generator(
        img_resolution=64,
        channel_base=1024,
        channel_max=16,
        conv_kernel=kernel,
        use_radial_filters=kernel == 1,
        **SMALL,
    )
    return network.eval().requires_grad_(False)


def ws_of(network: Any) -> Tensor:
    z = torch.randn(1, network.z_dim, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return network.mapping(z, None)


def test_stylegan2_moves_its_first_rows_and_stylegan3_not_row_0() -> None:
    two, three = sg2(), sg3()
    assert free_rows(two, "b32", 6, False) == (0, 6)
    assert free_rows(two, "b8", 6, False) == (0, 3)
    layer = choose_layer(three)
    first, last = free_rows(three, layer, 6, False)
    assert first == 1
    assert last == min(7, three.synthesis.feature_frame(layer).ws_rows)
    assert free_rows(three, layer, 6, True)[0] == 0


@pytest.mark.parametrize("make", [sg2, sg3])
def test_the_layer_is_no_finer_than_a_quarter_of_the_picture(make: Any) -> None:
    network = make()
    layer = choose_layer(network)
    assert network.synthesis.feature_frame(layer).scale <= 0.25
    model = drag_model(network, layer)
    assert (model.width, model.height) == (64, 64)
    features = model.features(ws_of(network))
    frame = network.synthesis.feature_frame(layer)
    assert features.shape == (1, frame.channels, frame.height, frame.width)


def test_a_drag_measures_in_full_precision_without_gradients_of_scaled_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = sg2()
    asked: list[dict[str, Any]] = []
    features = network.synthesis.features

    def watched(ws: Tensor, layer: str, **options: Any) -> Tensor:
        asked.append(options)
        return features(ws, layer, **options)

    monkeypatch.setattr(network.synthesis, "features", watched)
    drag_model(network, "b16").features(ws_of(network))
    assert asked == [{"noise_mode": "const", "force_fp32": True, "fused_modconv": False}]


@pytest.mark.parametrize("make", [sg2, sg3])
def test_only_the_free_rows_influence_beyond_them_nothing_does(make: Any) -> None:
    network = make()
    layer = choose_layer(network)
    model = drag_model(network, layer)
    ws = ws_of(network)
    rows = network.synthesis.feature_frame(layer).ws_rows
    later, last = ws.clone(), ws.clone()
    later[:, rows:] += 1
    last[:, rows - 1] += 1
    assert torch.equal(model.features(ws), model.features(later))
    assert not torch.equal(model.features(ws), model.features(last))


# --- StyleGAN3: what lies at a place of the picture ---


def moved(network: Any, right_px: float, down_px: float) -> None:
    """Shift the whole picture by turning the screw of the Fourier input."""
    shift = torch.eye(3)
    shift[0, 2], shift[1, 2] = right_px / 64, down_px / 64
    network.synthesis.input.transform.copy_(torch.linalg.inv(shift))


def stretched(frame: Any) -> Frame:
    """The public program's reading: the map, margin and all, stretched over the picture."""
    return replace(frame, scale=frame.width / 64, offset=0.0)


@pytest.mark.parametrize("kernel", [3, 1])
@pytest.mark.parametrize("place", [(3.0, 30.0), (60.0, 6.0), (32.0, 61.5)])
def test_features_at_the_border_follow_the_pictures_content(
    kernel: int, place: tuple[float, float]
) -> None:
    network = sg3(kernel)
    layer = choose_layer(network)
    frame = network.synthesis.feature_frame(layer)
    ws = ws_of(network)
    # A whole feature pixel, so that nothing is lost to interpolation.
    step = 1 / frame.scale
    with torch.no_grad():
        before, picture = network.synthesis.features(ws, layer), network.synthesis(ws)
        moved(network, -step, step)
        after, picture_after = network.synthesis.features(ws, layer), network.synthesis(ws)
    # The picture itself did move there, in its own pixels.
    dx, dy = round(-step), round(step)
    inner = picture_after[..., 10 + dy : 54 + dy, 10 + dx : 54 + dx]
    spread = picture.std()
    assert (inner - picture[..., 10:54, 10:54]).abs().mean() < 0.1 * spread

    start = torch.tensor(place, dtype=torch.float64)
    end = start + torch.tensor([dx, dy])
    scale = before.std()
    true = (sample(before[0], frame, start) - sample(after[0], frame, end)).norm()
    wrong = stretched(frame)
    naive = (sample(before[0], wrong, start) - sample(after[0], wrong, end)).norm()
    assert true < 0.15 * scale * before.shape[1] ** 0.5
    assert naive > 3 * true


def test_the_tracker_finds_a_border_handle_in_a_shifted_stylegan3_picture() -> None:
    network = sg3()
    layer = choose_layer(network)
    model = drag_model(network, layer)
    start = (5.0, 58.0)
    rows = free_rows(network, layer, 6, False)
    limits, strategy = Limits(), DragGan()
    state = drag.start(ws_of(network), rows)
    state, _ = drag.advance(state, AddHandle(start, (12.0, 50.0)), model, strategy, limits)
    state, _ = drag.advance(state, Step(), model, strategy, limits)
    # The picture slides by two pixels each way; the content under the handle goes with it.
    moved(network, 2, -2)
    state = replace(state, ws=state.shown_ws)
    state, _ = drag.advance(state, Step(), model, strategy, limits)
    x, y = state.handles[0].position
    assert abs(x - 7.0) < 0.4
    assert abs(y - 56.0) < 0.4
    assert state.status is Status.DRAGGING


def slid(network: Any, ws: Tensor, since: Tensor) -> tuple[float, float]:
    """By how many pixels the picture has slid from one ws to another, by the Fourier input."""
    shifts = [network.synthesis.input.affine(row[:, 0])[0, 2:] for row in (since, ws)]
    x, y = (64 * (shifts[1] - shifts[0])).tolist()
    return x, y


def dragged_at_the_border(network: Any, frame: Frame | None) -> float:
    """Pixels between a border handle's target and where its content truly came to."""
    layer = choose_layer(network)
    model = drag_model(network, layer)
    if frame is not None:
        model = replace(model, frame=frame)
    # Row 0 alone: the picture slides, and by how much is known exactly.
    ws = ws_of(network)
    state = drag.start(ws, (0, 1))
    start, target = (2.5, 40.0), (8.0, 36.5)
    strategy, limits = DragGan(learning_rate=0.02), Limits(max_steps=120)
    state, _ = drag.advance(state, AddHandle(start, target), model, strategy, limits)
    while state.status is Status.DRAGGING:
        state, _ = drag.advance(state, Step(), model, strategy, limits)
    x, y = slid(network, drag.result(state), ws)
    return math.dist((start[0] + x, start[1] + y), target)


@pytest.mark.parametrize("kernel", [3, 1])
def test_a_handle_at_the_border_ends_where_its_content_truly_is(kernel: int) -> None:
    network = sg3(kernel)
    affine = network.synthesis.input.affine
    draws = torch.Generator().manual_seed(4)
    affine.weight[2:] = torch.randn(2, network.w_dim, generator=draws)
    truly = dragged_at_the_border(network, None)
    frame = network.synthesis.feature_frame(choose_layer(network))
    with_margin = dragged_at_the_border(network, stretched(frame))
    assert truly < 0.8
    # Read with the margin that lies around the picture, the same handle ends elsewhere.
    assert with_margin > 2 * truly + 1


@pytest.mark.parametrize("make", [sg2, sg3])
def test_a_drag_of_a_random_network_gets_nearer(make: Any) -> None:
    network = make()
    layer = choose_layer(network)
    model, strategy = drag_model(network, layer), DragGan(learning_rate=0.02)
    state = drag.start(ws_of(network), free_rows(network, layer, 6, False))
    target = (35.0, 33.0)
    limits = Limits(max_steps=40)
    state, _ = drag.advance(state, AddHandle((31.0, 31.0), target), model, strategy, limits)
    while state.status is Status.DRAGGING:
        state, _ = drag.advance(state, Step(), model, strategy, limits)
    assert state.handles[0].distance_px < 0.7 * 20**0.5
    changed = (drag.result(state) != state.start_ws).any(-1)[0].nonzero().flatten().tolist()
    first, last = state.free_rows
    assert changed
    assert set(changed) <= set(range(first, last))


def test_a_captured_function_gives_maps_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    place = torch.zeros(1, 2, 2, 2)

    def graphed(features: Any, samples: tuple[Tensor, ...]) -> Any:
        assert samples[0].requires_grad
        return lambda ws: place.copy_(features(ws))  # a graph writes to the same memory each time

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    run = captured(lambda ws: ws.sum().expand(1, 2, 2, 2), 3, 4, torch.device("cpu"))
    first = run(torch.ones(1, 3, 4))
    run(torch.zeros_like(torch.ones(1, 3, 4)))
    assert first.unique().tolist() == [12.0]


def test_a_step_that_cannot_be_captured_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise CannotRecordError("operation not permitted when stream is capturing")

    class OnGpu(torch.nn.Parameter):
        device = torch.device("cuda")

    network = sg2()
    plain = drag_model(network, "b16").features(ws_of(network))
    monkeypatch.setattr(generator, "captured", refuse)
    monkeypatch.setattr(network, "parameters", lambda: iter([OnGpu(torch.zeros(1))]))
    assert torch.equal(drag_model(network, "b16").features(ws_of(network)), plain)
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "cannot be recorded as CUDA graphs (operation not permitted" in said[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", [sg2, sg3])
def test_a_captured_step_is_the_step(make: Any) -> None:
    network = make().cuda().requires_grad_(False)
    layer = choose_layer(network)
    model = drag_model(network, layer)
    for seed in range(3):
        torch.manual_seed(seed)
        ws = torch.randn(1, network.num_ws, network.w_dim, device="cuda", requires_grad=True)
        plain = network.synthesis.features(ws, layer, noise_mode="const", force_fp32=True)
        got = model.features(ws)
        torch.testing.assert_close(got, plain, atol=1e-4, rtol=1e-4)
        (expected,) = torch.autograd.grad(plain.square().mean(), ws)
        (gradient,) = torch.autograd.grad(got.square().mean(), ws)
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-3)

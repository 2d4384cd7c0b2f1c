"""The edit stage, driven for real on tiny networks: what it writes, refuses, keeps and resumes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.align import CropTransform, crop
from pipeline.edit import drag, recipe, state_file
from pipeline.edit.config import DragConfig, EditConfig
from pipeline.edit.emotion_config import EmotionConfig
from pipeline.edit.foresight import foresee_edit
from pipeline.edit.recipe import Move, Recipe
from pipeline.edit.stage import check, run
from pipeline.errors import AnimedragError, ArtifactError, ConfigError, DataError, Interrupted
from pipeline.invert import inversion, pti
from pipeline.models import checkpoint, stylegan2, stylegan3
from tests import quick_python

TRANSFORM = CropTransform.square(150.0, 90.0, 110.0, 14.0)
POINTS = "30,34>34,31;40,20>38,22"


def save_model(folder: Path, kind: str) -> Any:
    torch.manual_seed(4)
    module = stylegan3 if kind == "sg3" else stylegan2
    generator = module.Generator(
        z_dim=16,
        c_dim=0,
        w_dim=16,
        img_resolution=64,
        img_channels=3,
        mapping_kwargs={"num_layers": 2},
        channel_base=512,
        channel_max=16,
    )
    folder.mkdir()
    checkpoint.save(folder, {"G_ema": generator})
    return generator.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["sg2", "sg3"])
def inputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of a tiny model and of an inversion made with it."""
    return make_inputs(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def sg2_inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same, StyleGAN2 only, where the network does not matter."""
    return make_inputs(tmp_path_factory.mktemp("only"), "sg2")


def make_inputs(root: Path, kind: str) -> dict[str, Path]:
    generator = save_model(root / "model", kind)
    folder = root / "inversion"
    folder.mkdir()
    z = torch.randn(1, 16, generator=torch.Generator().manual_seed(8))
    ws = generator.mapping(z, None)
    noise = pti.noise_maps(generator)
    inversion.write_latents(folder / "latents.safetensors", ws, noise)
    shown = [(ws, pti.noise_maps(generator))]
    inversion.write_delta(folder / "delta.safetensors", {}, generator, shown)
    rng = np.random.default_rng(1)
    source = rng.integers(0, 256, (200, 260, 3), dtype=np.uint8)
    Image.fromarray(source).save(folder / "source.png")
    Image.fromarray(crop(source, TRANSFORM, 64)).save(folder / "aligned.png")
    info = {
        "format": inversion.FORMAT,
        "model": {"digest": inversion.model_digest(root / "model")},
        "alignment": {"transform": TRANSFORM.to_json()},
    }
    (folder / "inversion.json").write_text(json.dumps(info))
    return {"model": root / "model", "inversion": folder}


def config(**values: Any) -> EditConfig:
    values.setdefault("drag", DragConfig(strategy="draggan", max_steps=12, learning_rate=0.02))
    if "recipe" not in values:
        values.setdefault("points", POINTS)
    return EditConfig(inversion="inversion/x", model="model/x", device="cpu", **values)


def load(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "trace.jsonl").read_text().splitlines()]


def test_an_edit_has_all_its_parts(inputs: dict[str, Path], tmp_path: Path) -> None:
    metrics = run(config(frame_every=3), inputs, tmp_path)

    face = load(tmp_path / "result.png")
    assert face.shape == (64, 64, 3)
    assert load(tmp_path / "before_after.png").shape == (512, 1024, 3)
    before = load(tmp_path / "before_after.png")[:, :512]
    after = load(tmp_path / "before_after.png")[:, 512:]
    assert not np.array_equal(before, after)

    trace = records(tmp_path)
    description = json.loads((tmp_path / "edit.json").read_text())
    steps = description["steps"]
    assert metrics["steps"] == steps
    assert [record["step"] for record in trace[:steps]] == list(range(1, steps + 1))
    assert set(trace[0]) >= {"loss", "handles", "seconds", "mean_distance_px"}
    assert set(trace[0]["handles"][0]) >= {"position", "target", "distance_px", "confidence"}
    # The last record is what was kept, and no step was better.
    excess = [sum(max(h["distance_px"] - 0.5, 0) for h in record["handles"]) for record in trace]
    assert excess[-1] == min(excess)
    ended = [handle["ended"] for handle in description["handles"]]
    assert ended == [handle["position"] for handle in trace[-1]["handles"]]
    errors = [handle["picture_check"]["error_px"] for handle in description["handles"]]
    assert metrics["handle_error_px"] == pytest.approx(sum(errors) / 2)
    assert metrics["worst_handle_error_px"] == pytest.approx(max(errors))
    assert description["stopped"]["status"] == metrics["stopped"]
    assert description["stopped"]["reason"]

    frames = sorted((tmp_path / "frames").glob("*.png"))
    assert {int(path.stem) for path in frames} >= set(range(1, steps + 1, 3))
    assert {int(path.stem) for path in frames} <= {record["step"] for record in trace}
    np.testing.assert_array_equal(load(frames[-1]), face)
    with av.open(str(tmp_path / "frames.mp4")) as film:
        shapes = [frame.to_ndarray(format="rgb24").shape for frame in film.decode(video=0)]
    # Ten frames of pause before it begins, twenty to see where it ended.
    assert shapes == [(512, 512, 3)] * (10 + len(frames) + 20)
    with Image.open(tmp_path / "frames.gif") as gif:
        assert gif.size == (512, 512)
    assert load(tmp_path / "marked_last.png").shape == (512, 512, 3)
    assert not list(tmp_path.glob("*.safetensors"))
    assert recipe.read(tmp_path / "recipe.json").moves[0] == Move((30, 34), (34, 31))


def test_outside_the_face_the_picture_is_bit_equal(
    sg2_inputs: dict[str, Path], tmp_path: Path
) -> None:
    run(
        config(drag=DragConfig(strategy="draggan", max_steps=25, learning_rate=0.05)),
        sg2_inputs,
        tmp_path,
    )
    source, full = load(sg2_inputs["inversion"] / "source.png"), load(tmp_path / "full.png")
    assert full.shape == source.shape
    rows, columns = np.mgrid[0:200, 0:260] + 0.5
    place = TRANSFORM.apply(np.stack([columns, rows], -1))
    inside = ((place > 0) & (place < 1)).all(-1)
    np.testing.assert_array_equal(full[~inside], source[~inside])
    assert not np.array_equal(full[inside], source[inside])


def test_a_recipe_of_another_size_with_a_mask(inputs: dict[str, Path], tmp_path: Path) -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[:, 64:] = 255
    path = tmp_path / "masked.json"
    recipe.write(Recipe(128, 128, (Move((30, 60), (40, 60)),), mask, max_steps=15), path)
    chosen = config(recipe=str(path), drag=DragConfig(learning_rate=0.03))
    run(chosen, {**inputs, "recipe": path}, tmp_path)
    # The recipe was made at 128 px, the model draws 64.
    written = recipe.read(tmp_path / "recipe.json")
    assert written.moves == (Move((15, 30), (20, 30)),)
    assert dict(written.constants) == {"learning_rate": 0.03}
    assert written.max_steps == 15
    assert any(record["mask_loss"] > 0 for record in records(tmp_path))
    described = json.loads((tmp_path / "edit.json").read_text())
    assert described["change_in_mask_levels"] >= 0
    # In the full picture the kept half is the artist's own.
    source, full = load(inputs["inversion"] / "source.png"), load(tmp_path / "full.png")
    rows, columns = np.mgrid[0:200, 0:260] + 0.5
    place = TRANSFORM.apply(np.stack([columns, rows], -1))
    kept = (place[..., 0] > 0.6) | (place < 0).any(-1) | (place > 1).any(-1)
    np.testing.assert_array_equal(full[kept], source[kept])


def test_a_recipe_replays_to_the_same_pictures(sg2_inputs: dict[str, Path], tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    for out in (first, again):
        out.mkdir()
    run(config(), sg2_inputs, first)
    path = first / "recipe.json"
    run(config(recipe=str(path), drag=DragConfig()), {**sg2_inputs, "recipe": path}, again)
    for name in ("result.png", "full.png", "before_after.png"):
        assert (first / name).read_bytes() == (again / name).read_bytes()


def test_points_of_the_picture_are_carried_to_the_face(
    sg2_inputs: dict[str, Path], tmp_path: Path
) -> None:
    faces = np.array([[30.0, 34.0], [34.0, 31.0]])
    (x0, y0), (x1, y1) = TRANSFORM.inverse(faces, 64)
    points = f"{x0},{y0}>{x1},{y1}"
    settings = DragConfig(max_steps=2)
    run(config(points=points, points_frame="picture", drag=settings), sg2_inputs, tmp_path)
    (move,) = recipe.read(tmp_path / "recipe.json").moves
    assert move.start == pytest.approx((30, 34))
    assert move.target == pytest.approx((34, 31))


def test_a_face_of_a_seed_is_dragged_without_a_picture(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    chosen = config(seed_face=3, drag=DragConfig(max_steps=4))
    assert chosen.inversion is None
    run(chosen, {"model": inputs["model"]}, tmp_path)
    assert not (tmp_path / "full.png").exists()
    about = json.loads((tmp_path / "edit.json").read_text())["subject"]
    assert about["seed_face"] == 3
    # Points are dragged by `auto`, and what is not around them is kept, to the bit.
    followed = recipe.read(tmp_path / "recipe.json")
    assert followed.strategy == "auto"
    assert followed.mask is None
    first, last = load(tmp_path / "frames/0001.png"), load(tmp_path / "result.png")
    assert not np.array_equal(first, last)
    np.testing.assert_array_equal(first[:8], last[:8])
    other = tmp_path / "other"
    other.mkdir()
    free = config(seed_face=4, mask="none", drag=DragConfig(max_steps=1))
    run(free, {"model": inputs["model"]}, other)
    assert "change_in_mask_levels" not in json.loads((other / "edit.json").read_text())
    assert not np.array_equal(load(tmp_path / "result.png"), load(other / "result.png"))


# --- refusals ---


def test_a_class_of_a_model_without_classes_is_refused(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"edit\.label=2 .* no classes"):
        check(config(seed_face=3, label="2"), {"model": inputs["model"]})
    with pytest.raises(ConfigError, match=r"edit\.label=2 .* no classes"):
        run(config(seed_face=3, label=2), {"model": inputs["model"]}, tmp_path)


def test_the_face_of_a_seed_is_one_of_the_model_of_the_edits_name() -> None:
    assert EditConfig(name="ganyu", seed_face=1, points=POINTS).model == "model/ganyu"
    # With an inverted picture the runner finds the model: the picture was inverted with it.
    assert EditConfig(name="ganyu", inversion="inversion/x", points=POINTS).model is None


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"points": None}, "points, recipe or emotion"),
        ({"points": "1,1>2,2", "recipe": "r.json"}, "one of the three"),
        ({"points_frame": "image"}, "face"),
        ({"seed_face": 1, "points_frame": "picture"}, "points_frame"),
        ({"seed_face": -1}, "seed_face"),
        ({"rows": 0}, "rows"),
        ({"frame_every": 0}, "frame_every"),
        ({"device": "gpu"}, "cpu"),
        ({"name": " "}, "name"),
        ({"inversion": None}, "inversion"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], says: str) -> None:
    defaults = {"inversion": "i", "model": "m", "points": POINTS}
    with pytest.raises(ConfigError, match=says):
        EditConfig(**{**defaults, **values})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"strategy": "dragon"}, "draggan"),
        ({"max_steps": 0}, "max_steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"mask_weight": -1.0}, "mask_weight"),
    ],
)
def test_impossible_drag_settings_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        DragConfig(**values)


@pytest.mark.parametrize(
    ("values", "error", "says"),
    [
        ({"points": "1,1>90,2"}, DataError, "target of point 1"),
        ({"points": "5,5"}, DataError, "120,160"),
        ({"points": "900,1>2,2", "points_frame": "picture"}, DataError, "picture"),
        ({"points": "2,2>5,5", "points_frame": "picture"}, DataError, "face"),
        ({"layer": "b3"}, AnimedragError, "layer"),
        ({"points": "20,20>20,20"}, DataError, "nothing to drag"),
        ({"points": "20,20>20,20.4;5,5>5,5"}, DataError, "nothing to drag"),
    ],
)
def test_impossible_points_are_refused(
    sg2_inputs: dict[str, Path],
    tmp_path: Path,
    values: dict[str, Any],
    error: type[AnimedragError],
    says: str,
) -> None:
    ways: list[Callable[[EditConfig, dict[str, Path]], object]] = [
        check,
        partial(run, out=tmp_path),
    ]
    for refuse in ways:
        with pytest.raises(error, match=says) as caught:
            refuse(config(**values), sg2_inputs)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_another_model_than_the_inversions_is_refused(
    sg2_inputs: dict[str, Path], tmp_path: Path
) -> None:
    torch.manual_seed(99)
    other = stylegan2.Generator(
        z_dim=16, c_dim=0, w_dim=16, img_resolution=64, img_channels=3, channel_base=512,
        channel_max=16,
    )  # fmt: skip
    (tmp_path / "other").mkdir()
    checkpoint.save(tmp_path / "other", {"G_ema": other})
    with pytest.raises(ArtifactError, match="another model"):
        check(config(), {**sg2_inputs, "model": tmp_path / "other"})
    with pytest.raises(ArtifactError, match="another model"):
        run(config(), {**sg2_inputs, "model": tmp_path / "other"}, tmp_path)


# --- stopping ---


def test_a_state_is_read_back_as_it_was(tmp_path: Path) -> None:
    ws = torch.randn(1, 10, 16)
    handle = drag.Handle(3, (1.0, 2.0), (3.5, 4.0), (5.0, 6.0), torch.randn(2, 4), None, 0.4, 2.5)
    handle = replace(handle, memory={"goal": torch.rand(1, 2)})
    anchored = drag.Handle(4, (1.0, 2.0), (3.5, 4.0), (5.0, 6.0), None, torch.randn(2, 4), 1.0)
    state = drag.DragState(
        ws=ws,
        shown_ws=ws + 1,
        start_ws=ws + 2,
        free_rows=(1, 6),
        moments=drag.Moments(torch.randn(1, 5, 16), torch.rand(1, 5, 16), 7),
        status=drag.Status.DRAGGING,
        handles=(handle, anchored),
        mask=torch.rand(8, 8),
        base=torch.randn(1, 4, 6, 6),
        step=9,
        goal_step=7,
        best=drag.Best((0.1, 0.30000000001), ws + 3, 5, ((3, (3.0, 4.0)), (4, (1.0, 1.0)))),
        next_id=5,
        lost_steps=3,
        memory={"trust": torch.tensor(0.3), "jacobian": torch.rand(2, 2).double()},
    )
    for one in (state, drag.start(ws, (0, 6))):
        state_file.write(one, tmp_path / "s.safetensors")
        two = state_file.read(tmp_path / "s.safetensors")
        assert describe(two) == describe(one)
        # On another device all but the algebra, which is done on the processor, lies there.
        there = state_file.read(tmp_path / "s.safetensors", "meta")
        assert {value.device.type for value in (there.ws, there.start_ws)} == {"meta"}
        assert all(
            (value.device.type == "cpu") == (name == "jacobian")
            for name, value in there.memory.items()
        )


def describe(value: Any) -> Any:
    """Nested values with tensors as lists."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, tuple):
        return [describe(item) for item in value]
    if isinstance(value, dict):
        return {key: describe(item) for key, item in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {name: describe(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def slow_config() -> EditConfig:
    """A drag that never arrives, so that there is time to stop it."""
    settings = DragConfig(strategy="draggan", max_steps=40, patience=1000, learning_rate=1e-5)
    return EditConfig(
        inversion="i", model="m", points="20,20>32,32", device="cpu", save_every=4, drag=settings
    )


SCRIPT = """
import sys
from pathlib import Path
from pipeline.edit.stage import run
from pipeline.errors import Interrupted
from tests.test_edit_stage import slow_config
inputs = {"inversion": Path(sys.argv[1]), "model": Path(sys.argv[2])}
try:
    run(slow_config(), inputs, Path(sys.argv[3]))
except Interrupted as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_drag_goes_on_to_the_same_result(
    sg2_inputs: dict[str, Path],
    tmp_path: Path,
    root: Path,
    how: signal.Signals,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, straight = tmp_path / "out", tmp_path / "straight"
    out.mkdir()
    straight.mkdir()
    folders = [str(sg2_inputs["inversion"]), str(sg2_inputs["model"]), str(out)]
    process = quick_python.Popen(
        [sys.executable, "-c", SCRIPT, *folders], cwd=root, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 300
    while not (out / "frames" / "0007.png").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(how)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == (-9 if how is signal.SIGKILL else Interrupted.exit_code)
    assert not (out / "edit.json").exists()
    if how is signal.SIGTERM:
        assert "same command again" in said
        assert (out / "result.png").exists()
        assert 5 <= len(records(out)) < 40

    capsys.readouterr()
    run(slow_config(), sg2_inputs, out)
    went_on = re.search(r"going on after step (\d+)", capsys.readouterr().out)
    assert went_on is not None
    assert int(went_on.group(1)) >= 4
    run(slow_config(), sg2_inputs, straight)

    assert (out / "result.png").read_bytes() == (straight / "result.png").read_bytes()
    one, two = records(out), records(straight)
    for record in (*one, *two):
        record.pop("seconds")
    assert one == two
    frames = [
        {path.name: path.read_bytes() for path in (each / "frames").iterdir()}
        for each in (out, straight)
    ]
    assert frames[0] == frames[1]
    assert (out / "frames.gif").read_bytes() == (straight / "frames.gif").read_bytes()


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"points": None, "emotion": EmotionConfig(name="smille")}, "nearest valid value is smile"),
        ({"points": None, "emotion": EmotionConfig(sliders="gaze=1")}, "gaze"),
        ({"recipe": __file__}, "no valid JSON"),
    ],
)
def test_what_cannot_be_read_is_refused_before_the_inversion(
    wish: dict[str, Any], says: str
) -> None:
    with pytest.raises(AnimedragError, match=says):
        foresee_edit(config(**wish), {"invert": None})

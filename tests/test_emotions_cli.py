"""Emotions as a user asks for them: one command from a drawing to everything that is made of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.painter import character, paint_face
from pipeline.edit import recipe as recipes
from pipeline.edit import stage
from pipeline.edit.config import EditConfig
from pipeline.edit.emotion_config import BatchConfig, EmotionConfig, EmotionsConfig
from pipeline.edit.emotions import batch, sheet
from pipeline.edit.recipe import Move, Recipe
from pipeline.errors import ConfigError, Interrupted
from tests import quick_python

QUICK = (
    "invert.project.steps=2", "invert.project.w_samples=64", "invert.project.start=w_avg",
    "invert.tune.steps=2", "invert.perceptual=discriminator", "invert.align=none",
)  # fmt: skip


def command(root: Path, store: Path, *arguments: str) -> dict[str, Any]:
    """What runs this program with these arguments."""
    return {
        "args": [
            sys.executable, "-m", "scripts.run", f"store={store}", "device=cpu",
            f"hydra.run.dir={store}/runs", *arguments,
        ],
        "cwd": root,
        "env": {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        "text": True,
    }  # fmt: skip


def run(root: Path, store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**command(root, store, *arguments), capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def store(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a drawing that is inverted, badly but quickly, and all that is made of it."""
    folder = tmp_path_factory.mktemp("emotions")
    image, film = folder / "drawing.png", folder / "blink.yaml"
    film.write_text(
        "keyframes: [{at: 0}, {at: 0.5, sliders: 'eye_open_left=-1, eye_open_right=-1'}, {at: 1}]"
    )
    Image.fromarray(paint_face(character(23), size=400).image).save(image)
    model = root / "assets" / "start-64"
    done = run(
        root, folder / "store", "stage=[invert,edit,emotions,animate]", "character=one", *QUICK,
        f"invert.image={image}",
        *(f"{stage}.model={model}" for stage in ("invert", "edit", "emotions", "animate")),
        "edit.emotion.name=wink", "edit.emotion.strength=1.1", "edit.emotion.method=drawn",
        "edit.emotion.sliders=brow_height=0.3", "edit.points_frame=picture",
        "emotions.method=drawn", "emotions.emotions=[neutral,laugh,sleepy]", "emotions.columns=2",
        "emotions.cell_px=120", "emotions.loop_px=128", "emotions.title=Number 23",
        f"animate.file={film}", "animate.frames_per_second=8",
        "animate.film_px=200", "animate.sprite_px=64",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "edit: wink 1.1 + brow_height=0.3: reads wink" in done.stdout
    return folder / "store"


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def about(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_an_emotion_is_an_edit(store: Path) -> None:
    edit, inversion = store / "edit/one/v1", store / "inversion/one/v1"
    source, full = read(inversion / "source.png"), read(edit / "full.png")
    assert full.shape == source.shape
    changed = (full != source).any(axis=2)
    assert 0.002 < changed.mean() < 0.4
    assert not changed[:60].any()
    told = about(edit, "emotion.json")
    assert told["goal"]["emotions"] == {"wink": 1.1}
    assert told["method"] == "drawn"
    assert "right_eye" in told["drawn_anew"]
    assert told["after"]["expressions"]["wink"] > 0.5 > told["before"]["expressions"]["wink"]
    figures = about(edit, "edit.json")["metrics"]
    assert figures["reads_right"] == 1
    assert figures["off_widths"] < 0.03
    assert figures["outside_levels"] == 0
    names = {path.name for path in edit.iterdir()}
    assert names >= {"result.png", "before_after.png", "drawing.webp", "frames.mp4", "frames.gif"}
    assert names >= {"recipe.json", "trace.jsonl", "marked_first.png", "marked_last.png"}
    assert len(list((edit / "frames").glob("*.png"))) == 14


def test_a_sheet_has_every_emotion(store: Path) -> None:
    made = store / "emotions/one/v1"
    page = read(made / "sheet.png")
    assert page.shape[1] > 3 * 120
    entries = {entry["emotion"]: entry for entry in about(made, "emotions.json")["emotions"]}
    assert list(entries) == ["neutral", "laugh", "sleepy"]
    assert entries["laugh"]["metrics"]["read_after"] == "laugh"
    assert entries["sleepy"]["metrics"]["read_after"] == "closed"
    source = read(store / "inversion/one/v1/source.png")
    for name in entries:
        assert read(made / f"cells/{name}.png").shape == (512, 512, 3)
        assert read(made / f"full/{name}.png").shape == source.shape
    with Image.open(made / "loop.webp") as loop:
        assert loop.n_frames >= 12
        assert loop.size == (128, 128)
    with Image.open(made / "loop.gif") as loop:
        assert loop.n_frames >= 8
    assert not (made / "unfinished").exists()


def test_what_cannot_be_is_refused_in_a_sentence(root: Path, store: Path) -> None:
    inputs = {"inversion": store / "inversion/one/v1", "model": root / "assets/start-64"}
    for name, words in (("smlie", "smile"), ("smile 7", "strength of smile"), ("+", "nothing")):
        config = EditConfig(inversion="x", emotion=EmotionConfig(name=name))
        with pytest.raises(ConfigError, match=words):
            stage.check(config, inputs)
    with pytest.raises(ConfigError, match="strength=9"):
        EmotionConfig(name="smile", strength=9)
    with pytest.raises(ConfigError, match="one of the three"):
        EditConfig(inversion="x", emotion=EmotionConfig(name="smile"), points="1,2>3,4")


def test_a_face_blinks(store: Path) -> None:
    film = store / "animation/one/v1"
    told = about(film, "animation.json")
    frames = [read(path) for path in sorted((film / "frames").glob("*.png"))]
    assert len(frames) == told["frames"] == 8
    source = read(store / "inversion/one/v1/source.png")
    # Shut in the middle, as drawn where the loop closes.
    np.testing.assert_array_equal(frames[0], source)
    moved = [int((frame != source).any(axis=2).sum()) for frame in frames]
    assert max(moved) == moved[4] > 500
    layer = read(film / "layers/0005.png")
    assert layer.shape[2] == 4
    assert 0 < (layer[..., 3] > 0).mean() < 0.4
    assert (read(film / "layers/0001.png")[..., 3] == 0).all()
    sprites = about(film, "sprites.json")
    assert read(film / "sprites.png").shape == (
        sprites["rows"] * 64, sprites["columns"] * 64, 3,
    )  # fmt: skip
    with Image.open(film / "loop.webp") as loop:
        assert loop.size == (200, 200)
    assert (film / "film.mp4").stat().st_size > 1000


def test_a_killed_batch_goes_on_and_lists_what_cannot_be_done(
    root: Path, store: Path, tmp_path: Path
) -> None:
    model = root / "assets" / "start-64"
    folder = tmp_path / "drawings"
    folder.mkdir()
    for number in (5, 23):
        painted = paint_face(character(number), size=200).image
        Image.fromarray(painted).save(folder / f"girl-{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    arguments = (
        "stage=[invert,batch]", "character=many", f"invert.image={folder}", *QUICK,
        f"invert.model={model}", f"batch.model={model}", "batch.emotion.name=laugh",
        "batch.emotion.method=drawn", "batch.cell_px=64", "batch.seeds=0-1",
    )  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        process = quick_python.Popen(**command(root, store, *arguments), stdout=log, stderr=log)
        records: list[Path] = []
        while not records and process.poll() is None:
            time.sleep(0.02)
            records = list(store.glob(".drafts/batch-many-*/payload/unfinished/*.json"))
        process.kill()
        process.wait()
    assert records, (tmp_path / "log").read_text()
    payload = records[0].parents[1]
    first = payload / "pictures" / f"{records[0].stem}.png"
    made = first.stat().st_mtime_ns
    assert not (store / "batch/many").exists()

    done = quick_python.run(**command(root, store, *arguments), timeout=300)
    assert done.returncode == 0, done.stderr
    assert "reused inversion/many" in done.stdout
    finished = store / "batch/many/v1"
    assert (finished / "pictures" / first.name).stat().st_mtime_ns == made
    rows = {row["name"]: row for row in about(finished, "table.json")}
    assert set(rows) == {"girl-5", "girl-23", "broken.png", *(f"seed-{n}" for n in range(2))}
    assert rows["girl-5"]["read_after"] == rows["girl-23"]["read_after"] == "laugh"
    assert "broken.png" in rows["broken.png"]["reason"]
    assert read(finished / "full/girl-5.png").shape == (200, 200, 3)
    assert read(finished / "contact_sheet.png").shape[1] > 3 * 128
    assert (finished / "table.csv").read_text().count("\n") == 6


def test_a_recipe_is_followed_on_every_face(root: Path, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    move = Move((32.0, 44.0), (32.0, 40.0))
    recipes.write(Recipe(64, 64, (move,), None, strategy="draggan", max_steps=3), file)
    config = BatchConfig(
        name="one", inversion="x", model="y", seeds="0", recipe=str(file), device="cpu"
    )
    inputs = {
        "inversion": store / "inversion/one/v1", "model": root / "assets/start-64", "recipe": file,
    }  # fmt: skip
    batch.check(config, inputs)
    out = tmp_path / "batch"
    metrics = batch.run(config, inputs, out)
    assert metrics["faces"] == 2
    rows = about(out, "table.json")
    assert [(row["name"], row["method"], row["steps"]) for row in rows] == [
        ("picture", "drag draggan", 3), ("seed-0", "drag draggan", 3),
    ]  # fmt: skip
    before, after = (read(out / kind / "seed-0.png") for kind in ("before", "pictures"))
    assert (before != after).any()
    source = read(store / "inversion/one/v1/source.png")
    assert read(out / "full/picture.png").shape == source.shape


def test_a_sheet_that_was_stopped_goes_on(
    root: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"inversion": store / "inversion/one/v1", "model": root / "assets/start-64"}
    config = EmotionsConfig(
        name="one", inversion="x", emotions=["neutral", "laugh"], method="drawn", cell_px=96,
        loop_px=64, device="cpu",
    )  # fmt: skip
    with monkeypatch.context() as stopped:
        stopped.setattr(sheet, "catch_stop", lambda: nullcontext(lambda: True))
        with pytest.raises(Interrupted, match="after neutral"):
            sheet.run(config, inputs, tmp_path)
    first = tmp_path / "cells/neutral.png"
    made = first.stat().st_mtime_ns
    assert not (tmp_path / "cells/laugh.png").exists()
    metrics = sheet.run(config, inputs, tmp_path)
    assert metrics["emotions"] == 2
    assert first.stat().st_mtime_ns == made
    assert (tmp_path / "sheet.png").exists()

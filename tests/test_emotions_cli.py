"""Emotions as a user asks for them: one command from a drawing to the edit and to the sheet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.painter import character, paint_face
from pipeline.edit.emotion_config import EmotionsConfig
from pipeline.edit.emotions import sheet
from pipeline.errors import Interrupted

QUICK = (
    "invert.project.steps=2", "invert.project.w_samples=64", "invert.project.start=w_avg",
    "invert.tune.steps=2", "invert.perceptual=discriminator", "invert.align=none",
)  # fmt: skip


def run(root: Path, store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "scripts.run", f"store={store}", "character=one", "device=cpu",
        f"hydra.run.dir={store}/runs", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def store(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a drawing that is inverted, badly but quickly, and its first edit."""
    folder = tmp_path_factory.mktemp("emotions")
    image = folder / "drawing.png"
    Image.fromarray(paint_face(character(23), size=400).image).save(image)
    done = run(
        root, folder / "store", "stage=[invert,edit]", f"invert.image={image}", *QUICK,
        f"invert.model={root}/assets/start-64", f"edit.model={root}/assets/start-64",
        "edit.emotion.name=wink", "edit.emotion.strength=1.1", "edit.emotion.method=drawn",
        "edit.emotion.sliders=brow_height=0.3", "edit.points_frame=picture",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "edit: wink 1.1 + brow_height=0.3: reads wink" in done.stdout
    return folder / "store"


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def about(folder: Path, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / name).read_text())
    return loaded


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
    assert names >= {"result.png", "before_after.png", "frames.mp4", "frames.gif", "recipe.json",
                     "trace.jsonl", "marked_first.png", "marked_last.png"}  # fmt: skip
    assert len(list((edit / "frames").glob("*.png"))) == 14


def test_a_sheet_has_every_emotion_and_is_made_once(root: Path, store: Path) -> None:
    arguments = (
        "stage=emotions", f"emotions.model={root}/assets/start-64", "emotions.method=drawn",
        "emotions.emotions=[neutral,laugh,sleepy]", "emotions.columns=2", "emotions.cell_px=120",
        "emotions.loop_px=128", "emotions.title=Number 23",
    )  # fmt: skip
    done = run(root, store, *arguments)
    assert done.returncode == 0, done.stderr
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
    again = run(root, store, *arguments)
    assert "reused emotions/one" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("edit.emotion.name=smlie",), "smile"),
        (("edit.emotion.name=smile", "edit.points=1,2>3,4"), "one of the three"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    root: Path, store: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = run(root, store, "stage=edit", f"edit.model={root}/assets/start-64", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (store / "edit/one/v2").exists()


def test_a_face_blinks(root: Path, store: Path) -> None:
    done = run(
        root, store, "stage=animate", f"animate.model={root}/assets/start-64",
        "animate.frames_per_second=8", "animate.film_px=200", "animate.sprite_px=64",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    film = store / "animation/one/v1"
    told = about(film, "animation.json")
    frames = [read(path) for path in sorted((film / "frames").glob("*.png"))]
    assert len(frames) == told["frames"] == round(2.4 * 8)
    source = read(store / "inversion/one/v1/source.png")
    # Shut in the middle, as drawn at both ends of the loop.
    np.testing.assert_array_equal(frames[0], source)
    np.testing.assert_array_equal(frames[-1], source)
    moved = [int((frame != source).any(axis=2).sum()) for frame in frames]
    assert max(moved) == moved[11] > 500
    layer = read(film / "layers/0012.png")
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


def test_a_batch_lists_what_cannot_be_done(root: Path, store: Path, tmp_path: Path) -> None:
    model = root / "assets" / "start-64"
    folder = tmp_path / "drawings"
    folder.mkdir()
    for number in (5, 23):
        painted = paint_face(character(number), size=200).image
        Image.fromarray(painted).save(folder / f"girl-{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    done = run(
        root, store, "stage=[invert,batch]", "character=many", f"invert.image={folder}", *QUICK,
        f"invert.model={model}", f"batch.model={model}", "batch.emotion.name=laugh",
        "batch.emotion.method=drawn", "batch.cell_px=64", "batch.seeds=0-0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    batch = store / "batch/many/v1"
    rows = {row["name"]: row for row in json.loads((batch / "table.json").read_text())}
    assert set(rows) == {"girl-5", "girl-23", "seed-0", "broken.png"}
    assert rows["girl-5"]["read_after"] == rows["girl-23"]["read_after"] == "laugh"
    assert "broken.png" in rows["broken.png"]["reason"]
    assert read(batch / "full/girl-5.png").shape == (200, 200, 3)
    assert read(batch / "contact_sheet.png").shape[1] > 3 * 128
    assert (batch / "table.csv").read_text().count("\n") == 5


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

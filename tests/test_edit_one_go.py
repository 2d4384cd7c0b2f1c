"""One command from a drawing to the edited drawing, as a user runs it; stopped and gone on with."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.painter import paint_scene
from tests import quick_python

QUICK = (
    "invert.project.steps=4", "invert.project.w_samples=64", "invert.project.start=w_avg",
    "invert.tune.steps=2", "invert.perceptual=discriminator", "invert.align=none",
    "edit.drag.strategy=draggan", "edit.drag.max_steps=12", "edit.drag.patience=500",
    "edit.save_every=1",
)  # fmt: skip


def command(root: Path, store: Path, image: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "scripts.run", "stage=[invert,edit]", f"store={store}",
        "character=one", "device=cpu", f"invert.image={image}",
        f"invert.model={root}/assets/start-64",
        f"edit.model={root}/assets/start-64", "edit.points_frame=picture", *QUICK, *more,
        f"hydra.run.dir={store}/runs",
    ]  # fmt: skip


def paint(path: Path, seed: int) -> np.ndarray:
    scene = paint_scene(seed, 0, character_number=13, faces=1)
    # A square around the face: alignment is not what is tested here.
    x, y = scene.faces[0].landmarks.mean(axis=0)
    side = scene.faces[0].face_width
    box = [round(v) for v in (x - side, y - side, x + side, y + side)]
    Image.fromarray(scene.image).crop(tuple(box)).convert("RGB").save(path)
    return np.asarray(Image.open(path))


def test_one_command_edits_a_drawing_and_goes_on_after_ctrl_c(root: Path, tmp_path: Path) -> None:
    store, image = tmp_path / "store", tmp_path / "drawing.png"
    source = paint(image, 3)
    height, width = source.shape[:2]
    points = f"edit.points={0.4 * width},{0.55 * height}>{0.43 * width},{0.52 * height}"
    arguments = command(root, store, image, points)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        arguments, cwd=root, env=environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if list(store.glob(".drafts/edit-*/payload/drag_state.safetensors")):
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.01)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130, said
    assert "same command again" in said
    assert list(store.glob(".drafts/edit-*/payload/result.png"))

    again = quick_python.run(arguments, cwd=root, env=environment, timeout=240)
    assert again.returncode == 0, again.stderr
    assert "reused inversion/one" in again.stdout
    assert "going on after step" in again.stdout
    # In the words of somebody who sees the drawing: its pixels, and nothing that nobody asked for.
    assert re.search(r"the points end \d+\.\d px of the drawing from their targets", again.stdout)
    assert "steps of at most 12" in again.stderr
    assert "left out" not in said + again.stdout
    full = np.asarray(Image.open(store / "edit/one/v1/full.png"))
    assert full.shape == source.shape
    changed = (full != source).any(axis=2)
    # What no pixel of the drag touched is the drawing's own, bit for bit: corners and borders.
    assert not changed[:2].any()
    assert not changed[:, :2].any()
    assert changed.mean() < 0.9


def test_a_point_outside_the_drawing_is_refused_before_it_is_inverted(
    root: Path, tmp_path: Path
) -> None:
    store, image = tmp_path / "store", tmp_path / "drawing.png"
    height, width = paint(image, 3).shape[:2]
    arguments = command(root, store, image, f"edit.points=5,5>9,9;9,{height + 1}>5,5")
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(arguments, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"The handle of point 2, (9, {height + 1}), lies outside the picture drawing.png, which is "
        f"{width}×{height} px; move it inside.\n"
    )
    assert not (store / "inversion").exists()


@pytest.mark.parametrize(
    ("given", "measured_on"),
    [(["IMAGE=a.png"], "picture"), ([], "picture"), (["ARGS=edit.seed_face=3"], "face")],
)
def test_points_of_make_edit_are_pixels_of_the_drawing(
    given: list[str], measured_on: str, root: Path
) -> None:
    """With IMAGE and without, where the last drawing is dragged again; a seed's face has none."""
    shown = subprocess.run(
        ["make", "-n", "edit", "POINTS=1,2>3,4", *given], cwd=root, capture_output=True, text=True
    ).stdout
    assert "edit.points=1,2>3,4" in shown
    assert ("edit.points_frame=picture" in shown) == (measured_on == "picture")

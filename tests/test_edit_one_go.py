"""One command from a drawing to the edited drawing, as a user runs it; stopped and gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.painter import paint_scene

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

    again = subprocess.run(
        arguments, cwd=root, env=environment, capture_output=True, text=True, timeout=240
    )
    assert again.returncode == 0, again.stderr
    assert "reused inversion/one" in again.stdout
    assert "going on after step" in again.stdout
    full = np.asarray(Image.open(store / "edit/one/v1/full.png"))
    assert full.shape == source.shape
    changed = (full != source).any(axis=2)
    # What no pixel of the drag touched is the drawing's own, bit for bit: corners and borders.
    assert not changed[:2].any()
    assert not changed[:, :2].any()
    assert changed.mean() < 0.9

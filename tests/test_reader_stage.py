"""The reader stage as users run it: tiny, in real processes, killed and taken up again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data import landmarks as lm
from pipeline.data.face_reader import FaceReader
from pipeline.data.painter import sample_face
from pipeline.errors import AnimedragError, ConfigError, ModelError, TrainingError
from pipeline.models.face_reader import FaceReaderNetwork
from pipeline.train.averaged_state import AveragedState
from pipeline.train.reader import stage
from pipeline.train.reader.batches import DistortedFaces
from pipeline.train.reader.config import ReaderConfig
from pipeline.train.reader.paintings import (
    EXPRESSION_NAMES,
    Painter,
    Paintings,
    PaintingSet,
    visible_landmarks,
)
from pipeline.train.reader.warp import Bump, Proportions, random_warp
from tests import quick_python

# Trains about a second: 40 steps, with a state every tenth.
TINY = [
    "reader.paintings=60", "reader.heldout=20", "reader.picture_px=96", "reader.input_px=64",
    "reader.channels=[8,16,16,16]", "reader.blocks=[0,0,1]", "reader.kimg=0.64",
    "reader.batch=16", "reader.log_kimg=0.08", "reader.save_kimg=0.16", "reader.workers=0",
    "reader.threads=1", "reader.learning_rate=0.006", "reader.distortion=0.4",
]  # fmt: skip


def settings(**changes: Any) -> ReaderConfig:
    """The tiny settings as an object, with changes."""
    tiny = dict(item.removeprefix("reader.").split("=") for item in TINY)
    values = {name: json.loads(value) for name, value in tiny.items()}
    return ReaderConfig(**{"name": "tiny", "device": "cpu", **values, **changes})


def start(root: Path, out: Path) -> quick_python.Popen:
    """The stage in a process of its own, as the runner calls it."""
    return quick_python.Popen(
        [sys.executable, "-m", "tests.test_reader_stage", str(out)],
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_state(process: quick_python.Popen, out: Path, newer_than: int = -1) -> None:
    while process.poll() is None and newest(out) <= newer_than:
        time.sleep(0.005)


def newest(out: Path) -> int:
    names = (out / "work" / "states").glob("*.safetensors")
    return max((int(path.stem) for path in names), default=-1)


def stats(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key != "seconds_per_kimg"} for line in lines]


@pytest.fixture(scope="module")
def straight(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make reader` makes, without interruption."""
    store = tmp_path_factory.mktemp("straight")
    command = [
        sys.executable, "-m", "scripts.run", "stage=reader", "character=tiny", f"store={store}",
        f"hydra.run.dir={store / 'runs'}", "device=cpu", *TINY,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return store / "reader" / "tiny" / "v1"


def test_what_it_makes(straight: Path) -> None:
    manifest = json.loads((straight / "manifest.json").read_text())
    files = {entry["path"] for entry in manifest["files"]}
    assert files == {
        "architecture.json", "reader.safetensors", "reader.json", "stats.jsonl", "heldout.json",
        "heldout.png",
    }  # fmt: skip
    assert manifest["metrics"]["heldout_faces"] == 20
    heldout = json.loads((straight / "heldout.json").read_text())
    assert sum(sum(row.values()) for row in heldout["expressions_read"].values()) == 20
    assert heldout["figures"]["landmark_error"] == pytest.approx(
        manifest["metrics"]["landmark_error"], rel=1e-3
    )
    reader = FaceReader.load(straight)
    assert reader.expressions == EXPRESSION_NAMES
    assert reader.read(sample_face(1, 0, size=96).image).landmarks.shape == (28, 2)


def test_it_learns(straight: Path) -> None:
    lines = stats(straight)
    assert [line["images_seen"] for line in lines] == list(range(80, 641, 80))
    assert lines[-1]["loss_landmarks"] < 0.8 * lines[0]["loss_landmarks"]
    looks = [line["heldout_landmark_error"] for line in lines if "heldout_landmark_error" in line]
    assert len(looks) == 4
    assert looks[-1] < 0.9 * looks[0]


def test_killed_and_stopped_it_goes_on_to_the_same_reader(
    root: Path, straight: Path, tmp_path: Path
) -> None:
    killed = start(root, tmp_path)
    wait_for_state(killed, tmp_path)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    seen = newest(tmp_path)
    assert 0 < seen < 640
    # A chunk that was not painted to its end is painted again.
    (tmp_path / "work" / "heldout" / "00000.truth.npz").unlink()

    stopped = start(root, tmp_path)
    wait_for_state(stopped, tmp_path, newer_than=seen)
    stopped.send_signal(signal.SIGTERM)
    told, complaint = stopped.communicate()
    assert stopped.returncode == 130, told + complaint
    assert "run the same command again" in told
    assert f"going on from {seen / 1000:g} kimg" in told

    stage.run(settings(), {}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in straight.iterdir() if path.name != "manifest.json"
    )
    for name in ("reader.safetensors", "heldout.json", "heldout.png"):
        assert (tmp_path / name).read_bytes() == (straight / name).read_bytes(), name
    assert stats(tmp_path) == stats(straight)


def test_it_can_start_from_a_reader(straight: Path, tmp_path: Path) -> None:
    config = settings(resume_from="reader/tiny", kimg=0.08, name="more", device="cpu")
    metrics = stage.run(config, {"resume_from": straight}, tmp_path)
    assert metrics["heldout_faces"] == 20
    assert stats(tmp_path)[0]["loss_landmarks"] < 0.8 * stats(straight)[0]["loss_landmarks"]
    # Once finished it only says so again.
    assert stage.run(config, {"resume_from": straight}, tmp_path) == metrics


def test_a_reader_of_another_size_is_refused(straight: Path) -> None:
    config = settings(resume_from="reader/tiny", input_px=96)
    with pytest.raises(ModelError, match=r"set reader.input_px=64"):
        stage.check(config, {"resume_from": straight})


def begin(network: FaceReaderNetwork) -> AveragedState[FaceReaderNetwork]:
    return AveragedState.begin("reader", network, torch.optim.AdamW(network.parameters()))


def test_a_state_of_another_network_is_refused(straight: Path, tmp_path: Path) -> None:
    state = begin(FaceReaderNetwork(64, (8, 8, 8, 8), (0, 0, 0)))
    state.save(tmp_path)
    other = begin(FaceReaderNetwork(64, (8, 16, 8, 8), (0, 0, 0)))
    with pytest.raises(TrainingError, match="of another network"):
        other.restore(tmp_path)
    # A file that was cut off is passed over with a word; there is no other one here.
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:500])
    assert not state.restore(tmp_path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"input_px": 100}, "multiple of 16"),
        ({"batch": 1}, "reader.batch"),
        ({"channels": [8]}, "reader.channels needs 4"),
        ({"precision": "fp8"}, "bf16"),
        ({"kimg": 0}, "reader.kimg"),
    ],
)
def test_impossible_settings_are_refused(change: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        ReaderConfig(**change)


# ---- distortions --------------------------------------------------------------------------------


def test_landmarks_follow_a_warp() -> None:
    """A mark painted at a landmark is found where the warp says the landmark went."""
    rng = np.random.default_rng(5)
    for trial in range(12):
        points = sample_face(2, trial, size=192).landmarks
        warp = random_warp(rng, points, 1.0)
        placed = warp.points(points)
        for index in (0, 2, 12, 18, 23, 27):
            image = np.zeros((192, 192, 3), np.uint8)
            x, y = points[index]
            rows, columns = np.mgrid[:192, :192] + 0.5
            blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
            image[:] = np.rint(255 * blob)[:, :, None]
            crop = warp.apply(image, 128, 0, [0, 0, 0])[:, :, 0].astype(float)
            end = placed[list(lm.MIRROR).index(index)] if warp.mirror else placed[index]
            if crop.sum() < 500 or not (end > 0.05).all() or not (end < 0.95).all():
                continue
            rows, columns = np.mgrid[:128, :128] + 0.5
            found = np.array([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum() / 128
            assert np.abs(found - end).max() < 0.012, (trial, index)


def test_proportions_are_inverted() -> None:
    changed = Proportions(1.3, 0.9, 0.7, 0.05, (Bump(np.array([0.25, 0.0]), 0.2, 0.62),))
    points = np.random.default_rng(0).uniform(-0.6, 0.8, (50, 2))
    assert np.allclose(changed.to_painted(changed.to_changed(points)), points, atol=2e-3)


def test_faces_are_distorted_by_position_alone(tmp_path: Path) -> None:
    faces = PaintingSet(tmp_path, 3, 8, 96, 1.0)
    Painter(faces).work(0)
    source = DistortedFaces(Paintings(faces), 1, 64, 1.0)
    whole = source.batch(4, 6)
    part = DistortedFaces(Paintings(faces), 1, 64, 1.0).batch(6, 2)
    assert (whole.images[2:4] == part.images).all()
    assert (whole.landmarks[2:4] == part.landmarks).all()
    assert (whole.images[0] != source.batch(100, 1).images[0]).any()


def test_hair_over_a_brow_makes_it_unseen() -> None:
    share = np.mean([visible_landmarks(sample_face(1, index, size=192)) for index in range(12)], 0)
    assert share[lm.MOUTH].mean() > 0.98
    assert 0.3 < share[lm.LEFT_BROW].mean() < 0.98


def main() -> int:
    """Train as the runner does; print what the user would see."""
    try:
        stage.run(settings(), {}, Path(sys.argv[1]))
    except AnimedragError as error:
        print(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

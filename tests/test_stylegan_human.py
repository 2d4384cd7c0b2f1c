"""Images twice as high as wide, over the whole road as the user walks it, in real processes:
preprocess, train, export, import, fine-tune, invert, edit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.align import CropTransform
from pipeline.data.config import PreprocessConfig
from pipeline.data.faces import Face, Framing
from pipeline.errors import ConfigError
from pipeline.models.checkpoint import read_architecture
from tests import quick_python

TINY = [
    "network=stylegan2-tiny",
    "network.channel_base=256",
    "network.channel_max=8",
    "network.d_channel_base=256",
    "network.d_channel_max=8",
    "network.z_dim=16",
    "network.w_dim=16",
]
PAINTED = [
    "source=painter",
    "source.mode=faces",
    "source.truth=true",
    "source.size=128",
    "preprocess.workers=0",
]


def call(root: Path, *arguments: str) -> str:
    done = quick_python.run([sys.executable, "-m", *arguments], cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_the_whole_road(root: Path, tmp_path: Path) -> None:
    store, out = tmp_path / "store", tmp_path / "exported"
    told = call(
        root, "scripts.run", "stage=[preprocess,train]", "character=tall", f"store={store}",
        *PAINTED, "source.count=24", *TINY, "preprocess.shape=tall", "preprocess.resolution=32",
        "preprocess.framing.eye_height=0.3", "train.kimg=0.032", "train.batch=8",
        "train.score_samples=0",
    )  # fmt: skip
    assert "at 16x32 on" in told
    dataset, model = store / "dataset/tall/v1", store / "model/tall/v1"
    assert size_of(model / "reals.png") == (8 * 16, 3 * 32)
    assert size_of(model / "samples" / "000000032.png") == (8 * 16, 4 * 32)
    assert size_of(dataset / "contact_sheet.png")[1] > 400
    assert read_architecture(model)["D"].arguments["square"] is False

    call(root, "scripts.export", "model/tall", str(out), "--store", str(store))
    pickle = out / "stylegan-human-tall-16x32.pkl"
    assert pickle.is_file()

    drawing = tmp_path / "drawing.png"
    face = np.asarray(Image.open(model / "reals.png").crop((0, 0, 16, 32)).resize((64, 128)))
    Image.fromarray(np.pad(face, ((20, 20), (40, 40), (0, 0)), mode="edge")).save(drawing)
    told = call(
        root, "scripts.run", "stage=[import,preprocess,finetune,invert,edit]", "character=other",
        f"store={store}", "import.name=human-base", f"import.pkl={pickle}",
        "preprocess.like=model/human-base", *PAINTED, "source.count=20", "source.seed=4",
        "preprocess.framing.eye_height=0.3",
        "finetune.resume_from=model/human-base", "finetune.kimg=0.032", "finetune.batch=8",
        "finetune.score_samples=8", f"invert.image={drawing}", "invert.align=none",
        "invert.project.steps=2", "invert.project.w_samples=50", "invert.tune.steps=1",
        "edit.points=6,9>8,11", "edit.drag.max_steps=2",
    )  # fmt: skip
    assert "(stylegan-human)" in told
    assert "images of 16x32 for model/human-base" in told
    inverted, edited = store / "inversion/other/v1", store / "edit/other/v1"
    assert size_of(inverted / "aligned.png") == (16, 32)
    assert size_of(edited / "result.png") == (16, 32)
    assert size_of(edited / "full.png") == size_of(drawing) == (144, 168)
    metrics = json.loads((edited / "manifest.json").read_text())["metrics"]
    assert metrics["steps"] >= 1
    # Its lineage leads through the imported model and the new character's faces.
    lineage = call(root, "scripts.artifacts", "--store", str(store), "lineage", "edit/other")
    for name in ("model/other", "model/human-base", "dataset/other"):
        assert name in lineage


@pytest.mark.parametrize("roll", [0.0, 25.0])
def test_a_tall_crop_keeps_the_eyes_in_their_place(roll: float) -> None:
    face = Face((10, 10, 60, 60), 1.0, "painter", (200.0, 150.0), 40.0, roll)
    tall = Framing(2.0, 0.3, aspect=2.0).transform(face)
    assert (tall.width, tall.height) == (80, 160)
    assert tall.apply(np.array([200.0, 150.0])) == pytest.approx([0.5, 0.3])
    assert tall.output_size(16) == (16, 32)
    # A face width to the right of the eyes is half a crop away, level with them.
    angle = np.radians(roll)
    beside = np.array([200.0, 150.0]) + 40 * np.array([np.cos(angle), np.sin(angle)])
    assert tall.apply(beside) == pytest.approx([1.0, 0.3])


@pytest.mark.parametrize(
    ("size", "expected"), [((100, 100), (50, 100)), ((100, 300), (100, 200)), ((7, 3), (1.5, 3))]
)
def test_the_largest_tall_crop_of_a_picture(
    size: tuple[int, int], expected: tuple[float, float]
) -> None:
    whole = CropTransform.whole(*size, aspect=2)
    assert (whole.width, whole.height) == expected
    assert (whole.center_x, whole.center_y) == (size[0] / 2, size[1] / 2)
    assert CropTransform.whole(40, 30) == CropTransform.square(20, 15, 30)


def test_a_shape_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"preprocess\.shape=taller .* tall"):
        PreprocessConfig(shape="taller")
    assert PreprocessConfig(shape="tall", resolution=256).size == (128, 256)

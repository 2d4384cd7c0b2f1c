"""python -m scripts.paint, driven as a user does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.landmarks import from_json


def paint(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.paint", *arguments],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_faces_are_pictures_with_landmarks(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "faces"
    run = paint(
        root, "faces", "--count", "3", "--size", "64", "--character", "4", "--out", str(out)
    )
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in (out / "landmarks.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == sorted(path.name for path in out.glob("*.png"))
    for line in lines:
        assert Image.open(out / line["file"]).size == (64, 64)
        points = from_json(line["landmarks"])
        assert ((points > 0) & (points < 64)).all()
    # A second run into the same folder is refused and changes nothing.
    before = (out / "landmarks.jsonl").read_bytes()
    again = paint(root, "faces", "--count", "1", "--out", str(out))
    assert again.returncode == 2
    assert "not an empty folder" in again.stderr
    assert "Traceback" not in again.stderr
    assert (out / "landmarks.jsonl").read_bytes() == before


def test_scenes_have_their_truth(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "scenes"
    run = paint(root, "scenes", "--count", "2", "--seed", "1", "--faces", "2", "--out", str(out))
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in (out / "truth.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert Image.open(out / line["file"]).size == (line["width"], line["height"])
        assert len(line["faces"]) == 2
        assert all(from_json(face["landmarks"]).shape == (28, 2) for face in line["faces"])


@pytest.mark.parametrize(
    ("what", "size"),
    [
        ("identities", (256, 64)),
        ("expressions", (256, 192)),
        ("poses", (320, 192)),
        ("mixed", (256, 64)),
    ],
)
def test_sheets(root: Path, tmp_path: Path, what: str, size: tuple[int, int]) -> None:
    out = tmp_path / "sheet.png"
    run = paint(
        root,
        "sheet",
        "--of",
        what,
        "--count",
        "4",
        "--columns",
        "4",
        "--size",
        "64",
        "--out",
        str(out),
    )
    assert run.returncode == 0, run.stderr
    assert Image.open(out).size == size
    assert np.asarray(Image.open(out)).std() > 10


@pytest.mark.parametrize(
    "arguments",
    [("sheet", "--of", "cats"), ("faces", "--count", "0", "--out", "x"), ("faces",)],
)
def test_wrong_arguments_get_a_sentence(root: Path, arguments: tuple[str, ...]) -> None:
    run = paint(root, *arguments)
    assert run.returncode == 2
    assert "Error" in run.stderr
    assert "Traceback" not in run.stderr


def test_unwritable_place_gets_a_sentence(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    run = paint(
        root, "sheet", "--count", "1", "--size", "32", "--out", str(tmp_path / "file/sheet.png")
    )
    assert run.returncode == 2
    assert "Traceback" not in run.stderr


def test_help_needs_nothing_heavy(root: Path) -> None:
    code = (
        "import sys\nfrom scripts.paint import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'numpy', 'skia', 'PIL') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert "sheet" in run.stdout
    assert run.stdout.strip().endswith("[]")

"""The tool that reads the faces of pictures, as a process; and its check against animeface."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import landmarks as lm
from pipeline.data import nvxs
from pipeline.data.close_ups import Zoomable
from pipeline.data.faces import FaceFinder
from pipeline.data.painter import sample_face
from pipeline.data.part_agreement import agreement
from tests import quick_python

needs_animeface = pytest.mark.skipif(
    isinstance(nvxs.load(), str), reason=f"animeface: {nvxs.load()}"
)


def read_faces(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return quick_python.run([sys.executable, "-m", "scripts.read_faces", *arguments], cwd=root)


@needs_animeface
def test_pictures_are_read(root: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    paintings = [sample_face(8, index, size=300, expression="neutral") for index in range(3)]
    for index, painting in enumerate(paintings):
        Image.fromarray(painting.image).save(folder / f"face{index}.png")
    done = read_faces(root, str(folder), "--out", str(out), "--size", "256")
    assert done.returncode == 0, done.stderr
    assert "Read 3 faces in 3 pictures;" in done.stdout
    lines = [json.loads(line) for line in (out / "readings.jsonl").read_text().splitlines()]
    for line, painting in zip(lines, paintings, strict=True):
        off = np.linalg.norm(np.array(line["landmarks"]) - painting.landmarks, axis=1)
        assert off.mean() < 0.04 * lm.face_width(painting.landmarks)
    # Animeface does not see every painted face.
    agreed = [line["agreement"] for line in lines if line["agreement"] is not None]
    assert len(agreed) >= 2
    assert np.mean(agreed) > 0.7
    assert Image.open(out / "face0.png").size == (256, 256)
    assert (out / "sheet.png").is_file()


def test_what_cannot_be_read_is_one_sentence(root: Path, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    done = read_faces(root, str(tmp_path / "no.png"), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "no.png" in done.stderr
    (tmp_path / "empty").mkdir()
    done = read_faces(root, str(tmp_path / "empty"))
    assert "no picture" in done.stderr


@needs_animeface
def test_agreement_falls_when_landmarks_are_elsewhere() -> None:
    library = nvxs.load()
    assert not isinstance(library, str)
    with FaceFinder(("animeface",), read=False) as finder:
        for index in range(6):  # the first one that animeface sees
            painting = sample_face(8, index, size=300, expression="neutral")
            picture = Zoomable(np.ascontiguousarray(painting.image))
            if found := finder.find(picture.image):
                break
        face = found[0]
    right = agreement(library, picture, face, painting.landmarks)
    assert right is not None
    assert right.share > 0.75
    aside = agreement(
        library, picture, face, painting.landmarks + np.array([0.3 * face.width, 0.0])
    )
    assert aside is not None
    assert aside.share < 0.3
    assert agreement(library, Zoomable(np.full((300, 300, 3), 90, np.uint8)), face,
                     painting.landmarks) is None  # fmt: skip

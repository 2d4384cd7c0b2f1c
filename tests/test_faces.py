"""Finding and framing faces: on painted faces everywhere, on real drawings where they are present.

Painted scenes give exact truth; real drawings give the rates that the detectors are there for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import weights
from pipeline.data import face_reader, nvxs
from pipeline.data import landmarks as lm
from pipeline.data.align import crop
from pipeline.data.detectors import fine_scan_sizes
from pipeline.data.faces import (
    PART_NAMES,
    Face,
    FaceFinder,
    Framing,
    align_face,
    whole_picture,
)
from pipeline.data.painter import sample_face
from pipeline.data.preparation import known_face
from pipeline.data.sources import KnownFace
from pipeline.errors import ConfigError, DataError

HAS_ANIMEFACE = not isinstance(nvxs.load(), str)
HAS_MEDIAPIPE = weights.find("mediapipe-face") is not None
needs_animeface = pytest.mark.skipif(not HAS_ANIMEFACE, reason=f"animeface: {nvxs.load()}")
needs_mediapipe = pytest.mark.skipif(
    not HAS_MEDIAPIPE, reason="mediapipe's model is not in the cache (`make setup` fetches it)"
)


@pytest.fixture(scope="module")
def finder() -> Iterator[FaceFinder]:
    with FaceFinder() as chain:
        yield chain


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def painted(index: int, size: int = 300) -> tuple[np.ndarray, Face]:
    """A painted face with open eyes, and the truth about it."""
    painting = sample_face(11, index, size=size, expression="neutral")
    return np.ascontiguousarray(painting.image), known_face(KnownFace(painting.landmarks))


faces = st.builds(
    Face,
    box=st.just((0.0, 0.0, 1.0, 1.0)),
    score=st.just(1.0),
    detector=st.just("animeface"),
    eyes=st.tuples(st.floats(-500, 2000), st.floats(-500, 2000)),
    width=st.floats(5, 1500),
    roll_degrees=st.floats(-180, 180),
)


@given(faces, st.floats(1, 4), st.floats(0.2, 0.8))
def test_framing_puts_the_eyes_in_their_place(face: Face, widths: float, height: float) -> None:
    transform = Framing(widths, height).transform(face)
    assert np.allclose(transform.apply(np.array(face.eyes)), [0.5, height], atol=1e-6)
    assert math.isclose(transform.width, widths * face.width)
    # The eye line of the face is level in the crop.
    roll = np.radians(face.roll_degrees)
    along = np.array(face.eyes) + 50 * np.array([np.cos(roll), np.sin(roll)])
    assert abs(transform.apply(along)[1] - height) < 1e-6


def test_impossible_framings_are_refused() -> None:
    for values in ((0.1, 0.5), (2.0, 1.0), (math.nan, 0.5)):
        with pytest.raises(ConfigError, match="framing"):
            Framing(*values)


@needs_animeface
def test_painted_faces_are_found_where_they_are(finder: FaceFinder) -> None:
    widths = []
    for index in range(6):
        image, truth = painted(index)
        (face, *_) = finder.find(image)
        assert face.detector == "animeface"
        assert math.dist(face.eyes, truth.eyes) < 0.12 * truth.width
        assert abs(face.roll_degrees - truth.roll_degrees) < 7
        assert face.parts is not None
        assert tuple(face.parts) == PART_NAMES
        widths.append(face.width / truth.width)
    assert 0.85 < np.median(widths) < 1.15
    assert np.std(widths) < 0.12


@needs_animeface
def test_found_faces_are_read_and_levelled_by_what_was_read() -> None:
    """The face reader's landmarks and roll are the truth's more nearly than the detectors' are."""
    detectors, read = [], []
    with FaceFinder(read=False) as without, FaceFinder() as chain:
        for index in range(5):
            painting = sample_face(12, index, size=300, expression="neutral")
            image = np.ascontiguousarray(painting.image)
            (before, *_), (after, *_) = without.find(image), chain.find(image)
            assert before.landmarks is None
            assert after.landmarks is not None
            assert (after.eyes, after.width) == (before.eyes, before.width)
            off = np.linalg.norm(after.landmarks - painting.landmarks, axis=1).mean()
            assert off < 0.03 * after.width
            true = lm.roll_degrees(painting.landmarks)
            detectors.append(abs(before.roll_degrees - true))
            read.append(abs(after.roll_degrees - true))
    assert chain.missing == {}
    assert np.mean(read) < 1.5
    assert np.mean(read) <= np.mean(detectors)


def test_without_the_reader_detectors_are_taken_at_their_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(face_reader, "SHIPPED", tmp_path / "missing")
    with FaceFinder() as chain:
        faces = chain.find(painted(1)[0])
        assert all(face.landmarks is None for face in faces)
        if faces:
            assert "Faces are not read: The face reader that ships" in chain.missing["reader"]


def strip(faces: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A strip ten times as high as wide (a page to scroll), and the corners of its pictures."""
    image = np.full((6000, 600, 3), 245, np.uint8)
    corners = [(120, 700 + 2000 * number) for number in range(faces)]
    for number, (x, y) in enumerate(corners):
        painting = sample_face(3, number, size=360, expression="neutral").image
        image[y : y + 360, x : x + 360] = painting
    return image, corners


@needs_animeface
def test_faces_in_a_long_strip_are_found(finder: FaceFinder) -> None:
    image, corners = strip(3)
    found = finder.find(image, every=True)
    assert len(found) == 3
    for face, (x, y) in zip(sorted(found, key=lambda one: one.eyes[1]), corners, strict=True):
        assert x < face.eyes[0] < x + 360
        assert y < face.eyes[1] < y + 360
        assert 90 < face.width < 300
    assert finder.find(image)  # one is enough where one is asked for


@needs_animeface
def test_a_small_face_in_a_large_scene_is_found(finder: FaceFinder) -> None:
    shade = np.linspace(120, 230, 3000).astype(np.uint8)
    image = np.tile(shade[None, :, None], (2000, 1, 3))
    assert finder.find(image) == []
    image[1300:1480, 2300:2480] = sample_face(3, 1, size=180, expression="neutral").image
    (face,) = finder.find(image)
    assert math.dist(face.eyes, (2390, 1390)) < 60


def test_ordinary_pictures_get_no_further_scans() -> None:
    """What finds small faces in large pictures costs ordinary ones nothing."""
    for shape in ((700, 500), (768, 768), (512, 1100)):
        assert fine_scan_sizes(np.zeros((*shape, 3), np.uint8)) == []
    for shape in ((2000, 3000), (8000, 800), (1200, 20_000)):
        sizes = fine_scan_sizes(np.zeros((*shape, 3), np.uint8))
        assert sizes
        assert sizes == sorted(sizes)
        assert max(sizes) ** 2 * min(shape) / max(shape) <= 2.2e6
        assert max(sizes) <= max(shape)


@needs_animeface
def test_finding_is_deterministic(finder: FaceFinder) -> None:
    image, _ = painted(1)
    assert finder.find(image) == finder.find(image)


@needs_animeface
@pytest.mark.parametrize("roll", [-20.0, 15.0, 40.0])
def test_leaning_faces_are_levelled(finder: FaceFinder, roll: float) -> None:
    image, truth = painted(2)
    leaning = np.asarray(
        Image.fromarray(image).rotate(
            -roll, Image.Resampling.BICUBIC, expand=True, fillcolor="grey"
        )
    )
    (face, *_) = finder.find(leaning)
    assert abs(face.roll_degrees - (truth.roll_degrees + roll)) < 6


@needs_animeface
def test_every_face_of_a_picture_and_each_once(finder: FaceFinder) -> None:
    left, right = painted(2, 320)[0], painted(3, 260)[0]
    canvas = np.full((340, 640, 3), 200, np.uint8)
    canvas[10:330, 0:320] = left
    canvas[50:310, 340:600] = right
    found = finder.find(canvas, every=True)
    assert len(found) == 2
    assert found[0].eyes[0] < 320 < found[1].eyes[0]  # the larger one first
    assert found[0].width > found[1].width


def test_pictures_without_faces_have_none(finder: FaceFinder) -> None:
    flat = np.full((200, 300, 3), 128, np.uint8)
    gradient = np.repeat(np.linspace(0, 255, 256, dtype=np.uint8)[None, :, None], 200, 0)
    for image in (flat, np.repeat(gradient, 3, 2), flat[:2, :2], flat[:50, :1], flat[:1]):
        assert finder.find(np.ascontiguousarray(image)) == []


@needs_mediapipe
def test_without_animeface_the_chain_goes_on(drawings_dir: Path) -> None:
    """What happens on machines for which animeface has no library."""
    paths = sorted((drawings_dir / "drawings").glob("*.jpg"))[:8]
    with FaceFinder(("mediapipe", "cascade")) as chain:
        assert chain.missing == {}
        found = [chain.find(read(path)) for path in paths]
    assert sum(bool(faces) for faces in found) >= 6
    assert {faces[0].detector for faces in found if faces} == {"mediapipe"}


def test_missing_detectors_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvxs, "load", lambda: "no library here")
    monkeypatch.setattr(weights, "find", lambda name: None)
    with FaceFinder() as chain:
        assert chain.missing["animeface"].endswith("animeface is not used: no library here.")
        assert "make setup" in chain.missing["mediapipe"]
        # The cascade is left; it may find nothing, but it runs.
        assert all(face.detector == "cascade" for face in chain.find(painted(0)[0]))


def test_misspelt_detectors_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"animefaces is not possible.*animeface"):
        FaceFinder(("animefaces",))


def test_no_face_policies(finder: FaceFinder) -> None:
    flat = np.full((100, 160, 3), 90, np.uint8)
    aligned = align_face(flat, 64, finder)
    assert aligned.face.detector == "whole"
    assert aligned.image.shape == (64, 64, 3)
    assert (aligned.transform.width, aligned.transform.center_x) == (100, 80)
    assert whole_picture(flat, Framing())[1] == aligned.transform
    with pytest.raises(DataError, match="No face was found"):
        align_face(flat, 64, finder, on_no_face="reject")


@needs_animeface
def test_align_face_is_crop_of_its_transform(finder: FaceFinder) -> None:
    image, _ = painted(0)
    aligned = align_face(image, 96, finder)
    assert np.array_equal(aligned.image, crop(image, aligned.transform, 96))


@needs_animeface
def test_drawings_are_found(finder: FaceFinder, drawings_dir: Path) -> None:
    """The rate over all 60 is 100 %; every fifth is looked at here."""
    paths = sorted((drawings_dir / "drawings").glob("*.jpg"))[::5]
    found = [finder.find(read(path)) for path in paths]
    assert all(found)
    for faces in found:
        assert 80 < faces[0].width < 220  # of 256
        assert 60 < faces[0].eyes[1] < 170


@needs_animeface
@needs_mediapipe
def test_front_facing_portraits_are_found_and_others_are_not_made_up(
    finder: FaceFinder, drawings_dir: Path
) -> None:
    folder = drawings_dir / "ganyu"
    for number in (14, 31, 33):
        assert finder.find(read(folder / f"ganyu{number:03d}.jpg")), number
    # Seen from behind.
    for number in (23,):
        assert not finder.find(read(folder / f"ganyu{number:03d}.jpg")), number

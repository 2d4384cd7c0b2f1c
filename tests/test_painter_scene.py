"""Scenes: sizes, numbers of faces, truth that lies on the painted faces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import landmarks as lm
from pipeline.data.painter import paint_scene
from pipeline.data.painter.samples import character
from pipeline.data.painter.scene import MAX_SIDE, MIN_SIDE

SEEDS = st.integers(0, 2**31 - 1)


@settings(max_examples=8, deadline=None)
@given(SEEDS)
def test_faces_lie_inside_and_apart(seed: int) -> None:
    scene = paint_scene(seed, 0)
    height, width = scene.image.shape[:2]
    assert MIN_SIDE <= height <= MAX_SIDE
    assert MIN_SIDE <= width <= MAX_SIDE
    for face in scene.faces:
        x0, y0, x1, y1 = lm.bounding_box(face.landmarks)
        assert 0 < x0 < x1 < width
        assert 0 < y0 < y1 < height
    if len(scene.faces) == 2:
        first, second = (lm.bounding_box(face.landmarks) for face in scene.faces)
        assert first[2] < second[0]  # the first stands left of the second


@pytest.mark.parametrize("count", [0, 1, 2])
def test_number_of_faces_is_as_asked(count: int) -> None:
    assert len(paint_scene(1, 4, faces=count).faces) == count


def test_impossible_number_of_faces_is_refused() -> None:
    with pytest.raises(ValueError, match="0, 1 or 2"):
        paint_scene(0, 0, faces=3)


@settings(max_examples=6, deadline=None)
@given(SEEDS)
def test_truth_lies_on_the_painted_face(seed: int) -> None:
    """Without a tint, the picture shows the skin's hue in a patch beside the nose."""
    scene = paint_scene(seed, 1, faces=1, character_number=12)
    points = scene.faces[0].landmarks
    # Between nose and mouth, where neither hair nor a feature lies.
    spot = 0.45 * points[23] + 0.55 * points[25]
    red, green, blue = scene.image[int(spot[1]), int(spot[0])].astype(int)
    skin = np.array(character(12).face.skin)
    assert red >= green >= blue - 30
    assert red > 0.5 * 255 * skin[0]


def test_roll_is_that_of_the_painted_eyes() -> None:
    for index in range(4):
        for face in paint_scene(3, index, faces=1).faces:
            assert lm.roll_degrees(face.landmarks) == pytest.approx(face.roll, abs=4)
            assert face.to_json()["expression"] == face.expression


def test_most_scenes_have_one_face_and_sizes_vary() -> None:
    scenes = [paint_scene(2, index) for index in range(20)]
    counts = [len(scene.faces) for scene in scenes]
    assert counts.count(1) > 10
    assert set(counts) <= {0, 1, 2}
    assert len({scene.image.shape for scene in scenes}) > 10
    centres = np.array([
        lm.eyes_midpoint(face.landmarks) / scene.image.shape[1::-1]
        for scene in scenes for face in scene.faces
    ])  # fmt: skip
    assert centres.std(axis=0).min() > 0.05  # off the centre, differently

"""Measures of a face: they say what the painter drew, whatever its size, place and roll."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.data import landmarks as lm
from pipeline.data.face_measures import (
    brow_angle,
    brow_height,
    brow_tilt,
    eye_aspect,
    eye_opening,
    levelled,
    measures,
    mouth_aspect,
    mouth_curvature,
    mouth_width,
)
from pipeline.data.painter import EXPRESSIONS, Pose, character, face_landmarks


def painted(expression: str = "neutral", **changes: float) -> np.ndarray:
    return face_landmarks(character(0), expression=replace(EXPRESSIONS[expression], **changes))


def test_moods_differ_as_they_should() -> None:
    assert mouth_curvature(painted("smile")) > 0.05 > mouth_curvature(painted("neutral")) - 0.05
    assert mouth_curvature(painted("sad")) < -0.03
    assert mouth_aspect(painted("laugh")) > 0.3 > mouth_aspect(painted("smile"))
    assert brow_tilt(painted("angry")) > 8
    assert brow_tilt(painted("sad")) < -8
    assert brow_height(painted("surprised")) > brow_height(painted("angry"))
    assert eye_opening(painted("surprised")) > eye_opening(painted("neutral")) > 0.4


def test_a_wink_shuts_one_eye() -> None:
    """The painter winks with the eye at the right of the picture."""
    wink = painted("wink")
    assert eye_aspect(wink, "right") < 0.2 < eye_aspect(wink, "left")


@pytest.mark.parametrize(
    ("measure", "name", "values"),
    [
        (eye_opening, ("left_lid", "right_lid"), (0.3, 0.6, 0.9, 1.15)),
        (mouth_aspect, ("mouth_open",), (0.2, 0.5, 0.9)),
        (mouth_curvature, ("mouth_smile",), (-0.8, 0.0, 0.8)),
        (mouth_width, ("mouth_width",), (0.7, 1.0, 1.3)),
        (brow_tilt, ("brow_tilt",), (-0.9, 0.0, 0.9)),
        (brow_height, ("brow_raise",), (-0.8, 0.0, 0.8)),
    ],
)
def test_measures_follow_what_is_drawn(measure, name, values) -> None:
    found = [measure(painted(**dict.fromkeys(name, value))) for value in values]
    assert found == sorted(found)
    assert found[-1] > found[0]


def test_size_place_and_roll_do_not_matter() -> None:
    points = painted("sad")
    angle = math.radians(25)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    moved = 3.5 * points @ turn + (400, -30)
    for name, value in measures(points).items():
        assert measures(moved)[name] == pytest.approx(value, abs=1e-9), name
    assert np.allclose(levelled(points), levelled(moved))


def test_mirrored_faces_measure_alike() -> None:
    points = face_landmarks(character(3), Pose(yaw=18, roll=7), EXPRESSIONS["angry"])
    mirrored = lm.mirrored(points, 256)
    for side, other in (("left", "right"), ("right", "left")):
        assert eye_aspect(points, side) == pytest.approx(eye_aspect(mirrored, other))
        assert brow_angle(points, side) == pytest.approx(brow_angle(mirrored, other))
    assert mouth_curvature(points) == pytest.approx(mouth_curvature(mirrored))


def test_what_is_no_face_is_refused() -> None:
    with pytest.raises(ValueError, match="no face"):
        levelled(np.zeros((28, 2)))
    with pytest.raises(ValueError, match="left or right"):
        eye_aspect(painted(), "up")
    with pytest.raises(ValueError, match="shape"):
        mouth_aspect([[0.0, 0.0]])

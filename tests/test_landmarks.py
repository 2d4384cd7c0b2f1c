"""The 28-point order: groups cover it, mirroring is its own inverse, measures hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mirror import FLIP, mirror

from pipeline.data import landmarks as lm

POINTS = arrays(np.float64, (28, 2), elements=st.floats(-500, 1500, width=32))


def test_parts_cover_each_point_once() -> None:
    covered = [i for part in lm.PARTS.values() for i in range(28)[part]]
    assert covered == list(range(28))
    assert len(set(lm.NAMES)) == lm.NUM_LANDMARKS


def test_order_is_the_detectors() -> None:
    """Group sizes and swap pairs as in the anime-face-detector's published configuration."""
    sizes = [part.stop - part.start for part in lm.PARTS.values()]
    assert sizes == [5, 3, 3, 6, 6, 1, 4]
    pairs = {0: 4, 1: 3, 5: 10, 6: 9, 7: 8, 11: 19, 12: 18, 13: 17, 14: 22, 15: 21, 16: 20, 24: 26}
    for left, right in pairs.items():
        assert FLIP[left] == right
        assert FLIP[right] == left
    assert [i for i in range(28) if FLIP[i] == i] == [2, 23, 25, 27]


def test_mirror_names_agree() -> None:
    for index, other in enumerate(FLIP):
        swapped = (
            lm.NAMES[index].replace("left", "#").replace("right", "left").replace("#", "right")
        )
        assert lm.NAMES[other] == swapped


@given(POINTS, st.floats(1, 2000))
def test_mirror_twice_is_identity(points: np.ndarray, width: float) -> None:
    np.testing.assert_allclose(mirror(mirror(points, width), width), points, atol=1e-9)


@given(POINTS)
def test_mirror_negates_roll(points: np.ndarray) -> None:
    assume(np.linalg.norm(points[lm.LEFT_EYE].mean(0) - points[lm.RIGHT_EYE].mean(0)) > 1e-3)
    roll, mirrored = lm.roll_degrees(points), lm.roll_degrees(mirror(points, 256))
    assert np.cos(np.radians(roll + mirrored)) == pytest.approx(1, abs=1e-9)
    assert lm.eyes_midpoint(mirror(points, 256))[0] == pytest.approx(
        256 - lm.eyes_midpoint(points)[0]
    )


@given(POINTS)
def test_json_round_trip(points: np.ndarray) -> None:
    back = lm.from_json(json.loads(json.dumps(lm.to_json(points))))
    np.testing.assert_allclose(back, points, atol=6e-4)


def test_roll_is_clockwise_in_the_picture() -> None:
    points = np.zeros((28, 2))
    points[lm.LEFT_EYE] = (100, 100)
    points[lm.RIGHT_EYE] = (140, 140)
    assert lm.roll_degrees(points) == pytest.approx(45)
    assert lm.eyes_midpoint(points) == pytest.approx((120, 120))


@pytest.mark.parametrize("bad", [np.zeros((27, 2)), np.zeros((28, 3)), [[1, 2]]])
def test_wrong_shape_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="28, 2"):
        lm.as_points(bad)

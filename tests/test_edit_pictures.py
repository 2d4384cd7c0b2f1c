"""Films read back by a decoder, marks where they belong, and the second opinion on handles."""

from __future__ import annotations

import math
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.edit import pictures, video
from pipeline.edit.handle_check import check_handle, match
from pipeline.edit.pictures import Marker


def drawing(side: int = 96) -> np.ndarray:
    """Smooth blobs and a few hard edges, everywhere distinct."""
    rng = np.random.default_rng(3)
    picture = cv2.resize(
        rng.integers(0, 256, (12, 12, 3), dtype=np.uint8),
        (side, side),
        interpolation=cv2.INTER_CUBIC,
    )
    cv2.circle(picture, (side // 3, side // 2), side // 8, (250, 240, 230), -1)
    cv2.circle(picture, (side // 3, side // 2), side // 20, (20, 20, 60), -1)
    return picture


@pytest.mark.parametrize(("height", "width"), [(64, 64), (63, 65), (512, 512)])
@pytest.mark.parametrize("count", [1, 7])
def test_films_are_read_back(tmp_path: Path, height: int, width: int, count: int) -> None:
    frames = [np.full((height, width, 3), 30 * i, np.uint8) for i in range(count)]
    video.write_mp4(tmp_path / "f.mp4", frames, 20)
    with av.open(str(tmp_path / "f.mp4")) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        decoded = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
        assert float(stream.average_rate or 0) == 20
    assert len(decoded) == count
    assert decoded[0].shape == (height + height % 2, width + width % 2, 3)
    for frame, wanted in zip(decoded, frames, strict=True):
        assert abs(float(frame.mean()) - float(wanted.mean())) < 4

    video.write_gif(tmp_path / "f.gif", frames, 20)
    with Image.open(tmp_path / "f.gif") as gif:
        assert getattr(gif, "n_frames", 1) == count
        assert gif.size == (width, height)
        assert gif.info.get("loop", 0) == 0


def test_a_film_of_a_pause_keeps_its_length(tmp_path: Path) -> None:
    video.write_gif(tmp_path / "f.gif", [drawing(32)] * 5, 20)
    with Image.open(tmp_path / "f.gif") as gif:
        total = 0
        for index in range(getattr(gif, "n_frames", 1)):
            gif.seek(index)
            total += gif.info["duration"]
    assert total == 500 + 3 * 50 + 1000


def test_handles_are_red_and_targets_blue_where_they_are() -> None:
    face = np.full((64, 64, 3), 128, np.uint8)
    factor = pictures.display_factor(64, 64)
    marked = pictures.draw_markers(face, [Marker((10, 10), (20, 30), (50, 40))], factor)
    assert factor == 8
    assert marked.shape == (512, 512, 3)
    red = marked[30 * 8, 20 * 8].astype(int)
    assert red[0] > 200
    assert red[1:].max() < 90
    ring = marked[40 * 8 - 8 : 40 * 8 + 9, 50 * 8 - 10 : 50 * 8 + 11].astype(int)
    assert ((ring[..., 2] > 200) & (ring[..., 0] < 80)).any()
    # Nothing elsewhere, and the face itself untouched.
    assert (marked[:40, 300:] == 128).all()
    assert (face == 128).all()


def test_a_marker_at_the_border_is_drawn_without_trouble() -> None:
    face = np.zeros((40, 30, 3), np.uint8)
    marked = pictures.draw_markers(face, [Marker((0, 0), (0, 0), (30, 40))], 18)
    assert marked.shape == (720, 540, 3)
    assert marked[0, 0, 0] > 200


def test_before_and_after_are_the_halves() -> None:
    before, after = drawing(40), drawing(40)[::-1].copy()
    both = pictures.before_after(before, after, 2)
    assert both.shape == (80, 160, 3)
    np.testing.assert_array_equal(both[:, :80], pictures.enlarge(before, 2))
    np.testing.assert_array_equal(both[:, 80:], pictures.enlarge(after, 2))


# --- the second opinion ---


def shifted(picture: np.ndarray, dx: float, dy: float) -> np.ndarray:
    height, width = picture.shape[:2]
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
    return cv2.warpAffine(
        picture, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


@pytest.mark.parametrize("side", [64, 128, 256])
@pytest.mark.parametrize("part", [(0.33, 0.5), (0.6, 0.3), (0.97, 0.5)])
def test_a_moved_handle_is_found_where_it_went(side: int, part: tuple[float, float]) -> None:
    before = drawing(side)
    start = (side * part[0], side * part[1])
    dx, dy = -side * 0.06, side * 0.045
    after = shifted(before, dx, dy)
    arrived = check_handle(before, after, start, (start[0] + dx, start[1] + dy))
    assert arrived.error_px < 0.6 * side / 64
    assert arrived.return_error_px < 0.6 * side / 64
    assert arrived.score > 0.8


def test_a_handle_that_never_moved_is_as_far_off_as_its_target() -> None:
    before = drawing(128)
    start, target = (42.0, 64.0), (52.0, 64.0)
    check = check_handle(before, before, start, target)
    assert check.error_px == pytest.approx(math.dist(start, target), abs=0.3)
    assert check.return_error_px == pytest.approx(math.dist(start, target), abs=0.3)
    half = check_handle(before, shifted(before, 5, 0), start, target)
    assert half.error_px == pytest.approx(5, abs=0.5)


def test_pictures_without_a_feature_do_not_break_the_check() -> None:
    flat = np.full((64, 64, 3), 200, np.uint8)
    place, score = match(flat, (0.0, 0.0), flat, (64.0, 64.0), 5)
    assert all(math.isfinite(value) for value in place)
    assert score <= 1

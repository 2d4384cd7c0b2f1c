"""Crop geometry: transforms invert, crops neither shift nor alias, pasting back keeps the rest."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.align import CropTransform, change_mask, crop, paste_back
from pipeline.errors import DataError

coordinate = st.floats(-500, 1500)
side = st.floats(4, 900)
transforms = st.builds(CropTransform, coordinate, coordinate, side, side, st.floats(-180, 180))
seeds = st.integers(0, 2**32 - 1)


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(seed: int, height: int, width: int) -> np.ndarray:
    """A picture without fine detail, which any good resampling keeps."""
    coarse = Image.fromarray(noise(seed, 6, 6))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def gaussian_dot(height: int, width: int, x: float, y: float, sigma: float) -> np.ndarray:
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    value = np.exp(-((columns - x) ** 2 + (rows[:, None] - y) ** 2) / (2 * sigma**2))
    return np.repeat((20 + 220 * value)[:, :, None], 3, axis=2).astype(np.uint8)


def centroid(image: np.ndarray) -> np.ndarray:
    """(x, y) of a bright dot on dark ground, in continuous pixels."""
    weight = np.clip(image[:, :, 0].astype(float) - 40, 0, None)
    columns, rows = np.arange(image.shape[1]) + 0.5, np.arange(image.shape[0]) + 0.5
    total = weight.sum()
    return np.array([(weight * columns).sum(), (weight * rows[:, None]).sum()]) / total


@given(transforms, coordinate, coordinate, st.integers(1, 1024))
def test_inverse_undoes_apply(
    transform: CropTransform, x: float, y: float, resolution: int
) -> None:
    points = np.array([[x, y], [y, x]])
    there = transform.apply(points, resolution)
    assert np.allclose(transform.inverse(there, resolution), points, atol=1e-6)


@given(transforms)
def test_corners_are_the_crops_corners_and_a_similarity(transform: CropTransform) -> None:
    corners = transform.corners()
    assert np.allclose(transform.apply(corners), [[0, 0], [1, 0], [1, 1], [0, 1]], atol=1e-6)
    assert math.isclose(math.dist(corners[0], corners[1]), transform.width, abs_tol=1e-6)
    assert math.isclose(math.dist(corners[1], corners[2]), transform.height, abs_tol=1e-6)


@given(transforms)
def test_json_round_trip_is_exact(transform: CropTransform) -> None:
    assert CropTransform.from_json(json.loads(json.dumps(transform.to_json()))) == transform


@pytest.mark.parametrize("data", [{}, {"center_x": 1}, {"center_x": "left"}, None, []])
def test_bad_json_is_refused(data: object) -> None:
    with pytest.raises(DataError, match="needs the numbers"):
        CropTransform.from_json(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [(0, 0, 0, 5), (0, 0, -1, 5), (math.nan, 0, 5, 5)])
def test_impossible_crops_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(DataError):
        CropTransform(*values)


@given(seeds, st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=30)
def test_whole_picture_at_its_own_size_is_a_copy(seed: int, width: int, height: int) -> None:
    image = noise(seed, height, width)
    transform = CropTransform(width / 2, height / 2, width, height)
    assert np.array_equal(crop(image, transform, width), image)


@given(
    seeds,
    st.floats(130, 170),
    st.floats(130, 170),
    st.floats(30, 150),
    st.floats(-180, 180),
    st.sampled_from([24, 64, 200]),
)
@settings(max_examples=40, deadline=None)
def test_a_dot_lands_where_the_transform_says(
    seed: int, x: float, y: float, side: float, roll: float, resolution: int
) -> None:
    transform = CropTransform.square(x, y, side, roll)
    dot = transform.inverse(np.random.default_rng(seed).uniform(0.4, 0.6, 2))
    sigma = max(2.0, 1.2 * side / resolution)
    cut = crop(gaussian_dot(300, 300, *dot, sigma), transform, resolution)
    assert np.abs(centroid(cut) - transform.apply(dot, resolution)).max() < 0.15


def test_turned_crop_levels_a_turned_picture() -> None:
    upright = smooth(3, 120, 120)
    turn = cv2.getRotationMatrix2D((59.5, 59.5), -25, 1.0)  # clockwise 25 degrees
    turned = cv2.warpAffine(upright, turn, (120, 120), flags=cv2.INTER_CUBIC)
    levelled = crop(turned, CropTransform.square(60, 60, 60, 25), 60)
    assert np.abs(levelled.astype(int) - upright[30:90, 30:90]).mean() < 1.5


def test_shrinking_does_not_alias() -> None:
    """A checkerboard of single pixels has no business in a picture of a fifth the size."""
    checker = np.indices((400, 400)).sum(axis=0) % 2 * 255
    image = np.repeat(checker[:, :, None], 3, axis=2).astype(np.uint8)
    for side, resolution in ((400, 80), (390, 30)):
        for roll in (0.0, 10.0):
            cut = crop(image, CropTransform.square(200, 200, side * 0.7, roll), resolution)
            assert cut.std() < 2.0, (side, resolution, roll)


def test_outside_the_picture_lies_its_mirror_image() -> None:
    image = noise(0, 20, 20)
    cut = crop(image, CropTransform.square(0, 10, 20), 20)
    assert np.array_equal(cut[:, 10:], image[:, :10])
    assert np.array_equal(cut[:, :10], image[:, 9::-1])


def test_far_outside_and_very_large_crops_are_made() -> None:
    image = noise(0, 7, 5)
    assert crop(image, CropTransform.square(-300, 900, 40, 33), 16).shape == (16, 16, 3)
    assert crop(image, CropTransform.square(2, 3, 2000, 33), 16).shape == (16, 16, 3)


@pytest.mark.parametrize("roll", [0.0, 25.0])
@pytest.mark.parametrize("lying", [False, True])
@pytest.mark.parametrize("place", [3, 20_000, 32_998])  # the mirror image beyond both ends, too
def test_a_strip_longer_than_opencv_takes(place: int, lying: bool, roll: float) -> None:
    strip = noise(0, 33_000, 24)
    start = min(max(place - 200, 0), 33_000 - 400)
    part, center = strip[start : start + 400], (12.0, float(place))
    center_in_part = (center[0], center[1] - start)
    if lying:
        strip, part = strip.transpose(1, 0, 2).copy(), part.transpose(1, 0, 2).copy()
        center, center_in_part = center[::-1], center_in_part[::-1]
    cut = crop(strip, CropTransform.square(*center, 30, roll), 32)
    assert np.array_equal(cut, crop(part, CropTransform.square(*center_in_part, 30, roll), 32))


def test_aspect_is_the_transforms() -> None:
    image = noise(0, 100, 100)
    assert crop(image, CropTransform(50, 50, 30, 60), 32).shape == (64, 32, 3)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_wrong_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(DataError, match="uint8"):
        crop(image, CropTransform.square(2, 2, 2), 2)


@given(seeds, transforms, st.sampled_from([16, 61, 128]))
@settings(max_examples=40, deadline=None)
def test_paste_back_touches_nothing_outside(
    seed: int, transform: CropTransform, resolution: int
) -> None:
    original = noise(seed, 90, 120)
    width, height = transform.output_size(resolution)
    pasted = paste_back(original, np.zeros((height, width, 3), np.uint8), transform)
    columns, rows = np.meshgrid(np.arange(120) + 0.5, np.arange(90) + 0.5)
    fractions = transform.apply(np.stack([columns, rows], axis=-1))
    outside = (fractions <= 0).any(axis=-1) | (fractions >= 1).any(axis=-1)
    assert np.array_equal(pasted[outside], original[outside])
    inside = ((fractions > 0.1) & (fractions < 0.9)).all(axis=-1)
    assert not pasted[inside].any()


@given(seeds, st.integers(20, 60), st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_an_unedited_upright_crop_pastes_back_to_the_original(
    seed: int, side: int, left: int, top: int
) -> None:
    original = noise(seed, 90, 100)
    transform = CropTransform.square(left + side / 2, top + side / 2, side)
    assert np.array_equal(
        paste_back(original, crop(original, transform, side), transform), original
    )


@given(seeds, st.floats(60, 140), st.floats(60, 140), st.floats(40, 160), st.floats(-180, 180))
@settings(max_examples=20, deadline=None)
def test_an_unedited_turned_crop_pastes_back_nearly_unchanged(
    seed: int, x: float, y: float, side: float, roll: float
) -> None:
    original = smooth(seed, 200, 200)
    transform = CropTransform.square(x, y, side, roll)
    pasted = paste_back(original, crop(original, transform, 128), transform)
    assert np.abs(pasted.astype(int) - original).mean() < 1.0


def test_mask_keeps_the_original_bit_for_bit() -> None:
    original, face = noise(1, 80, 80), noise(2, 64, 64)
    transform = CropTransform.square(40, 40, 60, 12)
    mask = np.zeros((64, 64), np.float32)
    assert np.array_equal(paste_back(original, face, transform, mask), original)
    mask[20:44, 20:44] = 1
    changed = (paste_back(original, face, transform, mask) != original).any(axis=2)
    assert changed[40, 40]
    assert not changed[:20].any()
    with pytest.raises(DataError, match="mask"):
        paste_back(original, face, transform, mask[:10])


def test_change_mask_covers_the_change_and_is_zero_elsewhere() -> None:
    before = smooth(5, 128, 128)
    assert not change_mask(before, before).any()
    after = before.copy()
    after[60:70, 30:50] = 255 - after[60:70, 30:50]
    mask = change_mask(before, after)
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert (mask[62:68, 32:48] == 1).all()
    assert not mask[:40].any()
    assert not mask[90:].any()


@settings(max_examples=30, deadline=None)
@given(
    seeds, st.integers(20, 60), st.integers(20, 60), st.integers(-15, 60), st.integers(-15, 60),
    st.integers(8, 40),
)  # fmt: skip
def test_an_upright_crop_of_whole_pixels_is_a_copy(
    seed: int, height: int, width: int, left: int, top: int, side_px: int
) -> None:
    picture = noise(seed, height, width)
    transform = CropTransform.square(left + side_px / 2, top + side_px / 2, side_px)
    border = 120
    around = cv2.copyMakeBorder(picture, *[border] * 4, cv2.BORDER_REFLECT)
    expected = around[border + top :, border + left :][:side_px, :side_px]
    np.testing.assert_array_equal(crop(picture, transform, side_px), expected)

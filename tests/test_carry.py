"""An edit carried over to the drawing's own pixels, on paintings whose truth is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.align import CropTransform, crop, paste_back
from pipeline.data.painter import (
    Painting,
    Pose,
    paint_face,
    preset,
    random_background,
    random_identity,
    random_light,
)
from pipeline.edit.carry import apply_motion, carry_over, measure_motion

SIDE = 384
FACE = 96
WHOLE = CropTransform.square(SIDE / 2, SIDE / 2, SIDE)


def painting(expression: str = "neutral", yaw: float = 0.0, pitch: float = 0.0) -> Painting:
    return paint_face(
        random_identity(np.random.default_rng(6)),
        Pose(yaw, pitch, 0.0),
        preset(expression),
        random_light(np.random.default_rng(1)),
        random_background(np.random.default_rng(2)),
        SIDE,
    )


def small(picture: np.ndarray) -> np.ndarray:
    """The face as a model of FACE px would show it."""
    return cv2.resize(picture, (FACE, FACE), interpolation=cv2.INTER_AREA)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def test_a_turned_head_is_drawn_with_the_drawings_own_lines() -> None:
    drawing, truth = painting().image, painting(yaw=7.0, pitch=4.0).image
    carried, motion = carry_over(drawing, small(drawing), small(truth), WHOLE)
    pasted = paste_back(drawing, small(truth), WHOLE)
    assert distance(carried, truth) < 0.8 * distance(drawing, truth)
    assert distance(carried, truth) < distance(pasted, truth)
    assert motion.repaint.mean() < 0.1
    assert motion.explained > 0.4

    def sharpness(picture: np.ndarray) -> float:
        return float(cv2.Laplacian(picture, cv2.CV_32F)[40:-40, 40:-40].std())

    assert sharpness(carried) > 0.8 * sharpness(drawing) > 1.5 * sharpness(pasted)


def test_a_mouth_that_opened_is_painted_by_the_model() -> None:
    neutral, laughing = painting(), painting("laugh")
    carried, motion = carry_over(neutral.image, small(neutral.image), small(laughing.image), WHOLE)
    x, y = laughing.landmarks[24:28].mean(axis=0) / SIDE * motion.repaint.shape[0]
    assert motion.repaint[round(y), round(x)] > 0.9
    inside = laughing.masks["mouth"] > 0.5
    assert distance(carried[inside], laughing.image[inside]) < 0.4 * distance(
        neutral.image[inside], laughing.image[inside]
    )
    # Its small picture is enlarged as line art, which is nearer to the truth than plainly enlarged.
    plain = apply_motion(neutral.image, small(laughing.image), WHOLE, motion)
    assert distance(carried, laughing.image) < 0.92 * distance(plain, laughing.image)


def test_a_model_that_misses_the_drawing_does_not_paint_on_it() -> None:
    drawing = painting().image
    noise = np.random.default_rng(0).normal(0, 1, (FACE, FACE, 3))
    haze = cv2.GaussianBlur(noise, (0, 0), 3) * 250
    before = np.clip(cv2.GaussianBlur(small(drawing), (0, 0), 2) + haze, 0, 255).astype(np.uint8)
    after = np.clip(before + np.roll(haze, 9, axis=0), 0, 255).astype(np.uint8)
    assert not measure_motion(before, after, small(drawing)).repaint.any()


def test_no_change_leaves_every_pixel() -> None:
    drawing = painting().image
    face = small(drawing)
    carried, motion = carry_over(drawing, face, face, WHOLE)
    assert np.array_equal(carried, drawing)
    assert motion.explained == 1.0


@pytest.mark.parametrize("roll", [0.0, 25.0])
def test_only_the_crop_changes_and_what_is_kept_does_not(roll: float) -> None:
    drawing = painting().image
    transform = CropTransform.square(SIDE * 0.52, SIDE * 0.5, SIDE * 0.6, roll)
    before = crop(drawing, transform, FACE)
    after = np.roll(before, 3, axis=0)
    keep = np.zeros((FACE, FACE), np.float32)
    keep[:, : FACE // 2] = 1
    carried, _ = carry_over(drawing, before, after, transform, keep)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    fractions = transform.apply(np.stack([columns, rows], axis=-1))
    outside = ((fractions < 0) | (fractions > 1)).any(axis=-1)
    kept = ~outside & (fractions[..., 0] < 0.4)
    free = ~outside & (np.abs(fractions - (0.7, 0.5)) < 0.15).all(axis=-1)
    assert np.array_equal(carried[outside], drawing[outside])
    assert np.array_equal(carried[kept], drawing[kept])
    assert (carried[free] != drawing[free]).any()


@settings(max_examples=20, deadline=None)
@given(st.integers(-4, 4), st.integers(-4, 4), st.integers(0, 99))
def test_motion_of_a_moved_patch(dx: int, dy: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(random.uniform(0, 255, (FACE, FACE, 3)), (0, 0), 2.5)
    texture = (texture - texture.min()) / np.ptp(texture) * 255
    before = texture.astype(np.uint8)
    after = cv2.warpAffine(
        before, np.array([[1.0, 0, dx], [0, 1, dy]]), (FACE, FACE), borderMode=cv2.BORDER_REFLECT
    )
    flow = measure_motion(before, after, before).flow
    middle = flow[
        flow.shape[0] // 3 : -flow.shape[0] // 3, flow.shape[1] // 3 : -flow.shape[1] // 3
    ]
    found = np.median(middle.reshape(-1, 2), axis=0) * FACE
    assert np.abs(found + np.array([dx, dy])).max() < 0.75


def test_faces_of_any_shape() -> None:
    drawing = np.random.default_rng(3).integers(0, 255, (300, 150, 3)).astype(np.uint8)
    transform = CropTransform(75, 150, 140, 280)
    before = np.full((64, 32, 3), 90, np.uint8)
    after = before.copy()
    after[20:30, 10:20] = 220
    carried, motion = carry_over(drawing, before, after, transform)
    assert carried.shape == drawing.shape
    assert motion.flow.shape[:2] == motion.repaint.shape
    assert np.isfinite(motion.flow).all()

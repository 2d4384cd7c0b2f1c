"""The painter: deterministic, its landmarks on its own masks, moved by pose and expression."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mirror import mirror

from pipeline.data import landmarks as lm
from pipeline.data.painter import (
    BACKGROUNDS,
    EXPRESSIONS,
    PARTS,
    Background,
    Expression,
    Light,
    Placement,
    Pose,
    blend,
    character,
    face_landmarks,
    paint_face,
    paint_scene,
    preset,
    random_identity,
    sample_face,
    vary,
)
from pipeline.data.painter.identity import ACCESSORIES, BACK_HAIR, FRINGES, OUTFITS, Accessory
from pipeline.errors import ConfigError

SEEDS = st.integers(0, 2**31 - 1)
FEW = settings(max_examples=15, deadline=None)


def near(mask: np.ndarray, point: np.ndarray, radius: float) -> bool:
    """Whether a pixel of `mask` lies within `radius` px of `point` (continuous pixels)."""
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        return False
    squared = (columns + 0.5 - point[0]) ** 2 + (rows + 0.5 - point[1]) ** 2
    return bool(squared.min() <= radius * radius)


# --- determinism ---------------------------------------------------------------------------------

_DIGEST = """
import hashlib
from pipeline.data.painter import paint_scene, sample_face
digest = hashlib.sha256()
for index in (3, 0, 1):
    painting = sample_face(5, index, size=128)
    digest.update(painting.image.tobytes() + painting.landmarks.tobytes())
    digest.update(painting.labels.tobytes())
scene = paint_scene(5, 2, faces=2)
digest.update(scene.image.tobytes() + scene.faces[1].landmarks.tobytes())
print(digest.hexdigest())
"""


def test_same_bytes_in_another_process(root: Path) -> None:
    """Two new processes, and this one in another order, paint the same bytes."""
    runs = [
        subprocess.run(
            [sys.executable, "-c", _DIGEST], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    scene = paint_scene(5, 2, faces=2)
    paintings = {index: sample_face(5, index, size=128) for index in (0, 1, 3)}
    digest = hashlib.sha256()
    for index in (3, 0, 1):
        digest.update(paintings[index].image.tobytes() + paintings[index].landmarks.tobytes())
        digest.update(paintings[index].labels.tobytes())
    digest.update(scene.image.tobytes() + scene.faces[1].landmarks.tobytes())
    assert runs == [digest.hexdigest()] * 2


def test_seed_index_and_character_all_matter() -> None:
    images = [
        sample_face(0, 0, size=64).image,
        sample_face(0, 1, size=64).image,
        sample_face(1, 0, size=64).image,
        sample_face(0, 0, size=64, character_number=0).image,
        sample_face(0, 0, size=64, character_number=1).image,
    ]
    assert len({image.tobytes() for image in images}) == len(images)


def test_golden_landmarks(root: Path) -> None:
    """Landmarks of fixed draws stay as recorded, whatever the Skia version paints.

    Regenerate: PYTHONPATH=tests python -m tests.test_painter
    """
    recorded = json.loads((root / GOLDEN).read_text())
    assert golden_landmarks().keys() == recorded.keys()
    for name, points in golden_landmarks().items():
        np.testing.assert_allclose(points, recorded[name], atol=2e-3, err_msg=name)


GOLDEN = Path("tests/golden/painter_landmarks.json")


def golden_landmarks() -> dict[str, list[list[float]]]:
    faces = {f"face {index}": sample_face(7, index).landmarks for index in range(3)}
    scene = paint_scene(7, 0, faces=1)
    return {name: lm.to_json(points) for name, points in faces.items()} | {
        "scene 0": lm.to_json(scene.faces[0].landmarks)
    }


# --- landmarks and masks -------------------------------------------------------------------------


@FEW
@given(SEEDS, st.sampled_from(sorted(EXPRESSIONS)))
def test_landmarks_lie_on_their_parts(seed: int, expression: str) -> None:
    """The painted part is found at each of its landmarks, in every expression and pose."""
    painting = sample_face(seed, 0, expression=expression)
    points, masks = painting.landmarks, painting.masks
    assert ((points > 0) & (points < 256)).all()
    for part, mask in (
        (lm.LEFT_EYE, "eyes"),
        (lm.RIGHT_EYE, "eyes"),
        (lm.LEFT_BROW, "brows"),
        (lm.RIGHT_BROW, "brows"),
        (lm.MOUTH, "mouth"),
        (lm.NOSE, "nose"),
        (lm.CONTOUR, "face"),
    ):
        for point in points[part]:
            assert near(masks[mask], point, 2.8), (mask, point)


@FEW
@given(SEEDS)
def test_contour_landmarks_bound_the_face(seed: int) -> None:
    """Just inside a contour landmark there is face; just outside of it there is none."""
    painting = sample_face(seed, 1)
    points, face = painting.landmarks, painting.masks["face"]
    middle = points[lm.NOSE][0]
    for point in points[lm.CONTOUR]:
        direction = (middle - point) / np.linalg.norm(middle - point)
        inside, outside = point + 4 * direction, point - 4 * direction
        assert face[int(inside[1]), int(inside[0])]
        assert not face[int(outside[1]), int(outside[0])]


@FEW
@given(SEEDS)
def test_order_of_points_in_a_near_frontal_face(seed: int) -> None:
    identity = random_identity(np.random.default_rng(seed))
    points = face_landmarks(identity, size=256)
    for part in (lm.LEFT_BROW, lm.RIGHT_BROW, lm.LEFT_EYE_UPPER, lm.RIGHT_EYE_UPPER):
        assert (np.diff(points[part][:, 0]) > 0).all()
    for part in (lm.LEFT_EYE_LOWER, lm.RIGHT_EYE_LOWER, lm.CONTOUR):
        assert (np.diff(points[part][:, 0]) > 0).all()
    left, upper, right, lower = points[lm.MOUTH]
    assert left[0] < upper[0] < right[0]
    assert lower[1] >= upper[1]
    assert (
        points[lm.INDEX["left_eye_upper_middle"]][1] < points[lm.INDEX["left_eye_lower_middle"]][1]
    )
    assert points[2][1] == points[:, 1].max()


def test_frontal_face_is_symmetric() -> None:
    """Without yaw and roll, mirroring the landmarks gives the landmarks."""
    points = face_landmarks(character(4), size=256)
    np.testing.assert_allclose(mirror(points, 256), points, atol=1e-6)


def test_labels_are_what_masks_leave_visible() -> None:
    painting = sample_face(3, 3)
    for value, part in enumerate(PARTS[1:], start=1):
        seen = painting.labels == value
        assert not (seen & ~painting.masks[part]).any()
    for part in ("hair_front", "face", "eyes", "body"):
        assert (painting.labels == PARTS.index(part)).sum() > 100


def test_masks_agree_with_the_picture() -> None:
    """The face mask, where seen, is skin-coloured; the front hair hair-coloured (median)."""
    identity = character(2)
    identity = replace(identity, hair=replace(identity.hair, tip_colour=None))
    painting = paint_face(identity, light=Light(side=0.0))
    for part, colour in (("face", identity.face.skin), ("hair_front", identity.hair.colour)):
        seen = painting.image[painting.labels == PARTS.index(part)]
        np.testing.assert_allclose(np.median(seen, axis=0), np.array(colour) * 255, atol=3)


# --- pose ----------------------------------------------------------------------------------------


@FEW
@given(SEEDS, st.floats(-25, 25), st.floats(-30, 30))
def test_roll_turns_the_head_as_given(seed: int, roll: float, yaw: float) -> None:
    """All distances stay; the line between the eyes turns by the roll."""
    identity = random_identity(np.random.default_rng(seed))
    level = face_landmarks(identity, Pose(yaw=yaw), size=64)
    rolled = face_landmarks(identity, Pose(yaw=yaw, roll=roll), size=64)
    difference = lm.roll_degrees(rolled) - lm.roll_degrees(level)
    assert difference == pytest.approx(roll, abs=1e-6)
    for a, b in ((0, 4), (2, 23), (11, 27)):
        assert np.linalg.norm(rolled[a] - rolled[b]) == pytest.approx(
            np.linalg.norm(level[a] - level[b])
        )


@FEW
@given(SEEDS, st.floats(5, 35))
def test_yaw_moves_near_things_further(seed: int, yaw: float) -> None:
    """Looking right moves the nose most, then the eyes, and foreshortens the far eye."""
    identity = random_identity(np.random.default_rng(seed))
    front = face_landmarks(identity, size=256)
    turned = face_landmarks(identity, Pose(yaw=yaw), size=256)
    shift = turned[:, 0] - front[:, 0]
    assert shift[23] > shift[2] > 0  # nose before chin
    assert shift[23] > (lm.eyes_midpoint(turned) - lm.eyes_midpoint(front))[0] > 0
    near_eye, far_eye = np.ptp(turned[lm.LEFT_EYE][:, 0]), np.ptp(turned[lm.RIGHT_EYE][:, 0])
    assert far_eye < near_eye
    mirrored = mirror(face_landmarks(identity, Pose(yaw=-yaw), size=256), 256)
    np.testing.assert_allclose(mirrored, turned, atol=1e-6)


@pytest.mark.parametrize("pitch", [4.0, 15.0])
def test_pitch_moves_the_nose_towards_the_eyes_or_the_mouth(pitch: float) -> None:
    def nose_height(angle: float) -> float:
        points = face_landmarks(character(0), Pose(pitch=angle), size=256)
        eyes, mouth = lm.eyes_midpoint(points)[1], points[lm.MOUTH][:, 1].mean()
        return float((points[23][1] - eyes) / (mouth - eyes))

    assert nose_height(pitch) < nose_height(0.0) < nose_height(-pitch)


@FEW
@given(st.floats(20, 90), st.floats(60, 190), st.floats(60, 190), st.floats(-180, 180))
def test_placement_is_a_similarity(unit: float, x: float, y: float, turn: float) -> None:
    """Scale, shift and turn of the figure carry the landmarks along exactly."""
    plain = face_landmarks(character(1), placement=Placement(50, (128, 128)))
    placed = face_landmarks(character(1), placement=Placement(unit, (x, y), turn))
    angle = np.radians(turn)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected = (plain - 128) @ matrix.T * (unit / 50) + (x, y)
    np.testing.assert_allclose(placed, expected, atol=1e-6)


# --- expressions ---------------------------------------------------------------------------------


def measures(expression: Expression, number: int = 6) -> dict[str, float]:
    """What an expression does to a face, in px at 256: heights are positive upwards."""
    p = face_landmarks(character(number), None, expression, size=256)
    name = {key: p[index] for key, index in lm.INDEX.items()}
    corners = (name["mouth_left"][1] + name["mouth_right"][1]) / 2
    middle = (name["mouth_upper"][1] + name["mouth_lower"][1]) / 2
    return {
        "left_open": name["left_eye_lower_middle"][1] - name["left_eye_upper_middle"][1],
        "right_open": name["right_eye_lower_middle"][1] - name["right_eye_upper_middle"][1],
        "mouth_open": name["mouth_lower"][1] - name["mouth_upper"][1],
        "mouth_width": name["mouth_right"][0] - name["mouth_left"][0],
        "mouth_smile": middle - corners,
        "brow_height": -p[lm.LEFT_BROW][:, 1].mean(),
        "brow_slope": name["left_brow_right"][1] - name["left_brow_left"][1],  # > 0: frown
        "shut_arc": name["left_eye_upper_left"][1] + name["left_eye_upper_right"][1]
        - 2 * name["left_eye_upper_middle"][1],
    }  # fmt: skip


@pytest.mark.parametrize("number", [1, 6])
def test_expressions_move_their_landmarks_the_right_way(number: int) -> None:
    face = {name: measures(mood, number) for name, mood in EXPRESSIONS.items()}
    neutral = face["neutral"]
    assert face["smile"]["mouth_smile"] > neutral["mouth_smile"] + 1
    assert face["smile"]["mouth_width"] > neutral["mouth_width"]
    assert face["laugh"]["mouth_open"] > 8 > neutral["mouth_open"]
    assert face["laugh"]["left_open"] < 3
    assert face["laugh"]["shut_arc"] > 3
    assert face["closed"]["left_open"] < 3
    assert face["closed"]["shut_arc"] < -3
    assert face["closed"]["right_open"] < 3
    assert face["wink"]["right_open"] < 3
    assert face["wink"]["left_open"] > 15
    assert face["sad"]["brow_slope"] < neutral["brow_slope"] - 3
    assert face["sad"]["mouth_smile"] < 0
    assert face["angry"]["brow_slope"] > neutral["brow_slope"] + 3
    assert face["angry"]["brow_height"] < neutral["brow_height"] - 2
    assert face["surprised"]["brow_height"] > neutral["brow_height"] + 3
    assert face["surprised"]["left_open"] > neutral["left_open"] + 2
    assert face["surprised"]["mouth_open"] > 5
    assert face["pout"]["mouth_width"] < neutral["mouth_width"] - 3


def test_tears_blush_and_sweat_change_the_picture() -> None:
    for change in ({"tears": 1.0}, {"blush": 1.0}, {"sweat": 1.0}, {"shine": 1.6}, {"teeth": 1.0}):
        before = Expression(mouth_open=0.6)
        plain = paint_face(character(0), None, before).image
        changed = paint_face(character(0), None, replace(before, **change)).image
        assert (plain != changed).any(), change


@FEW
@given(st.sampled_from(sorted(EXPRESSIONS)), st.sampled_from(sorted(EXPRESSIONS)))
def test_blending_is_continuous(first: str, second: str) -> None:
    """Small steps between two moods move no landmark far, and the ends are the moods."""
    a, b = preset(first), preset(second)
    assert blend(a, b, 0.0) == a
    assert all(
        getattr(blend(a, b, 1.0), f.name) == pytest.approx(getattr(b, f.name))
        for f in fields(Expression)
    )
    steps = [
        face_landmarks(character(0), None, blend(a, b, t), size=64) for t in np.linspace(0, 1, 21)
    ]
    jumps = [np.abs(after - before).max() for before, after in itertools.pairwise(steps)]
    assert max(jumps) < 1.5


@FEW
@given(SEEDS, st.sampled_from(sorted(EXPRESSIONS)))
def test_variation_keeps_eyes_shut_or_open(seed: int, name: str) -> None:
    before, varied = preset(name), vary(preset(name), np.random.default_rng(seed))
    assert (varied.left_lid == 0) == (before.left_lid == 0)
    # Another face of the same mood: something has changed, nothing much, and nothing is negative
    # that cannot be.
    assert varied != before
    for part in fields(before):
        old, new = getattr(before, part.name), getattr(varied, part.name)
        if isinstance(old, float):
            assert abs(new - old) <= 0.45 + 0.2 * abs(old), part.name
    assert 0 <= varied.blush <= before.blush + 0.3
    assert 0.5 * before.pupil < varied.pupil < 1.5 * before.pupil


def test_unknown_expression_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="surprised"):
        preset("suprised")


# --- identities, settings ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "kind"),
    [("fringe", kind) for kind in FRINGES] + [("back", kind) for kind in BACK_HAIR],
)
def test_every_hairstyle_paints_hair_of_its_own(field: str, kind: str) -> None:
    identity = character(8)
    painted = paint_face(replace(identity, hair=replace(identity.hair, **{field: kind})), size=96)
    other = paint_face(
        replace(
            identity,
            hair=replace(identity.hair, **{field: "wispy" if field == "fringe" else "short"}),
        ),
        size=96,
    )
    assert painted.masks["hair_front"].mean() > 0.05
    if kind not in ("wispy", "short"):
        assert (painted.image != other.image).any()


@pytest.mark.parametrize("style", OUTFITS)
def test_every_outfit_covers_the_shoulders(style: str) -> None:
    identity = character(8)
    painted = paint_face(replace(identity, outfit=replace(identity.outfit, style=style)), size=96)
    assert painted.masks["body"][90:, 20:76].mean() > 0.9


@pytest.mark.parametrize("kind", ACCESSORIES)
def test_every_accessory_is_painted_and_masked(kind: str) -> None:
    plain = replace(character(8), accessories=())
    hair = replace(plain.hair, back="short", side_length=0.6)
    worn = replace(plain, hair=hair, accessories=(Accessory(kind, (0.9, 0.2, 0.3)),))
    painted = paint_face(worn, size=128)
    added = painted.masks["accessories"]
    assert added.sum() > 20
    bare = paint_face(replace(worn, accessories=()), size=128)
    assert not bare.masks["accessories"].any()
    changed = (painted.image != bare.image).any(axis=2)
    assert changed.sum() > 20


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_every_background_covers_the_canvas(kind: str) -> None:
    background = Background(kind, (0.9, 0.5, 0.5), (0.5, 0.6, 0.9), 3)
    painting = paint_face(character(0), background=background, size=96)
    assert (painting.labels == 0).mean() > 0.1
    behind = painting.image[painting.labels == 0]
    assert (behind.sum(axis=1) > 0).all()  # nothing left unpainted


def test_light_side_moves_the_shadow() -> None:
    """The half of the face away from the light is darker."""
    halves = []
    for side in (-1.0, 1.0):
        painting = paint_face(character(0), light=Light(side=side, contrast=1.0))
        seen = painting.labels == PARTS.index("face")
        brightness = painting.image.mean(axis=2)
        left, right = seen.copy(), seen.copy()
        left[:, 128:], right[:, :128] = False, False
        halves.append(brightness[left].mean() - brightness[right].mean())
    assert halves[0] > halves[1] + 2


@pytest.mark.parametrize("size", [0, 31, 5000])
def test_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="size"):
        paint_face(character(0), size=size)


@FEW
@given(SEEDS, st.sampled_from(sorted(EXPRESSIONS)))
def test_landmarks_alone_equal_the_painted_ones(seed: int, name: str) -> None:
    identity = random_identity(np.random.default_rng(seed))
    arguments = (identity, Pose(12, -7, 4), preset(name))
    painted = paint_face(*arguments, size=48).landmarks
    np.testing.assert_array_equal(face_landmarks(*arguments, size=48), painted)


@pytest.mark.parametrize("size", [32, 333])
def test_landmarks_scale_with_the_picture(size: int) -> None:
    small = paint_face(character(3), Pose(10, 5, 3), size=size).landmarks
    usual = paint_face(character(3), Pose(10, 5, 3), size=256).landmarks
    np.testing.assert_allclose(small / size, usual / 256, atol=1e-9)


# --- detection -----------------------------------------------------------------------------------


def test_animeface_finds_frontal_faces() -> None:
    detectors = pytest.importorskip("pipeline.data.detectors")
    try:
        detector = detectors.AnimefaceDetector()
    except detectors.DetectorMissing as reason:
        pytest.skip(f"animeface cannot run here: {reason}")
    count, found = 20, 0
    for index in range(count):
        painting = sample_face(90, index, pose_spread=0.3)
        eyes = lm.eyes_midpoint(painting.landmarks)
        found += any(
            abs(face.eyes_x - eyes[0]) < 25 and abs(face.eyes_y - eyes[1]) < 25 and face.score > 0.5
            for face in detector.scan(painting.image, 160)
        )
    assert found >= 0.9 * count


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden_landmarks()) + "\n")

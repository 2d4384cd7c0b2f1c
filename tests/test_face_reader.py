"""The face reader that ships with the code: on painted faces, mirrored, batched, refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data import landmarks as lm
from pipeline.data.close_ups import Zoomable
from pipeline.data.face_reader import SHIPPED, FaceReader, close_up_frame, sample
from pipeline.data.painter import EXPRESSIONS, Painting, paint_scene, sample_face
from pipeline.errors import DataError, ModelError
from pipeline.models.face_reader import FaceReaderNetwork

# Seeds that no training uses (those of trainings have 63 random bits).
SEED, FACES = 4021, 24


@pytest.fixture(scope="module")
def reader() -> FaceReader:
    return FaceReader.shipped()


@pytest.fixture(scope="module")
def paintings() -> list[Painting]:
    return [sample_face(SEED, index, size=256) for index in range(FACES)]


def errors(read: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Distance of each landmark, in face widths."""
    return np.linalg.norm(read - true, axis=-1) / lm.face_width(true)


def test_painted_faces_are_read(reader: FaceReader, paintings: list[Painting]) -> None:
    off, right, turned = [], 0, []
    for painting in paintings:
        reading = reader.read(painting.image)
        off.append(errors(reading.landmarks, painting.landmarks).mean())
        right += reading.expression == painting.meta["expression"]
        angles = (reading.yaw, reading.pitch, reading.roll)
        truth = [float(painting.meta[name]) for name in ("yaw", "pitch", "roll")]
        turned.append(np.abs(np.subtract(angles, truth)))
        assert reading.confident
        assert abs(sum(reading.expressions.values()) - 1) < 1e-5
        assert set(reading.expressions) == set(EXPRESSIONS)
    assert np.mean(off) < 0.025
    assert right >= 0.8 * FACES
    assert (np.mean(turned, axis=0) < 5).all()


def test_a_box_leads_to_the_face(reader: FaceReader) -> None:
    """In scenes of 400 to 1200 px with several faces, turned as a tilted camera shows them."""
    off = []
    for index in range(6):
        scene = paint_scene(SEED, index, faces=2)
        picture = Zoomable(scene.image)
        for face in scene.faces[-1:]:  # nothing is painted over it
            reading = reader.read_in(picture, lm.bounding_box(face.landmarks))
            off.append(errors(reading.landmarks, face.landmarks).mean())
    assert np.median(off) < 0.03


def test_what_is_covered_is_said_to_be(reader: FaceReader, paintings: list[Painting]) -> None:
    bare, covered = [], []
    for painting in paintings[:8]:
        image = painting.image.copy()
        x, y = painting.landmarks[lm.MOUTH].mean(axis=0).astype(int)
        bare.append(reader.read(image).part_visibility["mouth"])
        image[y - 20 : y + 20, x - 22 : x + 22] = (90, 140, 90)
        covered.append(reader.read(image).part_visibility["mouth"])
    assert np.mean(bare) > 0.9
    assert np.mean(covered) < np.mean(bare) - 0.1


def test_a_mirrored_picture_is_read_mirrored(reader: FaceReader, paintings: list[Painting]) -> None:
    off, yaw, roll, unlike, same = [], [], [], [], 0
    for painting in paintings[:8]:
        width = painting.image.shape[1]
        reading = reader.read(painting.image)
        mirrored = reader.read(np.ascontiguousarray(painting.image[:, ::-1]))
        back = lm.mirrored(mirrored.landmarks, width)
        off.append(errors(back, reading.landmarks).mean())
        yaw.append(abs(mirrored.yaw + reading.yaw))
        roll.append(abs(mirrored.roll + reading.roll))
        unlike.append(np.abs(mirrored.visibility[list(lm.MIRROR)] - reading.visibility).mean())
        same += mirrored.expression == reading.expression
    assert np.mean(off) < 0.01
    assert np.mean(yaw) < 3
    assert np.mean(roll) < 1
    assert np.mean(unlike) < 0.03
    assert same >= 7


def test_a_leaning_face_is_read_leaning(reader: FaceReader, paintings: list[Painting]) -> None:
    import cv2

    for painting, degrees in zip(paintings[:4], (-35.0, -15.0, 20.0, 35.0), strict=True):
        size = painting.image.shape[0]
        # OpenCV turns counter-clockwise.
        matrix = cv2.getRotationMatrix2D((size / 2 - 0.5, size / 2 - 0.5), -degrees, 0.9)
        leaning = cv2.warpAffine(painting.image, matrix, (size, size), borderValue=(128, 128, 128))
        roll = reader.read(leaning).roll - reader.read(painting.image).roll
        assert abs(roll - degrees) < 4


def test_a_batch_is_read_like_pictures(reader: FaceReader, paintings: list[Painting]) -> None:
    pixels = torch.from_numpy(np.stack([one.image for one in paintings[:6]]))
    images = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    batch = reader.tensors(images)
    assert batch.landmarks.shape == (6, 28, 2)
    for index, painting in enumerate(paintings[:6]):
        single = reader.read(painting.image)
        assert errors(batch.landmarks[index].numpy(), single.landmarks).mean() < 0.01
        assert abs(float(batch.angles[index, 2]) - single.roll) < 1.5
        chosen = reader.expressions[int(batch.expressions[index].argmax())]
        assert chosen == single.expression


def test_gradients_reach_the_images(reader: FaceReader, paintings: list[Painting]) -> None:
    """A step against the gradient moves the mouth where the loss wants it."""
    image = torch.from_numpy(paintings[0].image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    image.requires_grad_(True)
    read = reader.tensors(image)
    (gradient,) = torch.autograd.grad(read.landmarks[0, lm.MOUTH, 1].mean(), image)
    assert gradient.isfinite().all()
    # What matters lies in the face.
    x0, y0, x1, y1 = (int(value) for value in lm.bounding_box(paintings[0].landmarks))
    strength = gradient.abs().sum(dim=1)[0]
    assert strength[y0:y1, x0:x1].mean() > 5 * strength[:20].mean()
    with torch.no_grad():
        moved = reader.tensors(image + 0.05 * gradient / gradient.abs().amax())
    assert moved.landmarks[0, lm.MOUTH, 1].mean() > read.landmarks[0, lm.MOUTH, 1].mean()


def test_frames_are_sampled_as_they_are_cropped() -> None:
    """`sample` and `Zoomable.crop` agree about where a frame lies, also where it shrinks."""
    painting = sample_face(SEED, 1, size=512)
    frame = close_up_frame(painting.landmarks)
    image = torch.from_numpy(painting.image.copy()).permute(2, 0, 1)[None].float()
    cut = sample(image, [frame], 64)[0].permute(1, 2, 0).numpy()
    reference = Zoomable(painting.image).crop(frame, 64).astype(np.float32)
    assert np.abs(cut - reference).mean() < 6
    # Half a pixel to the side is further off than that.
    assert np.abs(cut[:, 1:] - reference[:, :-1]).mean() > 2 * np.abs(cut - reference).mean()


def test_no_face_is_mostly_not_believed(reader: FaceReader) -> None:
    rng = np.random.default_rng(0)
    flat = np.full((200, 200, 3), 128, np.uint8)
    noise = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    for image in (flat, noise):
        assert not reader.read(image).confident


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
    ],
    ids=["grey", "alpha", "float", "empty"],
)
def test_what_is_no_picture_is_refused(reader: FaceReader, image: np.ndarray) -> None:
    with pytest.raises(DataError, match="A picture must be height x width x 3 of uint8"):
        reader.read(image)


def test_impossible_boxes_and_batches_are_refused(reader: FaceReader) -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    for box in ((10, 10, 10, 20), (0, 0, float("nan"), 5)):
        with pytest.raises(DataError, match="box needs x0 < x1"):
            reader.read(image, box)
    with pytest.raises(DataError, match="N x 3 x H x W"):
        reader.tensors(torch.zeros(3, 64, 64))


def test_damaged_readers_are_refused(tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        shutil.copytree(SHIPPED, tmp_path / name)
        return tmp_path / name

    with pytest.raises(ModelError, match=r"architecture.json is missing"):
        FaceReader.load(tmp_path)
    nameless = copy("nameless")
    (nameless / "reader.json").unlink()
    with pytest.raises(ModelError, match=r"reader.json is missing"):
        FaceReader.load(nameless)
    fewer = copy("fewer")
    (fewer / "reader.json").write_text(
        '{"format": "animedrag-reader", "version": 1, "expressions": ["a"]}'
    )
    with pytest.raises(ModelError, match="9 expressions, not 28 and 1"):
        FaceReader.load(fewer)
    cut = copy("cut")
    weights = cut / "reader.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged"):
        FaceReader.load(cut)


def test_the_shipped_reader_is_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) < 5 * 2**20


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"input_px": 100}, "multiple of 16"),
        ({"channels": [8, 8]}, "four widths"),
        ({"blocks": [1, 1, -1]}, "three counts"),
        ({"parts": [[0, 5], [6, 28]]}, "cover the points"),
    ],
)
def test_impossible_networks_are_refused(change: dict, word: str) -> None:
    with pytest.raises(ModelError, match=word):
        FaceReaderNetwork(**change)

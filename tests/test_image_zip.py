"""The dataset format: round trips, equal bytes, the StyleGAN tools' layout, damaged files."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.dataset import Dataset, read_jsonl
from pipeline.data.image_zip import ImageZip, ImageZipWriter, encode_png, image_name
from pipeline.errors import DataError


def images(count: int, size: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size, size, 3), np.uint8) for _ in range(count)]


def write(path: Path, count: int = 3, labels: list | None = None) -> list[np.ndarray]:
    content = images(count)
    with ImageZipWriter(path) as writer:
        for index, image in enumerate(content):
            writer.add(image, labels[index] if labels else None)
    return content


def test_round_trip(tmp_path: Path) -> None:
    content = write(tmp_path / "a.zip", 12)
    with ImageZip(tmp_path / "a.zip") as reader:
        assert len(reader) == 12
        assert reader.resolution == (8, 8)
        assert reader.channels == 3
        assert reader.labels is None
        assert reader.label_dim == 0
        assert reader.label(0).shape == (0,)
        assert all(np.array_equal(a, b) for a, b in zip(reader, content, strict=True))
        reader.verify()


def test_equal_images_give_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.zip")
    write(tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_layout_is_the_stylegan_tools(tmp_path: Path) -> None:
    """What their ImageFolderDataset relies on: names, stored members, labels as pairs or null."""
    write(tmp_path / "a.zip", 2)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [
            "00000/img00000000.png",
            "00000/img00000001.png",
            "dataset.json",
        ]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert json.loads(archive.read("dataset.json")) == {"labels": None}
    assert image_name(12345678) == "12345/img12345678.png"


def test_labels(tmp_path: Path) -> None:
    write(tmp_path / "a.zip", 3, [2, 0, 1])
    reader = ImageZip(tmp_path / "a.zip")
    assert reader.label_dim == 3
    assert reader.labels is not None
    assert reader.labels.tolist() == [2, 0, 1]
    assert reader.label(0).tolist() == [0, 0, 1]
    write(tmp_path / "b.zip", 2, [[0.5, 1.0], [2.0, 3.0]])
    assert ImageZip(tmp_path / "b.zip").label(1).tolist() == [2.0, 3.0]


def test_partly_labelled_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    writer = ImageZipWriter(tmp_path / "a.zip")
    writer.add(images(1)[0], 1)
    writer.add(images(1)[0])
    with pytest.raises(DataError, match="either all or none"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_no_file(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ImageZipWriter(tmp_path / "a.zip") as writer:
            writer.add(images(1)[0])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_reads_zips_of_other_tools(tmp_path: Path) -> None:
    """Compressed members, JPEGs, grey images, other names and stray files."""
    grey = images(1)[0][:, :, 0]
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("b/2.png", "a/1.PNG"):
            archive.writestr(name, encode_png(grey))
        archive.writestr("readme.txt", "hello")
    reader = ImageZip(tmp_path / "a.zip")
    assert reader.names == ["a/1.PNG", "b/2.png"]
    assert reader.channels == 1
    assert np.array_equal(reader.read(0)[:, :, 0], grey)


def _png(size: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size)).save(stream, "PNG")
    return stream.getvalue()


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "no images"),
        ({"a.png": b"not a picture"}, "a.png .* cannot be read"),
        ({"a.png": _png(4), "dataset.json": b"{"}, "no valid JSON"),
        ({"a.png": _png(4), "dataset.json": b'{"labels": [["b.png", 1]]}'}, "no label for"),
        ({"a.png": _png(4), "dataset.json": b'{"labels": [["a.png", "x"]]}'}, "class numbers"),
        ({"a.png": _png(4), "dataset.json": b'{"labels": 3}'}, "list of pairs"),
    ],
)
def test_damaged_datasets_are_refused(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        ImageZip(_zip(tmp_path / "a.zip", members))


def test_missing_and_non_zip_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dataset at"):
        ImageZip(tmp_path / "none.zip")
    (tmp_path / "a.zip").write_bytes(b"PK but not really")
    with pytest.raises(DataError, match="cannot be read as a zip"):
        ImageZip(tmp_path / "a.zip")


def test_verify_names_every_bad_image(tmp_path: Path) -> None:
    members = {"a.png": _png(4), "b.png": _png(5), "c.png": _png(4)[:40]}
    with pytest.raises(DataError, match=r"2 bad image.*b\.png.*5x5.*c\.png"):
        ImageZip(_zip(tmp_path / "a.zip", members)).verify()


def _read_first(reader: ImageZip) -> np.ndarray:
    return reader.read(0)


def test_readers_cross_processes(tmp_path: Path) -> None:
    content = write(tmp_path / "a.zip")
    reader = ImageZip(tmp_path / "a.zip")
    reader.read(1)
    assert np.array_equal(pickle.loads(pickle.dumps(reader)).read(2), content[2])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for image in pool.map(_read_first, [reader] * 4):
            assert np.array_equal(image, content[0])


def _dataset(folder: Path, split: object) -> Path:
    folder.mkdir()
    write(folder / "images.zip", 3)
    (folder / "split.json").write_text(json.dumps(split))
    return folder


def test_dataset_split_and_faces(tmp_path: Path) -> None:
    names = [image_name(index) for index in range(3)]
    folder = _dataset(tmp_path / "d", {"train": [names[0], names[2]], "heldout": [names[1]]})
    (folder / "faces.jsonl").write_text("".join(json.dumps({"file": n}) + "\n" for n in names))
    dataset = Dataset(folder)
    assert (dataset.train_indices, dataset.heldout_indices) == ([0, 2], [1])
    assert [face["file"] for face in dataset.faces] == names
    assert dataset.rejects == []


def test_a_bare_zip_is_a_dataset_for_training(tmp_path: Path) -> None:
    write(tmp_path / "a.zip", 3)
    dataset = Dataset(tmp_path / "a.zip")
    assert (dataset.train_indices, dataset.heldout_indices, dataset.faces) == ([0, 1, 2], [], [])


@pytest.mark.parametrize(
    "split",
    [
        {"train": []},
        {"train": ["nope"], "heldout": []},
        {"train": [image_name(0)], "heldout": [image_name(0), image_name(1), image_name(2)]},
        {"train": [image_name(0)], "heldout": []},
        [],
    ],
)
def test_wrong_splits_are_refused(tmp_path: Path, split: object) -> None:
    with pytest.raises(DataError, match=r"split\.json must"):
        Dataset(_dataset(tmp_path / "d", split))


def test_jsonl_names_the_bad_line(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(DataError, match="Line 2"):
        read_jsonl(tmp_path / "f.jsonl")

"""Training images: which, in what order, how stored; the log that training leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.dataset import Dataset
from pipeline.errors import DataError
from pipeline.train.images import TrainingImages
from pipeline.train.logbook import Logbook, tile
from pipeline.train.statistics import Statistics
from tests.train_tiny import make_dataset
from torch_utils.pixels import to_uint8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset(make_dataset(tmp_path_factory.mktemp("data"), labels=True))


def open_images(dataset: Dataset, **changes) -> TrainingImages:
    settings = {"seed": 4, "cache_bytes": 10**9, **changes}
    return TrainingImages(dataset.images, dataset.train_indices, **settings)


def test_an_epoch_shows_every_training_image_once_and_no_other(dataset):
    images = open_images(dataset)
    assert len(images) == 16
    shown, labels = images.batch(16, 16)
    assert labels.shape == (16, 0)
    expected = np.stack([dataset.images.read(index) for index in dataset.train_indices])
    found = sorted(pixels.tobytes() for pixels in to_uint8(shown))
    assert found == sorted(pixels.tobytes() for pixels in expected)


def test_range_and_shape(dataset):
    shown, _ = open_images(dataset).batch(0, 5)
    assert shown.shape == (5, 3, 16, 16)
    assert shown.dtype == torch.float32
    assert shown.min() >= -1
    assert shown.max() == 1  # the white ground


def test_memory_or_not_gives_the_same(dataset):
    cached, read = open_images(dataset), open_images(dataset, cache_bytes=0)
    for seen in (0, 7, 40, 0):
        assert torch.equal(cached.batch(seen, 9)[0], read.batch(seen, 9)[0])


def test_mirroring_leaves_the_stored_images_alone(dataset):
    images = open_images(dataset, xflip=True)
    epoch = [images.batch(first, 8)[0] for first in range(0, 32, 8)]
    again = [images.batch(first, 8)[0] for first in range(0, 32, 8)]
    shown = torch.cat(epoch)
    assert torch.equal(shown, torch.cat(again))
    pixels = {image.numpy().tobytes() for image in shown}
    assert len(pixels) == 32
    assert {image.flip(2).contiguous().numpy().tobytes() for image in shown} == pixels


def test_labels_belong_to_their_images(dataset):
    images = open_images(dataset, conditional=True)
    shown, labels = images.batch(0, 16)
    for image, label in zip(shown, labels, strict=True):
        red_is_brighter = bool(image[0].mean() > image[2].mean())
        assert label.tolist() == ([1, 0] if red_is_brighter else [0, 1])
    drawn = images.draw_labels(1000, torch.Generator().manual_seed(0))
    assert drawn.mean(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.06)


def test_unusable_datasets(dataset, tmp_path):
    with pytest.raises(DataError, match="no images for training"):
        TrainingImages(dataset.images, [], seed=0)
    bare = Dataset(make_dataset(tmp_path / "bare"))
    with pytest.raises(DataError, match="no labels"):
        TrainingImages(bare.images, bare.train_indices, seed=0, conditional=True)


def test_log_drops_what_comes_after_the_state(tmp_path):
    book = Logbook(tmp_path, 0)
    for seen in (10, 20, 30):
        book.write(seen, {"loss_G": seen / 10, "loss_D": float("nan")})
    book.close()
    with (tmp_path / "stats.jsonl").open("a") as file:
        file.write('{"images_seen": 4')  # cut off in the middle of a line
    book = Logbook(tmp_path, 20)
    book.write(30, {"loss_G": 7.0})
    book.close()
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["images_seen"] for line in lines] == [10, 20, 30]
    assert lines[0] == {"images_seen": 10, "loss_G": 1.0, "loss_D": None}
    assert lines[2]["loss_G"] == 7.0


def test_sample_grid_is_filled_row_by_row(tmp_path):
    images = torch.full((5, 3, 4, 4), -1.0)
    for index in range(5):
        images[index, 0] = index / 4 * 2 - 1
    book = Logbook(tmp_path, 0)
    book.write_samples(1200, images, columns=3)
    book.close()
    with Image.open(tmp_path / "samples" / "000001200.png") as file:
        grid = np.asarray(file)
    assert grid.shape == (8, 12, 3)
    assert grid[0, ::4, 0].tolist() == [0, 64, 128]
    assert grid[4, ::4, 0].tolist() == [191, 255, 0]
    grey = tile(to_uint8(torch.zeros(1, 1, 2, 2)), 1)
    assert grey.shape == (2, 2, 3)


def test_statistics_are_means_over_elements():
    statistics = Statistics()
    statistics.add({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor(5.0)})
    statistics.add({"a": torch.tensor([[8.0]])})
    assert statistics.means() == {"a": 4.0, "b": 5.0}
    copy = Statistics()
    copy.restore(statistics.tensors())
    statistics.clear()
    assert statistics.means() == {}
    assert copy.means() == {"a": 4.0, "b": 5.0}
    assert copy.not_finite() == []
    copy.add({"b": torch.tensor(float("inf"))})
    assert copy.not_finite() == ["b"]

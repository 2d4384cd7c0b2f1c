"""Several characters: from sub-folders and zips through training to a model asked by name."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.data import stage as preprocess
from pipeline.data.characters import by_folder, characters_of
from pipeline.data.config import PreprocessConfig, SourceConfig
from pipeline.data.dataset import Dataset
from pipeline.data.image_zip import ImageZipWriter
from pipeline.errors import ConfigError
from pipeline.models import checkpoint
from pipeline.models.characters import find_character, read_characters, write_characters
from pipeline.train import stage as train
from pipeline.train.images import TrainingImages
from pipeline.train.snapshots import FixedLatents, reals_grid
from tests.train_tiny import make_config

COLOURS = {"keqing": (150, 90, 220), "ganyu": (90, 160, 250), "amber": (220, 70, 50)}
COUNTS = {"keqing": 12, "ganyu": 8, "amber": 2}


def draw(path: Path, name: str, number: int) -> None:
    """A disc in the character's colour, somewhere."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:64, :64]
    centre = rng.uniform(20, 44, 2)
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < rng.uniform(8, 20) ** 2
    pixels = np.where(inside[:, :, None], COLOURS[name], 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawings")
    for name, count in COUNTS.items():
        for number in range(count):
            draw(root / name / f"{number}.png", name, number)
    return root


def make_dataset(source: Path, out: Path, **changes) -> Path:
    out.mkdir(parents=True)
    config = PreprocessConfig(
        source=SourceConfig(path=str(source)),
        resolution=16,
        detectors=[],
        on_no_face="whole",
        duplicate_bits=-1,
        heldout=0.0,
        workers=0,
        **changes,
    )
    preprocess.run(config, {}, out)
    return out


@pytest.fixture(scope="module")
def dataset(drawings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(drawings, tmp_path_factory.mktemp("made") / "dataset")


def test_sub_folders_become_labels_with_names(dataset: Path, capsys) -> None:
    assert read_characters(dataset) == ["amber", "ganyu", "keqing"]
    found = Dataset(dataset)
    counts = np.bincount(found.images.labels)
    assert counts.tolist() == [2, 8, 12]
    for index, face in enumerate(found.faces):
        assert face["source"].startswith(face["character"] + "/")
        assert found.images.labels[index] == read_characters(dataset).index(face["character"])
    # The StyleGAN tools' format stays what they read.
    with zipfile.ZipFile(dataset / "images.zip") as archive:
        labels = json.loads(archive.read("dataset.json"))
    assert labels.keys() == {"labels"}
    assert labels["labels"][0] == [found.images.names[0], 0]


def test_one_folder_has_no_labels(drawings: Path, tmp_path: Path) -> None:
    one = make_dataset(drawings / "ganyu", tmp_path / "one")
    all_as_one = make_dataset(drawings, tmp_path / "all", characters="none")
    for folder in (one, all_as_one):
        assert read_characters(folder) == []
        assert Dataset(folder).images.label_dim == 0


def test_a_zips_labels_are_kept(tmp_path: Path) -> None:
    with ImageZipWriter(tmp_path / "made.zip") as writer:
        for number in range(12):
            writer.add(np.full((64, 64, 3), 10 * number, np.uint8), number % 11)
    found = make_dataset(tmp_path / "made.zip", tmp_path / "dataset")
    assert read_characters(found) == [f"{number:02d}" for number in range(11)]
    assert Dataset(found).images.labels.tolist() == [*range(11), 0]


@given(st.lists(st.sampled_from("ab"), min_size=1), st.lists(st.sampled_from("xyz"), max_size=3))
def test_common_folders_say_nothing(folders: list[str], above: list[str]) -> None:
    names = ["/".join([*above, folder, f"{number}.png"]) for number, folder in enumerate(folders)]
    several = len(set(folders)) > 1
    assert by_folder(names) == (folders if several else None)


def test_what_is_no_character() -> None:
    assert by_folder(["00000/img00000000.png", "00001/img00001000.png"]) is None
    assert by_folder(["a/1.png", "b/2.png", "3.png"]) is None
    assert characters_of(["a/1.png", "a/2.png"], None) is None


@pytest.fixture(scope="module")
def model(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    train.run(make_config(kimg=0.016, balance=True), {"dataset": dataset}, out)
    return out


def test_several_characters_are_learned_by_themselves(dataset: Path, model: Path) -> None:
    assert read_characters(model) == ["amber", "ganyu", "keqing"]
    assert checkpoint.load(model)["G_ema"].c_dim == 3
    # A row a character: three columns were asked for.
    with (
        Image.open(model / "samples/000000016.png") as samples,
        Image.open(model / "reals.png") as reals,
    ):
        assert samples.size == reals.size == (3 * 16, 3 * 16)
        rows = np.asarray(reals).reshape(3, 16, 48, 3)
    for row, name in zip(rows, ["amber", "ganyu", "keqing"], strict=True):
        drawn = row[(row < 240).any(axis=2)].mean(axis=0)
        distances = {one: np.abs(drawn - colour).sum() for one, colour in COLOURS.items()}
        assert min(distances, key=distances.__getitem__) == name


def test_characters_may_be_trained_as_one(dataset: Path, tmp_path: Path) -> None:
    config = make_config(kimg=0.008, conditional=False)
    train.run(config, {"dataset": dataset}, tmp_path / "one")
    assert checkpoint.load(tmp_path / "one")["G_ema"].c_dim == 0
    assert read_characters(tmp_path / "one") == []


def test_a_base_that_knows_other_characters_trains_them_as_one(
    dataset: Path, tmp_path: Path, capsys
) -> None:
    base = tmp_path / "base"
    generator, discriminator = checkpoint_of_one()
    checkpoint.save(base, {"G": generator, "D": discriminator, "G_ema": generator})
    config = make_config(kimg=0.008, resume_from="model/base")
    inputs = {"dataset": dataset, "resume_from": base}
    train.run(config, inputs, tmp_path / "out")
    assert "has 3 characters and base knows 0, so all are trained as one" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "out")["G_ema"].c_dim == 0


def checkpoint_of_one() -> tuple[torch.nn.Module, torch.nn.Module]:
    from pipeline.models.build import build

    return build(make_config().network, 16, 3, 0)


def test_balanced_batches_show_every_character_alike(dataset: Path) -> None:
    found = Dataset(dataset)
    images = TrainingImages(
        found.images, found.train_indices, seed=0, conditional=True, balance=True
    )
    _, labels = images.batch(0, 36)
    assert labels.sum(dim=0).tolist() == [12, 12, 12]
    drawn = images.draw_labels(3000, torch.Generator().manual_seed(0))
    assert drawn.mean(dim=0).tolist() == pytest.approx([1 / 3] * 3, abs=0.04)
    plain = TrainingImages(found.images, found.train_indices, seed=0, conditional=True)
    assert plain.batch(0, 22)[1].sum(dim=0).tolist() == [2, 8, 12]
    grid = FixedLatents.grid((4, 9), plain, 8, seed=0)
    assert grid.c.argmax(dim=1).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert torch.equal(grid.z[:4], grid.z[8:])
    assert reals_grid((4, 9), plain).shape == (12, 16, 16, 3)


def test_characters_are_found_by_name_and_number(tmp_path: Path) -> None:
    write_characters(tmp_path, ["ganyu", "甘雨", "7"])
    assert [find_character("x.label", one, tmp_path, 3) for one in ("甘雨", "2", "7", None)] == [
        1, 2, 2, None,
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"x\.label=gnayu .* is ganyu \(it knows ganyu, 甘雨, 7"):
        find_character("x.label", "gnayu", tmp_path, 3)
    with pytest.raises(ConfigError, match="no classes"):
        find_character("x.label", "ganyu", tmp_path, 0)
    # Names of another number of classes are not this model's.
    assert find_character("x.label", "3", tmp_path, 5) == 3

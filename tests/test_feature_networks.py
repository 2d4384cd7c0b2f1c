"""Feature networks: real weights where they are here, structure and refusals everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pipeline import weights
from pipeline.errors import ConfigError, DataError, ModelError
from pipeline.metrics import features, inception
from pipeline.metrics.distances import frechet_distance
from pipeline.metrics.heldout import HeldOutScore
from pipeline.metrics.statistics import FeatureStatistics

# Regenerate (after looking at why the values moved): python -m tests.test_feature_networks
RECORDED = Path(__file__).parent / "golden" / "features.json"
PACKAGED = ("efficientnet-lite0", "lpips-vgg", "lpips-alex")


def load(name: str) -> features.FeatureNetwork:
    if weights.find(name) is None:
        pytest.skip(f"{name} is not in the cache: python -m scripts.fetch_weights")
    return features.load(name)


def drawings(count: int, seed: int = 0, size: int = 48) -> Tensor:
    """Flat faces of many colours, N x 3 x size x size uint8."""
    draws = torch.Generator().manual_seed(seed)
    line = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    images = []
    for _ in range(count):
        skin, hair, paper = torch.rand(3, 3, 1, 1, generator=draws)
        place = torch.rand(2, generator=draws) * 0.5 - 0.25
        u, v = x - place[0], y - place[1]
        face = (u**2 + v**2 < 0.4).float()
        eyes = (((u.abs() - 0.25) ** 2 * 3 + v**2) < 0.02).float()
        top = face * (v < -0.2)
        image = paper * (1 - face) + face * ((1 - top) * skin + top * hair) * (1 - eyes)
        images.append((image * 255).round().to(torch.uint8))
    return torch.stack(images)


def blurred(images: Tensor, radius: int) -> Tensor:
    soft = F.avg_pool2d(images.float(), 2 * radius + 1, 1, radius, count_include_pad=False)
    return soft.round().to(torch.uint8)


def measured(name: str) -> dict[str, list[float]]:
    outputs = load(name)(drawings(2))
    found = {"features": outputs.features[:, :6].flatten().tolist()}
    if outputs.logits is not None:
        found["logits"] = outputs.logits[:, :6].flatten().tolist()
    return found


@pytest.mark.parametrize("name", PACKAGED)
def test_recorded_values(name: str) -> None:
    expected = json.loads(RECORDED.read_text())[name]
    found = measured(name)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("name", PACKAGED)
def test_names_sizes_and_grey_images(name: str) -> None:
    network = load(name)
    assert network.name.endswith(f"at {network.side_px} px")
    assert len(network.weights_digest) == 64
    grey = drawings(1)[:, :1]
    outputs = network(grey)
    assert outputs.features.shape == (1, network.dim)
    assert (outputs.logits is not None) == (network.classes > 0)
    torch.testing.assert_close(outputs.features, network(grey.expand(-1, 3, -1, -1)).features)
    assert not outputs.features.is_inference()
    assert not outputs.features.requires_grad


def test_fid_of_two_halves_is_small_and_rises_with_blur() -> None:
    load("lpips-alex")
    network = features.load("lpips-alex", side_px=64)
    images = drawings(400)

    def gaussian(some: Tensor) -> object:
        statistics = FeatureStatistics.for_network(network)
        statistics.add(0, network(some))
        return statistics.gaussian()

    reals = gaussian(images[:200])
    halves = frechet_distance(reals, gaussian(images[200:]))  # type: ignore[arg-type]
    rising = [
        frechet_distance(reals, gaussian(blurred(images[200:], radius)))  # type: ignore[arg-type]
        for radius in (1, 2, 4)
    ]
    assert [halves, *rising] == sorted([halves, *rising])
    assert halves < 0.25 * rising[0]
    same = frechet_distance(reals, reals)  # type: ignore[arg-type]
    assert same == pytest.approx(0, abs=1e-6)


def test_the_held_out_score_tells_blur_from_chance() -> None:
    load("lpips-alex")
    images = drawings(72)
    score = HeldOutScore.of(images[:24].split(10), network="lpips-alex")
    assert "AlexNet" in score.network
    alike = score(images[24:].split(16))
    soft = score(blurred(images[24:], 2).split(16))
    assert alike.low <= alike.value <= alike.high < soft.low
    assert score(images[24:].split(5)).value == pytest.approx(alike.value, abs=1e-5)
    with pytest.raises(DataError, match="at least two held-out images, but there are 1"):
        HeldOutScore.of([images[:1]], network="lpips-alex")
    with pytest.raises(DataError, match="at least two generated images, but there are 0"):
        score([])


def test_without_any_weights_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANIMEDRAG_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"are not on this machine; run .*fetch_weights"):
        features.load()
    with pytest.raises(ConfigError, match="nearest valid value is lpips-vgg"):
        features.load("lpips-vg")
    with pytest.raises(ModelError, match="No package ships FID's Inception weights"):
        features.load("inception")


SIDES = {"branch7x7_2": (1, 7), "branch7x7_3": (7, 1), "branch7x7dbl_2": (7, 1),
         "branch7x7dbl_3": (1, 7), "branch7x7dbl_4": (7, 1), "branch7x7dbl_5": (1, 7),
         "branch7x7x3_2": (1, 7), "branch7x7x3_3": (7, 1), "branch3x3_2a": (1, 3),
         "branch3x3_2b": (3, 1), "branch3x3dbl_3a": (1, 3), "branch3x3dbl_3b": (3, 1),
         "branch5x5_2": (5, 5)}  # fmt: skip
# Outputs and inputs of each convolution, in the order of `inception.convolution_names`.
CHANNELS = [
    (32, 3), (32, 32), (64, 32), (80, 64), (192, 80),
    (64, 192), (48, 192), (64, 48), (64, 192), (96, 64), (96, 96), (32, 192),
    (64, 256), (48, 256), (64, 48), (64, 256), (96, 64), (96, 96), (64, 256),
    (64, 288), (48, 288), (64, 48), (64, 288), (96, 64), (96, 96), (64, 288),
    (384, 288), (64, 288), (96, 64), (96, 96),
    *((192, 768), (128, 768), (128, 128), (192, 128), (128, 768), *[(128, 128)] * 3, (192, 128),
      (192, 768)),
    *[pair for _ in range(2) for pair in (
        (192, 768), (160, 768), (160, 160), (192, 160), (160, 768), *[(160, 160)] * 3, (192, 160),
        (192, 768))],
    *((192, 768), (192, 768), (192, 192), (192, 192), (192, 768), *[(192, 192)] * 3, (192, 192),
      (192, 768)),
    (192, 768), (320, 192), (192, 768), (192, 192), (192, 192), (192, 192),
    *[pair for inputs in (1280, 2048) for pair in (
        (320, inputs), (384, inputs), (384, 384), (384, 384), (448, inputs), (384, 448),
        (384, 384), (384, 384), (192, inputs))],
]  # fmt: skip


def inception_tensors() -> dict[str, Tensor]:
    """Weights of the published shapes, seeded, of a spread that keeps the signal's size."""
    draws = torch.Generator().manual_seed(11)
    tensors = {}
    names = list(inception.convolution_names())
    assert len(names) == len(CHANNELS)
    for name, (outputs, inputs) in zip(names, CHANNELS, strict=True):
        leaf = name.rpartition(".")[2]
        one = leaf.endswith(("_1", "1x1", "pool")) or leaf == "branch1x1"
        reduced = leaf in ("branch3x3", "branch3x3_2", "branch3x3dbl_2", "branch3x3dbl_3",
                           "branch7x7x3_4")  # fmt: skip
        sides = SIDES.get(leaf, (3, 3) if reduced or leaf.endswith("3x3") else (1, 1))
        sides = (1, 1) if one and leaf not in SIDES and not leaf.endswith("3x3") else sides
        spread = (2 / (inputs * sides[0] * sides[1])) ** 0.5
        shape = (outputs, inputs, *sides)
        tensors[f"{name}.conv.weight"] = torch.randn(shape, generator=draws) * spread
        tensors[f"{name}.bn.weight"] = torch.rand(outputs, generator=draws) + 0.5
        tensors[f"{name}.bn.bias"] = torch.randn(outputs, generator=draws) * 0.1
        tensors[f"{name}.bn.running_mean"] = torch.randn(outputs, generator=draws) * 0.1
        tensors[f"{name}.bn.running_var"] = torch.rand(outputs, generator=draws) + 0.5
    tensors["fc.weight"] = torch.randn(1008, 2048, generator=draws) * 0.02
    tensors["fc.bias"] = torch.zeros(1008)
    return tensors


def inception_measured(file: Path) -> list[float]:
    outputs = features.load("inception", file=file)(drawings(1))
    assert outputs.logits is not None
    return [*outputs.features[0, :4].tolist(), *outputs.logits[0, :4].tolist()]


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    save_file(inception_tensors(), path)
    return path


def test_inception_reads_weights_of_the_published_form(inception_file: Path) -> None:
    """The recorded values come from the network that was checked against torchvision's layers."""
    network = features.load("inception", file=inception_file)
    assert (network.dim, network.classes) == (2048, 1008)
    expected = json.loads(RECORDED.read_text())["inception"]
    np.testing.assert_allclose(inception_measured(inception_file), expected, rtol=2e-3, atol=1e-3)


def test_published_inception_scores_leave_out_the_last_bias() -> None:
    tensors = inception_tensors()
    known = inception.fold(tensors)["fc"]
    biased = inception.fold({**tensors, "fc.bias": torch.ones(1008)})["fc"]
    assert torch.equal(known[0], tensors["fc.weight"])
    assert all(torch.equal(*pair) for pair in zip(known, biased, strict=True))


def test_other_files_than_inceptions_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no file of Inception weights"):
        inception.read(tmp_path / "absent.pth")
    torch.save({"fc.weight": torch.zeros(10, 10)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="not FID's Inception weights"):
        inception.read(tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="not FID's Inception weights"):
        inception.read(tmp_path / "list.pth")
    (tmp_path / "garbage.pth").write_bytes(b"\x80garbage")
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage")
    for name in ("garbage.pth", "garbage.safetensors"):
        with pytest.raises(ModelError, match="cannot be read as a file of weights") as caught:
            inception.read(tmp_path / name)
        assert "\n" not in str(caught.value)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        save_file(inception_tensors(), Path(folder) / "weights.safetensors")
        recorded: dict[str, object] = {name: measured(name) for name in PACKAGED}
        recorded["inception"] = inception_measured(Path(folder) / "weights.safetensors")
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")

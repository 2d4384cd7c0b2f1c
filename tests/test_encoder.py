"""The encoder stage: it learns, goes on after a kill, and gives invert its start."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from pipeline.data.image_zip import ImageZipWriter, image_name
from pipeline.errors import ArtifactError, ConfigError, DataError, Interrupted, ModelError
from pipeline.invert import encoder_stage, stage
from pipeline.invert.encoder import Encoder, EncoderNetwork
from pipeline.invert.encoder_config import EncoderConfig
from pipeline.invert.inversion import Inversion
from pipeline.models import checkpoint
from pipeline.train.pretrain.autoencoder import new_encoder
from tests.test_invert import config as invert_config
from tests.test_invert import save_model
from torch_utils.pixels import to_tensor, to_uint8


def config(**changes: Any) -> EncoderConfig:
    """A few quick steps, with a distance that needs no downloaded weights."""
    plain: dict[str, Any] = {
        "model": "m", "device": "cpu", "perceptual": "discriminator", "images": 24, "batch": 4,
        "breadth": 8, "validation": 4, "validate_every": 12, "save_every": 8, "w_samples": 200,
    }  # fmt: skip
    return EncoderConfig(**(plain | changes))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("encoder") / "model")


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that saw enough to be better than none."""
    out = tmp_path_factory.mktemp("encoder") / "out"
    settings = config(images=600, batch=8, perceptual_weight=0.0, validate_every=200)
    encoder_stage.run(settings, {"model": model}, out)
    return out


def picture_of_the_model(model: Path, path: Path) -> Path:
    generator: Any = checkpoint.load(model, ("G_ema",))["G_ema"]
    z = torch.randn(1, generator.z_dim, generator=torch.Generator().manual_seed(77))
    with torch.no_grad():
        Image.fromarray(to_uint8(generator(z, torch.zeros(1, 0), noise_mode="const"))[0]).save(path)
    return path


def test_it_learns_and_leaves_a_learning_curve(trained: Path, model: Path) -> None:
    curve = [json.loads(line) for line in (trained / "stats.jsonl").read_text().splitlines()]
    assert [point["images_seen"] for point in curve] == [200, 400, 600]
    assert curve[-1]["psnr_db"] > curve[-1]["mean_psnr_db"] + 2
    assert curve[-1]["psnr_db"] > curve[0]["psnr_db"]
    trace = [json.loads(line) for line in (trained / "trace.jsonl").read_text().splitlines()]
    assert [line["step"] for line in trace] == list(range(75))
    grid = np.asarray(Image.open(trained / "samples" / "000000600.png"))
    assert grid.shape == (2 * 32, 4 * 32, 3)  # four samples, and what became of them
    assert not (trained / "work").exists()
    assert Encoder.load(trained).space == "w"


def pictures_of_strangers(folder: Path, count: int = 40, side: int = 32) -> Path:
    """A dataset of two-coloured pictures, which no random model draws; a quarter is held out."""
    folder.mkdir()
    draws = np.random.default_rng(5)
    with ImageZipWriter(folder / "images.zip") as writer:
        names = []
        for index in range(count):
            picture = np.empty((side, side, 3), np.uint8)
            picture[: side // 2], picture[side // 2 :] = draws.integers(0, 256, (2, 3))
            writer.add(picture)
            names.append(image_name(index))
    split = {"train": names[count // 4 :], "heldout": names[: count // 4]}
    (folder / "split.json").write_text(json.dumps(split))
    return folder


def test_pictures_of_a_dataset_teach_what_samples_cannot(
    tmp_path: Path, trained: Path, model: Path
) -> None:
    dataset = pictures_of_strangers(tmp_path / "dataset")
    inputs = {"model": model, "dataset": dataset, "resume_from": trained}
    found = {}
    for share in (0.0, 1.0):
        settings = config(
            dataset="d", resume_from="e", images=320, batch=8, pictures=share, store_half=True,
            perceptual_weight=0.0, validate_every=160, validation=8, passes=2, training_passes=1,
        )  # fmt: skip
        out = tmp_path / f"out{share}"
        metrics = encoder_stage.run(settings, inputs, out)
        found[share] = float(metrics["heldout_psnr_db"])
        curve = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
        assert len(curve) == 2
        assert curve[-1]["heldout_psnr_db"] == pytest.approx(found[share], abs=1e-4)
        stored = load_file(out / "encoder.safetensors")
        assert stored["network.first.weight"].dtype == torch.float16
        assert Encoder.load(out).network.first.weight.dtype == torch.float32
    assert found[1.0] > found[0.0] + 1


def test_pictures_and_encoders_of_another_shape_are_refused(
    tmp_path: Path, trained: Path, model: Path
) -> None:
    small = pictures_of_strangers(tmp_path / "small", count=4, side=16)
    with pytest.raises(DataError, match=r"are 16x16 with 3 channels, but the model draws 32x32"):
        encoder_stage.run(config(dataset="d"), {"model": model, "dataset": small}, tmp_path / "a")
    inputs = {"model": model, "resume_from": trained}
    with pytest.raises(ModelError, match=r"resume_from=e finds 1 x 16 numbers"):
        encoder_stage.run(config(resume_from="e", space="w+"), inputs, tmp_path / "b")


def test_invert_begins_where_the_encoder_says(tmp_path: Path, trained: Path, model: Path) -> None:
    image = picture_of_the_model(model, tmp_path / "own.png")
    inputs = {"model": model, "image": image, "encoder": trained}
    found = {}
    for start, steps in (("encoder", 0), ("w_avg", 1), ("encoder", 6)):
        project = {"start": start, "encoder_steps": steps, "plateau": 0}
        settings = invert_config(project=project, tune={"steps": 0})
        if start == "w_avg":
            settings.project.steps = 1
        metrics = stage.run(settings, inputs, tmp_path / f"{start}{steps}")
        assert (metrics["start"], metrics["project_steps"]) == (start, steps)
        found[start, steps] = float(metrics["perceptual_pivot"])
    assert found["encoder", 0] < 0.8 * found["w_avg", 1]
    info = json.loads((tmp_path / "encoder0" / "inversion.json").read_text())
    assert info["start"] == "encoder"
    auto = stage.run(invert_config(tune={"steps": 0}), inputs, tmp_path / "auto")
    assert auto["start"] == "encoder"


def test_the_encoder_that_a_model_was_trained_with_counts(
    tmp_path: Path, trained: Path, model: Path
) -> None:
    networks = checkpoint.load(model, tuple(checkpoint.read_architecture(model)))
    generator: Any = networks["G_ema"]
    own = new_encoder(generator, breadth=8)
    checkpoint.save(tmp_path / "model", {**networks, "E": own})
    image = picture_of_the_model(model, tmp_path / "own.png")
    settings = invert_config(project={"encoder_steps": 0}, tune={"steps": 0})
    others = tmp_path / "others"
    shutil.copytree(trained, others)
    info = json.loads((others / "encoder.json").read_text())
    (others / "encoder.json").write_text(json.dumps(info | {"model": {"digest": "0"}}))
    # Where the one that is named is another model's, its own counts, too.
    for number, named in enumerate(({}, {"encoder": others})):
        inputs = {"model": tmp_path / "model", "image": image} | named
        out = tmp_path / f"out{number}"
        assert stage.run(settings, inputs, out)["start"] == "encoder"
        found = Inversion.load(out, tmp_path / "model", torch.device("cpu"))
        wanted = own(to_tensor(np.asarray(Image.open(out / "aligned.png").convert("RGB"))))
        assert torch.allclose(found.ws[:, 0], wanted, atol=1e-4)
    settings.project.steps = 1
    inputs = {"model": model, "image": image}
    assert stage.run(settings, inputs, tmp_path / "none")["start"] == "w_avg"


def test_without_a_fitting_encoder_the_start_says_so(
    tmp_path: Path, trained: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = picture_of_the_model(model, tmp_path / "own.png")
    none = {"model": model, "image": image}
    with pytest.raises(ConfigError, match="make encoder"):
        stage.run(invert_config(project={"start": "encoder"}), none, tmp_path / "a")
    other = save_model(tmp_path / "other", img_resolution=16)
    wrong = {"model": other, "image": image, "encoder": trained}
    with pytest.raises(ArtifactError, match=r"another model .*make encoder") as caught:
        stage.run(invert_config(project={"start": "encoder"}), wrong, tmp_path / "b")
    assert "\n" not in str(caught.value)
    metrics = stage.run(invert_config(tune={"steps": 0}), wrong, tmp_path / "c")
    assert metrics["start"] == "w_avg"
    assert "trained on another model" in capsys.readouterr().out


@pytest.mark.parametrize("space", ["w", "w+"])
def test_an_interrupted_training_ends_as_the_uninterrupted_one(
    tmp_path: Path, model: Path, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    first = encoder_stage.run(config(space=space), {"model": model}, straight)
    step = encoder_stage.Training.step

    def stopped(self: encoder_stage.Training, number: int, steps: int) -> dict[str, float]:
        if number == 3:
            raise Interrupted("stop")
        return step(self, number, steps)

    with monkeypatch.context() as patch:
        patch.setattr(encoder_stage.Training, "step", stopped)
        with pytest.raises(Interrupted):
            encoder_stage.run(config(space=space), {"model": model}, broken)
    second = encoder_stage.run(config(space=space), {"model": model}, broken)
    assert {k: v for k, v in first.items() if k != "seconds"} == {
        k: v for k, v in second.items() if k != "seconds"
    }
    one, other = (load_file(out / "encoder.safetensors") for out in (straight, broken))
    assert all(value.equal(other[name]) for name, value in one.items())
    assert (straight / "trace.jsonl").read_text() == (broken / "trace.jsonl").read_text()
    assert (straight / "stats.jsonl").read_text() == (broken / "stats.jsonl").read_text()


def test_spaces_are_carried_over_into_each_other(model: Path) -> None:
    generator: Any = checkpoint.load(model, ("G_ema",))["G_ema"]
    target = torch.zeros(1, 3, 32, 32)
    for rows in (1, generator.num_ws):
        torch.manual_seed(rows)
        network = EncoderNetwork(3, 32, 32, rows, 16, breadth=8)
        torch.nn.init.normal_(network.last.weight, std=0.1)
        found = Encoder(network, torch.zeros(16), torch.ones(16), 2, "digest")
        for space, expected in (("w", 1), ("w+", generator.num_ws)):
            w = found.ws(generator, target, space, lambda image: -float(image.std()))
            assert w.shape == (1, expected, 16)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "encoder.json").unlink(), "is no encoder"),
        (lambda folder: (folder / "encoder.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "encoder.safetensors").write_bytes(b"x"), "is damaged"),
        (
            lambda folder: (folder / "encoder.json").write_text('{"format": 9}'),
            "of format 9",
        ),
    ],
)
def test_damage_is_named_in_one_sentence(tmp_path: Path, damage: Any, says: str) -> None:
    network = EncoderNetwork(3, 16, 16, 1, 8, breadth=8)
    Encoder(network, torch.zeros(8), torch.ones(8), 2, "digest").save(tmp_path)
    loaded = Encoder.load(tmp_path)
    for name, value in network.state_dict().items():
        assert value.equal(loaded.network.state_dict()[name])
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=says) as caught:
        Encoder.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_yaml_holds_the_dataclasss_defaults(root: Path) -> None:
    plain = yaml.safe_load((root / "conf" / "stages" / "encoder.yaml").read_text())
    defaults = OmegaConf.to_container(OmegaConf.structured(EncoderConfig))
    assert isinstance(defaults, dict)
    assert plain.keys() == defaults.keys()
    interpolated = {"name", "model", "seed", "device"}
    assert {k: v for k, v in plain.items() if k not in interpolated} == {
        k: v for k, v in defaults.items() if k not in interpolated
    }


@pytest.mark.parametrize("wrong", [{"space": "z"}, {"batch": 0}, {"passes": 0}, {"name": " "}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        config(**wrong)

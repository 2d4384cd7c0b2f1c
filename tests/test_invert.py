"""The invert stage on tiny random networks: what it makes, how it resumes, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from pipeline import weights
from pipeline.data.crop_rule import CropRule
from pipeline.errors import ConfigError, DataError, Interrupted, ModelError
from pipeline.invert import picture, pti, tuning
from pipeline.invert.config import InvertConfig, ProjectConfig, TuneConfig
from pipeline.invert.inversion import Inversion
from pipeline.invert.stage import check, run
from pipeline.invert.subject import choose_perceptual
from pipeline.models import checkpoint
from pipeline.models.characters import write_characters
from pipeline.models.stylegan2 import Discriminator
from pipeline.models.stylegan2 import Generator as StyleGan2
from pipeline.models.stylegan3 import Generator as StyleGan3
from tests import quick_python
from torch_utils.pixels import to_uint8

PAYLOAD = {
    "inversion.json",
    "latents.safetensors",
    "delta.safetensors",
    "source.png",
    "aligned.png",
    "pivot.png",
    "tuned.png",
    "trace.jsonl",
}


def save_model(folder: Path, kind: str = "stylegan2", c_dim: int = 0, **more: Any) -> Path:
    """A tiny random model, 32 px, on disk."""
    torch.manual_seed(7)
    shape: dict[str, Any] = {"c_dim": c_dim, "img_resolution": 32, "img_channels": 3} | more
    small: dict[str, Any] = {"channel_base": 512, "channel_max": 16}
    latent: dict[str, Any] = {"z_dim": 16, "w_dim": 16, "mapping_kwargs": {"num_layers": 2}}
    generator: Any
    if kind == "stylegan2":
        generator = StyleGan2(**latent, **shape, **small)
    else:
        generator = StyleGan3(**latent, **shape, **small, num_layers=6, num_critical=1)
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.1)
    discriminator = Discriminator(**shape, **small)
    folder.mkdir(parents=True)
    checkpoint.save(folder, {"G_ema": generator, "D": discriminator})
    return folder


def save_picture(path: Path, width: int = 60, height: int = 40) -> Path:
    """A small drawing: an oval on a ground of two colours."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.where((x < width / 2)[..., None], [40, 90, 160], [220, 200, 150])
    inside = ((x - width / 2) / (width / 4)) ** 2 + ((y - height / 2) / (height / 3)) ** 2 < 1
    pixels = np.where(inside[..., None], [250, 220, 200], pixels)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def config(**changes: Any) -> InvertConfig:
    """A few quick steps, with distances that need no downloaded weights."""
    project = ProjectConfig(steps=8, w_samples=100, **changes.pop("project", {}))
    tune = TuneConfig(**({"steps": 8, "stop_at": 0.0} | changes.pop("tune", {})))
    plain: dict[str, Any] = {"model": "m", "image": "i", "align": "none", "device": "cpu"}
    plain |= {"perceptual": "discriminator", "save_every": 3}
    return InvertConfig(**(plain | changes), project=project, tune=tune)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    return {
        "model": save_model(tmp_path / "model"),
        "image": save_picture(tmp_path / "picture.png"),
    }


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3"])
def test_an_inversion_is_whole_and_read_back(tmp_path: Path, kind: str) -> None:
    inputs = {
        "model": save_model(tmp_path / "model", kind),
        "image": save_picture(tmp_path / "picture.png"),
    }
    out = tmp_path / "out"
    metrics = run(config(tune={"learning_rate": 0.003, "steps": 25}), inputs, out)
    assert {path.name for path in out.iterdir()} == PAYLOAD
    assert metrics["psnr_tuned_db"] > metrics["psnr_pivot_db"]  # type: ignore[operator]
    assert metrics["perceptual_tuned"] < metrics["perceptual_pivot"]  # type: ignore[operator]
    assert metrics["perceptual"] == "discriminator"
    loaded = Inversion.load(out, inputs["model"])
    assert loaded.info["metrics"] == metrics
    image = to_uint8(pti.picture_of(loaded.generator, loaded.ws))[0]
    np.testing.assert_array_equal(image, np.asarray(Image.open(out / "tuned.png")))
    np.testing.assert_array_equal(loaded.source, np.asarray(Image.open(inputs["image"])))
    # The crop is the picture's middle square: its corners lead back there.
    np.testing.assert_allclose(loaded.transform.corners()[[0, 2]], [[10, 0], [50, 40]])
    trace = [json.loads(line) for line in (out / "trace.jsonl").read_text().splitlines()]
    assert [line["step"] for line in trace if line["phase"] == "project"] == list(range(8))
    assert [line["step"] for line in trace if line["phase"] == "tune"] == list(range(25))
    assert bool(pti.noise_maps(loaded.generator)) == (kind == "stylegan2")


def test_wplus_best_start_locality_and_another_seed(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    changes: dict[str, Any] = {
        "project": {"space": "w+", "start": "best", "start_samples": 9},
        "tune": {"locality": True},
    }
    run(config(**changes), inputs, tmp_path / "a")
    run(config(**changes), inputs, tmp_path / "again")
    run(config(**changes, seed=1), inputs, tmp_path / "b")
    ws = load_file(tmp_path / "a" / "latents.safetensors")["ws"]
    assert not torch.equal(ws[:, 0], ws[:, 1])
    trace = (tmp_path / "a" / "trace.jsonl").read_text().splitlines()
    assert json.loads(trace[-1])["locality"] > 0
    for name in ("latents.safetensors", "delta.safetensors", "tuned.png"):
        same = (tmp_path / "a" / name).read_bytes()
        assert same == (tmp_path / "again" / name).read_bytes()
        assert same != (tmp_path / "b" / name).read_bytes()


def test_an_inversion_far_from_its_picture_is_said_to_be_so(
    tmp_path: Path, inputs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    far = run(config(tune={"steps": 0}), inputs, tmp_path / "far")
    assert far["psnr_tuned_db"] < 17  # type: ignore[operator]  # a random model, hardly trained
    assert "far from the picture (below 17 dB)" in capsys.readouterr().out
    near = run(config(tune={"steps": 150, "learning_rate": 0.01}), inputs, tmp_path / "near")
    assert near["psnr_tuned_db"] > 17  # type: ignore[operator]
    assert "far from" not in capsys.readouterr().out


def test_tuning_stops_early_and_may_be_left_out(tmp_path: Path, inputs: dict[str, Path]) -> None:
    early = run(config(tune={"stop_at": 1e6, "stop_at_db": 0.0}), inputs, tmp_path / "early")
    assert (early["tune_steps"], early["stopped_early"]) == (0, 1)
    none = run(config(tune={"steps": 0}), inputs, tmp_path / "none")
    assert (none["tune_steps"], none["stopped_early"]) == (0, 0)
    assert Inversion.load(tmp_path / "none", inputs["model"]).info["delta"]["tensors"] == 0


def test_stylegan3s_placement_is_found_and_kept(tmp_path: Path, inputs: dict[str, Path]) -> None:
    moves: dict[str, Any] = {"project": {"transform": "optimised"}}
    with pytest.raises(ConfigError, match=r"StyleGAN3's alone.*transform=fixed"):
        check(config(**moves), inputs)
    where = inputs | {"model": save_model(tmp_path / "sg3", "stylegan3")}
    check(config(**moves), where)
    run(config(**moves), where, tmp_path / "out")
    found = load_file(tmp_path / "out" / "latents.safetensors")["noise.input.transform"]
    assert not torch.equal(found, torch.eye(3))
    loaded = Inversion.load(tmp_path / "out", where["model"])
    assert torch.equal(loaded.generator.synthesis.input.transform, found)
    image = to_uint8(pti.picture_of(loaded.generator, loaded.ws))[0]
    np.testing.assert_array_equal(image, np.asarray(Image.open(tmp_path / "out" / "tuned.png")))


def test_line_art_and_prior_are_in_the_losses_and_on_record(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    settings = config(project={"prior_weight": 0.1})
    settings.line_art.edges, settings.line_art.flats = 0.5, 0.25
    run(settings, inputs, tmp_path / "out")
    trace = [json.loads(line) for line in (tmp_path / "out" / "trace.jsonl").open()]
    project, tune = ([t for t in trace if t["phase"] == phase] for phase in ("project", "tune"))
    assert all(line["prior"] > 0 for line in project)
    assert tune[-1]["term"] < tune[0]["term"]
    info = json.loads((tmp_path / "out" / "inversion.json").read_text())
    assert info["line_art"] == {"edges": 0.5, "flats": 0.25}
    assert info["perceptual"]["name"] == "discriminator"


def test_an_inversion_of_the_first_format_is_still_read(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    """As format 1 had it: whole differences, and nothing said about the delta's file."""
    out = tmp_path / "out"
    run(config(tune={"weights": "all"}), inputs, out)
    info = json.loads((out / "inversion.json").read_text())
    info["format"] = 1
    info["delta"] = {key: info["delta"][key] for key in ("stored", "dtype", "tensors", "values")}
    for key in ("line_art", "start", "prior_weight"):
        del info[key]
    (out / "inversion.json").write_text(json.dumps(info))
    loaded = Inversion.load(out, inputs["model"])
    image = to_uint8(pti.picture_of(loaded.generator, loaded.ws))[0]
    np.testing.assert_array_equal(image, np.asarray(Image.open(out / "tuned.png")))


# ---- going on -------------------------------------------------------------------------------

# Steps take their time, so that the signal arrives in the middle on a busy machine as well.
PROGRAM = """
import sys, time
from pathlib import Path
from pipeline.errors import Interrupted
from pipeline.invert import pti, tuning
from pipeline.invert.stage import run
from tests.test_invert import config

def slowed(step):
    return lambda *arguments: (time.sleep(0.1), step(*arguments))[1]

for engine in (pti.Projection, tuning.Tuning):
    engine.step = slowed(engine.step)
model, image, out = map(Path, sys.argv[1:])
try:
    run(config(project={}, tune={"steps": 24}), {"model": model, "image": image}, out)
except Interrupted as error:
    print(error)
    sys.exit(error.exit_code)
"""


def _start(inputs: dict[str, Path], out: Path, root: Path) -> quick_python.Popen:
    command = [sys.executable, "-c", PROGRAM, str(inputs["model"]), str(inputs["image"]), str(out)]
    return quick_python.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _wait_for_lines(out: Path, process: quick_python.Popen, count: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        trace = out / "trace.jsonl"
        if trace.exists() and len(trace.read_text().splitlines()) >= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"no {count} steps: {process.communicate()}")


def test_killed_and_stopped_runs_end_as_the_uninterrupted_one(
    tmp_path: Path, inputs: dict[str, Path], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 in the first phase, SIGTERM in the second, then to the end."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    torch.set_num_threads(1)
    run(config(project={}, tune={"steps": 24}), inputs, straight)
    first = _start(inputs, broken, root)
    _wait_for_lines(broken, first, 3)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert (broken / "work").exists()
    second = _start(inputs, broken, root)
    _wait_for_lines(broken, second, 14)
    os.kill(second.pid, signal.SIGTERM)
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 130, said
    assert "run the same command again" in said
    run(config(project={}, tune={"steps": 24}), inputs, broken)
    assert "going on with tune" in capsys.readouterr().out
    assert {path.name for path in broken.iterdir()} == PAYLOAD
    for name in PAYLOAD - {"inversion.json", "trace.jsonl"}:
        assert (straight / name).read_bytes() == (broken / name).read_bytes(), name

    def trace(folder: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]
        return [{key: line[key] for key in line if key != "seconds"} for line in lines]

    assert trace(straight) == trace(broken)


def test_a_run_cut_off_after_its_last_file_is_not_done_again(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    metrics = run(config(), inputs, out)
    files = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert run(config(), inputs, out) == metrics
    assert files == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "delta.safetensors").write_bytes(b"")  # as a power cut may leave it
    again = run(config(), inputs, out)
    assert (out / "delta.safetensors").stat().st_size > 0
    assert again["psnr_tuned_db"] == metrics["psnr_tuned_db"]


def test_a_damaged_state_begins_anew(
    tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    step = tuning.Tuning.step

    def stopped(self: tuning.Tuning, locality_w: torch.Tensor | None = None) -> tuning.TuningStep:
        if self.step_index == 5:
            raise Interrupted("stop")
        return step(self, locality_w)

    with monkeypatch.context() as patch:
        patch.setattr(tuning.Tuning, "step", stopped)
        with pytest.raises(Interrupted):
            run(config(), inputs, out)
    (out / "work" / "state.safetensors").write_bytes(b"damaged")
    assert run(config(), inputs, out)["tune_steps"] == 8
    lines = [json.loads(line) for line in (out / "trace.jsonl").read_text().splitlines()]
    assert len(lines) == 16


# ---- pictures -------------------------------------------------------------------------------


def test_auto_takes_a_picture_of_the_models_size_as_it_is(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    image = save_picture(tmp_path / "exact.png", 32, 32)
    run(config(align="auto"), inputs | {"image": image}, tmp_path / "out")
    aligned = np.asarray(Image.open(tmp_path / "out" / "aligned.png"))
    np.testing.assert_array_equal(aligned, np.asarray(Image.open(image)))


def _hostile(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    whole = save_picture(tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "folder.png").mkdir()
    return {name: tmp_path / f"{name}.png" for name in ("text", "empty", "cut", "folder", "absent")}


@pytest.mark.parametrize("name", ["text", "empty", "cut", "folder", "absent"])
def test_what_is_no_picture_is_one_sentence(
    tmp_path: Path, inputs: dict[str, Path], name: str
) -> None:
    image = _hostile(tmp_path)[name]
    given = inputs | {"image": image}
    with pytest.raises(DataError, match=rf"{name}\.png") as caught:
        check(config(), given)  # before anything is begun
    assert "\n" not in str(caught.value)
    if name != "absent":
        assert "a PNG, JPEG or WebP file" in str(caught.value)  # what to give instead
    with pytest.raises(DataError, match=rf"{name}\.png"):
        run(config(), given, tmp_path / "out")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_pictures_of_every_mode_are_read(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("picture.tiff" if mode in ("CMYK", "I;16") else "picture.png")
    Image.new("RGB", (20, 30), (200, 100, 50)).convert("L" if mode == "I;16" else mode).convert(
        mode
    ).save(path)
    prepared = picture.prepare(path, 16, 16, "none")
    assert prepared.source.shape == (30, 20, 3)
    assert prepared.aligned.shape == (16, 16, 3)


def test_a_picture_of_one_pixel_is_inverted(tmp_path: Path, inputs: dict[str, Path]) -> None:
    Image.new("RGB", (1, 1), (9, 9, 9)).save(tmp_path / "dot.png")
    run(config(), inputs | {"image": tmp_path / "dot.png"}, tmp_path / "out")
    assert np.asarray(Image.open(tmp_path / "out" / "aligned.png")).shape == (32, 32, 3)


def test_transparent_pixels_get_the_background_and_exif_turns(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    rule = CropRule(2.0, 0.5, "#102030")
    prepared = picture.prepare(tmp_path / "clear.png", 16, 16, "none", rule)
    assert prepared.source[0, 0].tolist() == [0x10, 0x20, 0x30]
    turned = Image.new("RGB", (30, 20), (255, 255, 255))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert picture.read(tmp_path / "turned.jpg").shape == (30, 20, 3)


def test_the_framing_decides_how_much_is_cut_out(drawings_dir: Path) -> None:
    drawing = sorted((drawings_dir / "drawings").iterdir())[0]
    near, far = (
        picture.prepare(drawing, 64, 64, "face", CropRule(widths, 0.52, "white"))
        for widths in (1.5, 3.0)
    )
    assert far.transform.width == pytest.approx(2 * near.transform.width)


def test_an_upload_is_framed_as_the_models_training_images(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    model = tmp_path / "framed"
    shutil.copytree(inputs["model"], model)
    CropRule(2.0, 0.5, "#204060").write(model)
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    where = {"model": model, "image": tmp_path / "clear.png"}
    run(config(), where, tmp_path / "as_trained")
    run(config(background="#ffffff"), where, tmp_path / "as_asked")
    colours = [
        np.asarray(Image.open(tmp_path / name / "aligned.png"))[0, 0].tolist()
        for name in ("as_trained", "as_asked")
    ]
    assert colours == [[0x20, 0x40, 0x60], [255, 255, 255]]


def test_a_picture_without_a_face_is_refused_only_where_one_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    Image.new("RGB", (80, 80), (128, 128, 128)).save(path)
    with pytest.raises(DataError, match=r"No face .*align=none"):
        picture.prepare(path, 32, 32, "face")
    prepared = picture.prepare(path, 32, 32, "auto")
    assert prepared.method == "none"
    assert "no face was found" in prepared.word


def test_a_drawing_is_levelled_as_preprocess_does(drawings_dir: Path) -> None:
    drawing = sorted((drawings_dir / "drawings").iterdir())[0]
    prepared = picture.prepare(drawing, 64, 64, "auto")
    assert prepared.method == "face"
    assert prepared.detector
    assert prepared.aligned.shape == (64, 64, 3)
    height, width = prepared.source.shape[:2]
    assert 0 < prepared.transform.center_x < width
    assert 0 < prepared.transform.center_y < height
    assert prepared.transform.roll_degrees != 0


def test_models_higher_than_wide_get_crops_of_their_shape(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "picture.png", 100, 80)
    prepared = picture.prepare(path, 16, 32, "auto")
    assert prepared.aligned.shape == (32, 16, 3)
    np.testing.assert_allclose(prepared.transform.corners()[[0, 2]], [[30, 0], [70, 80]])
    with pytest.raises(DataError, match="No face was found"):
        picture.prepare(path, 16, 32, "face")


# ---- models and settings --------------------------------------------------------------------


def test_a_character_is_told_by_name_or_number(tmp_path: Path) -> None:
    inputs = {
        "model": save_model(tmp_path / "model", c_dim=3),
        "image": save_picture(tmp_path / "picture.png"),
    }
    write_characters(inputs["model"], ["amber", "ganyu", "keqing"])
    with pytest.raises(ConfigError, match=r"invert\.label=gany .* is ganyu \(it knows amber"):
        check(config(label="gany"), inputs)
    with pytest.raises(ConfigError, match="numbers 0 to 2"):
        run(config(label="3"), inputs, tmp_path / "out")
    for label in ("2", "keqing"):
        out = tmp_path / label
        assert run(config(label=label), inputs, out)["tune_steps"] == 8
        assert json.loads((out / "inversion.json").read_text())["label"] == 2
    same = [(tmp_path / label / "latents.safetensors").read_bytes() for label in ("2", "keqing")]
    assert same[0] == same[1]


def test_without_a_word_the_nearest_character_is_taken(tmp_path: Path) -> None:
    """The picture is one that the model draws of its class 1."""
    model = save_model(tmp_path / "model", c_dim=3)
    generator = checkpoint.load(model, ("G_ema",))["G_ema"]
    z = torch.randn(200, generator.z_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ws = generator.mapping(z, torch.eye(3)[[1]].expand(200, -1)).mean(dim=0, keepdim=True)
        pixels = to_uint8(generator.synthesis(ws, noise_mode="const"))[0]
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    inputs = {"model": model, "image": tmp_path / "picture.png"}
    run(config(align="none"), inputs, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "inversion.json").read_text())["label"] == 1


def test_labels_for_a_model_without_are_refused(tmp_path: Path, inputs: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="no classes"):
        run(config(label="0"), inputs, tmp_path / "out")


def test_without_weights_auto_says_that_the_discriminator_measures(
    tmp_path: Path,
    inputs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ANIMEDRAG_CACHE", str(tmp_path / "cache"))
    metrics = run(config(perceptual="auto"), inputs, tmp_path / "out")
    assert metrics["perceptual"] == "discriminator"
    assert Inversion.load(tmp_path / "out", inputs["model"]).info["perceptual"]["name"] == (
        "discriminator"
    )
    assert "not on this machine" in capsys.readouterr().out
    with pytest.raises(ModelError, match="lpips-vgg are not on this machine"):
        run(config(perceptual="lpips-vgg"), inputs, tmp_path / "other")


def test_the_stand_in_for_lpips_does_not_stop_by_its_threshold(
    tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANIMEDRAG_CACHE", str(tmp_path / "cache"))
    metrics = run(
        config(perceptual="auto", tune={"stop_at": 1e6, "stop_at_db": 0.0}),
        inputs,
        tmp_path / "out",
    )
    assert (metrics["tune_steps"], metrics["stopped_early"]) == (8, 0)


def test_without_weights_and_discriminator_there_is_one_sentence(
    tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANIMEDRAG_CACHE", str(tmp_path / "cache"))
    (inputs["model"] / "D.safetensors").unlink()
    with pytest.raises(ModelError, match="needs the model's discriminator") as caught:
        run(config(perceptual="auto"), inputs, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_lpips_is_the_cpus_default(tmp_path: Path, inputs: dict[str, Path]) -> None:
    if weights.find("lpips-alex") is None:
        pytest.skip("lpips-alex is not in the cache: python -m scripts.fetch_weights")
    metrics = run(config(perceptual="auto"), inputs, tmp_path / "out")
    assert metrics["perceptual"] == "lpips-alex"
    trace = [json.loads(line) for line in (tmp_path / "out" / "trace.jsonl").open()]
    assert trace[-1]["loss"] < trace[8]["loss"]


def test_grey_models_see_the_luma(tmp_path: Path) -> None:
    inputs = {
        "model": save_model(tmp_path / "model", img_channels=1),
        "image": save_picture(tmp_path / "picture.png"),
    }
    run(config(), inputs, tmp_path / "out")
    tuned = np.asarray(Image.open(tmp_path / "out" / "tuned.png"))
    assert (tuned[..., 0] == tuned[..., 2]).all()


def test_the_yaml_holds_the_dataclasss_defaults(root: Path) -> None:
    plain = yaml.safe_load((root / "conf" / "stages" / "invert.yaml").read_text())
    defaults = OmegaConf.to_container(OmegaConf.structured(InvertConfig))
    assert isinstance(defaults, dict)
    assert plain.keys() == defaults.keys()
    interpolated = {"name", "model", "seed", "device", "image", "encoder"}
    assert {k: v for k, v in plain.items() if k not in interpolated} == {
        k: v for k, v in defaults.items() if k not in interpolated
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"align": "faces"},
        {"perceptual": "lpips"},
        {"device": "gpu"},
        {"save_every": 0},
        {"name": " "},
        {"perceptual_smallest_px": 300},
        {"project": {"space": "z"}},
        {"project": {"learning_rate": float("nan")}},
        {"tune": {"steps": -1}},
        {"tune": {"locality_alpha": 0.0}},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        config(**wrong)


def test_mixed_precision_is_the_settings_choice_and_never_a_cpus(tmp_path: Path) -> None:
    if weights.find("lpips-alex") is None:
        pytest.skip("lpips-alex is not in the cache: python -m scripts.fetch_weights")
    image = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)

    def last_map(precision: str) -> torch.Tensor:
        settings = config(perceptual="lpips-alex", precision=precision)
        metric = choose_perceptual(settings, torch.device("cpu"), tmp_path)
        return metric.features(image)[-1]

    exact, rough = last_map("full"), last_map("mixed")
    assert torch.equal(last_map("auto"), exact)
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, atol=0.02, rtol=0.2)
    with pytest.raises(ConfigError, match="mixed"):
        config(precision="mixd")

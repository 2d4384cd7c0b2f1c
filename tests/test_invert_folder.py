"""A folder of pictures: a table and a contact sheet, whatever one bad picture does."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from pipeline.edit import stage as edit_stage
from pipeline.edit.config import DragConfig, EditConfig
from pipeline.errors import ArtifactError, DataError, Interrupted
from pipeline.evaluate.sections.inversion import inversion_section
from pipeline.invert import inversion, pti, tuning
from pipeline.invert.inversion import Inversion
from pipeline.invert.stage import check, run
from tests.test_invert import config, save_model, save_picture
from torch_utils.pixels import to_uint8


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    save_picture(folder / "a.png", 40, 40)
    (folder / "b.png").write_text("not a picture")
    Image.open(folder / "a.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "c.png")
    (folder / "notes.txt").write_text("no picture, and not meant to be one")
    return {"model": save_model(tmp_path / "model"), "image": folder}


def shown(loaded: Inversion) -> np.ndarray:
    return to_uint8(pti.picture_of(loaded.generator, loaded.ws))[0]


@pytest.mark.parametrize("together", [False, True])
def test_a_bad_picture_is_listed_and_the_others_are_inverted(
    tmp_path: Path, inputs: dict[str, Path], together: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    settings = config(together=together, tune={"steps": 20, "learning_rate": 0.02})
    check(settings, inputs)
    metrics = run(settings, inputs, out)
    assert (metrics["pictures"], metrics["left_out"]) == (2, 1)
    rows = json.loads((out / "table.json").read_text())
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert "not a picture" in rows[1]["reason"]
    assert all(rows[i]["psnr_tuned_db"] > rows[i]["psnr_pivot_db"] for i in (0, 2))
    mean = (rows[0]["psnr_tuned_db"] + rows[2]["psnr_tuned_db"]) / 2
    assert metrics["psnr_tuned_db"] == pytest.approx(mean, abs=1e-5)
    with (out / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["file"] for line in lines] == ["a.png", "b.png", "c.png"]
    assert float(lines[2]["psnr_tuned_db"]) == rows[2]["psnr_tuned_db"]
    said = capsys.readouterr().out
    assert "b.png is left out" in said
    assert "a.png " in said
    sheet = np.asarray(Image.open(out / "contact_sheet.png"))
    assert sheet.shape[1] > 2 * 3 * 128  # two pictures, three thumbs each
    assert sheet.std() > 20
    assert not (out / "work").exists()
    assert inversion.names_of_pictures(out) == ["a", "c"]
    for name in ("a", "c"):
        loaded = Inversion.load(out, inputs["model"], picture=name)
        np.testing.assert_array_equal(
            shown(loaded), np.asarray(Image.open(out / "pictures" / name / "tuned.png"))
        )
    first = Inversion.load(out, inputs["model"])
    np.testing.assert_array_equal(shown(first), np.asarray(Image.open(out / "tuned.png")))
    assert (out / "pictures" / "a" / "delta.safetensors").exists() is not together
    with pytest.raises(ArtifactError, match=r"no picture aa \(it has a, c\); the nearest is a"):
        Inversion.load(out, inputs["model"], picture="aa")
    section = inversion_section(out)
    (pictures,) = [table for table in section.tables if table.caption == "Pictures"]
    assert [row[0] for row in pictures.rows] == ["a.png", "b.png", "c.png"]
    assert "not a picture" in pictures.rows[1][-1]
    assert len(section.pictures) == 5  # the first picture's four, and the sheet
    # Done already: nothing is written again.
    stamp = (out / "inversion.json").stat().st_mtime_ns
    assert run(settings, inputs, out) == metrics
    assert (out / "inversion.json").stat().st_mtime_ns == stamp


def test_several_pictures_share_one_generator(tmp_path: Path, inputs: dict[str, Path]) -> None:
    out = tmp_path / "out"
    run(config(together=True, tune={"steps": 5}), inputs, out)
    one, other = (Inversion.load(out, inputs["model"], picture=name) for name in ("a", "c"))
    weights = dict(other.generator.named_parameters())
    for name, value in one.generator.named_parameters():
        assert value.equal(weights[name])
    assert not one.ws.equal(other.ws)
    trace = [json.loads(line) for line in (out / "trace.jsonl").read_text().splitlines()]
    assert [line["view"] for line in trace] == [0, 1] * 5


@pytest.mark.parametrize("together", [False, True])
def test_an_interrupted_folder_goes_on_where_it_was(
    tmp_path: Path, inputs: dict[str, Path], together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    settings = config(together=together)
    run(settings, inputs, straight)
    step = tuning.Tuning.step
    calls = 0

    def stopped(self: tuning.Tuning, locality_w: Any = None) -> tuning.TuningStep:
        nonlocal calls
        calls += 1
        if calls == 13:  # the second picture's fifth step, or their seventh round
            raise Interrupted("stop")
        return step(self, locality_w)

    with monkeypatch.context() as patch:
        patch.setattr(tuning.Tuning, "step", stopped)
        with pytest.raises(Interrupted):
            run(settings, inputs, broken)
    assert not (broken / "inversion.json").exists()
    run(settings, inputs, broken)
    for name in ("pictures/c/tuned.png", "pictures/c/latents.safetensors", "delta.safetensors"):
        assert (straight / name).read_bytes() == (broken / name).read_bytes(), name


def test_a_folder_without_a_usable_picture_is_one_sentence(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        check(config(), inputs | {"image": folder})
    (folder / "x.png").write_text("no")
    with pytest.raises(DataError, match=r"None of the 1 pictures .* not a picture") as caught:
        run(config(), inputs | {"image": folder}, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_any_picture_of_a_folder_can_be_dragged(tmp_path: Path, inputs: dict[str, Path]) -> None:
    out = tmp_path / "inversion"
    run(config(together=True), inputs, out)
    where = {"model": inputs["model"], "inversion": out}
    found = {}
    for picture in (None, "a", "c"):
        settings = EditConfig(
            inversion="inversion/x", model="model/x", device="cpu", points="12,12>14,12",
            points_frame="face", picture=picture, drag=DragConfig(max_steps=2),
        )  # fmt: skip
        edit_stage.check(settings, where)
        edit_stage.run(settings, where, tmp_path / f"edit-{picture}")
        found[picture] = (tmp_path / f"edit-{picture}" / "full.png").read_bytes()
    assert found[None] == found["a"] != found["c"]
    settings.picture = "b"  # left out of the inversion
    with pytest.raises(ArtifactError, match="no picture b"):
        edit_stage.check(settings, where)


def test_a_delta_elsewhere_is_not_followed(tmp_path: Path, inputs: dict[str, Path]) -> None:
    out = tmp_path / "out"
    run(config(), inputs | {"image": inputs["image"] / "a.png"}, out)
    info = json.loads((out / "inversion.json").read_text())
    info["delta"]["file"] = "../../../secret.safetensors"
    (out / "inversion.json").write_text(json.dumps(info))
    with pytest.raises(ArtifactError, match="lies elsewhere"):
        Inversion.load(out, inputs["model"])


def test_low_rank_deltas_are_small_and_show_what_was_shown(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    shares = {}
    for weights, rank in (("low-rank", 1), ("all", 1)):
        out = tmp_path / weights
        tune = {"weights": weights, "rank": rank, "learning_rate": 0.02, "steps": 20}
        metrics = run(config(tune=tune), inputs | {"image": inputs["image"] / "a.png"}, out)
        shares[weights] = metrics["delta_share"]
        loaded = Inversion.load(out, inputs["model"])
        np.testing.assert_array_equal(shown(loaded), np.asarray(Image.open(out / "tuned.png")))
        names = load_file(out / "delta.safetensors").keys()
        assert any(name.endswith(".lora_a") for name in names) == (weights == "low-rank")
        assert loaded.info["delta"]["weights"] == weights
        assert metrics["delta_bytes"] == (out / "delta.safetensors").stat().st_size
    assert shares["low-rank"] < 0.7 * shares["all"]  # type: ignore[operator]


def test_chosen_layers_alone_are_tuned(tmp_path: Path, inputs: dict[str, Path]) -> None:
    tune = {"weights": "all", "layers": ["b32.*"]}
    run(config(tune=tune), inputs | {"image": inputs["image"] / "a.png"}, tmp_path / "out")
    names = load_file(tmp_path / "out" / "delta.safetensors").keys()
    assert names
    assert all(name.startswith("synthesis.b32.") for name in names)

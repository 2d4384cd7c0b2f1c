"""The samples stage: sheets and films of tiny models, their sizes, resuming, refusals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import ConfigError, Interrupted
from pipeline.evaluate.config import SamplesConfig
from pipeline.evaluate.faces_of_model import Faces, round_trip
from pipeline.evaluate.film import FrameFolder, make_frames, mosaic, write_film, write_webp
from pipeline.evaluate.samples import check, run
from pipeline.evaluate.sheet import MARGIN, PAPER, Sheet, cell_size, draw_sheet, rows_of
from pipeline.models import checkpoint, stylegan2, stylegan3
from tests import quick_python
from tests.report_artifacts import finish, new_folder

SETTINGS: dict[str, Any] = {
    "name": "tiny", "device": "cpu", "grid": [4, 2], "sweep": [0.0, 1.0], "sweep_rows": 2,
    "mixing": [2, 2], "walk_grid": [2, 1], "walk_stops": 2, "walk_steps": 4, "film_px": 128,
    "character_columns": 2, "character_steps": 3,
}  # fmt: skip


def build(kind: str = "stylegan2", c_dim: int = 0) -> Any:
    torch.manual_seed(4)
    module: Any = stylegan2 if kind == "stylegan2" else stylegan3
    network = module.Generator(
        z_dim=8, c_dim=c_dim, w_dim=8, img_resolution=32, img_channels=3,
        mapping_kwargs={"num_layers": 2}, channel_base=256, channel_max=8,
    )  # fmt: skip
    # Faces that differ visibly from the mean one, and from each other.
    network.mapping.w_avg += torch.randn(8)
    for module in network.modules():
        if isinstance(module, stylegan3.SynthesisLayer):
            module.magnitude_ema_beta = 0.0
    if kind != "stylegan2":
        with torch.no_grad():
            network.synthesis(network.mapping(torch.randn(8, 8), None), update_emas=True)
    return network.eval().requires_grad_(False)


def save(folder: Path, network: Any) -> dict[str, Path]:
    checkpoint.save(folder, {"G_ema": network})
    return {"model": folder}


def config(**changes: Any) -> SamplesConfig:
    return SamplesConfig(**{**SETTINGS, **changes})


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_model_without_labels(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    out.mkdir()
    metrics = run(config(), save(tmp_path / "model", build()), out)
    files = {path.name for path in out.iterdir()}
    assert files == {
        "grid.png", "truncation.png", "mixing_coarse.png", "mixing_middle.png", "walk.mp4",
        "walk.webp", "samples.json",
    }  # fmt: skip
    assert metrics == {"pictures": 5, "characters": 0}
    assert "no labels, so there are no characters" in capsys.readouterr().out
    described = json.loads((out / "samples.json").read_text())["pictures"]
    assert described["grid"]["seeds"] == list(range(8))
    assert described["mixing_coarse"]["ws"] == [0, 3]
    film = frames_of(out / "walk.mp4")
    assert len(film) == 8
    assert film[0].shape == (64, 128, 3)
    with Image.open(out / "walk.webp") as webp:
        assert webp.n_frames == 4  # type: ignore[attr-defined]
        assert webp.info["loop"] == 0


def test_a_model_of_three_characters(tmp_path: Path) -> None:
    network = build(c_dim=3)
    out = tmp_path / "out"
    out.mkdir()
    run(config(pictures=["characters", "walk"]), save(tmp_path / "model", network), out)
    files = {path.name for path in out.iterdir()}
    assert {"characters.png", "between_characters.png", "walk_of_characters.mp4"} <= files
    assert len(frames_of(out / "walk_of_characters.mp4")) == 3 * 4
    # The sheet's cells are the model's answers to each label.
    faces = Faces(network, 4, 0.7)
    expected = faces.pictures(faces.ws(faces.z([1]), faces.labels([2])))[0]
    with Image.open(out / "characters.png") as sheet:
        pixels = np.asarray(sheet)
    height, width = cell_size(32, 32)
    shown = np.asarray(Image.fromarray(expected).resize((width, height), Image.Resampling.LANCZOS))
    found = [
        (x, y)
        for x in range(pixels.shape[1] - width)
        for y in [pixels.shape[0] - MARGIN - height]
        # Another batch may round a level differently.
        if np.abs(pixels[y : y + height, x : x + width].astype(int) - shown).max() <= 2
    ]
    assert len(found) == 1


def test_equal_settings_give_equal_bytes_and_another_seed_others(tmp_path: Path) -> None:
    inputs = save(tmp_path / "model", build("stylegan3"))
    settings = {"pictures": ["grid", "walk"], "walk_space": "z", "walk_easing": "linear"}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        run(config(**settings, seed=seed), inputs, tmp_path / name)
    for file in ("grid.png", "walk.mp4", "walk.webp"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b != c


def test_mixed_faces_take_the_rows_they_are_said_to_take(tmp_path: Path) -> None:
    network = build("stylegan3")
    faces = Faces(network, 4, 0.7)
    assert faces.mixing_ranges(None) == {
        "coarse": range(5), "middle": range(5, 11), "fine": range(11, 16)
    }  # fmt: skip
    assert faces.mixing_ranges(["2-4", " 7 "]) == {"rows 2-4": range(2, 5), "rows 7": range(7, 8)}
    for wrong in ("4-2", "9-16", "x", "", "3-"):
        with pytest.raises(ConfigError, match=r"samples\.mixing_rows"):
            faces.mixing_ranges([wrong])
    # All rows taken: whatever the row, the cells are the faces at the top.
    out = tmp_path / "out"
    out.mkdir()
    settings = {"pictures": ["mixing"], "mixing_rows": ["0-15"], "mixing": [4, 2]}
    run(config(**settings), save(tmp_path / "m", network), out)
    with Image.open(out / "mixing_rows_0-15.png") as sheet:
        pixels = np.asarray(sheet).astype(int)
    height, width = cell_size(32, 32)
    step = height + 6
    cells = pixels[:, pixels.shape[1] - MARGIN - 4 * (width + 6) + 6 : pixels.shape[1] - MARGIN]
    bottom = pixels.shape[0] - MARGIN - height
    last, above, heads = (cells[y : y + height] for y in (bottom, bottom - step,
                                                          bottom - 2 * step - 12))  # fmt: skip
    assert np.abs(last - above).max() <= 2
    assert np.abs(last - heads).max() <= 2
    assert np.abs(last[:, :width] - last[:, width + 6 : 2 * width + 6]).max() > 20


def test_face_numbers_are_those_of_the_edit_stage(tmp_path: Path) -> None:
    faces = Faces(build(), 4, 0.7)
    expected = torch.randn(1, 8, generator=torch.Generator().manual_seed(17))
    torch.testing.assert_close(faces.z([3, 17])[1:], expected)


@given(
    stops=st.integers(2, 4), steps=st.integers(1, 5), easing=st.sampled_from(["smooth", "linear"])
)
@settings(max_examples=20, deadline=None)
def test_a_round_trip_passes_every_stop_and_closes(stops: int, steps: int, easing: str) -> None:
    draws = torch.Generator().manual_seed(stops)
    places = torch.randn(stops, 3, 16, generator=draws)
    points = round_trip(places, steps, easing=easing)
    assert len(points) == stops * steps
    for index in range(stops):
        torch.testing.assert_close(points[index * steps], places[index])
    # The last step leads on to the first place: no farther from it than any step is long.
    legs = [(points[i] - points[i - 1]).norm() for i in range(len(points))]
    distance = [(places[i] - places[i - 1]).norm() for i in range(stops)]
    assert max(legs) <= 1.6 * max(distance) / steps + 1e-4 or steps == 1
    arcs = round_trip(places, steps, easing=easing, arcs=True)
    for point in arcs:
        torch.testing.assert_close(point.norm(dim=1), torch.full((3,), 4.0))


def noise_frames(folder: Path, count: int = 12, side: int = 96) -> FrameFolder:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    frames = FrameFolder(folder, count)
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (side, side, 3)).astype(np.uint8)).save(
            frames.path(index)
        )
    return frames


def test_films_stay_within_their_bound(tmp_path: Path) -> None:
    frames = noise_frames(tmp_path / "frames")
    write_film(tmp_path / "large.mp4", frames, 24, 10**9)
    bound = (tmp_path / "large.mp4").stat().st_size // 10
    write_film(tmp_path / "small.mp4", frames, 24, bound)
    assert (tmp_path / "small.mp4").stat().st_size <= bound
    assert len(frames_of(tmp_path / "small.mp4")) == 12
    assert not write_webp(tmp_path / "none.webp", frames, 24, 100)
    assert not (tmp_path / "none.webp").exists()
    assert write_webp(tmp_path / "some.webp", frames, 24, 10**9)
    leftovers = [path.name for path in tmp_path.iterdir() if path.name.startswith("unfinished")]
    assert leftovers == []


class Silent:
    def advance(self, n: float = 1, **fields: Any) -> None:
        pass


def test_frames_that_are_there_are_not_made_again(tmp_path: Path) -> None:
    made: list[int] = []

    def make(index: int) -> np.ndarray:
        made.append(index)
        return np.full((4, 4, 3), index, np.uint8)

    with pytest.raises(Interrupted):
        make_frames(tmp_path, 6, make, bar=Silent(), stop=lambda: len(made) == 3)
    frames = make_frames(tmp_path, 6, make, bar=Silent(), stop=lambda: False)
    assert made == [0, 1, 2, 3, 4, 5]
    assert [int(frame[0, 0, 0]) for frame in frames] == made


def test_a_killed_run_goes_on(root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    folder = new_folder(store, "model", "tiny")
    save(folder, build())
    finish(folder, "train")
    changes = [f"samples.{key}={value}".replace(" ", "") for key, value in SETTINGS.items()
               if key not in ("name", "walk_steps")]  # fmt: skip
    command = [
        sys.executable, "-m", "scripts.run", "stage=samples", "character=tiny", f"store={store}",
        f"hydra.run.dir={tmp_path}/runs", "samples.pictures=[walk]", "samples.walk_steps=60",
        *changes,
    ]  # fmt: skip

    def begin() -> quick_python.Popen:
        return quick_python.Popen(
            command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    process = begin()
    frames: list[Path] = []
    while process.poll() is None and len(frames) < 8:
        frames = list(store.glob(".drafts/*/*/unfinished/walk/*.png"))
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -9
    kept = {path: path.stat().st_mtime_ns for path in frames}
    resumed = begin()
    changed: set[Path] = set()
    while resumed.poll() is None:
        for path, when in kept.items():
            try:
                if path.stat().st_mtime_ns != when:
                    changed.add(path)
            except FileNotFoundError:
                pass  # the folder goes when the film is done
        time.sleep(0.05)
    output = resumed.communicate()[0]
    assert resumed.returncode == 0, output
    assert "samples: resumed" in output
    assert changed == set()
    assert len(frames_of(store / "samples" / "tiny" / "v1" / "walk.mp4")) == 120


def test_refusals_are_one_sentence(tmp_path: Path) -> None:
    inputs = save(tmp_path / "model", build())
    with pytest.raises(ConfigError, match="needs a model of several characters"):
        check(config(pictures=["characters"]), inputs)
    for changes, sentence in (
        ({"pictures": ["gird"]}, "nearest valid value is grid"),
        ({"pictures": []}, "names nothing"),
        ({"grid": [4]}, "must be two numbers"),
        ({"grid": [4, 99]}, "grid.1.=99 is out of range"),
        ({"sweep": []}, "1 to 16 values"),
        ({"walk_space": "x"}, "walk_space=x is not possible"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            config(**changes)


@given(
    rows=st.integers(1, 4), columns=st.integers(1, 4), height=st.integers(8, 300),
    width=st.integers(8, 300), labels=st.booleans(), heads=st.booleans(),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_sheets_have_room_for_everything(
    rows: int, columns: int, height: int, width: int, labels: bool, heads: bool
) -> None:
    black = np.zeros((height, width, 3), np.uint8)
    sheet = draw_sheet(
        Sheet(
            title="Title", subtitle="A line that says what is seen. " * 4,
            cells=[[black] * columns for _ in range(rows)],
            row_labels=[f"row {row}" for row in range(rows)] if labels else (),
            column_labels=[f"column {column}" for column in range(columns)] if labels else (),
            captions=[["caption"] * columns for _ in range(rows)] if heads else (),
            row_heads=[black] * rows if heads else (),
            column_heads=[black] * columns if heads else (),
        )
    )  # fmt: skip
    pixels = np.asarray(sheet)
    border = np.concatenate(
        [
            pixels[:10].reshape(-1, 3),
            pixels[-10:].reshape(-1, 3),
            pixels[:, :10].reshape(-1, 3),
            pixels[:, -10:].reshape(-1, 3),
        ]
    )
    assert (border == PAPER).all()
    shown = cell_size(height, width)
    pictures = rows * columns + (rows + columns if heads else 0)
    assert (pixels == 0).all(axis=2).sum() >= pictures * shown[0] * shown[1]


def test_equal_labels_make_one_block() -> None:
    black = np.zeros((112, 112, 3), np.uint8)
    apart = Sheet("T", "", [[black]] * 4, row_labels=["a", "b", "c", "d"])
    blocks = Sheet("T", "", [[black]] * 4, row_labels=["a", "a", "b", "b"])
    assert draw_sheet(blocks).height > draw_sheet(apart).height
    assert rows_of([1, 2, 3], 2) == [[1, 2], [3]]


def test_a_mosaic_fills_row_by_row_and_fits() -> None:
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 30)]
    page = mosaic(pictures, 2, 64)
    assert page.shape == (64, 64, 3)
    assert [int(page[16, 16, 0]), int(page[16, 48, 0]), int(page[48, 16, 0])] == [10, 20, 30]
    assert (page[33:, 33:] >= 240).mean() > 0.9
    assert max(mosaic(pictures, 3, 12).shape) == 12

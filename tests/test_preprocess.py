"""The preprocess stage: real pictures, real processes, killed, resumed, compared by bytes."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pipeline.data import detectors, nvxs, preparation, stage
from pipeline.data.align import CropTransform, crop
from pipeline.data.config import FramingConfig, PreprocessConfig, SourceConfig
from pipeline.data.contact_sheet import SheetStyle, contact_sheet
from pipeline.data.dataset import Dataset
from pipeline.data.faces import Face, FaceFinder
from pipeline.data.painter import sample_face
from pipeline.data.preparation import share_outside
from pipeline.data.stage import run
from pipeline.data.workers import run_all
from pipeline.errors import ConfigError, DataError, Interrupted

OUTPUTS = ("images.zip", "faces.jsonl", "rejects.jsonl", "split.json", "contact_sheet.png")
needs_animeface = pytest.mark.skipif(
    isinstance(nvxs.load(), str), reason=f"animeface: {nvxs.load()}"
)


def config(path: Path | None = None, **options: Any) -> PreprocessConfig:
    values: dict[str, Any] = {"resolution": 64, "workers": 0, "detectors": ["animeface"]}
    source = options.pop("source", None) or SourceConfig(path=str(path))
    return PreprocessConfig(name="test", source=source, **{**values, **options})


def painter(count: int, **options: Any) -> PreprocessConfig:
    source = SourceConfig(kind="painter", mode="faces", count=count, size=96, truth=True)
    return config(source=source, **options)


def paint(index: int, size: int = 200) -> np.ndarray:
    return np.ascontiguousarray(sample_face(3, index, size=size, expression="neutral").image)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def reasons(folder: Path) -> dict[str, str]:
    return {one["source"]: one["reason"] for one in Dataset(folder).rejects}


@needs_animeface
def test_a_mixed_folder(tmp_path: Path) -> None:
    """Good pictures become aligned faces, everything else a line in rejects.jsonl."""
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    face = Image.fromarray(paint(0))
    face.save(source / "a.png")
    face.save(source / "copy.jpg", quality=60)
    Image.fromarray(paint(1)).save(source / "deep" / "er" / "b.webp", quality=90)
    Image.fromarray(paint(2)).convert("CMYK").save(source / "c.jpg", quality=92)
    (source / "same.png").write_bytes((source / "a.png").read_bytes())
    face.resize((110, 110)).save(source / "small.png")
    Image.new("RGB", (300, 200), "teal").save(source / "nobody.png")
    Image.new("RGB", (9, 9)).save(source / "tiny.png")
    (source / "cut.png").write_bytes((source / "a.png").read_bytes()[:2000])
    (source / "notes.txt").write_text("about these pictures")
    (source / "empty.png").touch()
    out = tmp_path / "out"
    out.mkdir()
    metrics = run(config(source, min_face_px=60), {}, out)

    dataset = Dataset(out)
    sources = [record["source"] for record in dataset.faces]
    assert sources in (
        ["a.png", "c.jpg", "deep/er/b.webp"],
        ["c.jpg", "deep/er/b.webp", "same.png"],
    )
    rejected = reasons(out)
    assert set(rejected) == {
        *({"a.png", "same.png"} - set(sources)),
        *("copy.jpg", "small.png", "nobody.png", "tiny.png", "cut.png", "notes.txt", "empty.png"),
    }
    assert "duplicate" in rejected["copy.jpg"]
    assert "too small" in rejected["small.png"]
    assert rejected["nobody.png"] == "no face found"
    assert "too small" in rejected["tiny.png"]
    assert "cut short" in rejected["cut.png"]
    assert "not a picture" in rejected["notes.txt"]
    assert (metrics["images"], metrics["duplicates"], metrics["by_animeface"]) == (3, 2, 3)
    # Nothing of the work at hand is left behind.
    assert {path.name for path in out.iterdir()} - {"crop_rule.json"} == set(OUTPUTS)
    for index, record in enumerate(dataset.faces):
        original = np.asarray(Image.open(source / record["source"]).convert("RGB"))
        transform = CropTransform.from_json(record["transform"])
        difference = dataset.images.read(index) - crop(original, transform, 64).astype(int)
        assert np.abs(difference).mean() < 3  # not 0 only for the JPEG's colours
        eyes = transform.apply(np.array(record["eyes"]))
        assert np.allclose(eyes, [0.5, 0.52], atol=1e-3)
    assert Image.open(out / "contact_sheet.png").width > 300


@needs_animeface
def test_number_of_processes_changes_no_byte(tmp_path: Path, drawings_dir: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in sorted((drawings_dir / "drawings").glob("*.jpg"))[:3]:
        (source / path.name).write_bytes(path.read_bytes())
    (source / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    results = []
    for workers in (0, 1, 3):
        out = tmp_path / f"out{workers}"
        out.mkdir()
        detectors = ["animeface", "mediapipe"]
        run(config(source, workers=workers, detectors=detectors), {}, out)
        results.append(contents(out))
    assert results[0] == results[1] == results[2]


KILLED_RUN = """
import sys
from pathlib import Path
from pipeline.data.config import PreprocessConfig, SourceConfig
from pipeline.data.stage import run
if __name__ == "__main__":
    source = SourceConfig(kind="painter", mode="faces", count=60, size=96, truth=True)
    run(PreprocessConfig(name="test", source=source, resolution=64, workers=int(sys.argv[2]),
        detectors=["animeface"]), {}, Path(sys.argv[1]))
"""


def start(script: Path, out: Path, workers: int, root: Path) -> subprocess.Popen:
    out.mkdir()
    return subprocess.Popen(
        [sys.executable, str(script), str(out), str(workers)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def done_items(out: Path) -> dict[str, int]:
    """Result files and when each was written."""
    found = out.glob("work/*/*.json")
    return {path.name: path.stat().st_mtime_ns for path in found}


def wait_for_items(out: Path, process: subprocess.Popen, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(done_items(out)) < count:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_equals_uninterrupted(
    tmp_path: Path, root: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = tmp_path / "straight"
    straight.mkdir()
    run(painter(60), {}, straight)
    script = tmp_path / "script.py"
    script.write_text(KILLED_RUN)
    out = tmp_path / "killed"
    process = start(script, out, workers, root)
    wait_for_items(out, process, 7)
    process.kill()  # SIGKILL: nothing can be tidied up
    process.wait()
    time.sleep(0.5)  # its processes notice that it is gone
    survived = done_items(out)
    assert 7 <= len(survived) < 60
    time.sleep(0.3)
    assert done_items(out) == survived  # nobody works on

    redone = []
    original = preparation.write_result

    def recording(work: Path, item: Any, result: dict[str, Any]) -> None:
        redone.append(item.name)
        original(work, item, result)

    monkeypatch.setattr(preparation, "write_result", recording)
    run(painter(60), {}, out)
    assert len(redone) == 60 - len(survived)
    assert contents(out) == contents(straight)


def test_sigterm_stops_cleanly_and_says_how_to_go_on(tmp_path: Path, root: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(KILLED_RUN)
    out = tmp_path / "out"
    process = start(script, out, 2, root)
    wait_for_items(out, process, 3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert "Interrupted: Stopped after" in errors
    assert "run the same command again" in errors
    assert 3 <= len(done_items(out)) < 60


def test_other_settings_do_not_reuse_an_interrupted_runs_work(tmp_path: Path) -> None:
    stale = tmp_path / "work"
    stale.mkdir()
    (stale / "config.json").write_text("{}")
    (stale / "aa").mkdir()
    run(painter(3), {}, tmp_path)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    run(painter(3), {}, fresh)
    assert contents(tmp_path) == contents(fresh)


class Killer:
    """A worker that a certain item kills, as a crash in native code would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def work(self, item: int) -> None:
        if item == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / str(item)).touch()

    def close(self) -> None:
        (self.folder / f"closed{os.getpid()}").touch()


class MakeKiller:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Killer:
        return Killer(self.folder)


def test_an_item_that_kills_its_process_is_singled_out(tmp_path: Path) -> None:
    crashed: list[int] = []
    done = list(run_all(range(6), MakeKiller(tmp_path), 2, crashed.append, lambda: False))
    assert crashed == [3]
    assert len(done) == 6
    assert {path.name for path in tmp_path.iterdir() if path.name.isdigit()} == set("01245")
    assert multiprocessing.active_children() == []


def test_workers_are_closed_in_their_processes(tmp_path: Path) -> None:
    done = list(run_all(range(2), MakeKiller(tmp_path), 1, pytest.fail, lambda: False))
    assert len(done) == 2
    (closed,) = tmp_path.glob("closed*")
    assert closed.name != f"closed{os.getpid()}"


class MakeWhileCtrlC(MakeKiller):
    """Ctrl-C reaches the process while it is being set up: where its arguments are unpickled."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        self.__dict__.update(state)


def test_ctrl_c_does_not_end_a_starting_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = list(run_all(range(2), MakeWhileCtrlC(tmp_path), 1, pytest.fail, lambda: False))
    assert len(done) == 2
    assert "Traceback" not in capfd.readouterr().err


def test_the_split_depends_on_content_alone(tmp_path: Path) -> None:
    """The same pictures under other names, and among others, stay on their side."""
    sides: list[dict[str, str]] = []
    for number, count in enumerate((12, 20)):
        source = tmp_path / f"source{number}"
        source.mkdir()
        for index in range(count):
            name = f"{'ab'[number]}{(index * 7) % count:02d}.png"
            Image.fromarray(paint(index, 64)).save(source / name)
        out = tmp_path / f"out{number}"
        out.mkdir()
        run(config(source, heldout=0.4, on_no_face="whole", detectors=[]), {}, out)
        dataset = Dataset(out)
        assert dataset.heldout_indices
        assert dataset.train_indices
        held = set(dataset.heldout_indices)
        sides.append(
            {
                record["source_sha256"]: "held" if index in held else "train"
                for index, record in enumerate(dataset.faces)
            }
        )
    assert len(sides[0]) == 12
    assert sides[0].items() <= sides[1].items()


def test_whole_pictures_are_marked(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        noise = rng.integers(0, 256, (60, 100, 3), np.uint8)
        Image.fromarray(noise).save(source / f"{index}.png")
    out = tmp_path / "out"
    out.mkdir()
    metrics = run(config(source, on_no_face="whole", detectors=[]), {}, out)
    assert metrics["by_whole"] == 3
    assert {record["detector"] for record in Dataset(out).faces} == {"whole"}


def test_pictures_that_need_no_change_keep_their_bytes_but_not_what_else_they_say(
    tmp_path: Path,
) -> None:
    source = tmp_path / "drawings"
    source.mkdir()
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "somebody who wants to stay unknown")
    pictures = [paint(index, 64) for index in range(3)]
    Image.fromarray(pictures[0]).save(source / "a.png", pnginfo=texts, compress_level=9)
    Image.fromarray(pictures[1]).save(source / "b.bmp")
    Image.fromarray(pictures[2]).resize((128, 128)).save(source / "c.png")
    options = {"detectors": [], "on_no_face": "whole", "duplicate_bits": -1}
    run(config(source, **options), {}, tmp_path / "one")
    run(config(source, **options, workers=2), {}, tmp_path / "two")
    images = Dataset(tmp_path / "one").images
    np.testing.assert_array_equal(images.read(0), pictures[0])
    np.testing.assert_array_equal(images.read(1), pictures[1])
    with zipfile.ZipFile(tmp_path / "one" / "images.zip") as archive:
        kept = archive.read(images.names[0])
    plain = io.BytesIO()
    Image.fromarray(pictures[0]).save(plain, format="PNG", compress_level=9)
    assert kept == plain.getvalue()
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_painters_landmarks_reach_the_dataset(tmp_path: Path) -> None:
    metrics = run(painter(4), {}, tmp_path)
    assert metrics["by_painter"] == 4
    record = Dataset(tmp_path).faces[0]
    points = np.array(record["landmarks"])
    assert points.shape == (28, 2)
    inside = CropTransform.from_json(record["transform"]).apply(points)
    assert inside.min() > 0
    assert inside.max() < 1


def test_the_runners_path_wins(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    Image.fromarray(paint(0)).save(source / "a.png")
    out = tmp_path / "out"
    out.mkdir()
    settings = config(tmp_path / "elsewhere", on_no_face="whole", detectors=[])
    assert run(settings, {"source.path": source}, out)["images"] == 1


def test_nothing_usable_is_one_sentence(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for index in range(3):
        (source / f"{index}.txt").write_text("no picture")
    with pytest.raises(DataError, match=r"None of the 3 pictures gave a face: not a picture.*3x"):
        run(config(source), {}, tmp_path / "out")
    (source / "1.txt").unlink()
    (source / "2.txt").unlink()
    with pytest.raises(DataError, match=r"^The picture gave no face: not a picture[^x]*$"):
        run(config(source), {}, tmp_path / "out")
    # Nothing to go on from is left.
    assert not list((tmp_path / "out").iterdir())


def test_a_picture_that_a_detector_stumbles_over_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error nobody foresaw, in the middle of a folder: a line in rejects.jsonl, and on."""
    source = tmp_path / "source"
    source.mkdir()
    for index, size in enumerate((200, 201, 200)):
        Image.fromarray(paint(index, size)).save(source / f"{index}.png")
    closed: list[int] = []

    class Stumbling(FaceFinder):
        def find(self, image: np.ndarray, every: bool = False) -> list[Face]:
            if image.shape[0] == 201:
                raise IndexError("list index\nout of range")
            return super().find(image, every)

        def close(self) -> None:
            closed.append(1)
            super().close()

    monkeypatch.setattr(preparation, "FaceFinder", Stumbling)
    out = tmp_path / "out"
    metrics = run(config(source, on_no_face="whole", detectors=["cascade"]), {}, out)
    assert (metrics["images"], metrics["rejected"], metrics["unforeseen"]) == (2, 1, 1)
    (name, reason) = next(iter(reasons(out).items()))
    assert name == "1.png"
    assert reason.startswith(
        "an unforeseen error (IndexError: list index out of range; test_preprocess.py line "
    )
    assert len(closed) == 2  # afresh after the error, and at the end
    said = capsys.readouterr().out
    assert "1 picture met an error that nobody foresaw; rejects.jsonl" in said
    assert "1 left out (1 for other reasons), see rejects.jsonl." in said


def test_a_full_disk_is_not_a_pictures_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(preparation, "encode_png", full)
    with pytest.raises(OSError, match="No space left"):
        run(painter(2), {}, tmp_path)


def test_results_without_a_detector_are_not_gone_on_from_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was looked at while a detector was missing is looked at again once it is there."""
    source = tmp_path / "source"
    source.mkdir()
    for index in range(2):
        Image.fromarray(paint(index)).save(source / f"{index}.png")
    out = tmp_path / "out"
    settings = config(source, on_no_face="whole", detectors=["mediapipe", "cascade"])

    def stopped(*_: object) -> None:
        raise Interrupted("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(detectors.weights, "find", lambda name: None)
        patched.setattr(stage, "_collect", stopped)
        with pytest.raises(Interrupted):
            run(settings, {}, out)
    before = done_items(out)
    assert len(before) == 2
    with monkeypatch.context() as patched:
        patched.setattr(stage, "_collect", stopped)
        patched.setattr(stage, "_missing_detectors", lambda config: [])
        with pytest.raises(Interrupted):
            run(settings, {}, out)
    after = done_items(out)
    assert before.keys() == after.keys()
    assert all(after[name] > before[name] for name in before)


def test_interrupted_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal between two pictures: what is done stays, and the message counts it."""
    original = preparation.FaceWorker.work

    def work(self: preparation.FaceWorker, item: Any) -> None:
        original(self, item)
        if item.index == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(preparation.FaceWorker, "work", work)
    with pytest.raises(Interrupted, match="Stopped after 3 of 9 pictures"):
        run(painter(9), {}, tmp_path)
    assert len(done_items(tmp_path)) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resolution": 500}, "resolution=500 .*512"),
        ({"faces": "bets"}, "faces=bets .*best"),
        ({"on_no_face": "skip"}, "on_no_face"),
        ({"detectors": ["animefaces"]}, "detectors=animefaces"),
        ({"detectors": []}, "no face can be found"),
        ({"heldout": 1.5}, "heldout"),
        ({"max_megapixels": 0}, "max_megapixels"),
        ({"min_face_px": 0}, "min_face_px"),
        ({"workers": -1}, "workers"),
        ({"limit": 0}, "limit"),
    ],
)
def test_impossible_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PreprocessConfig(**values)
    with pytest.raises(ConfigError, match="face_widths"):
        FramingConfig(face_widths=-1)


def test_share_outside() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    assert share_outside(CropTransform.square(50, 50, 80), image) == 0
    assert share_outside(CropTransform.square(0, 50, 80), image) == 0.5
    assert share_outside(CropTransform.square(0, 0, 80), image) == 0.75
    assert share_outside(CropTransform.square(-500, 0, 80), image) == 1


@pytest.mark.parametrize("count", [1, 5, 30, 700])
def test_contact_sheets_of_any_size(count: int) -> None:
    read_indices = []

    def read(index: int) -> np.ndarray:
        read_indices.append(index)
        return np.full((8, 8, 3), 60 + index % 100, np.uint8)

    style = SheetStyle("title", "subtitle", 0.5, guides=True)
    sheet = contact_sheet(read, count, [0], style)
    assert len(read_indices) == min(count, 240)
    assert read_indices == sorted(set(read_indices))
    assert max(read_indices) < count
    # Every thumb is on the sheet: paper is lighter than any of them.
    dark = (np.asarray(sheet).max(axis=2) < 200).mean()
    assert dark > 0.25

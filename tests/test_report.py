"""The report: complete, self-contained, escaped, honest about what is missing."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import report_artifacts
from PIL import Image

from pipeline.edit.video import write_webp
from pipeline.errors import ConfigError
from pipeline.evaluate.config import ReportConfig
from pipeline.evaluate.stage import REPORT, run

HOSTILE = "<script>alert(1)</script>\"'&amp;<img src=x onerror=y>"
VOID = {"meta", "link", "img", "source", "br"}


class Outline(HTMLParser):
    """What a page holds: elements, attributes, text; `problems` names unbalanced tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.problems: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        self.problems += [f"{tag} is not closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if len({key for key, _ in attrs}) != len(attrs):
            self.problems.append(f"{tag} repeats an attribute")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, key: str) -> list[str]:
        """Values of an attribute of all elements of one kind."""
        return [value for t, k, value in self.attributes if t == tag and k == key]


def make(inputs: dict[str, Path], out: Path, **settings: object) -> str:
    """The report's HTML."""
    out.mkdir(exist_ok=True)
    run(ReportConfig(**{"name": "ganyu", **settings}), inputs, out)  # type: ignore[arg-type]
    return (out / REPORT).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One artifact of each kind."""
    return report_artifacts.road(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def page(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Outline:
    """The report on all of them, parsed."""
    return Outline(make(inputs, tmp_path_factory.mktemp("out")))


def test_markup_is_balanced_and_ids_are_unique(page: Outline) -> None:
    assert page.problems == []
    ids = Counter(value for _, key, value in page.attributes if key == "id")
    assert [name for name, count in ids.items() if count > 1] == []
    targets = [value for _, key, value in page.attributes if key == "aria-labelledby"]
    targets += [href[1:] for href in page.values("a", "href")]
    assert targets
    assert set(targets) <= set(ids)


def test_nothing_is_fetched(page: Outline) -> None:
    for tag, key, value in page.attributes:
        if key in ("src", "href", "poster", "srcset", "data", "action"):
            assert value.startswith("data:" if tag != "a" else "#"), (tag, key, value[:80])
    assert page.tags["script"] == 0
    assert "url(" not in page.text
    assert "@import" not in page.text


def test_every_picture_has_text_and_every_table_headers(page: Outline) -> None:
    assert page.tags["img"] >= 12
    assert all(page.values("img", "alt"))
    assert len(page.values("img", "alt")) == page.tags["img"]
    assert page.values("th", "scope").count("col") >= page.tags["table"]


def test_everything_asked_for_is_there(page: Outline) -> None:
    for words in (
        "40 faces from 40 pictures; 36 to train on, 4 held out; 5 more pictures left out.",
        "no face was found",
        "near-duplicate of another",
        "mediapipe",
        "after 60,000 images",
        "Pivot",
        "2 handles",
        "version 1",
        "drawing000.png",
        "2.13.0",
        "1m 24s",
    ):
        assert words in page.text, words
    assert page.tags["video"] == 1
    # Six key frames with two handles and two targets each.
    assert page.values("circle", "class").count("handle") == 12
    assert page.values("circle", "class").count("target") == 12


def test_reasons_that_differ_in_particulars_count_together(page: Outline) -> None:
    assert page.text.count("near-duplicate of") == 1
    assert page.text.count("no face was found") == 1
    assert re.search(r"near-duplicate of another\s*2\s*d.png", page.text)


def test_hostile_texts_are_escaped(tmp_path: Path) -> None:
    hostile = report_artifacts.road(tmp_path / "store", hostile=HOSTILE)
    html = make(hostile, tmp_path / "out", name=HOSTILE)
    outline = Outline(html)
    assert outline.problems == []
    assert outline.tags["script"] == 0
    assert "onerror" not in {key for _, key, _ in outline.attributes}
    # Names reach the reader as they are: in the title, the tables and the tree.
    assert outline.text.count(HOSTILE) >= 10


def test_forbidden_characters_do_not_reach_the_page(tmp_path: Path) -> None:
    html = make(
        {"dataset": report_artifacts.dataset(tmp_path / "store", "d", "\ud800\x00\x1b\x85")[0]},
        tmp_path / "out",
    )
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", html)
    assert "\ufffd" in html


@pytest.mark.parametrize(
    ("left_out", "said", "section"),
    [
        ("dataset", "a data set", "dataset"),
        ("model", "a model of this name", "training"),
        ("inversion", "a drawing found in a model", "inversion"),
        ("edit", "an edit", "drag"),
    ],
)
def test_says_what_is_missing(
    inputs: dict[str, Path], tmp_path: Path, left_out: str, said: str, section: str
) -> None:
    kept = {key: folder for key, folder in inputs.items() if key != left_out}
    outline = Outline(make(kept, tmp_path))
    assert outline.problems == []
    assert f"{said}," in outline.text.split("Not there yet, so not on this page: ")[1]
    # No heading with nothing under it, and no way to it.
    assert f"#{section}" not in outline.values("a", "href")
    assert section not in outline.values("section", "id")


def test_damaged_payloads_do_not_stop_a_report(tmp_path: Path) -> None:
    damaged = report_artifacts.road(tmp_path / "store")
    for folder in damaged.values():
        for path in folder.rglob("*"):
            if path.suffix in (".jsonl", ".json"):
                path.write_bytes(
                    b'{"a": [1, {"step": 3, "han\xff\n[]\n{"step": NaN}\n' + b"[" * 9999
                )
            elif path.is_file():
                path.write_bytes(path.read_bytes()[:40])
    outline = Outline(make(damaged, tmp_path / "out"))
    assert outline.problems == []
    assert outline.text.count("manifest is missing or damaged") == 4
    for words in (
        "no contact sheet that can be read",
        "no training statistics",
        "no sample pictures",
        "no pictures that can be read",
        "no frames that can be read",
        "no trace that can be read",
        "settings, timings and versions are unknown",
    ):
        assert words in outline.text, words


def test_missing_payloads_do_not_stop_a_report(tmp_path: Path) -> None:
    empty = {key: tmp_path / key for key in ("dataset", "model", "inversion", "edit")}
    for folder in empty.values():
        folder.mkdir()
    outline = Outline(make(empty, tmp_path / "out"))
    assert outline.problems == []
    assert outline.tags["img"] == 0


@pytest.mark.parametrize(
    "record",
    [
        {"step": "x", "handles": [1, None, {"position": [1], "target": "ab"}], "loss": "high"},
        {"step": 1, "handles": [{"position": [float("nan"), 1], "target": [1, 2]}]},
        {"step": 10**400, "handles": [], "loss": True},
        {"step": 1, "handles": {"position": [0, 0]}, "loss": [1]},
        {"handles": [{"position": {"x": 1, "y": 2}, "target": {"x": 3}}]},
    ],
)
def test_traces_of_another_shape_are_gaps(
    inputs: dict[str, Path], tmp_path: Path, record: dict[str, object]
) -> None:
    folder = tmp_path / "edit"
    shutil.copytree(inputs["edit"], folder)
    report_artifacts.write_lines(folder / "trace.jsonl", [record, record])
    outline = Outline(make({"edit": folder}, tmp_path / "out"))
    assert outline.problems == []
    assert outline.values("circle", "class").count("handle") == 0


def test_says_when_inputs_do_not_belong_together(inputs: dict[str, Path], tmp_path: Path) -> None:
    other, _ = report_artifacts.dataset(tmp_path, "other")
    outline = Outline(make({**inputs, "dataset": other}, tmp_path))
    said = "The model shown here was made from dataset/ganyu:v1, but this report shows"
    assert said in outline.text
    assert "not part of this report" in outline.text
    # A data set that is framed like another model's is none of that model's.
    _, first = report_artifacts.dataset(tmp_path / "first", "first")
    _, base = report_artifacts.model(tmp_path / "first", "base", first)
    framed = report_artifacts.new_folder(tmp_path / "like", "dataset", "framed")
    report_artifacts.finish(framed, "preprocess", parents={"like": base})
    outline = Outline(make({"dataset": framed, "model": inputs["model"]}, tmp_path / "out"))
    assert "The dataset shown here was made from" not in outline.text


def test_folders_of_the_machine_are_not_named_in_the_lineage(page: Outline) -> None:
    assert "/somewhere/private" not in page.text


def test_large_pictures_are_reduced(tmp_path: Path) -> None:
    folder, _ = report_artifacts.dataset(tmp_path, "large")
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "contact_sheet.png", compress_level=0)
    outline = Outline(make({"dataset": folder}, tmp_path, picture_px=400))
    assert "400" in outline.values("img", "width")
    assert "300" in outline.values("img", "height")
    assert (tmp_path / REPORT).stat().st_size < 2**20


def test_the_same_artifacts_give_the_same_page(inputs: dict[str, Path], tmp_path: Path) -> None:
    assert make(inputs, tmp_path / "a") == make(inputs, tmp_path / "b")


def test_an_animation_that_is_too_large_is_left_out(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    outline = Outline(make({"edit": inputs["edit"]}, tmp_path, video_mib=0.0))
    assert outline.tags["video"] == 0
    assert "none small enough to embed" in outline.text


@pytest.mark.parametrize(
    "settings", [{"name": " "}, {"key_frames": 1}, {"sample_grids": 0}, {"picture_px": 5}]
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ReportConfig(**settings)  # type: ignore[arg-type]


def test_of_a_drawing_that_was_moved_itself_that_is_shown(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Its own film, its own pixels; the model's face, which is no part of it, apart."""
    folder = tmp_path / "edit"
    shutil.copytree(inputs["edit"], folder)
    views = [np.asarray(report_artifacts.face(shift, 96)) for shift in (0, 2, 5)]
    write_webp(folder / "drawing.webp", views, 10)
    about = json.loads((folder / "edit.json").read_text())
    about |= {"paste": {"from": "drawn"}, "drawing_px_per_face_px": 5.0}
    (folder / "edit.json").write_text(json.dumps(about))
    outline = Outline(make({"edit": folder}, tmp_path / "out"))
    assert outline.problems == []
    assert outline.tags["video"] == 0
    (film,) = (src for src in outline.values("img", "src") if data_uri(src) == (96, 96, 3))
    assert film.startswith("data:image/webp;base64,")
    said, of_model = outline.text.split("In the model's face")
    assert "the drawing itself was moved: 1 handle all the way, 45.0 px of the drawing." in said
    assert "left between handles and targets" not in said
    # Two handles, 9 and 4 px of the model's face from their targets at first, 1 and 0 at last.
    assert "2 handles dragged from 32.5 to 2.5 px of the drawing from the target" in of_model


def test_an_emotion_is_reported_as_one(inputs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "edit"
    shutil.copytree(inputs["edit"], folder)
    about = json.loads((folder / "edit.json").read_text())
    about |= {"emotion": {"text": "angry 0.8"}, "drawing_px_per_face_px": 2.0}
    (folder / "edit.json").write_text(json.dumps(about))
    outline = Outline(make({"inversion": inputs["inversion"], "edit": folder}, tmp_path / "out"))
    assert "and the drawing given an emotion." in outline.text
    said = "asked for: angry 0.8. 2 landmarks came from 13.0 to 1.0 px of the drawing from where"
    assert said in outline.text
    assert "left between handles and targets" not in outline.text


def data_uri(src: str) -> tuple[int, int, int]:
    """Width, height and number of frames of an embedded picture."""
    with Image.open(io.BytesIO(base64.b64decode(src.split(",")[1]))) as picture:
        return picture.width, picture.height, getattr(picture, "n_frames", 1)


def test_without_any_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one that is there"):
        run(ReportConfig(), {}, tmp_path)

"""The report: complete, self-contained, escaped, honest about what is missing."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_artifacts

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
        "40 faces from 40 pictures; 36 to train on, 4 held out; 3 pictures left out.",
        "no face was found",
        "mediapipe",
        "after 60,000 images",
        "Pivot",
        "2 handles",
        "version 1",
        "drawing000.png",
        "2.13.0",
        "1 min 24 s",
    ):
        assert words in page.text, words
    assert page.tags["video"] == 1
    # Six key frames with two handles and two targets each.
    assert page.values("circle", "class").count("handle") == 12
    assert page.values("circle", "class").count("target") == 12


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
    ("left_out", "said"),
    [
        ("dataset", "No dataset in this report."),
        ("model", "No model yet."),
        ("inversion", "No inversion yet."),
        ("edit", "No edit yet."),
    ],
)
def test_says_what_is_missing(
    inputs: dict[str, Path], tmp_path: Path, left_out: str, said: str
) -> None:
    kept = {key: folder for key, folder in inputs.items() if key != left_out}
    outline = Outline(make(kept, tmp_path))
    assert outline.problems == []
    assert said in outline.text


def test_without_any_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        run(ReportConfig(), {}, tmp_path)

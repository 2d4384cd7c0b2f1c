"""The page's files agree with each other and with the studio: texts, ids, emotions, messages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import pipeline.edit
from pipeline.edit.emotion_names import EMOTIONS, SLIDERS
from pipeline.edit.kept import KEPT, SHEET
from pipeline.edit.sentences import SENTENCES, Told, said
from pipeline.edit.server.messages import FROM_STUDIO, TO_STUDIO
from pipeline.errors import DataError

PAGE = Path(pipeline.edit.__file__).parent / "page"
HTML = (PAGE / "index.html").read_text(encoding="utf-8")
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in PAGE.glob("*.js")}
CODE = "\n".join(text for name, text in SCRIPTS.items() if name not in ("texts.js", "api.js"))
# Rows of the table of texts: key and its columns, on one line or several.
ROWS = dict(
    re.findall(r'^  "?([\w.-]+)"?: \[(.*?)\],\n', SCRIPTS["texts.js"], re.MULTILINE | re.DOTALL)
)


def test_every_text_is_in_three_languages() -> None:
    assert len(ROWS) > 140
    for key, columns in ROWS.items():
        texts = re.findall(r'"((?:[^"\\]|\\.)*)"', columns)
        assert len(texts) == 3, key
        holes = [sorted(re.findall(r"\{\w+\}", text)) for text in texts]
        assert holes[0] == holes[1] == holes[2], key


def test_every_text_that_is_asked_for_is_there() -> None:
    asked = set(re.findall(r'data-t(?:-label)?="([\w.-]+)"', HTML))
    asked |= set(re.findall(r'\bt\("([\w.-]+)"', CODE))
    asked |= {f"emotion_{name}" for name in EMOTIONS} | {f"feature_{name}" for name in SLIDERS}
    reader = PAGE.parents[2] / "assets" / "face-reader" / "reader.json"
    read = json.loads(reader.read_text(encoding="utf-8"))["expressions"]
    asked |= {f"emotion_{name}" for name in read}  # what a face is said to read as
    asked |= {*KEPT, *SHEET}
    assert asked <= set(ROWS)


def test_every_refusal_has_its_sentence_in_the_page() -> None:
    for code, sentence in SENTENCES.items():
        assert ROWS[f"error_{code}"].startswith(f'"{sentence}"'), code
    assert {key for key in ROWS if key.startswith("error_")} == {f"error_{c}" for c in SENTENCES}


def test_no_refusal_shows_where_files_lie() -> None:
    error = DataError("The model /srv/artifacts/model/ganyu/v1 (in /srv/x) is 3/4 px; see a/b.")
    assert said(error) == {"message": "The model v1 (in x) is 3/4 px; see a/b."}
    told = said(Told("bad_session", why=OSError("no /home/me/runs/studio/brought.animedrag")))
    assert told["values"] == {"why": "no brought.animedrag"}
    assert "/home" not in str(told["message"])


def test_every_element_that_the_scripts_name_is_in_the_page() -> None:
    there = set(re.findall(r'\bid="([\w-]+)"', HTML))
    named = set(re.findall(r'\$\("([\w-]+)"\)', CODE))
    assert named <= there
    assert "onclick=" not in HTML  # the policy forbids both
    assert "<style" not in HTML


@pytest.mark.parametrize(("name", "wanted"), [("EMOTIONS", EMOTIONS), ("SLIDERS", SLIDERS)])
def test_the_palette_has_what_the_studio_knows(name: str, wanted: tuple[str, ...]) -> None:
    (found,) = re.findall(rf"const {name} = \[(.*?)\]", SCRIPTS["moods.js"])
    assert tuple(re.findall(r'"(\w+)"', found)) == wanted


def test_the_page_says_and_hears_what_is_described() -> None:
    said = set(re.findall(r'\bsay\("(\w+)"[,)]', CODE)) - set(ROWS)
    assert said <= {message.type for message in TO_STUDIO}
    heard = set(re.findall(r'\bon\("(\w+)"', CODE)) - {"open", "lost", "gone", "unsaid"}
    assert heard == {message.type for message in FROM_STUDIO}

"""Emotions in the studio: the palette, one at full size, on into the session, filed, the sheet."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from studio_process import StudioProcess

from pipeline.artifacts.store import Store
from pipeline.data.painter import sample_face
from pipeline.edit.client import Client, StudioError
from pipeline.edit.emotion_names import EMOTIONS, SLIDERS


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioProcess]:
    process = StudioProcess(tmp_path_factory.mktemp("studio"))
    yield process
    process.end()


@pytest.fixture(scope="module")
def client(studio: StudioProcess) -> Iterator[Client]:
    """A painted drawing, found in the model."""
    data = io.BytesIO()
    Image.fromarray(sample_face(0, 3, size=320, pose_spread=0.2).image).save(data, "PNG")
    with Client(studio.address) as client:
        client.wait("state")
        client.upload(data.getvalue())
        client.wait("state", lambda head: head["phase"] == "faces")
        client.send("face", x=160, y=160, width=320)
        client.wait("state", lambda head: head["phase"] == "ready", 120)
        yield client


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_the_palette_shows_the_very_face_in_each_emotion(client: Client) -> None:
    client.send("moods")
    shown = {}
    while len(shown) < len(EMOTIONS):
        head, body = client.wait("mood")
        shown[head["emotion"]] = pixels(body)
    assert tuple(shown) == EMOTIONS
    neutral = shown["neutral"]
    assert neutral.shape[1] == 160
    for name in ("laugh", "surprised", "angry"):
        assert np.abs(shown[name] - neutral).mean() > 1, name


def test_an_emotion_is_shown_in_the_drawing_entered_and_filed(
    studio: StudioProcess, client: Client
) -> None:
    client.send("express", emotions={"surprised": 1.0}, sliders={"gaze_x": 0.3})
    head, body = client.wait("expressed")
    assert head["whole"]
    assert head["text"] == "surprised + gaze_x=0.3"
    drawing = pixels(client.request("GET", f"/api/sessions/{client.session}/picture"))
    changed = pixels(body)
    assert changed.shape == drawing.shape
    assert np.abs(changed - drawing).max() > 40
    client.send("enter")
    before, _ = client.wait("state", lambda head: len(head["timeline"]) > 1)
    assert before["nodes"][-1]["label"] == "emotion surprised"
    assert len(before["timeline"]) == 11
    client.send("undo")
    assert client.wait("state")[0]["frame"] == 0
    client.send("redo")
    client.send("add", position=[21, 36], target=[21, 44])  # and the drag goes on from there
    client.wait("state", lambda head: head["handles"])
    client.send("step")
    assert client.wait("frame")[0]["parent"] == before["frame"]
    client.wait("state")
    client.send("save_mood", name="mood")
    head, _ = client.wait("state", lambda head: head["saved"], 180)
    assert head["saved"]["reference"] == "edit/mood:v1"
    assert {"picture.png", "face.png", "film.mp4"} <= set(head["saved"]["files"])
    full = client.request("GET", f"/api/sessions/{client.session}/kept/picture.png")
    assert np.abs(pixels(full) - changed).mean() < 3  # what was shown is what is filed
    edit = Store(studio.folder / "artifacts").find("edit/mood")
    assert edit.manifest.plan.stage == "edit"
    assert "inversion" in edit.manifest.plan.parents


def test_an_emotion_starts_from_what_was_dragged(studio: StudioProcess, client: Client) -> None:
    address = f"/api/sessions/{client.session}"
    client.send("seek", frame=0)
    for _ in range(6):  # the rest of the way is not this test's business
        client.send("step")
    head, _ = client.wait("state", lambda head: len(head["timeline"]) == 7)
    client.send("express", emotions={"laugh": 1.0})
    done, body = client.wait("expressed")
    assert done["frame"] == head["frame"]
    client.send("seek", frame=0)  # what is filed is what was shown, wherever one has gone since
    client.send("add", position=[40, 50], target=[40, 54])
    client.send("save_mood", name="dragged")
    state, _ = client.wait(
        "state", lambda head: (head["saved"] or {}).get("reference") == "edit/dragged:v1", 180
    )
    assert {"picture.png", "film.webp"} <= set(state["saved"]["files"])
    full = pixels(client.request("GET", f"{address}/kept/picture.png"))
    assert np.abs(full - pixels(body)).mean() < 3
    edit = Store(studio.folder / "artifacts").find("edit/dragged")
    assert edit.manifest.plan.stage == "take"
    about = json.loads((edit.folder / "emotion.json").read_text())
    assert about["goal"] == "laugh"
    assert len(json.loads((edit.folder / "edit.json").read_text())["handles"]) == 1
    faces = pixels((edit.folder / "before_after.png").read_bytes())
    half = faces.shape[1] // 2
    assert np.abs(faces[:, :half] - faces[:, half : 2 * half]).mean() > 1
    client.send("seek", frame=head["frame"])
    client.send("enter")
    state, _ = client.wait("state", lambda head: head["nodes"][-1]["label"] == "emotion laugh")
    assert head["frame"] in state["timeline"]  # it goes on from the dragged face


def test_a_sheet_and_a_loop_are_filed_while_the_work_goes_on(
    studio: StudioProcess, client: Client
) -> None:
    client.send("sheet", name="two", emotions=["surprised", "laugh"])
    assert client.wait("state", lambda head: head["saving"])[0]["making"] == "sheet"
    client.send("stop_sheet")
    head, _ = client.wait("state", lambda head: not head["saving"], 120)
    assert head["sheet"] is None
    client.send("sheet", name="two", emotions=["surprised", "laugh"])
    client.send("sync")
    head, _ = client.wait("state", lambda head: head["sheet"], 300)
    assert head["sheet"]["files"] == ["sheet.png", "loop.webp", "loop.gif"]
    sheet = client.request("GET", f"/api/sessions/{client.session}/kept/sheet.png")
    assert pixels(sheet).shape[1] > 1000
    assert Store(studio.folder / "artifacts").find("emotions/two").reference == "emotions/two:v1"


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"emotions": {"smirk": 1}},
        {"emotions": {"smile": 9}},
        {"emotions": {"smile": "much"}},
        {"emotions": ["smile"]},
        {"sliders": {SLIDERS[0]: 1e999}},
    ],
    ids=repr,
)
def test_what_cannot_be_asked_is_one_sentence(client: Client, asked: dict[str, object]) -> None:
    client.send("express", **asked)
    with pytest.raises(StudioError, match="express") as error:
        client.wait("never")
    assert "\n" not in str(error.value)
    client.wait("state")

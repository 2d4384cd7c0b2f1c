"""The studio as a program: a real process, spoken to over HTTP and WebSocket as a page does."""

from __future__ import annotations

import http.client
import io
import json
import signal
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from studio_process import StudioProcess
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from pipeline.artifacts.store import Store
from pipeline.edit.client import Client, StudioError


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioProcess]:
    process = StudioProcess(tmp_path_factory.mktemp("studio"))
    yield process
    process.end()


@pytest.fixture(scope="module")
def client(studio: StudioProcess) -> Iterator[Client]:
    """One session that the tests share: a worker takes seconds to start."""
    with Client(studio.address) as client:
        client.wait("state")
        yield client


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def with_face(client: Client, seed: int = 3) -> None:
    """A face of the model, in a session without points."""
    client.send("seed", seed=seed)
    client.wait("state", lambda head: head["phase"] == "ready" and head["seed"] == seed)


def drag(client: Client, steps: int) -> list[tuple[dict[str, object], bytes]]:
    """Start, look on for so many frames, stop."""
    client.send("run")
    frames = [client.wait("frame") for _ in range(steps)]
    client.send("pause")
    client.wait("state", lambda head: not head["running"])
    return frames


def raw(
    studio: StudioProcess, method: str, path: str, headers: dict[str, str]
) -> tuple[int, str, dict[str, str]]:
    """A request exactly as written; no body is sent, whatever the headers say."""
    link = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=30)
    link.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        link.putheader(name, value)
    link.endheaders()
    answer = link.getresponse()
    text = answer.read().decode(errors="replace")
    link.close()
    return answer.status, text, {key.lower(): value for key, value in answer.getheaders()}


def test_a_sample_is_dragged_undone_scrubbed_and_taken_home(
    studio: StudioProcess, client: Client
) -> None:
    with_face(client)
    client.send("add", position=[21, 36], target=[21, 44])
    client.wait("state", lambda head: len(head["handles"]) == 1)
    frames = drag(client, 25)
    assert [head["parent"] for head, _ in frames] == list(range(25))
    start = client.request("GET", f"/api/sessions/{client.session}/frames/0")
    assert np.abs(pixels(frames[-1][1]) - pixels(start)).max() > 10  # the face moves
    client.send("undo")
    head, _ = client.wait("state", lambda head: head["can_redo"])
    assert head["frame"] == 0
    client.send("redo")
    client.wait("state", lambda head: head["frame"] >= 25)
    client.send("seek", frame=2)
    head, _ = client.wait("state", lambda head: head["frame"] == 2)
    assert head["timeline"][:5] == [0, 1, 2, 3, 4]
    client.send("save", name="mine")
    head, _ = client.wait("state", lambda head: head["saved"])
    kept = ("face.png", "before-after.png", "film.mp4", "film.gif", "film.webp", "recipe.json")
    saved = {"reference": "edit/mine:v1", "frame": 2, "files": list(kept)}
    assert head["saved"] == saved  # no picture.png: there is no drawing
    edit = Store(studio.folder / "artifacts").find("edit/mine")
    assert edit.manifest.plan.stage == "take"
    for name in kept:
        assert client.request("GET", f"/api/sessions/{client.session}/kept/{name}")
    face = client.request("GET", f"/api/sessions/{client.session}/kept/face.png")
    shown = client.request("GET", f"/api/sessions/{client.session}/frames/2")
    assert np.abs(pixels(face) - pixels(shown)).max() <= 1
    recipe = json.loads(client.request("GET", f"/api/sessions/{client.session}/kept/recipe.json"))
    with_face(client, 5)
    client.send("recipe", recipe=recipe)
    head, _ = client.wait("state", lambda head: head["handles"])
    assert head["handles"][0]["target"] == [21, 44]


def test_a_mask_keeps_what_is_under_it(client: Client) -> None:
    def moved(mask: bytes) -> float:
        with_face(client, 4)
        client.send("add", position=[21, 36], target=[21, 44])
        client.send("mask", mask)
        client.wait("state", lambda head: (head["mask"] is not None) == bool(mask))
        last = drag(client, 25)[-1][1]
        start = client.request("GET", f"/api/sessions/{client.session}/frames/0")
        return float(np.abs(pixels(last) - pixels(start))[:, 32:].mean())

    keep = np.zeros((64, 64), np.uint8)
    keep[:, 32:] = 255
    assert moved(keep.tobytes()) < 0.8 * moved(b"")
    client.send("mask", b"123")
    with pytest.raises(StudioError, match="64×64 bytes"):
        client.wait("never")
    client.wait("state")


def test_a_mask_of_the_largest_model_may_be_said(client: Client) -> None:
    with_face(client, 4)
    client.send("mask", bytes(1024 * 1024))
    with pytest.raises(StudioError, match="64×64 bytes"):  # refused for this model, but heard
        client.wait("never")
    client.wait("state")


def test_a_drawing_is_found_dragged_and_pasted_back(studio: StudioProcess, client: Client) -> None:
    with_face(client, 5)
    about = studio.folder / "sessions" / client.session / "about.json"
    assert json.loads(about.read_text())["subject"]["seed"] == 5
    client.send("gallery", first=7, count=1)
    face = Image.open(io.BytesIO(client.wait("sample")[1]))
    drawing = Image.new("RGB", (300, 260), "#dfe8f0")
    drawing.paste(face.resize((192, 192), Image.Resampling.LANCZOS), (60, 30))
    data = io.BytesIO()
    drawing.save(data, "PNG")
    client.upload(data.getvalue())
    head, _ = client.wait("state", lambda head: head["phase"] == "faces")
    assert head["picture"] == [300, 260]
    assert "subject" not in json.loads(about.read_text())  # opened again it is of the drawing
    client.send("cancel")
    client.wait("state", lambda head: head["phase"] == "empty")
    assert not (about.parent / "upload").exists()
    client.upload(data.getvalue())
    client.wait("state", lambda head: head["phase"] == "faces")
    client.send("face", x=156, y=126, width=192)
    assert client.wait("preview")[0]["phase"] in ("project", "tune")
    client.wait("state", lambda head: head["phase"] == "ready", 120)
    client.send("add", position=[21, 36], target=[21, 44])
    drag(client, 3)
    client.send("full")
    _, full = client.wait("full")
    assert Image.open(io.BytesIO(full)).size == (300, 260)
    client.send("save", name="drawing")
    client.wait("state", lambda head: head["saved"])
    whole = pixels(client.request("GET", f"/api/sessions/{client.session}/kept/picture.png"))
    assert np.array_equal(whole[:20], np.asarray(drawing).astype(int)[:20])  # outside: untouched


def bomb() -> bytes:
    """A PNG that says it has 60000 × 60000 pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(10**6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def cut_off() -> bytes:
    """The first half of a picture."""
    data = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
    Image.fromarray(noise).save(data, "PNG")
    return data.getvalue()[: len(data.getvalue()) // 2]


@pytest.mark.parametrize(
    "data",
    [b"#!/bin/sh\nrm -rf x", bomb(), cut_off(), b"<svg xmlns='http://www.w3.org/2000/svg'/>"],
    ids=["text", "bomb", "cut off", "svg"],
)
def test_a_file_that_is_no_usable_picture_is_one_sentence(client: Client, data: bytes) -> None:
    with_face(client, seed=2)
    client.send("add", position=[21, 36], target=[21, 44])
    client.upload(data)
    with pytest.raises(StudioError, match=r"\AThis (picture|file) .*\.\Z") as error:
        client.wait("never")
    assert str(error.value).count("\n") == 0
    head, _ = client.wait("state")
    # And what was being edited is still there.
    assert (head["phase"], head["seed"], len(head["handles"])) == ("ready", 2, 1)


@pytest.mark.parametrize(
    ("kind", "values"), [("seed", {"seed": -1}), ("seed", {}), ("model", {"model": "model/none"})]
)
def test_what_is_refused_leaves_the_edit_alone(
    client: Client, kind: str, values: dict[str, object]
) -> None:
    with_face(client, seed=4)
    drag_one = {"position": [21, 36], "target": [21, 44]}
    client.send("add", **drag_one)
    frames = drag(client, 2)
    client.send(kind, **values)
    with pytest.raises(StudioError):
        client.wait("never")
    head, _ = client.wait("state")
    assert (head["phase"], head["seed"], len(head["handles"])) == ("ready", 4, 1)
    assert head["frame"] >= frames[-1][0]["frame"]
    path = f"/api/sessions/{client.session}/frames/{frames[-1][0]['frame']}"
    assert client.request("GET", path) == frames[-1][1]


def test_an_upload_has_bounds(studio: StudioProcess, client: Client) -> None:
    path = f"/api/sessions/{client.session}/picture"
    status, text, _ = raw(studio, "PUT", path, {"Content-Length": str(26 * 10**6)})
    assert status == 413
    assert "larger than 25 MB" in text
    with pytest.raises(StudioError, match="400: This file is empty"):
        client.upload(b"")
    link = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=30)
    chunks = iter([*(bytes(10**6) for _ in range(25)), b"and more"])  # its length is not told
    link.request("PUT", path, chunks, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert link.getresponse().status == 413
    link.close()
    link = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=30)
    link.putrequest("PUT", path)
    link.putheader("Content-Length", "1000")
    link.endheaders(b"the beginning")
    folder = studio.folder / "sessions" / client.session
    end = time.monotonic() + 30
    while not list(folder.glob("upload.*.part")):
        assert time.monotonic() < end
        time.sleep(0.01)
    link.close()  # a page that is closed meanwhile
    while list(folder.glob("upload.*.part")):
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.2)
    assert "Traceback" not in (studio.folder / "log").read_text()


def test_another_site_and_another_name_are_refused(studio: StudioProcess, client: Client) -> None:
    own = f"127.0.0.1:{studio.port}"
    assert raw(studio, "GET", "/", {})[0] == 200
    assert raw(studio, "GET", "/", {"Host": f"evil.example:{studio.port}"})[0] == 421
    other = {"Host": own, "Origin": "http://evil.example", "Content-Length": "0"}
    assert raw(studio, "POST", "/api/sessions", other)[0] == 403
    assert raw(studio, "GET", "/", {"Host": own, "Origin": "http://["})[0] == 403
    mine = {"Host": own, "Origin": f"http://{own}", "Content-Length": "0"}
    assert raw(studio, "POST", "/api/sessions", mine)[0] == 201
    cross = {"Host": own, "Sec-Fetch-Site": "cross-site", "Content-Length": "0"}
    assert raw(studio, "POST", "/api/sessions", cross)[0] == 403
    socket = f"ws://{own}/api/sessions/{client.session}/socket"
    with pytest.raises(InvalidStatus):
        connect(socket, origin="http://evil.example")  # type: ignore[arg-type]
    _, _, headers = raw(studio, "GET", "/", {})
    assert "script-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/../session.py",
        "/..%2fsession.py",
        "/%2e%2e/session.py",
        "/api/sessions/..",
        "/api/sessions/..%2f..%2fartifacts",
        "/api/sessions/{session}/kept/..%2fabout.json",
        "/api/sessions/{session}/kept/edit.json",
        "/api/sessions/{session}/frames/..%2f..%2fabout.json",
        "/api/sessions/AAAAAAAAAAAAAAAAAAAAAA/picture",
    ],
)
def test_no_address_leads_out_of_what_is_served(
    studio: StudioProcess, client: Client, path: str
) -> None:
    status, text, _ = raw(studio, "GET", path.format(session=client.session), {})
    assert status in (404, 422), text


def test_no_message_names_a_path(studio: StudioProcess, client: Client) -> None:
    with_face(client)
    # A whole model folder, but not one that the studio lists.
    stranger = Path(__file__).parent.parent / "assets" / "face-reader"
    for model in (str(stranger), "/etc", "../assets/start-64", "edit/mine"):
        client.send("model", model=model)
        with pytest.raises(StudioError, match="There is no model"):
            client.wait("never")
        client.wait("state", lambda head: head["phase"] == "ready")
    client.send("save", name="../../out")
    with pytest.raises(StudioError, match="cannot name an artifact"):
        client.wait("never")
    client.wait("state")
    client.send("open", folder="/")  # the server's own word; a page's is dropped
    client.send("sync")
    assert client.wait("state")[0]["seed"] == 3
    for junk in ({"position": "x"}, {"position": [1e999, 2]}, {"position": [1, 2]}, {}):
        client.send("add", **junk)  # type: ignore[arg-type]
        with pytest.raises(StudioError, match="add: "):
            client.wait("never")
        assert client.wait("state")[0]["handles"] == []


def test_two_sessions_at_once_do_not_meet_and_survive_a_killed_server(
    studio: StudioProcess, client: Client
) -> None:
    with_face(client, 3)
    client.send("add", position=[21, 36], target=[21, 60])
    client.wait("state", lambda head: len(head["handles"]) == 1)
    with Client(studio.address) as other:
        with_face(other, 9)
        other.send("add", position=[40, 36], target=[40, 60])
        other.wait("state", lambda head: len(head["handles"]) == 1)
        client.send("run")
        other.send("run")
        for _ in range(12):  # both at once
            assert other.wait("frame")[0]["handles"][0]["target"] == [40, 60]
            assert client.wait("frame")[0]["handles"][0]["target"] == [21, 60]
        studio.end(signal.SIGKILL)
    studio.start()
    with Client(studio.address, session=client.session) as again:
        head, _ = again.wait("state")
        assert (head["phase"], head["seed"], head["running"]) == ("ready", 3, False)
        assert len(head["handles"]) == 1
        assert len(head["timeline"]) >= 10
        assert head["frame"] == head["timeline"][-1]
        made = len(head["timeline"])
        assert drag(again, 2)[0][0]["frame"] >= made - 1
        again.request("DELETE", f"/api/sessions/{again.session}")
        with pytest.raises(StudioError, match="404"):
            again.request("GET", f"/api/sessions/{again.session}/frames/0")


def test_beyond_this_machine_a_token_is_asked_for(tmp_path: Path) -> None:
    studio = StudioProcess(tmp_path, "--host", "0.0.0.0")
    try:
        token = studio.address.partition("?token=")[2]
        assert len(token) >= 20
        assert raw(studio, "GET", "/", {})[0] == 401
        assert raw(studio, "GET", "/api/models", {})[0] == 401
        assert raw(studio, "GET", "/?token=wrong", {})[0] == 401
        with pytest.raises(InvalidStatus):
            connect(f"ws://127.0.0.1:{studio.port}/api/sessions/{'A' * 22}/socket")
        status, _, headers = raw(studio, "GET", f"/?token={token}", {})
        assert status == 303
        assert "HttpOnly" in headers["set-cookie"]
        cookie = headers["set-cookie"].partition(";")[0]
        assert raw(studio, "GET", "/api/models", {"Cookie": cookie})[0] == 200
        bearer = {"Authorization": f"Bearer {token}", "Content-Length": "0"}
        assert raw(studio, "POST", "/api/sessions", bearer)[0] == 201
    finally:
        studio.end(signal.SIGINT)
    assert studio.process is not None
    assert studio.process.returncode == 0
    assert "Abort" not in (tmp_path / "log").read_text()

"""Sessions and models that enter and leave the studio as files, and how long sessions are kept."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from studio_process import ROOT, StudioProcess

from pipeline.artifacts.store import Store
from pipeline.edit.client import Client, StudioError
from pipeline.edit.server.keeping import Keeping, outdated
from pipeline.edit.server.messages import TO_STUDIO
from pipeline.edit.shipped import shown_name
from scripts.studio_worker import StageMakers
from tests import quick_python

OLD_ID = "A" * 22


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioProcess]:
    folder = tmp_path_factory.mktemp("studio")
    old = folder / "sessions" / OLD_ID
    old.mkdir(parents=True)
    (old / "session.json").write_text("{}")
    os.utime(old / "session.json", (0, 0))
    process = StudioProcess(folder)
    yield process
    process.end()


@pytest.fixture(scope="module")
def client(studio: StudioProcess) -> Iterator[Client]:
    with Client(studio.address) as client:
        client.wait("state")
        yield client


def with_face(client: Client, seed: int) -> None:
    client.send("seed", seed=seed)
    client.wait("state", lambda head: head["phase"] == "ready" and head["seed"] == seed)


def dragged(client: Client, steps: int) -> None:
    client.send("run")
    for _ in range(steps):
        client.wait("frame")
    client.send("pause")
    client.wait("state", lambda head: not head["running"])


def packed(client: Client) -> bytes:
    client.send("pack")
    size = client.wait("packed")[0]["bytes"]
    data = client.request("GET", f"/api/sessions/{client.session}/file")
    assert len(data) == size
    return data


def test_a_session_of_a_drawing_is_saved_reopened_and_filed_with_its_lineage(
    studio: StudioProcess, client: Client
) -> None:
    with Image.open(ROOT / "assets" / "start-64" / "reals.png") as reals:
        face = reals.convert("RGB").crop((0, 0, 64, 64)).resize((192, 192))
    sheet = Image.new("RGB", (300, 260), "#dfe8f0")
    sheet.paste(face, (60, 30))
    data = io.BytesIO()
    sheet.save(data, "PNG")
    client.upload(data.getvalue())
    client.wait("state", lambda head: head["phase"] == "faces")
    client.send("face", x=156, y=126, width=192)
    client.wait("state", lambda head: head["phase"] == "ready", 120)
    client.send("add", position=[21, 36], target=[21, 44], mirrored=True)
    dragged(client, 4)
    client.send("sync")
    before, _ = client.wait("state")
    archive = packed(client)
    # One whose inversion cannot be read takes nothing away.
    client.request("PUT", f"/api/sessions/{client.session}/file", hostile("no latents", archive))
    with pytest.raises(StudioError, match=r"latents\.safetensors"):
        client.wait("never")
    with Client(studio.address) as other:
        other.wait("state")
        other.request("PUT", f"/api/sessions/{other.session}/file", archive)
        after, _ = other.wait("state", lambda head: head["phase"] == "ready")
        for key in ("handles", "frame", "timeline", "nodes", "kind", "model"):
            assert after[key] == before[key], key
        frame = f"frames/{before['frame']}"
        ours, theirs = (
            one.request("GET", f"/api/sessions/{one.session}/{frame}") for one in (client, other)
        )
        assert ours == theirs
        client.send("step")
        other.send("step")
        pictures = [one.wait("frame")[1] for one in (client, other)]
        assert pictures[0] == pictures[1]  # and it drags on alike
        other.send("save", name="reopened")
        other.wait("state", lambda head: head["saved"])
    store = Store(studio.folder / "artifacts")
    edit = store.find("edit/reopened")
    assert set(edit.manifest.plan.parents) == {"inversion", "model"}
    told = subprocess.run(
        [sys.executable, "-m", "scripts.artifacts", "--store", store.root, "lineage",
         "edit/reopened"], capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout  # fmt: skip
    assert "inversion/studio" in told
    assert "model: model/" in told


def test_the_points_are_replayed_on_another_picture(client: Client) -> None:
    with_face(client, 3)
    client.send("add", position=[21, 36], target=[21, 44], mirrored=True)
    first, _ = client.wait("state", lambda head: len(head["handles"]) == 2)
    archive = packed(client)
    client.send("carry")
    assert client.wait("state")[0]["carried"] == 2
    with_face(client, 5)
    client.send("sync")
    head, _ = client.wait("state")
    assert [h["target"] for h in head["handles"]] == [[21, 44], [43, 44]]
    assert head["carried"] == 0
    assert head["work"] != first["work"]  # frame 0 is another picture now
    with_face(client, 6)
    client.request("PUT", f"/api/sessions/{client.session}/file?replay=true", archive)
    head, _ = client.wait("state", lambda head: head["handles"])
    assert [h["target"] for h in head["handles"]] == [[21, 44], [43, 44]]
    assert head["seed"] == 6


def hostile(kind: str, whole: bytes) -> bytes:
    """Session files that none should be."""
    if kind == "no zip":
        return b"PK\x03\x04 and no more"
    with zipfile.ZipFile(io.BytesIO(whole)) as source:
        content = {name: source.read(name) for name in source.namelist()}
    if kind == "leads out":
        content["../../about.json"] = b"{}"
    elif kind == "pickle":
        array = io.BytesIO()
        np.save(array, np.array([{"a": 1}], object), allow_pickle=True)
        content["frames/000000.npy"] = array.getvalue()
    elif kind == "bomb":
        content["frames/000001.npy"] = bytes(2**21 + 10)
    elif kind == "another model":
        about = json.loads(content["about.json"])
        about["model"]["digest"] = "0" * 64
        content["about.json"] = json.dumps(about).encode()
    elif kind == "no face":
        about = json.loads(content["about.json"])
        del about["subject"]["seed"]
        content["about.json"] = json.dumps(about).encode()
    elif kind == "no latents":
        del content["inversion/latents.safetensors"]
    elif kind == "no node":
        session = json.loads(content["session.json"])
        session["current"] = 99
        content["session.json"] = json.dumps(session).encode()
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as target:
        for name, item in content.items():
            target.writestr(name, item)
    return data.getvalue()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no zip", "no session file"),
        ("leads out", "which no session has"),
        ("pickle", "is damaged"),
        ("bomb", "too large"),
        ("another model", "import that model first"),
        ("no node", "is damaged"),
        ("no face", "seed must be a whole number"),
    ],
)
def test_a_session_file_that_is_none_is_one_sentence(
    studio: StudioProcess, client: Client, kind: str, said: str
) -> None:
    with_face(client, 4)
    data = hostile(kind, packed(client))
    client.request("PUT", f"/api/sessions/{client.session}/file", data)
    with pytest.raises(StudioError, match=said) as error:
        client.wait("never")
    assert str(error.value).count("\n") == 0
    head, _ = client.wait("state")
    assert (head["phase"], head["seed"]) == ("ready", 4)  # what was edited is still there
    assert not list((studio.folder / "sessions").rglob("unpacked"))


class Evil:
    """What a pickle must not do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/studio-was-here",)


def test_a_model_is_imported_from_the_page(
    studio: StudioProcess, client: Client, tmp_path: Path
) -> None:
    quick_python.run(
        [sys.executable, "-m", "scripts.export", ROOT / "assets" / "start-64", tmp_path],
        check=True, cwd=ROOT,
    )  # fmt: skip
    (exported,) = tmp_path.glob("*.pkl")
    path = f"/api/sessions/{client.session}/model?name="
    client.request("PUT", f"{path}evil", pickle.dumps({"G_ema": Evil()}))
    with pytest.raises(StudioError, match=r"\.\Z"):
        client.wait("never")
    assert not Path("/tmp/studio-was-here").exists()
    client.wait("state")
    with pytest.raises(StudioError, match="400"):
        client.request("PUT", f"{path}..%2Fx", b"x")
    client.send("gallery", first=3, count=1)
    own = client.wait("sample")[1]
    client.request("PUT", f"{path}brought", exported.read_bytes())
    assert client.wait("imported", seconds=120)[0]["reference"] == "model/brought:v1"
    head, _ = client.wait("state")
    assert (head["model"], head["phase"]) == ("model/brought:v1", "empty")
    listed = json.loads(client.request("GET", "/api/models"))
    assert [one["reference"] for one in listed][1:] == ["model/brought:v1"]
    client.send("gallery", first=3, count=1)
    drawn = [
        np.asarray(Image.open(io.BytesIO(png))).astype(int)
        for png in (own, client.wait("sample")[1])
    ]
    assert np.abs(drawn[0] - drawn[1]).max() <= 1
    assert not list((studio.folder / "sessions").rglob("brought"))
    # Begun with, and the store named as people name it: the page can tell which model that is.
    store = Path(os.path.relpath(studio.folder / "artifacts", ROOT))
    brought = Store(store).find("model/brought").folder
    makers = StageMakers(store, "cpu", str(brought.resolve()), 3)
    assert makers.shown == shown_name(Store(store), brought.resolve()) == "model/brought:v1"
    assert makers.model(makers.shown).samefile(brought)
    assert makers.offers(makers.shown)
    assert not makers.offers(str(brought))


def test_every_message_that_is_described_is_known(client: Client) -> None:
    described = json.loads(client.request("GET", "/api/openapi.json"))
    told = {message["type"] for message in described["x-socket"]["toStudio"]}
    assert told == {message.type for message in TO_STUDIO}
    assert "/api/sessions/{id}/model" in described["paths"]
    with_face(client, 2)
    client.send("add", position=[21, 36], target=[21, 44])
    leaving = {"cancel", "carry"}
    for message in TO_STUDIO:
        if message.type not in leaving:
            client.send(message.type)  # most lack what they need, but none is unknown
    client.send("pause")
    client.send("nonsense")
    while True:
        head, _ = client.receive()
        if head["type"] == "error":
            if "nonsense" in head["message"]:
                break
            assert "does not know" not in head["message"]


def test_old_sessions_go_and_the_rest_stays_within_its_size(
    studio: StudioProcess, tmp_path: Path
) -> None:
    assert not (studio.folder / "sessions" / OLD_ID).exists()  # when the studio started
    now = time.time()
    for name, days, size in [("a", 1, 400), ("b", 2, 400), ("c", 3, 400), ("d", 40, 1)]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "session.json").write_bytes(bytes(size))
        os.utime(tmp_path / name / "session.json", (now - days * 86400,) * 2)
    (tmp_path / "new").mkdir()

    def gone(in_use: set[str], most: int) -> list[str]:
        return sorted(path.name for path in outdated(tmp_path, in_use, Keeping(30, most), now))

    assert gone(set(), 10**9) == ["d"]
    assert gone(set(), 1000) == ["c", "d"]
    assert gone({"c"}, 1000) == ["b", "d"]
    assert gone({"d"}, 10**9) == []
    assert sorted(p.name for p in outdated(tmp_path, set(), Keeping(), now + 4000)) == ["d", "new"]

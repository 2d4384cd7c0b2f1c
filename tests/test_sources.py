"""Sources: folders, zips, hostile zips, Kaggle without access, the painter."""

from __future__ import annotations

import builtins
import hashlib
import io
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.artifacts.store import Store
from pipeline.data.config import PreprocessConfig, SourceConfig
from pipeline.data.pictures import PictureLimits, Rejected
from pipeline.data.sources import Item, open_source
from pipeline.errors import ConfigError, DataError
from pipeline.runner import Outcome, run_stage
from pipeline.stages import find_stage
from scripts.artifacts import lineage_lines

LIMITS = PictureLimits(min_side_px=4)
MB = 1_000_000


def png(colour: str = "red", size: int = 16) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(stream, "PNG")
    return stream.getvalue()


def items_of(path: Path, **options: Any) -> list[Item]:
    return open_source(SourceConfig(kind="folder", path=str(path)), **options)


def outcome(item: Item, max_bytes: int = MB) -> str:
    """ "ok", or why not."""
    try:
        item.read(LIMITS, max_bytes)
    except Rejected as reason:
        return str(reason)
    return "ok"


def test_folders_are_searched_deeply_and_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.png", "a/b/c.PNG", "ä ö/ü.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    for clutter in (".DS_Store", "Thumbs.db", ".git/x.png", "__MACOSX/b.png"):
        (tmp_path / clutter).parent.mkdir(exist_ok=True)
        (tmp_path / clutter).write_bytes(png())
    names = [item.name for item in items_of(tmp_path)]
    assert names == ["a/b/c.PNG", "a/z.png", "b.png", "notes.txt", "ä ö/ü.png"]
    assert [item.name for item in items_of(tmp_path, limit=2)] == names[:2]


def test_items_read_in_other_processes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("blue"))
    item = pickle.loads(pickle.dumps(items_of(tmp_path)[0]))
    assert item.read(LIMITS, MB).image[0, 0].tolist() == [0, 0, 255]


def test_odd_files_are_rejected_not_raised(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "large.png").write_bytes(png() + bytes(2 * MB))
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {item.name: outcome(item) for item in items_of(tmp_path)}
    assert "cannot be read" in reasons["gone.png"]
    assert "above max_file_mb=1" in reasons["large.png"]
    assert reasons["pipe.png"] == "not a regular file"


def test_links_to_pictures_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(png())
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "b.png").symlink_to(tmp_path / "real" / "a.png")
    assert [outcome(item) for item in items_of(tmp_path / "set")] == ["ok"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_folder_and_zip_and_single_picture_all_just_work(tmp_path: Path, kind: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(png())
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("deep/a.png", png())
    for path in ("set", "set.zip", "set/a.png"):
        (item,) = open_source(SourceConfig(kind=kind, path=str(tmp_path / path)))
        assert outcome(item) == "ok"


def test_hostile_zip(tmp_path: Path) -> None:
    path = tmp_path / "hostile.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ok.png", png())
        archive.writestr("../../escape.png", png())
        archive.writestr("..\\escape2.png", png())
        archive.writestr("/absolute.png", png())
        archive.writestr("bomb.png", bytes(20 * MB))
        archive.writestr("small_bomb.png", bytes(MB - 1))
        archive.writestr("empty.png", b"")
        archive.writestr("inner.zip", b"PK\x03\x04")
        archive.writestr("folder/", b"")
        archive.writestr("__MACOSX/ok.png", b"clutter")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    before = sorted(tmp_path.rglob("*"))
    reasons = {item.name: outcome(item) for item in items_of(path)}
    assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked anywhere
    assert reasons["ok.png"] == "ok"
    assert reasons["/absolute.png"] == "ok"  # never used as a path
    assert "leads out" in reasons["../../escape.png"]
    assert "leads out" in reasons["../escape2.png"]
    assert "above max_file_mb" in reasons["bomb.png"]
    assert "zip bomb" in reasons["small_bomb.png"]
    assert "empty" in reasons["empty.png"]
    assert "not a picture" in reasons["inner.zip"]
    assert "is a link" in reasons["link.png"]
    assert len(reasons) == 9


def test_equal_names_in_a_zip_are_both_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", png("red"))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", png("blue"))
    items = items_of(tmp_path / "a.zip")
    colours = [item.read(LIMITS, MB).image[0, 0].tolist() for item in items]
    assert colours == [[255, 0, 0], [0, 0, 255]]
    assert len({item.name for item in items}) == 2


def test_a_zip_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for moment, colour in enumerate(("red", "blue")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("other.png", png("white"))
            archive.writestr("a.png", png(colour))
        os.utime(path, (moment, moment))
        image = items_of(path)[0].read(LIMITS, MB).image
        assert image[0, 0].tolist() == [[255, 0, 0], [0, 0, 255]][moment]


def test_many_members_are_read_through_one_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for index in range(20):
            archive.writestr(f"{index}.png", png())
    items = items_of(tmp_path / "a.zip")
    openings = []
    original = zipfile.ZipFile.__init__

    def counted(self: zipfile.ZipFile, *arguments: object, **options: object) -> None:
        openings.append(arguments)
        original(self, *arguments, **options)

    monkeypatch.setattr(zipfile.ZipFile, "__init__", counted)
    assert {outcome(item) for item in items} == {"ok"}
    assert len(openings) == 1


def test_encrypted_lying_and_damaged_members(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("encrypted.png", "lying.png", "damaged.png", "ok.png"):
            archive.writestr(name, png())
    data = bytearray(path.read_bytes())
    where = {}
    position = data.find(b"PK\x01\x02")
    while position >= 0:
        length = struct.unpack_from("<H", data, position + 28)[0]
        where[bytes(data[position + 46 : position + 46 + length]).decode()] = position
        position = data.find(b"PK\x01\x02", position + 1)
    data[where["encrypted.png"] + 8] |= 1
    struct.pack_into("<I", data, where["lying.png"] + 24, 10)  # claims to unpack to 10 bytes
    local = struct.unpack_from("<I", data, where["damaged.png"] + 42)[0]
    data[local + 60] ^= 0xFF
    path.write_bytes(data)
    reasons = {item.name: outcome(item) for item in items_of(path)}
    assert "encrypted" in reasons["encrypted.png"]
    assert reasons["lying.png"] != "ok"
    assert "damaged" in reasons["damaged.png"]
    assert reasons["ok.png"] == "ok"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing", None, "There is nothing at"),
        ("broken.zip", b"PK\x03\x04 cut short", "is no zip"),
    ],
)
def test_paths_that_cannot_be_used(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        items_of(tmp_path / name)


def test_empty_folder_and_unset_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no files"):
        items_of(tmp_path)
    with pytest.raises(DataError, match=r"source\.path is not set"):
        open_source(SourceConfig(kind="folder"))


def test_kaggle_without_package_or_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence each, naming the set, what is missing, and the way without Kaggle."""
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    config = SourceConfig(kind="kaggle", dataset="someone/some-set")
    real_import = builtins.__import__

    def without_kagglehub(name: str, *args: Any) -> Any:
        if name == "kagglehub":
            raise ImportError(name)
        return real_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_kagglehub)
    with pytest.raises(DataError, match=r"someone/some-set.*kagglehub.*download it by hand"):
        open_source(config)
    monkeypatch.setattr(builtins, "__import__", real_import)
    fake = tmp_path / "modules"
    fake.mkdir()
    (fake / "kagglehub.py").write_text(
        "def dataset_download(name):\n    raise OSError('no network for ' + name)\n"
    )
    monkeypatch.syspath_prepend(str(fake))
    with pytest.raises(DataError, match=r"someone/some-set.*credentials.*download it by hand"):
        open_source(config)
    monkeypatch.setenv("KAGGLE_USERNAME", "u")
    monkeypatch.setenv("KAGGLE_KEY", "k")
    with pytest.raises(DataError, match=r"no network for someone/some-set"):
        open_source(config)


def test_kaggle_download_is_read_like_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(png())
    (tmp_path / "kagglehub.py").write_text(
        f"def dataset_download(name):\n    return {str(tmp_path / 'set')!r}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "kagglehub", raising=False)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "t")
    items = open_source(SourceConfig(kind="kaggle", dataset="a/b"))
    assert [item.name for item in items] == ["a.png"]


def kaggle_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Path]:
    """A store, and Kaggle's cache with version 2 of the set a/b, which "the network" has."""
    home = tmp_path / "cache" / "datasets" / "a" / "b"
    (home / "versions" / "2").mkdir(parents=True)
    (home / "versions" / "2" / "a.png").write_bytes(png())
    (tmp_path / "kagglehub.py").write_text(
        "import os\n"
        "def dataset_download(name):\n"
        "    if 'OFFLINE' in os.environ:\n"
        "        raise OSError('no network')\n"
        f"    return {str(home / 'versions')!r} + '/' + os.environ.get('NEWEST', '2')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "kagglehub", raising=False)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "t")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    return Store(tmp_path / "store"), home


def test_what_came_from_kaggle_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Name, version and digests of the set's files; another version is another dataset."""
    store, home = kaggle_store(tmp_path, monkeypatch)
    config = PreprocessConfig(
        name="x", resolution=32, source=SourceConfig(kind="kaggle", dataset="a/b"), workers=0,
        detectors=[], on_no_face="whole", min_face_px=1,
    )  # fmt: skip

    def preprocess() -> Outcome:
        return run_stage(find_stage("preprocess"), config, store)

    first = preprocess()
    source = first.artifact.manifest.plan.sources["source.path"]
    assert source.path == "kaggle:a/b, version 2"
    digest = hashlib.sha256(png()).hexdigest()
    assert [(one.path, one.sha256) for one in source.files] == [("a.png", digest)]
    lines = lineage_lines(store.lineage(first.artifact), files=True)
    assert any("kaggle:a/b, version 2" in line for line in lines)
    assert any("a.png" in line and digest[:12] in line for line in lines)
    assert preprocess().how == "reused"
    # Without a network what was downloaded whole serves, and only that.
    monkeypatch.setenv("OFFLINE", "1")
    with pytest.raises(DataError, match="no network"):
        preprocess()
    (home / "2.complete").touch()
    assert preprocess().how == "reused"
    assert "Kaggle cannot be reached (no network); taking" in capsys.readouterr().out
    monkeypatch.delenv("OFFLINE")
    (home / "versions" / "10").mkdir()
    (home / "versions" / "10" / "a.png").write_bytes(png("blue"))
    monkeypatch.setenv("NEWEST", "10")
    later = preprocess()
    assert later.artifact.reference == "dataset/x:v2"
    assert later.artifact.manifest.plan.sources["source.path"].path == "kaggle:a/b, version 10"


@pytest.mark.parametrize("mode", ["scenes", "faces"])
def test_painter_is_the_same_each_time(mode: str) -> None:
    config = SourceConfig(kind="painter", mode=mode, count=3, seed=5, character=2, size=64)
    items = open_source(config)
    assert [item.name for item in items] == sorted(item.name for item in items)
    first, again = items[1].read(LIMITS, MB), items[1].read(LIMITS, MB)
    assert np.array_equal(first.image, again.image)
    assert first.sha256 == again.sha256
    assert first.sha256 != items[2].read(LIMITS, MB).sha256
    assert first.known_faces is not None
    if mode == "faces":
        assert first.image.shape == (64, 64, 3)
        assert first.known_faces[0].landmarks.shape == (28, 2)
    with pytest.raises(DataError, match=r"source\.count is 0"):
        open_source(SourceConfig(kind="painter", count=0))


@pytest.mark.parametrize(
    "values", [{"kind": "foldr"}, {"mode": "scene"}, {"count": -1}, {"size": 3}, {"character": -1}]
)
def test_impossible_settings(values: dict) -> None:
    with pytest.raises(ConfigError, match="source"):
        SourceConfig(**values)


def test_painter_shows_others_beside_its_character() -> None:
    def faces(**changes: float) -> list[bytes]:
        config = SourceConfig(
            kind="painter", mode="faces", count=12, seed=5, character=2, size=32, **changes
        )
        return [item.read(LIMITS, MB).image.tobytes() for item in open_source(config)]

    alone, among_others, nobody = faces(), faces(others=0.5), faces(others=1.0)
    same = [a == b for a, b in zip(alone, among_others, strict=True)]
    assert 0 < sum(same) < len(same)
    # The others are those whom the painter paints where no character is asked for.
    for one, mixed, other in zip(alone, among_others, nobody, strict=True):
        assert mixed in (one, other)
    assert not set(alone) & set(nobody)

"""References, identities, raw sources, and the manifest's round trip."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts.manifest import (
    FileEntry,
    Manifest,
    Parent,
    Plan,
    Source,
    read_source,
    without,
)
from pipeline.artifacts.reference import KINDS, Reference, check_name, parse
from pipeline.errors import ArtifactError, DataError

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
kinds = st.sampled_from(KINDS)
hashes = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
versions = st.integers(1, 999)
finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers() | finite | st.text(max_size=20)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
entries = st.builds(FileEntry, st.text(min_size=1, max_size=20), hashes, st.integers(0, 2**60))
plans = st.builds(
    Plan,
    kind=kinds,
    name=names,
    stage=st.text(min_size=1, max_size=12),
    stage_version=versions,
    config=st.dictionaries(st.text(max_size=8), json_values, max_size=4),
    ignored=st.lists(st.text(max_size=8), max_size=2).map(tuple),
    parents=st.dictionaries(
        st.text(max_size=8),
        st.builds(Parent, kinds, names, versions, hashes, st.none() | st.text(max_size=20)),
        max_size=2,
    ),
    sources=st.dictionaries(
        st.text(max_size=8),
        st.builds(Source, st.text(max_size=20), hashes, st.lists(entries, max_size=3).map(tuple)),
        max_size=2,
    ),
)
manifests = st.builds(
    Manifest,
    version=versions,
    plan=plans,
    files=st.lists(entries, max_size=4).map(tuple),
    metrics=st.dictionaries(
        st.text(max_size=8), st.integers() | finite | st.text(max_size=8), max_size=3
    ),
    wall_seconds=st.floats(0, 1e9),
    created=st.text(max_size=25),
    code=st.just({"commit": None, "dirty": None}),
    environment=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=2),
)


@settings(deadline=None)
@given(kinds, names, versions)
def test_references_read_as_they_are_written(kind: str, name: str, version: int) -> None:
    assert parse(f"{kind}/{name}") == Reference(kind, name)
    assert parse(f"{kind}/{name}:latest") == Reference(kind, name)
    assert parse(str(Reference(kind, name, version))) == Reference(kind, name, version)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_a_name_is_one_harmless_folder_or_refused(name: str) -> None:
    try:
        check_name(name)
    except ArtifactError:
        return
    assert Path("root", name).resolve().parent == Path("root").resolve()
    assert name.isascii()
    assert not name.startswith(("-", "."))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("ganyu", "write kind/name"),
        ("modle/ganyu", "model/ganyu"),
        ("model/ganyu:3", "model/ganyu:v1"),
        ("model/ganyu:v0", "model/ganyu:v1"),
        ("model/ganyu/v3", "model/ganyu:v3"),
        ("model/../../etc", "cannot name an artifact"),
        ("model/a b", "'a-b'"),
        ("model/", "model/ganyu"),
        ("/ganyu", "kind/name"),
    ],
)
def test_wrong_references_are_refused_with_the_right_one(text: str, hint: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        parse(text)
    assert hint in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(manifests)
def test_manifest_round_trip(manifest: Manifest) -> None:
    again = Manifest.from_text(manifest.to_text())
    assert again == manifest
    assert again.digest == manifest.digest
    assert again.plan.identity == manifest.plan.identity


@settings(max_examples=50, deadline=None)
@given(manifests, st.data())
def test_any_changed_byte_of_a_manifest_shows(manifest: Manifest, data: st.DataObject) -> None:
    text = manifest.to_text().encode()
    position = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != text[position]))
    changed = text[:position] + bytes([other]) + text[position + 1 :]
    with pytest.raises((ArtifactError, UnicodeDecodeError)):
        Manifest.from_text(changed.decode("utf-8"))


@settings(max_examples=50, deadline=None)
@given(manifests, st.data())
def test_any_cut_manifest_shows(manifest: Manifest, data: st.DataObject) -> None:
    text = manifest.to_text()
    with pytest.raises(ArtifactError):
        Manifest.from_text(text[: data.draw(st.integers(0, len(text) - 1))])


def _plan(**changes: Any) -> Plan:
    plan = Plan(
        kind="model",
        name="ganyu",
        stage="train",
        stage_version=1,
        config={"kimg": 10, "workers": 2, "dataset": "dataset/ganyu", "source": {"path": "a"}},
        ignored=("workers", "dataset", "source.path"),
        parents={"dataset": Parent("dataset", "ganyu", 1, "a" * 64)},
        sources={"source.path": Source("a", "b" * 64, ())},
    )
    return dataclasses.replace(plan, **changes)


def _config(**changes: Any) -> dict[str, Any]:
    return {**_plan().config, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"config": _config(workers=9)},
        {"config": _config(dataset="dataset/ganyu:v1")},
        {"config": _config(source={"path": "/elsewhere"})},
        {"parents": {"dataset": Parent("dataset", "copy", 7, "a" * 64, "/there")}},
        {"sources": {"source.path": Source("moved", "b" * 64, ())}},
    ],
)
def test_identity_ignores_what_cannot_change_the_result(changes: dict[str, Any]) -> None:
    assert _plan(**changes).identity == _plan().identity


@pytest.mark.parametrize(
    "changes",
    [
        {"config": _config(kimg=11)},
        {"config": _config(kimg=10.5)},
        {"config": _config(source={"path": "a", "kind": "zip"})},
        {"stage_version": 2},
        {"name": "other"},
        {"parents": {"dataset": Parent("dataset", "ganyu", 1, "c" * 64)}},
        {"parents": {}},
        {"sources": {"source.path": Source("a", "d" * 64, ())}},
    ],
)
def test_identity_follows_what_decides_the_result(changes: dict[str, Any]) -> None:
    assert _plan(**changes).identity != _plan().identity


def test_digest_names_content_and_nothing_else() -> None:
    manifest = Manifest(
        version=1,
        plan=_plan(),
        files=(FileEntry("a", "e" * 64, 3), FileEntry("b", "f" * 64, 4)),
        metrics={"loss": 0.5},
        wall_seconds=3.0,
        created="2026-01-01",
        code={"commit": None, "dirty": None},
        environment={},
    )
    same = dataclasses.replace(
        manifest, version=2, wall_seconds=9.0, created="later", files=manifest.files[::-1]
    )
    assert same.digest == manifest.digest
    assert dataclasses.replace(manifest, files=manifest.files[:1]).digest != manifest.digest
    other = dataclasses.replace(manifest, plan=_plan(stage_version=2))
    assert other.digest != manifest.digest


def test_without_leaves_the_original_alone() -> None:
    config = {"a": 1, "b": {"c": 2, "d": {"e": 3}}}
    before = json.dumps(config)
    assert without(config, ["a", "b.d.e", "nothing", "a.b"]) == {"b": {"c": 2, "d": {}}}
    assert json.dumps(config) == before


def test_a_source_is_known_by_its_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    (folder / "deep").mkdir(parents=True)
    for index in range(300):
        (folder / "deep" / f"{index}.png").write_bytes(bytes([index % 256]) * index)
    (folder / "名前.jpg").write_bytes(b"drawing")
    first = read_source(folder)
    assert len(first.files) == 301
    assert [entry.path for entry in first.files] == sorted(entry.path for entry in first.files)
    assert read_source(folder.rename(tmp_path / "moved")).digest == first.digest

    folder = tmp_path / "moved"
    (folder / "deep" / "7.png").write_bytes(b"\x08" * 7)
    changed = read_source(folder).digest
    assert changed != first.digest
    (folder / "deep" / "7.png").rename(folder / "deep" / "x.png")
    assert read_source(folder).digest not in (first.digest, changed)


def test_a_single_file_may_be_renamed(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"pixels")
    first = read_source(picture).digest
    assert read_source(picture.rename(tmp_path / "b.png")).digest == first


def test_sources_survive_loops_dangling_links_and_pipes(tmp_path: Path) -> None:
    import os

    (tmp_path / "a").write_text("a")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    assert [entry.path for entry in read_source(tmp_path).files] == ["a"]


def test_a_missing_source_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist; give the path"):
        read_source(tmp_path / "nowhere")

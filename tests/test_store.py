"""The store: versions, references, what was changed or lost, parents, and what a draft may hold."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts.draft import drafts_folder
from pipeline.artifacts.manifest import MANIFEST_NAME
from pipeline.artifacts.store import Artifact, Store
from pipeline.errors import ArtifactError
from tests.store_tiny import child_of, make, plan_of, quiet, write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_versions_count_up_and_references_find_them(store: Store) -> None:
    first = make(store, plan_of(kimg=1))
    second = make(store, plan_of(kimg=2))
    assert [str(artifact) for artifact in store.artifacts()] == [
        "model/ganyu:v1",
        "model/ganyu:v2",
    ]
    assert store.find("model/ganyu").folder == second.folder
    assert store.find("model/ganyu:latest").folder == second.folder
    assert store.find("model/ganyu:v1").folder == first.folder
    assert store.find(str(first.folder)).reference == "model/ganyu:v1"
    assert first.manifest.metrics == {"loss": 0.25}
    assert not list(drafts_folder(store.root).iterdir())


def test_version_ten_comes_after_nine(store: Store) -> None:
    for kimg in range(11):
        made = make(store, plan_of(kimg=kimg), {"x": b"x"})
    assert store.find("model/ganyu").folder == made.folder
    assert made.reference == "model/ganyu:v11"


def test_committed_files_are_read_only(store: Store) -> None:
    artifact = make(store, plan_of())
    for path in artifact.folder.rglob("*"):
        assert path.is_dir() or path.stat().st_mode & 0o222 == 0


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("model/ganju", "the nearest is model/ganyu"),
        ("model/ganyu:v7", "ganyu has v1"),
        ("dataset/ganyu", "nor any other dataset"),
        ("./nothing", "is no artifact"),
    ],
)
def test_what_is_not_there_is_one_sentence(store: Store, reference: str, hint: str) -> None:
    make(store, plan_of())
    with pytest.raises(ArtifactError) as caught:
        store.find(reference)
    assert hint in str(caught.value)


def unlock(path: Path) -> None:
    path.chmod(0o644)


def test_every_changed_byte_is_found(store: Store) -> None:
    artifact = make(store, plan_of(), {"a.bin": b"abcdef", "inner/b": b"hello"})
    files = ["a.bin", "inner/b", "manifest.json"]
    for name in files:
        path = artifact.folder / name
        unlock(path)
        whole = path.read_bytes()
        for position in range(len(whole)):
            changed = bytearray(whole)
            changed[position] ^= 1 << (position % 8)
            path.write_bytes(changed)
            problems = store.verify(Artifact(artifact.folder))
            assert len(problems) == 1
            assert name in problems[0]
        path.write_bytes(whole)
    assert store.verify(Artifact(artifact.folder)) == []


def test_missing_added_and_swapped_files_are_found(store: Store) -> None:
    artifact = make(store, plan_of())
    folder = artifact.folder

    def problems() -> str:
        return "\n".join(store.verify(Artifact(folder)))

    (folder / "extra").write_text("x")
    assert "extra does not belong to it" in problems()
    (folder / "extra").unlink()
    (folder / "nook").mkdir()
    assert "the folder nook does not belong to it" in problems()
    (folder / "nook").rmdir()
    (folder / "d").rename(folder.parent / "d")
    assert "d is missing" in problems()
    (folder / "d").symlink_to(folder.parent / "d")
    assert "d is neither a file nor a folder" in problems()
    (folder / "d").unlink()
    (folder.parent / "d").rename(folder / "d")
    assert problems() == ""
    (folder / "manifest.json").unlink()
    assert "holds no manifest.json" in problems()


def test_a_version_under_another_number_is_found(store: Store) -> None:
    artifact = make(store, plan_of())
    moved = artifact.folder.rename(artifact.folder.with_name("v5"))
    assert "its manifest is that of model/ganyu:v1" in store.verify(Artifact(moved))[0]


def test_deleted_and_replaced_parents_are_found(store: Store) -> None:
    parent = make(store, plan_of(kimg=1))
    child = make(store, child_of(store, {"model": parent}))
    assert store.verify(child) == []
    shutil.rmtree(parent.folder)
    assert "its parent model model/ganyu:v1 is missing" in store.verify(child)[0]
    assert store.lineage(child).parents["model"].problem
    make(store, plan_of(kimg=2))  # takes the number of the deleted one
    assert "is another one now" in store.verify(child)[0]


def test_parents_outside_the_store_are_found_where_they_lie(store: Store, tmp_path: Path) -> None:
    elsewhere = make(Store(tmp_path / "other"), plan_of())
    child = make(store, child_of(store, {"model": store.find(str(elsewhere.folder))}))
    assert store.verify(child) == []
    assert store.lineage(child).parents["model"].label == "model/ganyu:v1"
    # Shared, it tells nobody's folders; where the parent is not known its digest says what it was.
    assert str(tmp_path) not in (child.folder / MANIFEST_NAME).read_text()
    theirs = Store(tmp_path / "theirs")
    copy = theirs.root / "edit" / "child" / "v1"
    shutil.copytree(child.folder, copy)
    assert theirs.verify(Artifact(copy)) == []
    assert "this digest is all" in theirs.lineage(Artifact(copy)).parents["model"].note
    shutil.rmtree(elsewhere.folder)
    assert "is missing" in store.verify(child)[0]


def test_a_manifest_that_still_names_its_parents_folder_is_read(
    store: Store, tmp_path: Path
) -> None:
    elsewhere = make(Store(tmp_path / "other"), plan_of())
    plan = child_of(store, {"model": elsewhere})
    parent = replace(plan.parents["model"], location=str(elsewhere.folder), folder=None)
    child = make(store, replace(plan, parents={"model": parent}))
    assert store.verify(child) == []
    assert str(elsewhere.folder) in (child.folder / MANIFEST_NAME).read_text()


def test_a_shipped_artifact_needs_no_parents(store: Store, tmp_path: Path) -> None:
    """A model that was copied without the dataset it was trained on is whole; its lineage says so,
    also where this store has another artifact of the dataset's name."""
    other = Store(tmp_path / "other")
    parent = make(other, plan_of("start", kind="dataset"))
    shipped = make(other, child_of(other, {"dataset": parent}, name="start"))
    copy = Artifact(tmp_path / "assets" / "start-64")
    shutil.copytree(shipped.folder, copy.folder)
    make(store, plan_of("start", kind="dataset", other=True))
    child = make(store, child_of(store, {"model": copy}))
    for artifact in (copy, child):
        assert store.verify(artifact) == []
    branch = store.lineage(child).parents["model"].parents["dataset"]
    assert (branch.problem, branch.artifact) == ("", None)
    assert branch.label == f"dataset/start:v1  [{parent.manifest.digest[:12]}]"
    assert "was not shipped along" in branch.note
    # Where the other store is at hand, what lies in it is found there.
    beside = make(store, child_of(store, {"model": shipped}, name="beside"))
    found = store.lineage(beside).parents["model"].parents["dataset"].artifact
    assert found is not None
    assert found.folder == parent.folder
    assert store.verify(beside) == []


@pytest.mark.parametrize("kind", ["link", "pipe", "nothing", "manifest"])
def test_what_is_no_payload_is_refused(store: Store, kind: str) -> None:
    draft = store.draft(plan_of(), quiet)
    if kind == "link":
        (draft.out / "link").symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(draft.out / "pipe")
    elif kind == "manifest":
        (draft.out / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError):
        draft.commit({})
    assert store.artifacts() == []
    draft.close()


def test_finished_and_damaged_is_not_reused(store: Store) -> None:
    artifact = make(store, plan_of())
    assert store.find_finished(plan_of()) == artifact
    assert store.find_finished(plan_of(kimg=3)) is None
    (artifact.folder / "d").unlink()
    assert store.find_finished(plan_of()) is None


def test_wall_time_adds_up_over_pieces(store: Store) -> None:
    for _ in range(2):
        draft = store.draft(plan_of(), quiet)
        write(draft)
        time.sleep(0.2)
        draft.close()
    draft = store.draft(plan_of(), quiet)
    assert draft.seconds >= 0.4
    artifact = Artifact(draft.commit({}))
    assert artifact.manifest.wall_seconds >= 0.4


def test_an_empty_draft_leaves_no_litter(store: Store) -> None:
    store.draft(plan_of(), quiet).close()
    assert not list(drafts_folder(store.root).iterdir())

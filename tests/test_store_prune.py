"""Pruning the store: what goes, what stays because it is needed, and what is in use."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts.store import Artifact, Store
from pipeline.errors import ArtifactError
from tests.store_tiny import child_of, make, plan_of, quiet, write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 30), max_size=2)),
        min_size=1,
        max_size=10,
    ),
    st.integers(1, 3),
)
def test_prune_never_removes_an_ancestor(nodes: list[tuple[str, list[int]]], keep: int) -> None:
    """Over random family trees: what stays is whole, the newest stay, the rest goes."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        made: list[Artifact] = []
        for index, (name, links) in enumerate(nodes):
            parents = {str(link): made[link % len(made)] for link in links if made}
            made.append(make(store, child_of(store, parents, name, index=index), {"x": b"x"}))
        before = {artifact.folder for artifact in made}
        newest = {
            artifact.folder for name in "abc" for artifact in store.artifacts("edit", name)[-keep:]
        }
        plan = store.prune(keep)
        assert {artifact.folder for artifact in store.artifacts()} == before
        pruned = store.prune(keep, delete=True)
        assert pruned == plan

        left = store.artifacts()
        assert newest <= {artifact.folder for artifact in left}
        for artifact in left:
            assert store.verify(artifact) == []
        assert {artifact.folder for artifact in pruned.removed} == before - {
            artifact.folder for artifact in left
        }
        needed = set(newest)
        for artifact in reversed(made):  # children come after their parents
            if artifact.folder in needed:
                needed |= {
                    store.folder_of(parent) for parent in artifact.manifest.plan.parents.values()
                }
        assert {artifact.folder for artifact in left} == needed


def test_prune_keeps_what_an_unfinished_run_was_begun_from(store: Store) -> None:
    old = make(store, plan_of(kimg=1))
    make(store, plan_of(kimg=2))
    draft = store.draft(child_of(store, {"model": old}), quiet)
    write(draft)
    # In use: neither the draft nor its parent goes, not even when drafts are asked for.
    pruned = store.prune(1, drafts=True, delete=True)
    assert (pruned.removed, pruned.drafts) == ([], [])
    store.hold_parents(child_of(store, {"model": old}))
    draft.close()
    assert store.prune(1, delete=True).removed == []
    pruned = store.prune(1, drafts=True, delete=True)
    assert [str(artifact) for artifact in pruned.removed] == ["model/ganyu:v1"]
    assert pruned.drafts == [draft.folder]
    assert not draft.folder.exists()


def test_a_run_begun_while_prune_removes_its_draft_keeps_its_files(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = store.draft(plan_of(), quiet)
    write(left)
    left.close()
    delete = store._delete
    done = store.root.parent / "written"
    children: list[int] = []

    def run_meanwhile(folders: list[Path]) -> None:
        if folders == [left.folder]:
            child = os.fork()
            if child == 0:
                draft = store.draft(plan_of(), quiet)
                (draft.out / "mine.bin").write_bytes(b"mine")
                done.write_text(str(draft.begun))
                draft.close()
                os._exit(0)
            children.append(child)
            time.sleep(0.3)  # long enough for it to take the draft, if that were possible
            assert not done.exists()
        delete(folders)

    monkeypatch.setattr(store, "_delete", run_meanwhile)
    assert store.prune(1, drafts=True, delete=True).drafts == [left.folder]
    (child,) = children
    assert os.waitpid(child, 0)[1] == 0
    assert done.read_text() == "False"
    assert [path.name for path in left.out.iterdir()] == ["mine.bin"]


def test_prune_stops_where_it_cannot_know(store: Store) -> None:
    old = make(store, plan_of(kimg=1))
    make(store, plan_of(kimg=2))
    child = make(store, child_of(store, {"model": old}))
    (child.folder / "manifest.json").chmod(0o644)
    (child.folder / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match="damaged"):
        store.prune(1, delete=True)
    assert old.folder.is_dir()
    with pytest.raises(ArtifactError, match="1 or more"):
        store.prune(0, delete=True)

"""The store under crashes, full disks, damage, and several processes at once: real ones."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts.draft import Draft, drafts_folder
from pipeline.artifacts.manifest import MANIFEST_NAME, Plan
from pipeline.artifacts.store import Artifact, Store
from pipeline.errors import ArtifactError

FILES = {"a.bin": b"abc" * 1000, "inner/b.txt": b"hello", "inner/deep/c.txt": b"", "d": b"\0"}


def quiet(holder: str) -> None:
    """Wait in silence."""


def plan_of(name: str = "ganyu", kind: str = "model", **config: Any) -> Plan:
    return Plan(kind, name, "train", 1, config, (), {}, {})


def child_of(
    store: Store, parents: dict[str, Artifact], name: str = "child", **config: Any
) -> Plan:
    links = {key: store.parent_of(parent) for key, parent in parents.items()}
    return Plan("edit", name, "edit", 1, config, (), links, {})


def write(draft: Draft, files: dict[str, bytes] = FILES) -> None:
    for name, data in files.items():
        path = draft.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def make(store: Store, plan: Plan, files: dict[str, bytes] = FILES) -> Artifact:
    draft = store.draft(plan, quiet)
    store.hold_parents(plan)
    write(draft, files)
    return Artifact(draft.commit({"loss": 0.25}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; returns its wait status."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(process, 0)[1]


def assert_whole(store: Store) -> None:
    """Whatever can be seen is complete and intact."""
    for artifact in store.artifacts():
        assert store.verify(artifact) == []
        assert {entry.path for entry in artifact.manifest.files} == set(FILES)


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


def test_processes_committing_at_once_get_different_versions(store: Store) -> None:
    processes, rounds = 4, 20

    def commit_many(number: int) -> None:
        for index in range(rounds):
            make(store, plan_of(process=number, index=index))

    children = []
    for number in range(processes):
        process = os.fork()
        if process == 0:
            try:
                commit_many(number)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(process)
    assert [os.waitpid(process, 0)[1] for process in children] == [0] * processes
    made = store.artifacts("model", "ganyu")
    assert [artifact.manifest.version for artifact in made] == list(
        range(1, processes * rounds + 1)
    )
    configs = [tuple(artifact.manifest.plan.config.values()) for artifact in made]
    assert len(set(configs)) == processes * rounds
    assert_whole(store)


# What a commit does to the disk, in the ways it does it.
STEPS = ("rename", "replace", "fsync", "unlink", "mkdir", "rmdir", "chmod")


def count_steps(at: int | None) -> list[str]:
    """Wrap the steps in this process; at the step number `at` (counted from 0) it is killed."""
    taken: list[str] = []

    def wrap(name: str) -> None:
        original = getattr(os, name)

        def step(*arguments: Any, **options: Any) -> Any:
            if len(taken) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            taken.append(name)
            return original(*arguments, **options)

        setattr(os, name, step)

    for name in STEPS:
        wrap(name)
    return taken


def test_killed_at_any_step_of_a_commit(tmp_path: Path) -> None:
    counted = tmp_path / "counted"

    def count() -> None:
        store = Store(tmp_path / "whole")
        draft = store.draft(plan_of(), quiet)
        write(draft)
        taken = count_steps(None)
        draft.commit({"loss": 0.25})
        counted.write_text(" ".join(taken))

    assert in_child(count) == 0
    total = len(counted.read_text().split())
    assert set(counted.read_text().split()) >= {"rename", "replace", "fsync", "chmod", "mkdir"}

    invisible = visible = recovered = 0
    for step in range(total):
        store = Store(tmp_path / f"killed-{step}")

        def commit(store: Store = store, step: int = step) -> None:
            draft = store.draft(plan_of(), quiet)
            write(draft)
            count_steps(step)
            draft.commit({"loss": 0.25})

        status = in_child(commit)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert_whole(store)
        if store.artifacts():
            visible += 1
            assert store.find_finished(plan_of()) is not None
            continue
        invisible += 1
        draft = store.draft(plan_of(), quiet)
        metrics = draft.finished_metrics()
        recovered += metrics is not None
        # The files must be writable again for a stage that goes on.
        write(draft)
        draft.commit(metrics or {"loss": 0.25})
        assert [str(artifact) for artifact in store.artifacts()] == ["model/ganyu:v1"]
        assert_whole(store)
    assert invisible > 10
    assert visible >= 1
    assert recovered > invisible / 2


def test_killed_at_random_moments(store: Store) -> None:
    chance = random.Random(7)
    for index in range(25):
        process = os.fork()
        if process == 0:
            for number in range(1000):
                make(store, plan_of(index=index, number=number))
            os._exit(0)
        time.sleep(chance.uniform(0.0, 0.06))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        assert_whole(store)
    versions = [artifact.manifest.version for artifact in store.artifacts()]
    assert versions == list(range(1, len(versions) + 1))
    # Leftover drafts hinder nobody, and go when asked for.
    make(store, plan_of(last=True))
    store.prune(keep=1000, drafts=True, delete=True)
    assert not [path for path in drafts_folder(store.root).iterdir() if path.is_dir()]
    assert_whole(store)


def test_a_finished_draft_whose_bytes_were_lost_is_not_trusted(store: Store) -> None:
    def finish_and_die() -> None:
        draft = store.draft(plan_of(), quiet)
        write(draft)
        os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        draft.commit({"loss": 0.25})

    assert os.WIFSIGNALED(in_child(finish_and_die))
    draft = store.draft(plan_of(), quiet)
    (draft.out / "a.bin").write_bytes(b"")
    assert draft.begun
    assert draft.finished_metrics() is None
    draft.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root with the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk_leaves_nothing_visible_and_can_be_gone_on_from(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    ballast = small_disk / "ballast"
    draft = store.draft(plan_of(), quiet)
    write(draft, {"big.bin": bytes(200_000)})
    with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))
    with pytest.raises(ArtifactError, match=r"is full; free some space and run the same command"):
        draft.commit({"loss": 0.25})
    draft.close()
    assert store.artifacts() == []
    assert not (draft.out / "manifest.json").exists()

    ballast.unlink()
    again = store.draft(plan_of(), quiet)
    assert again.begun
    assert (again.out / "big.bin").stat().st_size == 200_000
    artifact = Artifact(again.commit({"loss": 0.25}))
    assert store.verify(artifact) == []


def test_file_size_limit_at_every_write_of_a_commit(store: Store) -> None:
    """The same without root: the manifest does not fit under the limit of the process."""

    def commit_under_limit() -> None:
        draft = store.draft(plan_of(filler="x" * 3000), quiet)
        write(draft)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        try:
            draft.commit({"loss": 0.25})
        except ArtifactError as error:
            os._exit(42 if "is full" in str(error) else 2)

    status = in_child(commit_under_limit)
    assert os.waitstatus_to_exitcode(status) == 42
    assert store.artifacts() == []
    draft = store.draft(plan_of(filler="x" * 3000), quiet)
    assert draft.begun
    draft.commit(draft.finished_metrics() or {"loss": 0.25})
    assert_whole(store)


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
    unlock(child.folder / "manifest.json")
    (child.folder / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match="damaged"):
        store.prune(1, delete=True)
    assert old.folder.is_dir()
    with pytest.raises(ArtifactError, match="1 or more"):
        store.prune(0, delete=True)


def test_a_forked_worker_does_not_hold_its_dead_parents_draft(store: Store) -> None:
    """A pool's workers may outlive a killed run; the next run must not wait for them."""
    reader, writer = os.pipe()

    def open_and_fork() -> None:
        store.draft(plan_of(), quiet)
        worker = os.fork()
        if worker == 0:
            # By itself: only now has it let go of what it was forked with.
            os.write(writer, str(os.getpid()).encode())
            time.sleep(60)
            os._exit(0)
        time.sleep(60)  # until it is killed

    holder = os.fork()
    if holder == 0:
        open_and_fork()
    worker = int(os.read(reader, 20))
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    os.close(reader)
    os.close(writer)
    waited: list[str] = []
    try:
        store.draft(plan_of(), waited.append).close()
    finally:
        os.kill(worker, signal.SIGKILL)
    assert waited == []


def test_two_runs_of_one_identity_take_turns(store: Store) -> None:
    order = store.root.parent / "order"

    def work(label: str, seconds: float) -> None:
        draft = store.draft(plan_of(), quiet)
        with order.open("a") as stream:
            stream.write(f"{label} in\n")
            stream.flush()
            time.sleep(seconds)
            stream.write(f"{label} out\n")
        draft.close()

    children = []
    for label in "abcd":
        process = os.fork()
        if process == 0:
            try:
                work(label, 0.1)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(process)
    assert [os.waitpid(process, 0)[1] for process in children] == [0] * 4
    lines = order.read_text().split("\n")[:-1]
    assert len(lines) == 8
    for entered, left in zip(lines[::2], lines[1::2], strict=True):
        assert entered.split() == [left.split()[0], "in"]


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

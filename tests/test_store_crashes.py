"""The store under crashes, full disks, and several processes at once: real ones."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.draft import drafts_folder
from pipeline.artifacts.store import Artifact, Store
from pipeline.errors import ArtifactError
from tests.store_tiny import assert_whole, in_child, make, plan_of, quiet, write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


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
        time.sleep(60)  # it is killed before
        os._exit(1)

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

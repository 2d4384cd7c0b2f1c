"""Small artifacts for the tests of the store, and processes that die in the middle."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from pipeline.artifacts.draft import Draft
from pipeline.artifacts.manifest import Plan
from pipeline.artifacts.store import Artifact, Store

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

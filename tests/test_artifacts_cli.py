"""python -m scripts.artifacts, on a small family: raw file -> dataset -> model -> edit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.artifacts.manifest import Plan, read_source
from pipeline.artifacts.store import Artifact, Store
from scripts.artifacts import main

ROOT = Path(__file__).resolve().parent.parent


def make(store: Store, kind: str, stage: str, parents: dict[str, str], raw: Path) -> Artifact:
    plan = Plan(
        kind=kind,
        name="ganyu",
        stage=stage,
        stage_version=1,
        config={"raw": len(raw.read_bytes())},
        ignored=(),
        parents={key: store.parent_of(store.find(value)) for key, value in parents.items()},
        sources={} if parents else {"source.path": read_source(raw)},
    )
    draft = store.draft(plan, lambda holder: None)
    (draft.out / "payload.bin").write_bytes(raw.read_bytes())
    return Artifact(draft.commit({}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two datasets, of which the first has a model and an edit."""
    store = Store(tmp_path / "store")
    raw = tmp_path / "drawing.png"
    raw.write_bytes(b"one")
    make(store, "dataset", "preprocess", {}, raw)
    make(store, "model", "train", {"dataset": "dataset/ganyu"}, raw)
    make(store, "edit", "edit", {"model": "model/ganyu"}, raw)
    raw.write_bytes(b"three")
    make(store, "dataset", "preprocess", {}, raw)
    make(store, "dataset", "preprocess", {}, raw)
    return store


def call(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--store", str(store.root), *arguments])


def test_ls(store: Store) -> None:
    lines = call(store, "ls").output.splitlines()
    assert [line.split()[0] for line in lines] == [
        "dataset/ganyu:v1",
        "dataset/ganyu:v2",
        "dataset/ganyu:v3",
        "edit/ganyu:v1",
        "model/ganyu:v1",
    ]
    assert call(store, "ls", "model").output.split()[0] == "model/ganyu:v1"
    assert "no artifact model/nobody" in call(store, "ls", "model/nobody").output
    wrong = call(store, "ls", "modle")
    assert wrong.exit_code == 2
    assert "model" in wrong.output


def test_show_and_path(store: Store) -> None:
    folder = store.root / "model" / "ganyu" / "v1"
    assert call(store, "path", "model/ganyu").output == f"{folder}\n"
    assert call(store, "show", "model/ganyu").output == (folder / "manifest.json").read_text()
    missing = call(store, "path", "model/ganju")
    assert missing.exit_code == 2
    assert missing.output == "There is no model/ganju; the nearest is model/ganyu.\n"


def test_verify(store: Store) -> None:
    clean = call(store, "verify")
    assert (clean.exit_code, clean.output) == (0, "5 artifacts checked, 0 problems.\n")
    payload = store.root / "dataset/ganyu/v1/payload.bin"
    payload.chmod(0o644)
    payload.write_bytes(b"onf")
    bad = call(store, "verify")
    assert bad.exit_code == 1
    assert "dataset/ganyu:v1: payload.bin was changed after it was written." in bad.output
    assert call(store, "verify", "model/ganyu").exit_code == 0
    shutil.rmtree(store.root / "dataset/ganyu/v1")
    orphan = call(store, "verify", "model/ganyu")
    assert orphan.exit_code == 1
    assert "its parent dataset dataset/ganyu:v1 is missing" in orphan.output


def test_lineage_goes_from_the_edit_to_the_raw_file(store: Store) -> None:
    lines = call(store, "lineage", "edit/ganyu", "--files").output.splitlines()
    starts = ["edit/ganyu:v1", "└─ model: model/ganyu:v1", "   └─ dataset: dataset/ganyu:v1"]
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=False))
    assert lines[3].startswith("      └─ source.path: ")
    assert "drawing.png" in lines[3]
    assert "1 file, 3 B" in lines[3]
    assert lines[4].strip().startswith("drawing.png")


def test_prune_tells_first_and_keeps_ancestors(store: Store) -> None:
    told = call(store, "prune").output
    assert "would remove dataset/ganyu:v2" in told
    assert "--delete" in told
    assert len(store.artifacts()) == 5
    done = call(store, "prune", "--delete").output
    assert done.splitlines() == ["removed dataset/ganyu:v2", "removed 1, kept 4."]
    left = [str(artifact) for artifact in store.artifacts("dataset")]
    assert left == ["dataset/ganyu:v1", "dataset/ganyu:v3"]
    assert call(store, "verify").exit_code == 0
    assert call(store, "prune", "--keep", "0").exit_code == 2


def test_an_empty_store_is_no_error(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    for arguments in (["ls"], ["verify"], ["prune", "--delete"]):
        assert call(store, *arguments).exit_code == 0
    assert not store.root.exists()


def test_as_a_command_without_torch(store: Store) -> None:
    code = (
        "import sys; sys.argv = ['artifacts', *sys.argv[1:]]\n"
        "from scripts.artifacts import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--store", str(store.root), "ls"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5

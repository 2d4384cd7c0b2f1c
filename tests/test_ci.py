""".ci/run on machines with and without the shared libraries that the wheels load: stand-ins on PATH
for what would install or run anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ALL = ("libGL.so.1", "libEGL.so.1", "libglib-2.0.so.0")


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def run(root: Path, stand_ins: Path, libraries: tuple[str, ...], user: int = 0) -> tuple[str, str]:
    """(the commands that were called, what was said); `libraries` are those that are there."""
    log = stand_ins / "log"
    # Thousands of lines, as a real machine has: more than a pipe holds.
    listed = "\n".join(f"\t{name} (libc6,x86-64) => /usr/lib/{name}" for name in libraries)
    padding = "\n".join(
        f"\tlibother{i}.so.1 (libc6) => /usr/lib/libother{i}.so.1" for i in range(3000)
    )
    (stand_ins / "listing").write_text(f"{listed}\n{padding}\n")
    scripts = {
        "ldconfig": f'cat "{stand_ins / "listing"}"',
        "apt-get": f'echo "apt-get $*" >> "{log}"',
        "make": f'echo "make $*" >> "{log}"',
        "id": f"echo {user}",
    }
    for name, text in scripts.items():
        path = stand_ins / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    done = subprocess.run(
        ["bash", str(root / ".ci" / "run")],
        env={**os.environ, "PATH": f"{stand_ins}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return log.read_text(), done.stderr


MAKES = "make setup\nmake lint\nmake test\n"


def test_a_machine_that_has_all_installs_nothing(root: Path, stand_ins: Path) -> None:
    assert run(root, stand_ins, ALL) == (MAKES, "")


def test_a_bare_machine_gets_what_it_lacks_and_no_more(root: Path, stand_ins: Path) -> None:
    called, said = run(root, stand_ins, ("libEGL.so.1",))
    assert called == ("apt-get update -qq\napt-get install -y -qq libgl1 libglib2.0-0\n" + MAKES)
    assert said == ""


def test_another_user_than_root_is_told(root: Path, stand_ins: Path) -> None:
    called, said = run(root, stand_ins, ALL[:1], user=1000)
    assert called == MAKES
    assert "libegl1 libglib2.0-0" in said
    assert said.count("\n") == 1

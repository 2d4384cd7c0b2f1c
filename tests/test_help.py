"""Help comes at once: no command loads torch, or anything else as heavy, to print it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
COMMANDS = sorted(path.stem for path in SCRIPTS.glob("*.py") if path.stem != "__init__")
HEAVY = {"torch", "cv2", "mediapipe", "scipy", "tensorboard"}


def imported(*arguments: str) -> set[str]:
    """Top-level names of everything that a Python process imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=SCRIPTS.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_there_are_commands() -> None:
    assert {"run", "artifacts", "doctor", "bench"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command: str) -> None:
    names = imported("-m", f"scripts.{command}", "--help")
    assert "scripts" in names
    assert not names & HEAVY


def test_the_package_itself_loads_nothing_heavy() -> None:
    assert not imported("-c", "import pipeline, torch_utils, scripts") & HEAVY

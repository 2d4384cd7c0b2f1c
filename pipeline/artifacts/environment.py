"""What a run ran on: the code's commit and the versions of what matters for its numbers."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path


def environment_versions() -> dict[str, str | None]:
    """Versions of python, the operating system, torch and numpy (None: not installed)."""
    return {
        "python": platform.python_version(),
        "os": platform.platform(),
        "torch": _package("torch"),
        "numpy": _package("numpy"),
    }


def _package(name: str) -> str | None:
    # Asking the metadata, because importing torch takes seconds.
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache  # the code that runs is the code that was there when this process began
def code_version() -> dict[str, str | bool | None]:
    """The commit this code is at, and whether tracked files differ from it (None: no git)."""
    here = Path(__file__).resolve()
    # An installed copy may lie inside somebody else's repository; only ours tracks this file.
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name)
    commit = _git(here.parent, "rev-parse", "HEAD") if tracked else None
    if commit is None:
        return {"commit": None, "dirty": None}
    changes = _git(here.parent, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

"""Which sessions on disk are kept, and for how long.

A session is a folder (see rooms.py); edits that were saved lie elsewhere and are none of this
module's business.
"""

from __future__ import annotations

import time
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

DAY_SECONDS = 86_400.0
# A session that nobody ever put anything into.
EMPTY_SECONDS = 3600.0


@dataclass(frozen=True)
class Keeping:
    """How long and how much: days since a session was last changed, bytes of all together."""

    days: float = 30.0
    most_bytes: int = 5 * 10**9


@dataclass(frozen=True)
class _Kept:
    folder: Path
    changed: float
    size: int
    empty: bool


def outdated(
    folder: Path, in_use: Container[str], keeping: Keeping, now: float | None = None
) -> list[Path]:
    """Folders of the sessions to delete: too old, never used, or the longest untouched of too many.

    `in_use`: ids of sessions that are open and stay. `now`: seconds since the epoch.
    """
    now = time.time() if now is None else now
    found = [kept for path in folder.iterdir() if path.is_dir() and (kept := _look(path))]
    found.sort(key=lambda kept: kept.changed, reverse=True)
    gone, total = [], sum(kept.size for kept in found if kept.folder.name in in_use)
    for kept in found:
        if kept.folder.name in in_use:
            continue
        age = now - kept.changed
        total += kept.size
        too_old = age > keeping.days * DAY_SECONDS or (kept.empty and age > EMPTY_SECONDS)
        if too_old or total > keeping.most_bytes:
            gone.append(kept.folder)
    return gone


def _look(folder: Path) -> _Kept | None:
    try:
        states = [path.stat() for path in folder.rglob("*") if path.is_file()]
        changed = max([state.st_mtime for state in states], default=folder.stat().st_mtime)
        empty = not any((folder / name).exists() for name in ("upload", "session.json"))
        return _Kept(folder, changed, sum(state.st_size for state in states), empty)
    except FileNotFoundError:  # it is being deleted, or written to
        return None

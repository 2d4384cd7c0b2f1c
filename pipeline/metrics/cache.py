"""Statistics of real images, kept in the user's cache: they cost a pass over the whole dataset.

An entry is named by everything it depends on (the dataset's digest, the part of it, the feature
network with its weights, what is kept), so that it never needs to be invalidated. A damaged entry,
or a cache that cannot be written, only costs the pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from pipeline import weights
from pipeline.metrics.statistics import FeatureStatistics

FOLDER = "statistics"
# Raised when features or statistics of the same inputs become other numbers.
VERSION = 2
# Entries kept, some ten megabytes each; the longest unused go first.
MAX_ENTRIES = 24


def find(key: Mapping[str, str | int], like: FeatureStatistics) -> FeatureStatistics | None:
    """The entry for `key`; None where there is none that reads.

    Args:
        key: everything that decides the numbers.
        like: empty statistics of the same kind.
    """
    path = entry_path(key)
    found = FeatureStatistics.load(path, like)
    if found is not None:
        with contextlib.suppress(OSError):
            path.touch()
    return found


def keep(key: Mapping[str, str | int], made: FeatureStatistics) -> None:
    """Put statistics under `key`, if the cache can be written."""
    path = entry_path(key)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two processes may make the same entry; each writes its own file, the last one stays.
        aside = path.with_name(f"{path.stem}.{os.getpid()}.part")
        made.save(aside)
        aside.replace(path)
        _drop_oldest(path.parent)


def entry_path(key: Mapping[str, str | int]) -> Path:
    """Where the entry for `key` lies, there or not."""
    text = json.dumps({"version": VERSION, **key}, sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    return weights.cache_folder() / FOLDER / f"{name}.safetensors"


def _drop_oldest(folder: Path) -> None:
    entries = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    for path in entries[:-MAX_ENTRIES]:
        path.unlink(missing_ok=True)

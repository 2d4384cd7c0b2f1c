"""A draft: the folder a stage writes into, until it is committed as an artifact.

A draft is named by the run's identity, so the same command finds it again after a crash, and
locked, so that two processes with the same identity do not write into it at once. Commit makes
every byte durable first and shows the folder last, by one rename: a crash leaves either nothing
visible or a complete version.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.artifacts.environment import code_version, environment_versions
from pipeline.artifacts.locks import FileLock, locked
from pipeline.artifacts.manifest import (
    HASH_THREADS,
    MANIFEST_NAME,
    Manifest,
    Plan,
    hash_files,
    render,
)
from pipeline.artifacts.reference import version_of
from pipeline.errors import ArtifactError
from pipeline.files import put_text, sync_folder

# EFBIG is what a file-size limit says, EDQUOT a user's quota: to the user all are "full".
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY}


class Draft:
    """The draft of `plan` in the store at `root`, locked from construction to `close`.

    `record.json` (the plan, seconds spent) and `finished.json` (the stage's return value) lie
    beside the payload, never in it.
    """

    def __init__(self, root: Path, plan: Plan, on_wait: Callable[[str], None]) -> None:
        self._root = root
        self._plan = plan
        self.folder = folder_of(root, plan)
        self.out = self.folder / "payload"
        # Traceback of a stage that met an unexpected error.
        self.error_log = self.folder / "error.log"
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(lock_of(self.folder), on_wait)
        self._gone = False
        # Read now: the code may change while a long stage runs.
        self._code = code_version()
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.begun = any(self.out.iterdir())
        self._spent = self._spent_before()
        self._piece_began = time.time()
        self._record(self._spent, self._piece_began)
        # Left by a commit that was cut short; a resumed stage must not meet it or read-only files.
        (self.out / MANIFEST_NAME).unlink(missing_ok=True)
        for path in files_of(self.out):
            path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IWUSR)

    def _spent_before(self) -> float:
        """Seconds of earlier pieces. A killed piece counts until its last write."""
        record = read_record(self.folder)
        if record is None:
            return 0.0
        spent, began = float(record["spent"]), record["piece_began"]
        if began is None:
            return spent
        last_write = max((path.stat().st_mtime for path in files_of(self.out)), default=began)
        return spent + max(0.0, last_write - began)

    def _record(self, spent: float, piece_began: float | None) -> None:
        record = {"plan": self._plan.to_json(), "spent": spent, "piece_began": piece_began}
        put_text(self.folder / "record.json", render(record))

    @property
    def seconds(self) -> float:
        """Wall time of all pieces so far."""
        return self._spent + (time.time() - self._piece_began)

    def finished_metrics(self) -> dict[str, Any] | None:
        """What the stage returned, if it finished and only the commit is missing, else None."""
        path = self.folder / "finished.json"
        try:
            finished = json.loads(path.read_text())
            if dict(finished["sizes"]) == _sizes(self.out):
                return finished["metrics"]
        except (OSError, ValueError, KeyError, TypeError, ArtifactError):
            pass
        # What was finished is not whole any more (a power cut): the stage must look at it again.
        path.unlink(missing_ok=True)
        return None

    def commit(self, metrics: Mapping[str, float | int | str]) -> Path:
        """Make the payload an artifact and return its folder. The draft is gone afterwards.

        ArtifactError if the stage wrote nothing, or something that is no plain file or folder, or
        the disk is full; then the draft stays, and committing it again can succeed.
        """
        with disk_errors(self.folder):
            folder = self._commit(dict(metrics))
        # Readers come by the final name from here on; what is left of the draft is litter.
        self.discard()
        return folder

    def _commit(self, metrics: dict[str, float | int | str]) -> Path:
        sizes = _sizes(self.out)
        if not sizes:
            raise ArtifactError(f"{self._plan.stage} wrote no file; there is nothing to commit.")
        if MANIFEST_NAME in sizes:
            raise ArtifactError(
                f"{self._plan.stage} wrote a file {MANIFEST_NAME}; that name is the store's own."
            )
        seconds = self.seconds
        finished = {"metrics": metrics, "sizes": sorted(sizes.items())}
        put_text(self.folder / "finished.json", render(finished))
        _drop_empty_folders(self.out)
        _make_durable(self.out)
        files = hash_files(self.out, sorted(sizes))
        manifest = Manifest(
            version=0,
            plan=self._plan,
            files=files,
            metrics=metrics,
            wall_seconds=round(seconds, 3),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            code=self._code,
            environment=environment_versions(),
        )
        return self._show(manifest)

    def _show(self, manifest: Manifest) -> Path:
        """Rename the payload to the next free version, whoever else is doing the same."""
        home = self._root / self._plan.kind / self._plan.name
        home.mkdir(parents=True, exist_ok=True)
        sync_folder(home.parent)
        sync_folder(self._root)
        version = next_version(home)
        while True:
            # A rename replaces an empty folder only, and a version is never empty: of two
            # processes that want the same number one gets it, the other counts on.
            numbered = replace(manifest, version=version)
            put_text(self.out / MANIFEST_NAME, numbered.to_text(), self.folder / "manifest.part")
            (self.out / MANIFEST_NAME).chmod(0o444)
            sync_folder(self.out)
            target = home / f"v{version}"
            try:
                self.out.rename(target)
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
                version = max(version + 1, next_version(home))
                continue
            sync_folder(home)
            sync_folder(self.folder)
            return target

    def close(self) -> None:
        """Keep the draft for later: note the time spent and let others have it.

        A draft with nothing in it (the stage refused its input, or the commit was cut short just
        after it had become visible) goes instead.
        """
        empty = not self.out.is_dir() or not any(self.out.iterdir())
        if not self._gone and empty and not self.error_log.exists():
            self.discard()
        if not self._gone:
            with contextlib.suppress(OSError):  # a full disk costs the note, not the draft
                self._record(self.seconds, None)
        self._lock.release()

    def discard(self) -> None:
        """Remove the draft."""
        self._gone = True
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release(delete=lock_of(self.folder))


def drafts_folder(root: Path) -> Path:
    """Where the drafts of the store at `root` lie."""
    return root / ".drafts"


def folder_of(root: Path, plan: Plan) -> Path:
    """The folder of `plan`'s draft."""
    return drafts_folder(root) / f"{plan.kind}-{plan.name}-{plan.identity[:16]}"


def lock_of(folder: Path) -> Path:
    """The lock file of the draft in `folder` (beside it, because the folder comes and goes)."""
    return folder.with_name(folder.name + ".lock")


def read_record(folder: Path) -> dict[str, Any] | None:
    """`record.json` of the draft in `folder`, None if it is missing or unreadable."""
    try:
        record = json.loads((folder / "record.json").read_text())
        return {**record, "plan": Plan.from_json(record["plan"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def store_lock(root: Path) -> contextlib.AbstractContextManager[None]:
    """The lock of the whole store, for short: choosing parents here, pruning there."""
    root.mkdir(parents=True, exist_ok=True)
    return locked(root / ".lock")


def next_version(home: Path) -> int:
    """One more than the highest version folder in `home`, complete or not."""
    versions = [version_of(path.name) or 0 for path in home.iterdir()]
    return max(versions, default=0) + 1


def files_of(folder: Path) -> Iterator[Path]:
    """Every plain file below `folder`; links are not followed."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink() and path.is_file():
                yield path


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn "no space left" from inside the block into one sentence; `folder` names the disk."""
    try:
        yield
    except Exception as error:
        if not _is_disk_full(error):
            raise
        raise ArtifactError(
            f"The disk that holds {folder} is full; free some space and run the same command "
            "again to continue where this run stopped."
        ) from error


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether `error` or what caused it is a full disk; libraries wrap it in their own types."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _sizes(folder: Path) -> dict[str, int]:
    """POSIX relative path -> size of every file; ArtifactError for links and special files."""
    sizes = {}
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(parent, name)
            status = path.lstat()
            relative = path.relative_to(folder).as_posix()
            if stat.S_ISREG(status.st_mode):
                sizes[relative] = status.st_size
            elif not stat.S_ISDIR(status.st_mode):
                raise ArtifactError(
                    f"{path} is neither a file nor a folder; an artifact holds nothing else."
                )
    return sizes


def _drop_empty_folders(folder: Path) -> None:
    for parent, _, _ in os.walk(folder, topdown=False):
        if Path(parent) != folder and not any(Path(parent).iterdir()):
            Path(parent).rmdir()


def _make_durable(folder: Path) -> None:
    """Make every file read-only, and files and folders survive a power cut."""
    with ThreadPoolExecutor(HASH_THREADS) as threads:
        list(threads.map(_make_file_durable, files_of(folder)))
    for parent, _, _ in os.walk(folder, topdown=False):
        sync_folder(Path(parent))


def _make_file_durable(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    path.chmod(0o444)

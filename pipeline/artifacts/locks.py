"""Locks between processes that the kernel lets go of when their holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


class FileLock:
    """An exclusive flock on `path`, held from construction to `release`.

    `on_wait` is called once, with the process id of the holder as text, if another process holds
    the lock; where it is None the lock is not waited for, and `held` says whether it was had. A
    forked child gives up its share of the lock at once: worker processes that outlive a
    killed parent would hold it otherwise.
    """

    def __init__(self, path: Path, on_wait: Callable[[str], None] | None) -> None:
        self._descriptor = _acquire(path, on_wait)
        if self.held:
            _held.add(self)

    @property
    def held(self) -> bool:
        """Whether this process has the lock."""
        return self._descriptor is not None

    def release(self, delete: Path | None = None) -> None:
        """Let go; remove the file `delete` (the lock's own path) while it is still held."""
        if self._descriptor is None:
            return
        if delete is not None:
            delete.unlink(missing_ok=True)
        self.forget()

    def forget(self) -> None:
        """Close this process's share."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        _held.discard(self)


# Strong references: a lock that is dropped without release stays held, and must be given up too.
_held: set[FileLock] = set()


def _forget_all_in_child() -> None:
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_all_in_child)


def _acquire(path: Path, on_wait: Callable[[str], None] | None) -> int | None:
    waited = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not _try(descriptor):
                if on_wait is None:
                    os.close(descriptor)
                    return None
                if not waited:
                    on_wait(os.read(descriptor, 32).decode("ascii", "replace").strip())
                    waited = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The holder before us may have removed the file: then what we hold is nobody's lock.
            if _same_file(descriptor, path):
                with contextlib.suppress(OSError):  # a full disk need not stop anybody here
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock at `path` if nobody does; yields whether it is held."""
    lock = FileLock(path, on_wait=None)
    try:
        yield lock.held
    finally:
        lock.release()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock at `path` for a short while, waiting for it in silence."""
    lock = FileLock(path, on_wait=lambda holder: None)
    try:
        yield
    finally:
        lock.release()

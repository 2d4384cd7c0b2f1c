"""Sessions as the server sees them: a folder, perhaps a worker process, and the pages that look on.

What a worker says goes to every page of its session. A page that cannot keep up misses frames, not
states: of frames only the last few wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import shutil
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.console import say
from pipeline.edit import framing
from pipeline.edit.framing import Header
from pipeline.edit.sentences import Told
from pipeline.edit.server.keeping import Keeping, outdated

# Frames that wait for one page; older ones are dropped.
FRAMES_WAITING = 4
# Everything else that may wait for one page; one that lets more pile up is let go.
MOST_WAITING = 400
# A worker that is asked to end may first end what it is saving.
CLOSING_SECONDS = 25.0
DROPPABLE = frozenset({"frame", "preview"})
_ID = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)


class Refused(Told):
    """The server cannot do that now; `status` is the HTTP status."""

    def __init__(self, status: int, code: str, **values: object) -> None:
        super().__init__(code, **values)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What one server gives away."""

    sessions: int = 8  # worker processes at once
    upload_bytes: int = 25_000_000  # of a picture
    model_bytes: int = 1_500_000_000
    session_bytes: int = 500_000_000
    idle_seconds: float = 1200.0  # without a page, then the worker ends; the session stays


@dataclass(eq=False)
class Viewer:
    """What waits to be sent to one page."""

    waiting: deque[tuple[str, bytes]] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    lost: bool = False

    def put(self, kind: str, data: bytes) -> None:
        if kind in DROPPABLE:
            same = [item for item in self.waiting if item[0] == kind]
            if len(same) >= FRAMES_WAITING:
                self.waiting.remove(same[0])
        elif len(self.waiting) >= MOST_WAITING:
            self.lost = True
        self.waiting.append((kind, data))
        self.news.set()

    async def take(self) -> bytes | None:
        """The next message; None when this page has been let go."""
        while not self.waiting and not self.lost:
            self.news.clear()
            await self.news.wait()
        return None if self.lost else self.waiting.popleft()[1]


class Room:
    """One session."""

    def __init__(self, id: str, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.id, self.folder = id, folder
        self.viewers: set[Viewer] = set()
        self.left = time.monotonic()  # when the last page went
        self._process = process
        self._sending = asyncio.Lock()
        self.reader = asyncio.create_task(self._read())

    @property
    def alive(self) -> bool:
        return self._process.returncode is None and not self.reader.done()

    async def send(self, header: Header, body: bytes = b"") -> None:
        """To the worker; waits while it cannot take more."""
        await send(self._process, self._sending, header, body)

    async def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (length,) = struct.unpack(">I", await stream.readexactly(4))
                data = await stream.readexactly(length)
                header, _ = framing.unpack(data)
                for viewer in self.viewers:
                    viewer.put(header["type"], data)
        for viewer in self.viewers:
            viewer.lost = True
            viewer.news.set()

    async def close(self) -> None:
        """Let the worker save and end."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            await self.send({"type": "quit"})
            await asyncio.wait_for(self._process.wait(), CLOSING_SECONDS)
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self.reader.cancel()
        # Somebody looked in and left: nothing to keep.
        if not any((self.folder / name).exists() for name in ("upload", "session.json")):
            shutil.rmtree(self.folder, ignore_errors=True)


async def send(
    process: asyncio.subprocess.Process, lock: asyncio.Lock, header: Header, body: bytes
) -> None:
    data = framing.pack(header, body)
    assert process.stdin is not None
    async with lock:
        process.stdin.write(struct.pack(">I", len(data)) + data)
        await process.stdin.drain()


class Rooms:
    """All sessions below one folder."""

    def __init__(
        self, folder: Path, command: list[str], limits: Limits, keeping: Keeping | None = None
    ) -> None:
        self.folder, self.limits, self.keeping = folder, limits, keeping or Keeping()
        self._command = command
        self._open: dict[str, Room] = {}
        self._spare: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def warm(self) -> None:
        """Have a worker ready, so that the next session need not wait for one to start."""
        if self._spare is None or self._spare.returncode is not None:
            self._spare = await self._start()

    async def _start(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        # A group of its own: Ctrl-C in a terminal reaches a whole group, and a worker is to end
        # when the server tells it to, with its session on disk.
        return await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, limit=2**22, start_new_session=True
        )

    def path(self, id: str) -> Path:
        """The folder of a session that exists; Refused (404) otherwise."""
        if not _ID.fullmatch(id) or not (self.folder / id).is_dir():
            raise Refused(404, "gone")
        return self.folder / id

    def create(self) -> str:
        """A new session's id: whoever knows it may edit it, so nobody can guess it."""
        id = secrets.token_urlsafe(16)
        (self.folder / id).mkdir(parents=True, mode=0o700)
        return id

    async def enter(self, id: str) -> Room:
        """The session with a worker at work in it."""
        async with self._lock:
            folder = self.path(id)  # in here: it may be about to go
            room = self._open.get(id)
            if room is not None and room.alive:
                return room
            self._open.pop(id, None)
            if len(self._open) >= self.limits.sessions:
                await self._make_place()
            process = self._spare if self._spare and self._spare.returncode is None else None
            self._spare = None
            room = Room(id, folder, process or await self._start())
            self._open[id] = room
            await room.send({"type": "open", "folder": str(folder)})
            await self.warm()
            return room

    async def _make_place(self) -> None:
        empty = sorted((r for r in self._open.values() if not r.viewers), key=lambda r: r.left)
        if not empty:
            raise Refused(503, "places", most=self.limits.sessions)
        del self._open[empty[0].id]
        await empty[0].close()

    async def remove(self, id: str) -> None:
        """End a session and delete it."""
        async with self._lock:  # nobody enters it meanwhile
            folder = self.path(id)
            room = self._open.pop(id, None)
            if room is not None:
                await room.close()
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def forget_outdated(self) -> None:
        """Delete sessions that have lain too long, or are too many; see `keeping`."""
        gone = await asyncio.to_thread(outdated, self.folder, set(self._open), self.keeping)
        for folder in gone:
            async with self._lock:  # nobody enters it meanwhile
                if folder.name not in self._open:
                    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if gone:
            say(f"studio: {len(gone)} old sessions deleted (--keep-days, --keep-gb).")

    async def end_idle(self) -> None:
        """End the workers of sessions that nobody looks at any more."""
        for room in list(self._open.values()):
            # Whoever enters a session that is just ending waits: two workers must not write it.
            async with self._lock:
                idle = time.monotonic() - room.left > self.limits.idle_seconds
                ends = (idle and not room.viewers) or not room.alive
                if ends and self._open.get(room.id) is room:
                    del self._open[room.id]
                    await room.close()

    async def close(self) -> None:
        """End all workers; sessions stay on disk."""
        rooms, self._open = list(self._open.values()), {}
        await asyncio.gather(*(room.close() for room in rooms))
        if self._spare is not None and self._spare.returncode is None:
            self._spare.kill()
            await self._spare.wait()

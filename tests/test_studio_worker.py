"""The studio's worker loop and the rooms that workers sit in, with what goes wrong in them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from pipeline.edit import framing, worker
from pipeline.edit.framing import Header
from pipeline.edit.server.rooms import Limits, Rooms
from pipeline.edit.studio import reading
from pipeline.edit.worker import Inbox
from pipeline.errors import DataError


class Pipes:
    """A worker's two ends, and the server's."""

    def __init__(self) -> None:
        (read_in, write_in), (read_out, write_out) = os.pipe(), os.pipe()
        self.stdin, self.to = os.fdopen(read_in, "rb"), os.fdopen(write_in, "wb")
        self.heard, self.stdout = os.fdopen(read_out, "rb"), os.fdopen(write_out, "wb")

    def say(self, kind: str, **values: Any) -> None:
        framing.write(self.to, {"type": kind, **values})

    def close(self) -> None:
        """End what is said, so that the thread that reads ends, too."""
        self.to.close()
        with contextlib.suppress(BrokenPipeError):  # what nobody was there to hear
            self.stdout.close()
        self.heard.close()


class FailingDesk:
    """A desk none of whose steps can be computed."""

    palette: tuple[str, ...] = ()
    kind = ""  # of what its saver makes

    def __init__(
        self, folder: Path, makers: object, say: Callable[[Header, bytes], None], *_: object
    ) -> None:
        self.say, self.running, self.saved = say, False, 0
        self.saver = self
        made.append(self)

    def open(self, model: str) -> None:
        self.say({"type": "opened"}, b"")

    def tell(self) -> None:
        self.say({"type": "state", "running": self.running}, b"")

    def handle(self, header: Header, body: bytes, wanted: object) -> None:
        self.running = header["type"] == "run"
        self.tell()

    def tick(self) -> None:
        raise RuntimeError("no step")

    def idle(self) -> None: ...

    def save_session(self) -> None:
        self.saved += 1

    def wait(self, seconds: float) -> None: ...

    def take(self) -> None: ...


made: list[FailingDesk] = []


@pytest.fixture
def pipes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipes]:
    made.clear()
    monkeypatch.setattr(worker, "Desk", FailingDesk)
    pipes = Pipes()
    yield pipes
    pipes.close()


def serving(stdin: BinaryIO, stdout: BinaryIO) -> threading.Thread:
    arguments = (stdin, stdout, None, "model", "cpu")
    thread = threading.Thread(target=worker.serve, args=arguments, daemon=True)
    thread.start()
    return thread


def test_a_step_that_fails_is_said_once_and_ends_the_drag(pipes: Pipes) -> None:
    pipes.say("open", folder="nowhere")
    pipes.say("run")
    thread = serving(pipes.stdin, pipes.stdout)
    kinds = []
    while "error" not in kinds or kinds[-1] != "state":
        message = framing.read(pipes.heard)
        assert message is not None
        kinds.append(message[0]["type"])
    assert not message[0]["running"]
    pipes.say("quit")
    thread.join(10)
    assert not thread.is_alive()
    assert kinds == ["opened", "state", "state", "error", "state"]
    assert made[0].saved == 1


def test_a_killed_servers_session_is_put_on_disk(pipes: Pipes) -> None:
    pipes.heard.close()
    pipes.say("open", folder="nowhere")
    thread = serving(pipes.stdin, pipes.stdout)
    thread.join(10)
    assert not thread.is_alive()
    assert made[0].saved == 1


def test_a_number_without_end_is_none() -> None:
    with pytest.raises(DataError, match="face: x must be a number"):
        reading.number({"type": "face", "x": 10**400}, "x")


def test_work_ends_for_each_of_those_that_end_it(pipes: Pipes) -> None:
    inbox = Inbox(pipes.stdin)
    for kind in ("cancel", "quit"):
        pipes.say(kind)
    end = time.monotonic() + 10
    while inbox._waiting.qsize() < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert inbox.ending()
    inbox.take(wait=True)
    assert inbox.ending()  # one more waits
    inbox.take(wait=True)
    assert not inbox.ending()


# Notes when it begins and ends; takes its time to end, as one that is saving does.
WORKER = """
import os, sys, time
from pathlib import Path
from pipeline.edit import framing
log = Path(framing.read(sys.stdin.buffer)[0]["folder"]) / "log"
def note(words):
    with log.open("a") as stream:
        stream.write(words + "\\n")
note("begun" if os.getpgrp() == os.getpid() else "in the server's group")
while (message := framing.read(sys.stdin.buffer)) and message[0]["type"] != "quit":
    pass
time.sleep(0.4)
note("ended")
"""


def test_no_session_ever_has_two_workers(tmp_path: Path) -> None:
    async def leave_and_come_back() -> str:
        rooms = Rooms(tmp_path, [sys.executable, "-c", WORKER], Limits(idle_seconds=0))
        id = rooms.create()
        (tmp_path / id / "session.json").write_text("{}")
        await rooms.enter(id)
        await asyncio.sleep(0.01)
        ending = asyncio.create_task(rooms.end_idle())
        await asyncio.sleep(0.05)
        await rooms.enter(id)
        await ending
        await rooms.close()
        return id

    id = asyncio.run(leave_and_come_back())
    noted = (tmp_path / id / "log").read_text().split("\n")[:-1]
    assert noted == ["begun", "ended"] * 2

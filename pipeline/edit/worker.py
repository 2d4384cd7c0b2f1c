"""The loop of a worker process: messages of one session from a pipe, answers into another.

A thread reads, so that a page's word is heard while a step is computed; at most `QUEUE` messages
wait, then the pipe fills and the server stops sending. Between messages the drag takes its steps.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pipeline.console import complain
from pipeline.edit import framing
from pipeline.edit.framing import BadMessage, Header
from pipeline.edit.sentences import Told, said
from pipeline.edit.studio import taking
from pipeline.edit.studio.desk import Desk
from pipeline.edit.studio.makers import Makers, Say
from pipeline.errors import AnimedragError

QUEUE = 64
# A save that has begun may end after the page has gone; the server waits a little longer.
SAVING_SECONDS = 20.0
# These end the work at hand (an inversion) as soon as they come.
ENDING = frozenset({"cancel", "seed", "upload", "model", "quit"})

_Message = tuple[Header, bytes] | None


class Inbox:
    """What has come and was not taken yet."""

    def __init__(self, stream: BinaryIO) -> None:
        self._waiting: queue.Queue[_Message] = queue.Queue(QUEUE)
        self._ends = 0  # how many of those that end the work at hand are waiting
        self._counting = threading.Lock()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: BinaryIO) -> None:
        while True:
            try:
                message = framing.read(stream)
            except BadMessage:
                continue
            self._count(message, 1)
            self._waiting.put(message)
            if message is None:
                return

    def put(self, header: Header) -> None:
        """Leave a message from within."""
        self._waiting.put((header, b""))

    def take(self, wait: bool) -> _Message | bool:
        """The next message; None at the end; False where nothing waits."""
        try:
            message = self._waiting.get(block=wait)
        except queue.Empty:
            return False
        self._count(message, -1)
        return message

    def _count(self, message: _Message, by: int) -> None:
        if message is None or message[0]["type"] in ENDING:
            with self._counting:
                self._ends += by

    def ending(self) -> bool:
        """Whether something waits for which the work at hand is to be left."""
        return self._ends > 0


def serve(stdin: BinaryIO, stdout: BinaryIO, makers: Makers, model: str, device: str) -> None:
    """Serve one session until the pipe ends or `quit` comes. The first message is `open`."""
    inbox = Inbox(stdin)
    lock = threading.Lock()

    def say(header: Header, body: bytes) -> None:
        with lock:
            framing.write(stdout, header, body)

    first = inbox.take(wait=True)
    if not isinstance(first, tuple) or first[0]["type"] != "open":
        return
    desk = Desk(Path(first[0]["folder"]), makers, say, inbox.put, device)
    # A server that was killed hears no more; what was done is put on disk all the same.
    with contextlib.suppress(BrokenPipeError):
        _guarded(say, lambda: desk.open(str(first[0].get("model") or model)))
        desk.tell()
        _work(desk, inbox, say)
    desk.save_session()
    if desk.saver.kind == "sheet":  # it takes longer than anybody waits
        desk.saver.stop()
    desk.saver.wait(SAVING_SECONDS)
    with contextlib.suppress(AnimedragError):  # nobody is there to hear of it
        taking.kept(desk)


def _work(desk: Desk, inbox: Inbox, say: Say) -> None:
    """Do what is said until the pipe ends or `quit` comes."""
    while True:
        message = inbox.take(wait=False)
        if message is False and not desk.running:
            _guarded(say, desk.idle)  # so that many small moves are written once
            message = inbox.take(wait=not desk.palette)
            if message is False:
                continue
        if message is None:
            break
        if not isinstance(message, tuple):
            if not _guarded(say, desk.tick):
                desk.handle({"type": "pause"}, b"", inbox.ending)  # the next step would fail alike
            continue
        header, body = message
        if header["type"] == "quit":
            break
        if not _guarded(say, partial(desk.handle, header, body, inbox.ending)):
            desk.tell()


def _guarded(say: Say, work: Callable[[], None]) -> bool:
    """Do it; what is wrong becomes a message. Whether nothing was."""
    try:
        work()
    except AnimedragError as error:
        say({"type": "error", **said(error)}, b"")
    except BrokenPipeError:
        raise
    except Exception as error:  # a bug must not take the artist's session with it
        complain(traceback.format_exc())
        say({"type": "error", **said(Told("unforeseen", why=error))}, b"")
    else:
        return True
    return False

"""Sockets between the first process of a run and each of the others: orders, and who has died.

A process that dies, by whatever means, closes its sockets, so the first one knows at once, by
number, and tells the rest; collectives alone would hang or complain of a closed connection.
Whoever then still waits inside one is ended here after a short grace. Exactly one process is to
speak about it: the first, or the second where the first has died. Knows nothing about tensors.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch_utils.ranks import Ranks

# Seconds in which a process may end by itself once another one has failed.
GRACE = 5.0
# A machine that vanishes closes nothing; its silence is noticed after about a minute.
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4}
CONNECT_SECONDS = 60.0
LINE_LIMIT = 1 << 20

Message = dict[str, Any]


@dataclass(frozen=True)
class Trouble:
    """Why the run cannot go on. speaks: whether this process is the one to say it."""

    sentence: str
    exit_code: int
    speaks: bool


class Lifeline:
    """This process's end of the sockets. Made by `open_first` and `open_other`.

    Args:
        ranks: this process's place.
        peers: a connected socket by rank: all others for the first process, the first for others.
        describe_death: the sentence for a process that died without a word, from its rank.
        speak: prints a sentence where the process has to be ended from here.
    """

    def __init__(
        self,
        ranks: Ranks,
        peers: dict[int, socket.socket],
        describe_death: Callable[[int], str],
        speak: Callable[[str], None],
    ) -> None:
        self._ranks = ranks
        self._peers = peers
        self._describe_death = describe_death
        self._speak = speak
        self._orders: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._troubled = threading.Event()
        self._trouble: Trouble | None = None
        self._speaker: int | None = None  # the thread
        self._left: set[int] = set()
        self._lock = threading.Lock()
        self._closed = False
        for peer in peers.values():
            _keep_alive(peer)
        # A forked worker that outlives this process would keep its sockets open.
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    # ---- what the main thread calls ----

    def order(self, message: Message) -> None:
        """The first process: tell all others what to do next."""
        for rank in self._peers:
            self._send(rank, {"kind": "order", "order": message})

    def await_order(self) -> Message:
        """The others: what the first process says next; ConnectionError if it will say nothing."""
        message = self._orders.get()
        if message.get("kind") != "order":
            raise ConnectionError("the first process is gone")
        return dict(message["order"])

    def trouble(self, seconds: float) -> Trouble | None:
        """Why the run cannot go on, if that becomes known within so many seconds."""
        self._troubled.wait(seconds)
        return self._trouble

    def may_speak(self) -> bool:
        """Whether this thread is the one to say what is wrong: the first that asks, then and later.

        Later, because an exception that was to say it can be lost to a second Ctrl-C.
        """
        with self._lock:
            if self._speaker is None:
                self._speaker = threading.get_ident()
            return self._speaker == threading.get_ident()

    def report(self, sentence: str, exit_code: int) -> bool:
        """Another than the first: leave it to the first process to say what went wrong here.

        False if it cannot be asked any more.
        """
        return self._send(0, {"kind": "failed", "sentence": sentence, "exit_code": exit_code})

    def end(self, exit_code: int) -> None:
        """Take leave: the sockets' closing means no harm from here on."""
        for rank in self._peers:
            self._send(rank, {"kind": "end", "exit_code": exit_code})
        self._closed = True
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    # ---- the watching thread ----

    def _watch(self) -> None:
        selector = selectors.DefaultSelector()
        unread = dict.fromkeys(self._peers, b"")
        for rank, peer in self._peers.items():
            selector.register(peer, selectors.EVENT_READ, rank)
        while selector.get_map():
            for key, _ in selector.select():
                rank = int(key.data)
                data = _receive(self._peers[rank])
                if not data:
                    selector.unregister(self._peers[rank])
                    self._on_end_of_line(rank)
                    continue
                *lines, unread[rank] = (unread[rank] + data).split(b"\n")
                for line in lines:
                    self._on_message(rank, json.loads(line))

    def _on_message(self, rank: int, message: Message) -> None:
        kind = message["kind"]
        if kind == "order":
            self._orders.put(message)
        elif kind == "end":
            self._left.add(rank)
            if message["exit_code"]:
                # It has said itself what is wrong.
                self._set(Trouble("", message["exit_code"], speaks=False))
        elif kind == "failed":
            sentence = f"Rank {rank} (of {self._ranks.size}): {message['sentence']}"
            self._fail(Trouble(sentence, message["exit_code"], speaks=True))
        elif kind == "trouble":
            self._set(Trouble(message["sentence"], message["exit_code"], speaks=False))

    def _on_end_of_line(self, rank: int) -> None:
        if self._closed or rank in self._left:
            if not self._ranks.is_first:
                self._orders.put({"kind": "end"})
            return
        speaks = self._ranks.rank == (1 if rank == 0 else 0)
        self._fail(Trouble(self._describe_death(rank), 1, speaks))

    def _fail(self, trouble: Trouble) -> None:
        if self._ranks.is_first:
            told = {"kind": "trouble", **vars(trouble)}
            for rank in self._peers:
                self._send(rank, told)
        self._set(trouble)

    def _set(self, trouble: Trouble) -> None:
        """Note the trouble; if the main thread cannot deal with it in time, end the process."""
        if self._trouble is not None:
            return
        self._trouble = trouble
        self._troubled.set()
        self._orders.put({"kind": "end"})
        timer = threading.Timer(GRACE, self._end_process, [trouble])
        timer.daemon = True
        timer.start()

    def _end_process(self, trouble: Trouble) -> None:
        if self._closed:
            return
        if trouble.speaks and self.may_speak():
            self._speak(trouble.sentence)
        os._exit(trouble.exit_code)

    # ---- sockets ----

    def _send(self, rank: int, message: Message) -> bool:
        try:
            with self._lock:
                self._peers[rank].sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def _forget(self) -> None:
        for peer in self._peers.values():
            peer.close()


class Meeting:
    """The first process's door: where the others connect to, and the word they must know."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.word = secrets.token_hex(16)
        if ranks.local_size == ranks.size:
            self._server = socket.create_server(("127.0.0.1", 0))
        elif socket.has_dualstack_ipv6():
            self._server = socket.create_server(
                ("", 0), family=socket.AF_INET6, dualstack_ipv6=True
            )
        else:
            self._server = socket.create_server(("", 0))
        self.port = int(self._server.getsockname()[1])

    def wait(self) -> dict[int, socket.socket]:
        """The others' sockets by rank; OSError if they do not all come in time."""
        found: dict[int, socket.socket] = {}
        self._server.settimeout(CONNECT_SECONDS)
        with self._server:
            while len(found) < self._ranks.size - 1:
                peer, _ = self._server.accept()
                peer.settimeout(CONNECT_SECONDS)
                with contextlib.suppress(OSError, ValueError):
                    word, rank = _read_line(peer).split()
                    if word == self.word:
                        peer.settimeout(None)
                        found[int(rank)] = peer
        return found


def connect(ranks: Ranks, host: str, port: int, word: str) -> dict[int, socket.socket]:
    """Another process's socket to the first one; OSError if it is not there."""
    address = "127.0.0.1" if ranks.local_size == ranks.size else host
    peer = socket.create_connection((address, port), CONNECT_SECONDS)
    peer.settimeout(None)
    peer.sendall(f"{word} {ranks.rank}\n".encode())
    return {0: peer}


def _read_line(peer: socket.socket) -> str:
    line = b""
    while not line.endswith(b"\n"):
        byte = peer.recv(1)
        if not byte or len(line) > LINE_LIMIT:
            raise ValueError("no line")
        line += byte
    return line.decode()


def _receive(peer: socket.socket) -> bytes:
    try:
        return peer.recv(1 << 16)
    except OSError:
        return b""


def _keep_alive(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in KEEPALIVE.items():
        option = getattr(socket, name, None)  # not on every system
        if option is not None:
            peer.setsockopt(socket.IPPROTO_TCP, option, value)

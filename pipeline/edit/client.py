"""A small client of the studio: the same work without a page.

    with Client("http://localhost:7860") as studio:
        studio.send("seed", seed=3)
        studio.wait("state", lambda head: head["phase"] == "ready")
        studio.send("add", position=[21, 36], target=[21, 40])
        studio.send("run")
        head, _ = studio.wait("ended")

Messages are those of docs/studio.md.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from types import TracebackType
from typing import Any

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from pipeline.edit import framing
from pipeline.edit.framing import Header
from pipeline.errors import AnimedragError


class StudioError(AnimedragError):
    """The studio refused, or did not answer in time."""


class Client:
    """One session: a new one, or the one called `session`."""

    def __init__(self, address: str, session: str | None = None, token: str = "") -> None:
        self.address = address.rstrip("/")
        self._token = token
        self.session = session or json.loads(self.request("POST", "/api/sessions"))["id"]
        socket = self.address.replace("http", "ws", 1)
        try:
            self._socket = connect(
                f"{socket}/api/sessions/{self.session}/socket",
                additional_headers=self._headers(),
                max_size=framing.MAX_BYTES,
            )
        except (OSError, WebSocketException) as error:
            raise StudioError(f"{self.address} lets nobody into the session ({error}).") from error

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """An HTTP request; StudioError with the studio's sentence where it refuses."""
        asked = urllib.request.Request(
            self.address + path, data=body, method=method, headers=self._headers()
        )
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                data: bytes = answer.read()
                return data
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            with contextlib.suppress(ValueError, KeyError, TypeError):
                text = json.loads(text)["detail"]
            raise StudioError(f"{error.code}: {text}") from error
        except urllib.error.URLError as error:
            raise StudioError(f"No studio answers at {self.address} ({error.reason}).") from error

    def upload(self, picture: bytes) -> None:
        """Give the drawing; its faces come as a state in the phase `faces`."""
        self.request("PUT", f"/api/sessions/{self.session}/picture", picture)

    def send(self, kind: str, body: bytes = b"", **values: Any) -> None:
        """Say something."""
        self._socket.send(framing.pack({"type": kind, **values}, body))

    def receive(self, seconds: float = 60.0) -> tuple[Header, bytes]:
        """The next message of any kind."""
        try:
            data = self._socket.recv(timeout=seconds)
        except TimeoutError:
            raise StudioError(f"Nothing came for {seconds:g} seconds.") from None
        except ConnectionClosed as error:
            raise StudioError(f"The studio has closed the connection ({error}).") from error
        assert isinstance(data, bytes)
        return framing.unpack(data)

    def wait(
        self, kind: str, when: Callable[[Header], bool] = lambda head: True, seconds: float = 60.0
    ) -> tuple[Header, bytes]:
        """The next message of that kind of which `when` is true; an error message raises."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            head, body = self.receive(left)
            if head["type"] == kind and when(head):
                return head, body
            if head["type"] == "error":
                raise StudioError(head["message"])
        raise StudioError(f"No {kind} came within {seconds:g} seconds.")

    def close(self) -> None:
        """Leave; the session stays."""
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

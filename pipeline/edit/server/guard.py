"""Who may speak to the studio: Host, Origin and token of every request and socket.

A page of another site can make a browser send requests to this machine (cross-site WebSockets) or
point its own name here (DNS rebinding). So the Host must be one that the studio was told to serve,
an Origin must be that same host, and beyond loopback a token is asked for as well. Pure ASGI:
nothing of a request that is refused is read.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

COOKIE = "studio"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# No inline script or style, nothing from elsewhere; pictures may be made in the page (blob:).
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


@dataclass
class Guard:
    """Lets through to `app` what may pass. `hosts`: names without port; `token`: "" asks none."""

    app: App
    hosts: tuple[str, ...]
    token: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        status, why = self._verdict(headers, scope)
        if scope["type"] == "websocket":
            if why:
                await receive()
                await send({"type": "websocket.close", "code": 4403, "reason": why[:120]})
            else:
                await self.app(scope, receive, send)
            return
        given = _query_token(scope)
        if not why and self.token and scope["path"] == "/" and given:
            cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            to_page = [(b"location", b"/"), (b"set-cookie", cookie.encode())]
            await _answer(send, 303, "", to_page)
        elif why:
            await _answer(send, status, why)
        else:
            await self.app(scope, receive, _with_headers(send))

    def _verdict(self, headers: dict[str, str], scope: Scope) -> tuple[int, str]:
        """Status and reason of a refusal; an empty reason lets it pass."""
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if name.lower() not in self.hosts:
            return 421, f"This studio does not answer to the name {name[:60]!r}."
        origin = headers.get("origin")
        if origin is not None and _host_of(origin) != host:
            return 403, "This studio answers to its own page only."
        changes = scope["type"] == "websocket" or scope.get("method") not in ("GET", "HEAD")
        if changes and origin is None and headers.get("sec-fetch-site", "none") not in (
            "none", "same-origin",
        ):  # fmt: skip
            return 403, "This studio answers to its own page only."
        if self.token and not self._has_token(headers, scope):
            return 401, "Open the studio with the address it printed: the token is missing."
        return 200, ""

    def _has_token(self, headers: dict[str, str], scope: Scope) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer] if scheme.lower() == "bearer" else []
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
            given += [cookie.value] if cookie else []
        except CookieError:
            pass
        if scope["type"] == "http" and scope["path"] == "/":
            given.append(_query_token(scope))
        return any(hmac.compare_digest(one.encode(), self.token.encode()) for one in given)


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # no address at all
        return ""


def _query_token(scope: Scope) -> str:
    return parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]


async def _answer(
    send: Send, status: int, text: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    kind = [(b"content-type", b"text/plain; charset=utf-8")]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*kind, *(headers or [])]}
    )
    await send({"type": "http.response.body", "body": text.encode()})


def _with_headers(send: Send) -> Send:
    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *HEADERS]
        await send(message)

    return wrapped

"""HTTP and WebSocket of the studio. Knows rooms and files to send; nothing of drags and networks.

Sessions have ids of our making; see `transfers` for what goes into them and comes out.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from pipeline.artifacts.store import Store
from pipeline.edit.server.messages import schema
from pipeline.edit.server.rooms import Refused, Rooms
from pipeline.edit.server.socket import converse
from pipeline.edit.server.transfers import transfers
from pipeline.edit.shipped import shown_name

PAGE = Path(__file__).parent.parent / "page"
IDLE_CHECK_SECONDS = 20
# Sessions on disk are looked through at the start, and then so many idle checks apart.
KEEPING_CHECKS = 15


def make_app(rooms: Rooms, store: Store, first: Path) -> FastAPI:
    """The application; `guard.Guard` stands before it. `first`: the model to begin with, as the
    workers are told it: its folder, resolved.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await rooms.warm()
        sweeper = asyncio.create_task(_sweep(rooms))
        yield
        sweeper.cancel()
        await rooms.close()

    app = FastAPI(
        title="animedrag studio",
        description="Sessions over HTTP, their work over a WebSocket: see docs/studio.md.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse(
            {"detail": str(error), "code": error.code, "values": error.values},
            status_code=error.status,
        )

    @app.get("/api/models", tags=["models"])
    def models() -> list[dict[str, Any]]:
        """Every model: `reference`, `name`, `side` in pixels; the one to begin with comes first."""
        folders = {shown_name(store, first): first}
        for artifact in store.artifacts("model"):
            folders.setdefault(str(artifact), artifact.folder)
        return [
            {"reference": name, "name": name, "side": _side(folder)}
            for name, folder in folders.items()
        ]

    @app.get("/api/machine", tags=["machine"])
    def machine() -> dict[str, Any]:
        """What computes here."""
        limits = rooms.limits
        return {"processors": len(os.sched_getaffinity(0)), "sessions": limits.sessions,
                "upload_bytes": limits.upload_bytes, "model_bytes": limits.model_bytes,
                "session_bytes": limits.session_bytes}  # fmt: skip

    @app.post("/api/sessions", status_code=201, tags=["sessions"])
    def create() -> dict[str, str]:
        """A new session; its id is the key to it."""
        return {"id": rooms.create()}

    @app.get("/api/sessions/{id}", tags=["sessions"])
    def exists(id: str) -> dict[str, str]:
        """404 unless the session can be entered."""
        rooms.path(id)
        return {"id": id}

    @app.delete("/api/sessions/{id}", status_code=204, tags=["sessions"])
    async def remove(id: str) -> None:
        """End the session and delete what it holds; edits that were saved stay."""
        await rooms.remove(id)

    app.include_router(transfers(rooms))

    @app.websocket("/api/sessions/{id}/socket")
    async def socket(websocket: WebSocket, id: str) -> None:
        await websocket.accept()
        try:
            room = await rooms.enter(id)
        except Refused as error:
            await websocket.close(4000 + error.status, str(error)[:120])
            return
        await converse(websocket, room)

    described = app.openapi

    def openapi() -> dict[str, Any]:
        """With what is said over the socket, which OpenAPI has no words for."""
        return {**described(), "x-socket": schema()}

    app.openapi = openapi  # type: ignore[method-assign]
    app.mount("/", _Page(directory=PAGE, html=True))
    return app


class _Page(StaticFiles):
    """Asked for anew each time, so that a page never meets another version's modules."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


async def _sweep(rooms: Rooms) -> None:
    for number in itertools.count():
        if number % KEEPING_CHECKS == 0:
            await rooms.forget_outdated()
        await asyncio.sleep(IDLE_CHECK_SECONDS)
        await rooms.end_idle()


def _side(folder: Path) -> int | None:
    try:
        data = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
        return int(data["networks"]["G_ema"]["arguments"]["img_resolution"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

"""HTTP and WebSocket of the studio. Knows rooms and files to send; nothing of drags and networks.

No name that a client sends becomes a path: sessions have ids of our making, and what can be taken
home is a closed table.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from pipeline.artifacts.store import Store
from pipeline.edit import framing
from pipeline.edit.framing import BadMessage
from pipeline.edit.server.rooms import Refused, Room, Rooms, Viewer
from pipeline.edit.session_file import frame_picture

PAGE = Path(__file__).parent.parent / "page"
IDLE_CHECK_SECONDS = 20
# What can be taken home: word in the address -> file of the edit.
KEPT = {
    "face.png": "result.png",
    "picture.png": "full.png",
    "before-after.png": "before_after.png",
    "film.mp4": "frames.mp4",
    "film.gif": "frames.gif",
    "film.webp": "frames.webp",
    "recipe.json": "recipe.json",
}


def make_app(rooms: Rooms, store: Store, shipped: Path) -> FastAPI:
    """The application; `guard.Guard` stands before it."""

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
        return JSONResponse({"detail": str(error)}, status_code=error.status)

    @app.get("/api/models")
    def models() -> list[dict[str, Any]]:
        """Every model: `reference`, `name`, `side` in pixels; the one that ships comes first."""
        found = [{"reference": str(shipped), "name": shipped.name, "side": _side(shipped)}]
        for artifact in store.artifacts("model"):
            found.append(
                {"reference": str(artifact), "name": str(artifact), "side": _side(artifact.folder)}
            )
        return found

    @app.get("/api/machine")
    def machine() -> dict[str, Any]:
        """What computes here."""
        return {"processors": len(os.sched_getaffinity(0)), "sessions": rooms.limits.sessions,
                "upload_bytes": rooms.limits.upload_bytes}  # fmt: skip

    @app.post("/api/sessions", status_code=201)
    def create() -> dict[str, str]:
        """A new session; its id is the key to it."""
        return {"id": rooms.create()}

    @app.get("/api/sessions/{id}")
    def exists(id: str) -> dict[str, str]:
        """404 unless the session can be entered."""
        rooms.path(id)
        return {"id": id}

    @app.delete("/api/sessions/{id}", status_code=204)
    async def remove(id: str) -> None:
        """End the session and delete what it holds; edits that were saved stay."""
        await rooms.remove(id)

    @app.put("/api/sessions/{id}/picture", status_code=202)
    async def upload(id: str, request: Request) -> dict[str, str]:
        """The drawing (body: an image file). Faces in it come over the socket."""
        folder = rooms.path(id)
        await _receive(request, folder / "upload", rooms.limits.upload_bytes)
        await (await rooms.enter(id)).send({"type": "upload"})
        return {"id": id}

    @app.get("/api/sessions/{id}/picture")
    def picture(id: str) -> Response:
        """The drawing as a PNG, upright."""
        return _file(rooms.path(id) / "upload.png")

    @app.get("/api/sessions/{id}/frames/{frame}")
    def frame(id: str, frame: int) -> Response:
        """The picture of a frame, a PNG of the model's size."""
        path = frame_picture(rooms.path(id), frame) if 0 <= frame < 10**6 else None
        return _file(path, "private, max-age=86400, immutable")

    @app.get("/api/sessions/{id}/kept/{file}")
    def kept(id: str, file: str) -> Response:
        """What the last save made."""
        folder = rooms.path(id)
        try:
            about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            edit = Path(about["saved"]["folder"])
        except (OSError, ValueError, KeyError, TypeError):
            raise Refused("Nothing has been saved yet.", 404) from None
        name = KEPT.get(file)
        return _file(None if name is None else edit / name, "no-store", f"animedrag-{file}")

    @app.websocket("/api/sessions/{id}/socket")
    async def socket(websocket: WebSocket, id: str) -> None:
        await websocket.accept()
        try:
            room = await rooms.enter(id)
        except Refused as error:
            await websocket.close(4000 + error.status, str(error)[:120])
            return
        await _converse(websocket, room)

    app.mount("/", _Page(directory=PAGE, html=True))
    return app


class _Page(StaticFiles):
    """Asked for anew each time, so that a page never meets another version's modules."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


async def _sweep(rooms: Rooms) -> None:
    while True:
        await asyncio.sleep(IDLE_CHECK_SECONDS)
        await rooms.end_idle()


async def _receive(request: Request, path: Path, most: int) -> None:
    """The body, written aside; Refused as soon as it is larger than `most`."""
    aside = path.with_suffix(".part")
    too_large = Refused(f"The picture is larger than {most // 10**6} MB; use a smaller copy.", 413)
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and int(told) > most:
        raise too_large
    size = 0
    with aside.open("wb") as stream:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                aside.unlink()
                raise too_large
            stream.write(chunk)
    if not size:
        raise Refused("The picture is empty.", 400)
    aside.replace(path)


def _file(path: Path | None, cache: str = "no-store", name: str | None = None) -> Response:
    if path is None or not path.is_file():
        raise Refused("There is no such file.", 404)
    return FileResponse(path, headers={"cache-control": cache}, filename=name)


def _side(folder: Path) -> int | None:
    try:
        data = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
        return int(data["networks"]["G_ema"]["arguments"]["img_resolution"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def _converse(websocket: WebSocket, room: Room) -> None:
    """Pass on what the page and the worker say until one of them is gone."""
    viewer = Viewer()
    room.viewers.add(viewer)

    async def outward() -> None:
        while (data := await viewer.take()) is not None:
            await websocket.send_bytes(data)
        await websocket.close(4500, "The work has ended; connect again.")

    async def inward() -> None:
        while True:
            header, body = framing.unpack(await websocket.receive_bytes())
            if header["type"] not in ("open", "quit", "upload", "kept"):
                await room.send(header, body)

    tasks = [asyncio.create_task(outward()), asyncio.create_task(inward())]
    try:
        await room.send({"type": "sync"})
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if isinstance(task.exception(), BadMessage):
                await websocket.close(1003, "That is no message.")
    except (WebSocketDisconnect, ConnectionError, RuntimeError):
        pass
    finally:
        room.viewers.discard(viewer)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        room.left = time.monotonic()
        if not room.viewers and room.alive:
            # Nobody looks on any more: what runs is stopped and put on disk.
            with contextlib.suppress(ConnectionError):
                await room.send({"type": "pause"})

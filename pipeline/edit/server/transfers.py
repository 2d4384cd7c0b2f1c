"""What goes into a session and comes out of it over HTTP: pictures, models, sessions, edits.

No name that a client sends becomes a path: what comes is called as this module says, and what can
be taken home is a closed table.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from starlette.requests import ClientDisconnect

from pipeline.edit.kept import KEPT, SHEET
from pipeline.edit.server.rooms import Refused, Rooms
from pipeline.edit.session_file import frame_picture

# As pipeline.edit.studio.transfers knows them.
PACKED, BROUGHT, BROUGHT_MODELS = "session.animedrag", "brought.animedrag", "brought"
# What must stay free on the disk beyond the largest thing that may come.
SPARE_BYTES = 500_000_000
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def transfers(rooms: Rooms) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/api/sessions/{id}")
    limits = rooms.limits

    @router.put("/picture", status_code=202, tags=["pictures"])
    async def upload(id: str, request: Request) -> dict[str, str]:
        """The drawing (body: an image file). Faces in it come over the socket."""
        folder = rooms.path(id)
        await _receive(request, folder / "upload", limits.upload_bytes, "picture")
        await (await rooms.enter(id)).send({"type": "upload"})
        return {"id": id}

    @router.get("/picture", response_class=FileResponse, tags=["pictures"])
    def picture(id: str) -> Response:
        """The drawing as a PNG, upright."""
        return _file(rooms.path(id) / "upload.png")

    @router.get("/frames/{frame}", response_class=FileResponse, tags=["pictures"])
    def frame(id: str, frame: int) -> Response:
        """The picture of a frame, a PNG of the model's size.

        It may be kept for as long as the state's `work` is the same; the page adds that to the
        address.
        """
        path = frame_picture(rooms.path(id), frame) if 0 <= frame < 10**6 else None
        return _file(path, "private, max-age=86400, immutable")

    @router.put("/model", status_code=202, tags=["models"])
    async def bring_model(id: str, name: str, request: Request) -> dict[str, str]:
        """A network pickle (body: a .pkl or .pt file) to be imported as `model/NAME`.

        It is read in a process bounded in memory and time that runs no code of it; `imported`, or
        `error`, comes over the socket.
        """
        if not _MODEL_NAME.fullmatch(name):
            raise Refused(400, "model_name")
        folder = rooms.path(id) / BROUGHT_MODELS
        folder.mkdir(exist_ok=True)
        await _receive(request, folder / f"{name}.pkl", limits.model_bytes, "model")
        await (await rooms.enter(id)).send({"type": "import", "name": name})
        return {"id": id}

    @router.put("/file", status_code=202, tags=["sessions"])
    async def bring_session(id: str, request: Request, replay: bool = False) -> dict[str, str]:
        """A session file (body), to go on with; `replay`: only its points and mask are taken."""
        await _receive(request, rooms.path(id) / BROUGHT, limits.session_bytes, "session file")
        kind = "replay" if replay else "reopen"
        await (await rooms.enter(id)).send({"type": kind})
        return {"id": id}

    @router.get("/file", response_class=FileResponse, tags=["sessions"])
    def take_session(id: str) -> Response:
        """The session as one file, as the last `pack` over the socket wrote it."""
        return _file(rooms.path(id) / PACKED, "no-store", "session.animedrag")

    @router.get("/kept/{file}", response_class=FileResponse, tags=["edits"])
    def kept(id: str, file: str) -> Response:
        """What the last save made: face.png, film.mp4, ...; what the last sheet: sheet.png, ..."""
        folder = rooms.path(id)
        try:
            about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            saved = Path(about["sheet" if file in SHEET else "saved"]["folder"])
        except (OSError, ValueError, KeyError, TypeError):
            raise Refused(404, "not_saved") from None
        name = {**KEPT, **SHEET}.get(file)
        return _file(None if name is None else saved / name, "no-store", f"animedrag-{file}")

    return router


async def _receive(request: Request, path: Path, most: int, what: str) -> None:
    """The body, written aside; Refused as soon as it is larger than `most`."""
    # Two pages of one session may send at once.
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    too_large = Refused(413, "too_large", name=what, mb=most // 10**6)
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and int(told) > most:
        raise too_large
    if shutil.disk_usage(path.parent).free < most + SPARE_BYTES:
        raise Refused(507, "disk_full")
    size = 0
    try:
        with aside.open("wb") as stream:
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise too_large
                stream.write(chunk)
        if not size:
            raise Refused(400, "empty_file")
        aside.replace(path)
    except ClientDisconnect:
        raise Refused(400, "in_part") from None
    finally:
        aside.unlink(missing_ok=True)


def _file(path: Path | None, cache: str = "no-store", name: str | None = None) -> Response:
    if path is None or not path.is_file():
        raise Refused(404, "no_file")
    return FileResponse(path, headers={"cache-control": cache}, filename=name)

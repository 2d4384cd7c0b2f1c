"""A page's socket: passes on what the page and the worker say until one of them is gone."""

from __future__ import annotations

import asyncio
import contextlib
import time

from fastapi import WebSocket, WebSocketDisconnect

from pipeline.edit import framing
from pipeline.edit.framing import BadMessage
from pipeline.edit.server.rooms import Room, Viewer

# The server's own words to a worker; a page's are dropped.
RESERVED = frozenset({"open", "quit", "upload", "kept", "import", "reopen", "replay"})


async def converse(websocket: WebSocket, room: Room) -> None:
    """Serve one page; when the last one goes, the drag pauses."""
    viewer = Viewer()
    room.viewers.add(viewer)

    async def outward() -> None:
        while (data := await viewer.take()) is not None:
            await websocket.send_bytes(data)
        await websocket.close(4500, "The work has ended; connect again.")

    async def inward() -> None:
        while True:
            header, body = framing.unpack(await websocket.receive_bytes())
            if header["type"] not in RESERVED:
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

"""What is said over the socket, described for people: the API page and docs/studio.md show it.

Each message is a JSON header with a `type`, then bytes (see `framing`). The desk (studio/) carries
them out; a test watches that it knows what is listed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Message:
    """One kind; `fields`: names in the header besides `type`."""

    type: str
    fields: tuple[str, ...]
    meaning: str
    body: str = ""


TO_STUDIO = (
    Message("gallery", ("first", "count"), "at most 24 samples of the model"),
    Message("seed", ("seed",), "edit that face of the model"),
    Message("model", ("model",), "another model: a `reference` of /api/models"),
    Message(
        "face", ("x", "y", "width", "roll"),
        "where the face of the uploaded picture lies, in its pixels and degrees",
    ),
    Message("cancel", (), "leave the picture; an inversion in progress ends"),
    Message("add", ("position", "target", "mirrored"), "a point, and where it is to go"),
    Message("move", ("id", "position", "target"), "another place, another target, or both"),
    Message("remove", ("id",), "take a point away"),
    Message("mask", (), "what must stay; no body: nothing", "height x width bytes, 255 keeps"),
    Message("run", (), "drag until the points arrive or somebody stops it"),
    Message("pause", (), "stop"),
    Message("step", (), "one step"),
    Message("seek", ("frame",), "show that frame and go on from there"),
    Message("undo", (), "back to before what was done last"),
    Message("redo", (), "the opposite of undo"),
    Message("go", ("node",), "to anything that was ever done, on whatever branch"),
    Message("recipe", ("recipe",), "the points and the mask of a recipe"),
    Message("carry", (), "take the points along to the next picture"),
    Message("drop", (), "leave them behind after all"),
    Message("full", (), "asks for the whole picture"),
    Message("save", ("name",), "file it as edit/NAME; the work goes on meanwhile"),
    Message("moods", (), "asks for a `mood` of each emotion"),
    Message(
        "express", ("emotions", "sliders", "mirror"),
        "the face with that emotion: names with strengths, see docs/emotions.md",
    ),
    Message("enter", (), "put the emotion shown into the session, to drag on from there"),
    Message("save_mood", ("name",), "file the emotion shown as edit/NAME"),
    Message("sheet", ("name", "emotions"), "file a sheet of a drawing in all emotions, and a loop"),
    Message("stop_sheet", (), "leave the sheet that is being made; asked for again, it goes on"),
    Message("pack", (), "write the session as one file, to be had over HTTP"),
    Message("sync", (), "asks for a `state`"),
)  # fmt: skip
FROM_STUDIO = (
    Message("state", ("phase", "..."), "all there is: phase, handles, frame, timeline, nodes, ..."),
    Message("sample", ("seed",), "a face of the model", "PNG"),
    Message("phase", ("phase",), "what takes a while: finding, importing, expressing"),
    Message("preview", ("phase", "step", "steps", "seconds"), "an inversion in progress", "PNG"),
    Message(
        "frame", ("frame", "parent", "step", "distance", "handles", "loss"),
        "a step made this picture", "PNG",
    ),
    Message("full", ("frame",), "the whole picture", "WebP, at most 1600 px"),
    Message("mood", ("emotion",), "the face in that emotion, small", "PNG"),
    Message(
        "expressed", ("frame", "text", "whole", "reads", "method"),
        "the whole drawing, or the face, with an emotion, and what the face reader takes it for",
        "WebP, at most 1600 px",
    ),
    Message("ended", ("status", "reason"), "the drag stopped by itself"),
    Message("imported", ("reference",), "a model that was brought can be used"),
    Message("packed", ("bytes",), "the session's file can be had"),
    Message(
        "error", ("message", "code", "values"),
        "one sentence, and by what code it can be said in other words; a `state` follows",
    ),
)  # fmt: skip


def schema() -> dict[str, Any]:
    """Both tables, as plain values."""
    return {
        "path": "/api/sessions/{id}/socket",
        "framing": "Binary messages: the header's length (4 bytes, big-endian), the header (a JSON "
        "object with `type`), a body. Points are [x, y] in pixels of the face.",
        "toStudio": [vars(message) for message in TO_STUDIO],
        "fromStudio": [vars(message) for message in FROM_STUDIO],
    }

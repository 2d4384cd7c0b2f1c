"""What an artist takes home: the picture as a whole, and an edit filed with its lineage."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.edit import take
from pipeline.edit.sentences import Told
from pipeline.edit.session import Session
from pipeline.edit.studio import encoding, home
from pipeline.errors import Interrupted

if TYPE_CHECKING:
    from pipeline.edit.studio.desk import Desk


def show_full(desk: Desk) -> None:
    """Say the uploaded picture with the face shown in its place."""
    session, _ = desk.ready()
    assert desk.subject is not None
    full = home.full_picture(session, desk.subject)
    if full is not None:
        desk.say({"type": "full", "frame": session.frame.id}, encoding.webp(full))


def save(desk: Desk, name: str) -> None:
    """Begin to file the way to the frame shown as an edit; `kept` ends it."""
    session, _ = desk.ready()
    assert desk.subject is not None
    if desk.saver.busy:
        raise Told("busy")
    folder = write_take(desk, session)
    keep = partial(desk.makers.keep, desk.model_reference, desk.subject.inversion, folder, name)
    desk.saver.start(keep, session.frame.id, desk.subject)


def write_take(desk: Desk, session: Session) -> Path:
    """Write the way to the frame that a session of the desk's shows as a take (see
    `pipeline.edit.take`): its folder."""
    _, engine = desk.ready()
    assert desk.subject is not None
    about = {key: value for key, value in desk.subject.about.items() if key != "inversion"}
    folder = desk.folder / "take"
    shutil.rmtree(folder, ignore_errors=True)
    take.write(session, home.recipe_of(session, engine), about, desk.frame_png, folder)
    return folder


def kept(desk: Desk) -> None:
    """A save has ended: remember where the edit lies. DataError where it failed."""
    result = desk.saver.take()
    if result is None:
        return
    if isinstance(result.failed, Interrupted):  # as the page asked
        return
    if result.failed is not None:
        raise result.failed
    if desk.subject is result.of:  # another face has its own saves
        told = {"reference": result.reference, "folder": str(result.folder),
                "frame": result.frame}  # fmt: skip
        if result.kind == "sheet":
            desk.sheet = told
        else:
            desk.saved = told
        desk.write_about()

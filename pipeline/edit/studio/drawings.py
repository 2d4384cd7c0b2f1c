"""A drawing that was brought: its faces are looked for, and one is found in the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from pipeline.edit.sandbox import decode_upload
from pipeline.edit.sentences import Told
from pipeline.edit.studio import encoding, face_places, reading, subject
from pipeline.edit.studio.makers import Header, Say, Wanted
from pipeline.edit.studio.subject import Subject
from pipeline.errors import AnimedragError, Interrupted
from torch_utils.pixels import to_uint8

if TYPE_CHECKING:
    from pipeline.edit.studio.desk import Desk

PREVIEW_SECONDS = 0.4


def find_faces(desk: Desk) -> None:
    """Read the upload, leave what was edited, and look for faces."""
    desk.say({"type": "phase", "phase": "finding"}, b"")
    picture = decode_upload(desk.folder / "upload")
    faces = face_places.find(picture, desk.makers.model(desk.model_reference))
    desk.leave()
    desk.picture_size = picture.shape[1], picture.shape[0]
    desk.faces, desk.phase = faces, "faces"
    # Upright and plain, so that the page shows the same pixels that the boxes speak of.
    Image.fromarray(picture).save(desk.folder / "upload.png")
    desk.write_about()  # opened again, it is of this drawing and no longer of what was left


def cancel(desk: Desk) -> None:
    """Leave the drawing, and whatever was edited."""
    desk.leave()
    for name in ("upload", "upload.png"):
        (desk.folder / name).unlink(missing_ok=True)
    desk.write_about()


def invert(desk: Desk, header: Header, wanted: Wanted) -> None:
    """Find the face at that place of the drawing in the model, showing how it comes on."""
    if not (desk.folder / "upload.png").is_file():
        raise Told("no_picture")
    numbers = [reading.number(header, key) for key in ("x", "y", "width")]
    roll = reading.number(header, "roll") if "roll" in header else 0.0
    crop = ",".join(f"{value:.3f}" for value in [*numbers, roll])
    desk.phase = "inverting"
    desk.tell()
    try:
        inversion = desk.makers.invert(
            desk.model_reference, desk.folder / "upload.png", crop, "studio",
            _preview(desk.say), wanted,
        )  # fmt: skip
    except Interrupted:
        desk.phase = "faces"
        return
    except AnimedragError:
        desk.phase = "faces"
        raise
    desk.begin_with(of_inversion(desk, inversion))


def of_inversion(desk: Desk, inversion: Path) -> Subject:
    """What an inversion made with the desk's model shows."""
    return subject.of_drawing(inversion, desk.makers.model(desk.model_reference), desk.device)


def _preview(say: Say) -> Callable[[str, int, int, Callable[[], Tensor]], None]:
    began, shown = time.monotonic(), 0.0

    def watch(phase: str, step: int, steps: int, picture: Callable[[], Tensor]) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < PREVIEW_SECONDS:
            return
        shown = now
        head = {"type": "preview", "phase": phase, "step": step, "steps": steps,
                "seconds": round(now - began, 1)}  # fmt: skip
        say(head, encoding.png(to_uint8(picture())[0]))

    return watch

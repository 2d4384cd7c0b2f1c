"""The desk: one session's work, answering messages with messages.

`Desk` holds the model, what is edited and the session. It knows no pipe and no page; `worker` feeds
it. What makes artifacts is handed in (`Makers`), because this layer does not know the table of
stages.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline import files
from pipeline.edit import session as sessions
from pipeline.edit import take
from pipeline.edit.drag import Limits
from pipeline.edit.generator import choose_layer, drag_model, free_rows
from pipeline.edit.sandbox import decode_upload
from pipeline.edit.session import Engine, Session
from pipeline.edit.session_file import SessionFile, frame_picture
from pipeline.edit.session_machine import receive
from pipeline.edit.strategies import build_strategy
from pipeline.edit.studio import encoding, face_places, home, reading, snapshot, subject
from pipeline.edit.studio.makers import Header, Makers, Say, Wanted
from pipeline.edit.studio.saver import Saver
from pipeline.edit.studio.subject import Subject
from pipeline.errors import AnimedragError, DataError, Interrupted
from pipeline.models import checkpoint
from torch_utils.device import choose_device
from torch_utils.pixels import to_uint8

ROWS = 6
PREVIEW_SECONDS = 0.4
SAVE_EVERY_FRAMES = 10


class Desk:
    """The session in `folder`, answering one message at a time.

    `post`: what lets a thread of the desk's leave a message for it, as if a page had.
    """

    def __init__(
        self,
        folder: Path,
        makers: Makers,
        say: Say,
        post: Callable[[Header], None],
        device: str = "auto",
    ) -> None:
        self.folder, self.makers, self.say = folder, makers, say
        self.device = choose_device(device)
        self.file = SessionFile(folder)
        self.saver = Saver(lambda: post({"type": "kept"}))
        self.model_reference = ""
        self.generator: Any = None
        self.subject: Subject | None = None
        self.session: Session | None = None
        self.engine: Engine | None = None
        self.phase = "empty"  # empty | faces | inverting | ready
        self.faces: list[Header] = []
        self.saved: Header | None = None
        self.step_seconds = 0.0
        self._picture: np.ndarray | None = None
        self._mask: tuple[Tensor | None, str | None] = (None, None)
        self._unsaved = 0

    # --- opening ---

    def open(self, model: str) -> None:
        """What this folder holds from before, else an empty session with that model."""
        about = self._read_about()
        self._load_model(about.get("model", model))
        if "subject" in about:
            self._reopen(about)
        elif (self.folder / "upload").is_file():
            self._find_faces()

    def _reopen(self, about: Header) -> None:
        kept = about["subject"]
        if kept["kind"] == "seed":
            self.subject = subject.of_seed(self.generator, kept["seed"], self.device)
        else:
            self.subject = self._drawing(Path(kept["inversion"]))
        self.saved = about.get("saved")
        self._make_engine()
        self._begin(self.file.read(str(self.device)))

    def _read_about(self) -> Header:
        try:
            about: Header = json.loads((self.folder / "about.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return about

    def _write_about(self) -> None:
        about: Header = {"model": self.model_reference}
        if self.subject is not None:
            about["subject"] = self.subject.about
        if self.saved is not None:
            about["saved"] = self.saved
        files.put_text(self.folder / "about.json", json.dumps(about) + "\n")

    def _load_model(self, reference: str) -> None:
        if reference == self.model_reference:
            return
        folder = self.makers.model(reference)
        generator = checkpoint.load(folder, names=("G_ema",), device=self.device)["G_ema"]
        self.generator = generator.eval().requires_grad_(False)
        self.model_reference = reference
        self.step_seconds = 0.0

    def _make_engine(self) -> None:
        assert self.subject is not None
        generator = self.subject.generator
        layer = choose_layer(generator)
        strategy = build_strategy(home.STRATEGY)
        self.engine = Engine(drag_model(generator, layer), strategy, Limits())
        self._rows = free_rows(generator, layer, ROWS, move_whole_face=False)

    def _begin(self, session: Session | None) -> None:
        assert self.subject is not None
        self.session = session or sessions.begin(self.subject.ws, self._rows)
        self.phase = "ready"
        first = frame_picture(self.folder, 0)
        if not first.is_file():
            first.write_bytes(encoding.png(self._draw(self.session.frames[0].ws)))
        self._unsaved += 1
        self.save_session()

    # --- what the page asks for ---

    def handle(self, header: Header, body: bytes, wanted: Wanted) -> None:
        """Carry out one message; AnimedragError, one sentence, where it cannot be.

        What is edited is left only once what takes its place is there.
        """
        match header["type"]:
            case "sync":
                pass
            case "model":
                reference = reading.text(header, "model")
                if not self.makers.offers(reference):  # what a page sends never becomes a path
                    raise DataError(f"There is no model {reference!r} here; choose one listed.")
                self._load_model(reference)
                self._leave()
                self._write_about()
            case "gallery":
                self._gallery(reading.whole(header, "first"), reading.whole(header, "count", 24))
                return
            case "seed":
                found = subject.of_seed(self.generator, reading.whole(header, "seed"), self.device)
                self._leave()
                self.subject = found
                self._fresh()
            case "upload":
                self._find_faces()
            case "face":
                self._invert(header, wanted)
            case "cancel":
                self._leave()
            case "full":
                self._show_full()
                return
            case "save":
                self._save(reading.text(header, "name"))
            case "kept":
                self._kept()
            case "recipe":
                session, engine = self._ready()
                recipe = header.get("recipe")
                self.session = home.with_recipe(session, recipe, engine, self.device)
                self._unsaved += 1
            case _:
                session, engine = self._ready()
                message = reading.edit_message(header, body, engine, self.device)
                self._receive(session, message, engine)
                self._unsaved += 1
        self.tell()

    def _leave(self) -> None:
        """Put away what was edited; the files of an earlier session go."""
        self.session = self.subject = self.engine = self.saved = None
        self.phase, self.faces = "empty", []
        for name in ("frames", "nodes"):
            for path in (self.folder / name).glob("*"):
                path.unlink()
        (self.folder / "session.json").unlink(missing_ok=True)
        self.file = SessionFile(self.folder)

    def _fresh(self) -> None:
        self._write_about()
        self._make_engine()
        self._begin(None)
        assert self.session is not None
        self._say_frame(self.session.frame, None)

    def _gallery(self, first: int, count: int) -> None:
        for seed in range(first, first + count):
            ws = subject.ws_of(self.generator, seed, self.device)
            picture = encoding.png(subject.draw(self.generator, ws))
            self.say({"type": "sample", "seed": seed}, picture)

    # --- a drawing ---

    def _find_faces(self) -> None:
        self.say({"type": "phase", "phase": "finding"}, b"")
        picture = decode_upload(self.folder / "upload")
        self._leave()
        self._picture = picture
        self.faces = face_places.find(picture, self.makers.model(self.model_reference))
        self.phase = "faces"
        # Upright and plain, so that the page shows the same pixels that the boxes speak of.
        Image.fromarray(picture).save(self.folder / "upload.png")

    def _invert(self, header: Header, wanted: Wanted) -> None:
        if not (self.folder / "upload.png").is_file():
            raise DataError("There is no picture yet; drop one first.")
        numbers = [reading.number(header, key) for key in ("x", "y", "width")]
        roll = reading.number(header, "roll") if "roll" in header else 0.0
        crop = ",".join(f"{value:.3f}" for value in [*numbers, roll])
        self.phase = "inverting"
        self.tell()
        try:
            inversion = self.makers.invert(
                self.model_reference, self.folder / "upload.png", crop, "studio",
                self._preview(), wanted,
            )  # fmt: skip
        except Interrupted:
            self.phase = "faces"
            return
        except AnimedragError:
            self.phase = "faces"
            raise
        self.subject = self._drawing(inversion)
        self._fresh()

    def _preview(self) -> Callable[[str, int, int, Callable[[], Tensor]], None]:
        began, shown = time.monotonic(), 0.0

        def watch(phase: str, step: int, steps: int, picture: Callable[[], Tensor]) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < PREVIEW_SECONDS:
                return
            shown = now
            head = {"type": "preview", "phase": phase, "step": step, "steps": steps,
                    "seconds": round(now - began, 1)}  # fmt: skip
            self.say(head, encoding.png(to_uint8(picture())[0]))

        return watch

    def _drawing(self, inversion: Path) -> Subject:
        return subject.of_drawing(inversion, self.makers.model(self.model_reference), self.device)

    # --- the drag ---

    @property
    def running(self) -> bool:
        return self.session is not None and self.session.running

    def tick(self) -> None:
        """One step of the drag, if it is running."""
        session, engine = self._ready()
        began = time.perf_counter()
        self._receive(session, sessions.Tick(), engine)
        seconds = time.perf_counter() - began
        self.step_seconds = seconds if not self.step_seconds else (
            0.8 * self.step_seconds + 0.2 * seconds
        )  # fmt: skip
        self._unsaved += 1
        if self._unsaved >= SAVE_EVERY_FRAMES:
            self.save_session()
        if not self.running:
            self.tell()

    def _receive(self, session: Session, message: sessions.MessageIn, engine: Engine) -> None:
        self.session, events = receive(session, message, engine)
        for event in events:
            if isinstance(event, sessions.FrameMade):
                self._say_frame(event.frame, event.loss)
            elif isinstance(event, sessions.Ended):
                self.say({"type": "ended", "status": event.status.value,
                          "reason": event.reason}, b"")  # fmt: skip

    def _say_frame(self, frame: sessions.Frame, loss: float | None) -> None:
        data = encoding.png(self._draw(frame.ws))
        frame_picture(self.folder, frame.id).write_bytes(data)
        assert self.session is not None
        head = {
            "type": "frame",
            "frame": frame.id,
            "parent": frame.parent,
            "step": frame.step,
            "distance": frame.distance_px,
            "handles": snapshot.handles(self.session),
        }
        if loss is not None and math.isfinite(loss):
            head["loss"] = loss
        self.say(head, data)

    def _ready(self) -> tuple[Session, Engine]:
        if self.session is None or self.engine is None:
            raise DataError("There is no face to edit yet; pick a sample or drop a picture.")
        return self.session, self.engine

    def save_session(self) -> None:
        """Put the session on disk, unless it is there."""
        if self.session is not None and self._unsaved:
            self.file.write(self.session)
        self._unsaved = 0

    # --- taking home ---

    def _show_full(self) -> None:
        session, _ = self._ready()
        assert self.subject is not None
        full = home.full_picture(session, self.subject)
        if full is not None:
            self.say({"type": "full", "frame": session.frame.id}, encoding.webp(full))

    def _save(self, name: str) -> None:
        session, engine = self._ready()
        assert self.subject is not None
        if self.saver.busy:
            raise DataError("Something is being saved already; wait until it is.")
        about = {key: value for key, value in self.subject.about.items() if key != "inversion"}
        folder = self.folder / "take"
        shutil.rmtree(folder, ignore_errors=True)
        take.write(session, home.recipe_of(session, engine), about, self._frame_png, folder)
        keep = partial(self.makers.keep, self.model_reference, self.subject.inversion, folder, name)
        self.saver.start(keep, session.frame.id)

    def _kept(self) -> None:
        """A save has ended."""
        result = self.saver.take()
        if result is None:
            return
        if result.failed:
            raise DataError(result.failed)
        if self.session is not None and result.frame < len(self.session.frames):
            self.saved = {"reference": result.reference, "folder": str(result.folder),
                          "frame": result.frame}  # fmt: skip
            self._write_about()

    # --- telling ---

    def tell(self) -> None:
        """Say where everything stands."""
        self.say({"type": "state", **self.snapshot()}, b"")

    def snapshot(self) -> Header:
        """All that a page needs to draw itself, but for the pictures."""
        width = height = getattr(self.generator, "img_resolution", 0)
        if self.engine is not None:
            width, height = self.engine.model.width, self.engine.model.height
        about = {} if self.subject is None else self.subject.about
        head: Header = {
            "phase": self.phase,
            "model": self.model_reference,
            "width": width,
            "height": height,
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "step_seconds": round(self.step_seconds, 4),
            "kind": about.get("kind"),
            "seed": about.get("seed"),
            "faces": self.faces,
            "saving": self.saver.busy,
            "saved": None if self.saved is None else {
                key: self.saved[key] for key in ("reference", "frame")
            },
        }  # fmt: skip
        if self.phase == "faces" and self._picture is not None:
            head["picture"] = [self._picture.shape[1], self._picture.shape[0]]
        if self.session is not None and self.engine is not None:
            head |= snapshot.of_session(self.session, self.engine)
            head["mask"] = self._mask_text(self.session.state.mask)
        return head

    def _mask_text(self, mask: Tensor | None) -> str | None:
        """The mask in base64; made once, for a state is told far more often than a mask changes."""
        if self._mask[0] is not mask:
            self._mask = mask, encoding.mask_text(mask)
        return self._mask[1]

    def _frame_png(self, frame: sessions.Frame) -> bytes:
        path = frame_picture(self.folder, frame.id)
        return path.read_bytes() if path.is_file() else encoding.png(self._draw(frame.ws))

    def _draw(self, ws: Tensor) -> np.ndarray:
        generator = self.generator if self.subject is None else self.subject.generator
        return subject.draw(generator, ws)

"""The desk: one session's work, answering messages with messages.

`Desk` holds the model, what is edited and the session. It knows no pipe and no page; `worker` feeds
it. What makes artifacts is handed in (`Makers`), because this layer does not know the table of
stages.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import files
from pipeline.edit import recipe as recipes
from pipeline.edit import session as sessions
from pipeline.edit.drag import Limits
from pipeline.edit.generator import choose_layer, drag_model, free_rows
from pipeline.edit.kept import KEPT, SHEET
from pipeline.edit.sentences import Told
from pipeline.edit.session import Engine, Session
from pipeline.edit.session_file import SessionFile, frame_picture
from pipeline.edit.session_machine import receive
from pipeline.edit.strategies import build_strategy
from pipeline.edit.studio import (
    drawings,
    encoding,
    home,
    moods,
    reading,
    snapshot,
    subject,
    taking,
    transfers,
)
from pipeline.edit.studio.makers import Header, Makers, Say, Wanted
from pipeline.edit.studio.saver import Saver
from pipeline.edit.studio.speed import expected_step_seconds
from pipeline.edit.studio.subject import Subject
from pipeline.errors import AnimedragError
from pipeline.models import checkpoint
from torch_utils.device import choose_device

ROWS = 6
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
        self.sheet: Header | None = None  # an emotion sheet that was made
        self.stage: moods.Stage | None = None
        self.mood: moods.Mood | None = None
        self.palette: list[str] = []  # emotions still to be shown small; more for `idle` to do
        self.carried: Header | None = None  # a recipe for the next face that is taken
        self.step_seconds = 0.0
        self.work = 0  # changes with what is edited: a frame's number means another picture then
        self.picture_size = (0, 0)  # of the drawing whose faces are shown
        self._mask: tuple[Tensor | None, str | None] = (None, None)
        self._unsaved = 0

    # --- opening ---

    def open(self, model: str) -> None:
        """What this folder holds from before, else an empty session with that model."""
        about = self._read_about()
        self.carried = about.get("carried")
        try:
            self.load_model(about.get("model", model))
        except AnimedragError:  # removed from the store; another face can be begun with
            self.load_model(model)
            raise
        if "subject" in about:
            self.reopen(about)
        elif (self.folder / "upload").is_file():
            drawings.find_faces(self)

    def reopen(self, about: Header) -> None:
        """Go on with what `about` names and the folder holds."""
        kept = about["subject"]
        if kept["kind"] == "seed":
            self.subject = subject.of_seed(self.generator, kept["seed"], self.device)
        else:
            self.subject = drawings.of_inversion(self, Path(kept["inversion"]))
        self.saved, self.sheet = about.get("saved"), about.get("sheet")
        self._make_engine()
        self._begin(self.file.read(str(self.device)))

    def _read_about(self) -> Header:
        try:
            about: Header = json.loads((self.folder / "about.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return about

    def write_about(self) -> None:
        """Put on disk what the session is of."""
        about: Header = {"model": self.model_reference}
        if self.subject is not None:
            about["subject"] = self.subject.about
        for name, kept in (("saved", self.saved), ("sheet", self.sheet)):
            if kept is not None:
                about[name] = kept
        if self.carried is not None:
            about["carried"] = self.carried
        files.put_text(self.folder / "about.json", json.dumps(about) + "\n")

    def load_model(self, reference: str) -> None:
        """Draw with that model from now on."""
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
        self.phase, self.work = "ready", time.time_ns() // 10**6
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
            case "pause" if self.session is None:
                pass  # the last page has gone, and nothing runs
            case "model":
                reference = reading.text(header, "model")
                if not self.makers.offers(reference):  # what a page sends never becomes a path
                    raise Told("no_model", name=reference)
                self.change_model(reference)
            case "import":
                transfers.import_model(self, reading.text(header, "name"), wanted)
            case "reopen":
                transfers.reopen(self)
            case "replay":
                transfers.replay(self)
            case "pack":
                transfers.pack(self)
                return
            case "carry":
                session, engine = self.ready()
                carried = recipes.to_json(home.recipe_of(session, engine))
                self.leave()
                self.carried = carried
                self.write_about()
            case "drop":
                self.carried = None
                self.write_about()
            case "gallery":
                self._gallery(reading.whole(header, "first"), reading.whole(header, "count", 24))
                return
            case "seed":
                found = subject.of_seed(self.generator, reading.whole(header, "seed"), self.device)
                self.leave()
                self.begin_with(found)
            case "upload":
                drawings.find_faces(self)
            case "face":
                drawings.invert(self, header, wanted)
            case "cancel":
                drawings.cancel(self)
            case "full":
                taking.show_full(self)
                return
            case "save":
                taking.save(self, reading.text(header, "name"))
            case "moods":
                moods.palette(self)
                return
            case "express":
                moods.express(self, header)
            case "enter":
                moods.enter(self)
            case "save_mood":
                moods.save(self, reading.text(header, "name"))
            case "sheet":
                moods.sheet(self, header)
            case "stop_sheet":
                moods.stop_sheet(self)
            case "kept":
                taking.kept(self)
            case "recipe":
                self.use_recipe(header.get("recipe"))
            case _:
                session, engine = self.ready()
                message = reading.edit_message(header, body, engine, self.device)
                self.receive(session, message, engine)
        self.tell()

    def leave(self) -> None:
        """Put away what was edited; the files of an earlier session go."""
        self.session = self.subject = self.engine = self.saved = self.sheet = None
        self.stage = self.mood = None
        self.palette = []
        self.phase, self.faces = "empty", []
        for name in ("frames", "nodes"):
            for path in (self.folder / name).glob("*"):
                path.unlink()
        (self.folder / "session.json").unlink(missing_ok=True)
        self.file = SessionFile(self.folder)

    def change_model(self, reference: str) -> None:
        """Put away what is edited and begin with another model."""
        self.load_model(reference)
        self.leave()
        self.write_about()

    def use_recipe(self, data: Any) -> None:
        """Take the points and the mask of a recipe (parsed JSON) instead of the present ones."""
        session, engine = self.ready()
        self.session = home.with_recipe(session, data, engine, self.device)
        self._unsaved += 1

    def begin_with(self, found: Subject) -> None:
        """Edit that from now on."""
        self.subject = found
        self._make_engine()
        self._begin(None)
        if self.carried is not None:  # the same again, on another picture
            carried, self.carried = self.carried, None
            self.use_recipe(carried)
        self.write_about()
        assert self.session is not None
        self._say_frame(self.session.frame, None)

    def _gallery(self, first: int, count: int) -> None:
        for seed in range(first, first + count):
            ws = subject.ws_of(self.generator, seed, self.device)
            picture = encoding.png(subject.draw(self.generator, ws))
            self.say({"type": "sample", "seed": seed}, picture)

    # --- the drag ---

    @property
    def running(self) -> bool:
        return self.session is not None and self.session.running

    def tick(self) -> None:
        """One step of the drag, if it is running."""
        session, engine = self.ready()
        began = time.perf_counter()
        self.receive(session, sessions.Tick(), engine)
        seconds = time.perf_counter() - began
        self.step_seconds += (1.0 if not self.step_seconds else 0.2) * (seconds - self.step_seconds)
        if self._unsaved >= SAVE_EVERY_FRAMES:
            self.save_session()
        if not self.running:
            self.tell()

    def receive(self, session: Session, message: sessions.MessageIn, engine: Engine) -> None:
        """Have the session do that, and say what came of it."""
        self.session, events = receive(session, message, engine)
        self._unsaved += 1
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

    def ready(self) -> tuple[Session, Engine]:
        if self.session is None or self.engine is None:
            raise Told("no_face_yet")
        return self.session, self.engine

    def save_session(self) -> None:
        """Put the session on disk, unless it is there."""
        if self.session is not None and self._unsaved:
            self.file.write(self.session)
        self._unsaved = 0

    def idle(self) -> None:
        """Nobody waits: time to write, to see how fast a drag is, and for the palette's next."""
        self.save_session()
        if self.session is not None and self.engine is not None and not self.step_seconds:
            self.step_seconds = expected_step_seconds(
                self.session.frame.ws,
                self._rows,
                self.engine,
                lambda ws: encoding.png(self._draw(ws)),
            )
            self.tell()
        if self.palette:
            moods.next_of_palette(self)

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
            "phase": self.phase, "work": self.work, "model": self.model_reference,
            "width": width, "height": height,
            "device": self.device.type, "device_name": snapshot.device_name(self.device),
            "threads": torch.get_num_threads(),
            "step_seconds": round(self.step_seconds, 4),
            "kind": about.get("kind"), "seed": about.get("seed"),
            "faces": self.faces,
            "carried": 0 if self.carried is None else len(self.carried["handles"]),
            "saving": self.saver.busy, "making": self.saver.kind,
            "saved": snapshot.kept_of(self.saved, KEPT),
            "sheet": snapshot.kept_of(self.sheet, SHEET),
        }  # fmt: skip
        if self.phase == "faces":
            head["picture"] = self.picture_size
        if self.session is not None and self.engine is not None:
            head |= snapshot.of_session(self.session, self.engine)
            head["mask"] = self._mask_text(self.session.state.mask)
        return head

    def _mask_text(self, mask: Tensor | None) -> str | None:
        """The mask in base64; made once, for a state is told far more often than a mask changes."""
        if self._mask[0] is not mask:
            self._mask = mask, encoding.mask_text(mask)
        return self._mask[1]

    def frame_png(self, frame: sessions.Frame) -> bytes:
        """The picture of a frame, a PNG file."""
        path = frame_picture(self.folder, frame.id)
        return path.read_bytes() if path.is_file() else encoding.png(self._draw(frame.ws))

    def _draw(self, ws: Tensor) -> np.ndarray:
        generator = self.generator if self.subject is None else self.subject.generator
        return subject.draw(generator, ws)

"""One session's work: what a page asks for, in; what it is to be shown, out.

`Studio` holds the model, the picture and the session, and answers messages with messages. It knows
no pipe and no page; `worker` feeds it. What makes artifacts is handed in (`Makers`), because this
layer does not know the table of stages.
"""

from __future__ import annotations

import base64
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline import files
from pipeline.data.align import CropTransform
from pipeline.edit import recipe as recipes
from pipeline.edit import session as sessions
from pipeline.edit import take
from pipeline.edit.carry import carry_over
from pipeline.edit.drag import Limits
from pipeline.edit.generator import choose_layer, drag_model, free_rows
from pipeline.edit.recipe import Move, Recipe
from pipeline.edit.sandbox import decode_upload
from pipeline.edit.session import Engine, Session
from pipeline.edit.session_file import SessionFile, frame_picture
from pipeline.edit.strategies import build_strategy
from pipeline.errors import AnimedragError, DataError, Interrupted
from pipeline.invert.inversion import Inversion
from pipeline.invert.pti import picture_of
from pipeline.invert.subject import Watch, model_crop_rule
from pipeline.models import checkpoint
from pipeline.models.characters import one_hot
from torch_utils.device import choose_device
from torch_utils.pixels import to_uint8

Header = dict[str, Any]
Say = Callable[[Header, bytes], None]
# Whether the page has asked for something that ends the work at hand.
Wanted = Callable[[], bool]

TRUNCATION = 0.7
ROWS = 6
PREVIEW_SECONDS = 0.4
# The page shows no more of a picture; the file taken home is whole.
SHOWN_SIDE = 1600
SAVE_EVERY_FRAMES = 10
STRATEGY = "draggan"


class Makers(Protocol):
    """What makes artifacts; each returns the folder of the finished one."""

    def model(self, reference: str) -> Path: ...

    def offers(self, reference: str) -> bool:
        """Whether a page may ask for that model."""
        ...

    def invert(
        self, model: str, picture: Path, crop: str, name: str, watch: Watch, stop: Wanted
    ) -> Path: ...

    def keep(self, model: str, inversion: Path | None, folder: Path, name: str) -> tuple[str, Path]:
        """File a take as an edit: its reference and its folder."""
        ...


@dataclass
class Subject:
    """What is edited."""

    about: Header  # kind: seed | drawing; enough to find it again
    generator: Any
    ws: Tensor
    source: np.ndarray | None = None
    transform: CropTransform | None = None
    inversion: Path | None = None


class Studio:
    """The session in `folder`, answering one message at a time."""

    def __init__(self, folder: Path, makers: Makers, say: Say, device: str = "auto") -> None:
        self.folder, self.makers, self.say = folder, makers, say
        self.device = choose_device(device)
        self.file = SessionFile(folder)
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
        self._mask_text: str | None = None
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
            self.subject = self._seed_subject(kept["seed"])
        else:
            self.subject = self._drawing_subject(Path(kept["inversion"]))
        self.saved = about.get("saved")
        self._make_engine()
        session = self.file.read(str(self.device))
        self._begin(session)
        mask = None if session is None else session.state.mask
        self._mask_text = None if mask is None else _mask_text(mask)

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

    def _make_engine(self) -> None:
        assert self.subject is not None
        generator = self.subject.generator
        layer = choose_layer(generator)
        self.engine = Engine(drag_model(generator, layer), build_strategy(STRATEGY), Limits())
        self._rows = free_rows(generator, layer, ROWS, move_whole_face=False)

    def _begin(self, session: Session | None) -> None:
        assert self.subject is not None
        self.session = session or sessions.begin(self.subject.ws, self._rows)
        self.phase = "ready"
        first = frame_picture(self.folder, 0)
        if not first.is_file():
            first.write_bytes(_png(self._draw(self.session.frames[0].ws)))
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
                reference = _text(header, "model")
                if not self.makers.offers(reference):  # what a page sends never becomes a path
                    raise DataError(f"There is no model {reference!r} here; choose one listed.")
                self._load_model(reference)
                self._leave()
                self._write_about()
            case "gallery":
                self._gallery(_whole(header, "first"), _whole(header, "count", 24))
                return
            case "seed":
                subject = self._seed_subject(_whole(header, "seed"))
                self._leave()
                self.subject = subject
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
                self._save(_text(header, "name"))
            case "recipe":
                self._use_recipe(header.get("recipe"))
            case _:
                self._edit(header, body)
        self.tell()

    def _leave(self) -> None:
        """Put away what was edited; the files of an earlier session go."""
        self.session = self.subject = self.engine = self.saved = None
        self.phase, self.faces = "empty", []
        self._mask_text = None
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

    def _seed_subject(self, seed: int) -> Subject:
        return Subject({"kind": "seed", "seed": seed}, self.generator, self._ws_of(seed))

    @torch.no_grad()
    def _ws_of(self, seed: int) -> Tensor:
        z = torch.randn(1, self.generator.z_dim, generator=torch.Generator().manual_seed(seed))
        number = seed % self.generator.c_dim if self.generator.c_dim else None
        label = one_hot(number, self.generator.c_dim).to(self.device)
        ws: Tensor = self.generator.mapping(z.to(self.device), label, truncation_psi=TRUNCATION)
        return ws

    def _gallery(self, first: int, count: int) -> None:
        for seed in range(first, first + count):
            self.say({"type": "sample", "seed": seed}, _png(self._draw(self._ws_of(seed), True)))

    # --- a drawing ---

    def _find_faces(self) -> None:
        from pipeline.data.faces import FaceFinder, Framing  # loads slowly

        self.say({"type": "phase", "phase": "finding"}, b"")
        picture = decode_upload(self.folder / "upload")
        self._leave()
        self._picture = picture
        rule = model_crop_rule(self.makers.model(self.model_reference))
        framing = Framing(rule.face_widths, rule.eye_height, 1.0)
        with FaceFinder() as finder:
            found = finder.find(self._picture, every=True)
        self.faces = []
        for face in found[:12]:
            place = framing.transform(face)
            self.faces.append(
                {"x": place.center_x, "y": place.center_y, "width": place.width,
                 "roll": place.roll_degrees, "score": round(float(face.score), 3)}
            )  # fmt: skip
        self.phase = "faces"
        # Upright and plain, so that the page shows the same pixels that the boxes speak of.
        Image.fromarray(self._picture).save(self.folder / "upload.png")

    def _invert(self, header: Header, wanted: Wanted) -> None:
        if not (self.folder / "upload.png").is_file():
            raise DataError("There is no picture yet; drop one first.")
        numbers = [_number(header, key) for key in ("x", "y", "width")]
        roll = _number(header, "roll") if "roll" in header else 0.0
        crop = ",".join(f"{value:.3f}" for value in [*numbers, roll])
        self.phase = "inverting"
        self.tell()
        shown = [0.0]
        began = time.monotonic()

        def watch(phase: str, step: int, steps: int, picture: Callable[[], Tensor]) -> None:
            now = time.monotonic()
            if now - shown[0] < PREVIEW_SECONDS:
                return
            shown[0] = now
            head = {"type": "preview", "phase": phase, "step": step, "steps": steps,
                    "seconds": round(now - began, 1)}  # fmt: skip
            self.say(head, _png(to_uint8(picture())[0]))

        try:
            inversion = self.makers.invert(
                self.model_reference, self.folder / "upload.png", crop, "studio", watch, wanted
            )
        except Interrupted:
            self.phase = "faces"
            return
        except AnimedragError:
            self.phase = "faces"
            raise
        self.subject = self._drawing_subject(inversion)
        self._fresh()

    def _drawing_subject(self, folder: Path) -> Subject:
        found = Inversion.load(folder, self.makers.model(self.model_reference), self.device)
        about = {"kind": "drawing", "inversion": str(folder)}
        return Subject(about, found.generator, found.ws, found.source, found.transform, folder)

    # --- the drag ---

    def _edit(self, header: Header, body: bytes) -> None:
        session, engine = self._ready()
        message = self._message(header, body, engine)
        self._receive(session, message, engine)
        if isinstance(message, sessions.Mask):
            self._mask_text = None if message.mask is None else _mask_text(message.mask)
        assert self.session is not None
        mask = self.session.state.mask
        if isinstance(message, sessions.Undo | sessions.Redo):
            self._mask_text = None if mask is None else _mask_text(mask)
        self.save_session()

    def _message(self, header: Header, body: bytes, engine: Engine) -> sessions.MessageIn:
        match header["type"]:
            case "add":
                mirrored = header.get("mirrored") is True
                return sessions.Add(_point(header, "position"), _point(header, "target"), mirrored)
            case "move":
                ends = (_point(header, key) if key in header else None
                        for key in ("position", "target"))  # fmt: skip
                return sessions.Move(_whole(header, "id"), *ends)
            case "remove":
                return sessions.Remove(_whole(header, "id"))
            case "mask":
                return sessions.Mask(self._mask(body, engine) if body else None)
            case "run":
                return sessions.Run()
            case "pause":
                return sessions.Pause()
            case "step":
                return sessions.StepOnce()
            case "seek":
                return sessions.Seek(_whole(header, "frame"))
            case "undo":
                return sessions.Undo()
            case "redo":
                return sessions.Redo()
        raise DataError(f"The studio does not know the message {header['type'][:40]!r}.")

    def _mask(self, body: bytes, engine: Engine) -> Tensor:
        """H × W bytes, 255 keeps."""
        width, height = engine.model.width, engine.model.height
        if len(body) != width * height:
            raise DataError(f"A mask has {width}×{height} bytes, one a pixel of the face.")
        values = np.frombuffer(body, np.uint8).reshape(height, width).astype(np.float32) / 255
        return torch.from_numpy(values).to(self.device)

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
        if not self.running or self._unsaved >= SAVE_EVERY_FRAMES:
            self.save_session()
        if not self.running:
            self.tell()

    def _receive(self, session: Session, message: sessions.MessageIn, engine: Engine) -> None:
        self.session, events = sessions.receive(session, message, engine)
        for event in events:
            if isinstance(event, sessions.FrameMade):
                self._say_frame(event.frame, event.loss)
            elif isinstance(event, sessions.Ended):
                self.say({"type": "ended", "status": event.status.value,
                          "reason": event.reason}, b"")  # fmt: skip

    def _say_frame(self, frame: sessions.Frame, loss: float | None) -> None:
        data = _png(self._draw(frame.ws))
        frame_picture(self.folder, frame.id).write_bytes(data)
        assert self.session is not None
        head = {
            "type": "frame",
            "frame": frame.id,
            "parent": frame.parent,
            "step": frame.step,
            "distance": frame.distance_px,
            "handles": self._handles(),
        }
        if loss is not None and math.isfinite(loss):
            head["loss"] = loss
        self.say(head, data)

    def _ready(self) -> tuple[Session, Engine]:
        if self.session is None or self.engine is None:
            raise DataError("There is no face to edit yet; pick a sample or drop a picture.")
        return self.session, self.engine

    def save_session(self) -> None:
        """Put the session on disk."""
        if self.session is not None:
            self.file.write(self.session)
        self._unsaved = 0

    # --- taking home ---

    def _recipe(self) -> Recipe:
        session, engine = self._ready()
        mask = session.state.mask
        return Recipe(
            width=engine.model.width,
            height=engine.model.height,
            moves=tuple(Move(h.start, h.target) for h in session.state.handles),
            mask=None if mask is None else _mask_bytes(mask),
            strategy=STRATEGY,
        )

    def _use_recipe(self, data: Any) -> None:
        session, engine = self._ready()
        try:
            recipe = recipes.from_json(data)
        except DataError as error:
            raise DataError(f"This recipe cannot be used: {error}.") from error
        recipe = recipe.scaled_to(engine.model.width, engine.model.height)
        for handle in session.state.handles:
            session, _ = sessions.receive(session, sessions.Remove(handle.id), engine)
        for move in recipe.moves:
            session, _ = sessions.receive(session, sessions.Add(move.start, move.target), engine)
        mask = None
        if recipe.mask is not None:
            mask = torch.from_numpy(recipe.mask.astype(np.float32) / 255).to(self.device)
        self.session, _ = sessions.receive(session, sessions.Mask(mask), engine)
        self._mask_text = None if mask is None else _mask_text(mask)
        self.save_session()

    def _full(self) -> np.ndarray | None:
        session, _ = self._ready()
        assert self.subject is not None
        if self.subject.source is None or self.subject.transform is None:
            return None
        mask = session.state.mask
        full, _ = carry_over(
            self.subject.source,
            self._draw(session.frames[0].ws),
            self._draw(session.frame.ws),
            self.subject.transform,
            None if mask is None else mask.cpu().numpy(),
        )
        return full

    def _show_full(self) -> None:
        full = self._full()
        assert self.session is not None
        if full is not None:
            self.say({"type": "full", "frame": self.session.frame.id}, _webp(full))

    def _save(self, name: str) -> None:
        session, _ = self._ready()
        assert self.subject is not None
        self.session = session if not session.running else sessions.receive(
            session, sessions.Pause(), self._ready()[1]
        )[0]  # fmt: skip
        self.save_session()
        self.say({"type": "phase", "phase": "saving"}, b"")
        about = {key: value for key, value in self.subject.about.items() if key != "inversion"}
        folder = self.folder / "take"
        take.write(self.session, self._recipe(), about, folder)
        reference, edit = self.makers.keep(
            self.model_reference, self.subject.inversion, folder, name
        )
        self.saved = {"reference": reference, "folder": str(edit), "frame": self.session.frame.id}
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
            "saved": None if self.saved is None else {
                key: self.saved[key] for key in ("reference", "frame")
            },
        }  # fmt: skip
        if self.phase == "faces" and self._picture is not None:
            head["picture"] = [self._picture.shape[1], self._picture.shape[0]]
        if self.session is not None and self.engine is not None:
            stop = self.engine.strategy.stop_distance_px(self.engine.model)
            head |= {
                "running": self.session.running,
                "status": self.session.state.status.value,
                "reason": self.session.reason,
                "handles": self._handles(),
                "frame": self.session.frame.id,
                "step": self.session.frame.step,
                "timeline": self.session.timeline(),
                "can_undo": self.session.can_undo,
                "can_redo": self.session.can_redo,
                "mask": self._mask_text,
                "stop_px": stop,
            }
        return head

    def _handles(self) -> list[Header]:
        assert self.session is not None
        return [
            {"id": h.id, "start": h.start, "position": h.position, "target": h.target,
             "distance": round(h.distance_px, 3), "confidence": round(h.confidence, 3),
             "partner": self.session.partner(h.id)}
            for h in self.session.state.handles
        ]  # fmt: skip

    @torch.no_grad()
    def _draw(self, ws: Tensor, plain: bool = False) -> np.ndarray:
        generator = self.generator if plain or self.subject is None else self.subject.generator
        return to_uint8(picture_of(generator, ws))[0]


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # Level 1: half the time of the default, a tenth more bytes.
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _webp(picture: np.ndarray) -> bytes:
    image = Image.fromarray(picture)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=92, method=2)
    return buffer.getvalue()


def _mask_bytes(mask: Tensor) -> np.ndarray:
    values: np.ndarray = (mask * 255).round().to(torch.uint8).cpu().numpy()
    return values


def _mask_text(mask: Tensor) -> str:
    return base64.b64encode(_mask_bytes(mask).tobytes()).decode("ascii")


# --- strict reading of what a page says ---


def _number(header: Header, key: str) -> float:
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{header['type']}: {key} must be a number.")
    return float(value)


def _whole(header: Header, key: str, most: int = 2**31 - 1) -> int:
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise DataError(f"{header['type']}: {key} must be a whole number from 0 to {most}.")
    return value


def _text(header: Header, key: str) -> str:
    value = header.get(key)
    if not isinstance(value, str) or not value or len(value) > 200:
        raise DataError(f"{header['type']}: {key} must be a short text.")
    return value


def _point(header: Header, key: str) -> tuple[float, float]:
    value = header.get(key)
    if not isinstance(value, list) or len(value) != 2:
        raise DataError(f"{header['type']}: {key} must be [x, y].")
    x, y = (_number({"type": header["type"], key: part}, key) for part in value)
    return x, y

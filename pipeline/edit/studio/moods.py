"""Emotions of what is edited: a palette of its own face, one of them at full size, and the sheet.

They start from the picture shown: of a drawing, from the whole of it with what was dragged moved.
Only the sheet, which the emotions stage makes, starts from the drawing as it was brought.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
from torch import Tensor

from pipeline.edit import session as sessions
from pipeline.edit import take
from pipeline.edit.sentences import Told
from pipeline.edit.session import Session
from pipeline.edit.studio import encoding, home, reading, taking
from pipeline.edit.studio.makers import Header
from pipeline.errors import AnimedragError, DataError

if TYPE_CHECKING:
    from pipeline.edit.emotions import Goal
    from pipeline.edit.emotions.express import Expressed, Performer
    from pipeline.edit.studio.desk import Desk

THUMBNAIL = 160
# Pictures on the way from the face to its emotion, to scrub through.
FRAMES = 10


@dataclass(frozen=True)
class Stage:
    """A picture of a session, ready to be given emotions."""

    session: Session  # as it was then: what is filed with an emotion is what led there
    performer: Performer

    @property
    def frame(self) -> int:
        return self.session.frame.id

    @property
    def mask(self) -> Tensor | None:
        """What it keeps was not dragged."""
        return self.session.state.mask


@dataclass(frozen=True)
class Mood:
    """What was asked for last, and what came of it."""

    goal: Goal
    done: Expressed
    stage: Stage


def palette(desk: Desk) -> None:
    """Say a small picture of the face in each emotion, drawn in its own lines: one by one, by
    `next_of_palette`, so that whatever else is asked for waits for one at most."""
    from pipeline.edit.emotions import EMOTIONS

    _performer(desk)
    desk.palette = list(EMOTIONS)


def next_of_palette(desk: Desk) -> None:
    """The next picture of the palette that was asked for."""
    from pipeline.edit.emotions import Goal
    from pipeline.edit.emotions.sheet import framed

    name = desk.palette.pop(0)
    try:
        performer = _performer(desk)
    except AnimedragError:  # dragged so far meanwhile that nobody sees a face
        desk.palette = []
        raise
    view = performer.drawn_view(performer.plan(Goal({name: 1.0})), 1.0)
    view = framed(view, performer.reading.landmarks)
    height = round(view.shape[0] * THUMBNAIL / view.shape[1])
    small = cv2.resize(view, (THUMBNAIL, height), interpolation=cv2.INTER_AREA)
    desk.say({"type": "mood", "emotion": name}, encoding.png(small))


def express(desk: Desk, header: Header) -> None:
    """Say the face, or the whole drawing, with that emotion, by whichever way reads better."""
    from pipeline.edit.emotions import goal_text

    goal = goal_of(header)
    performer = _performer(desk)
    desk.say({"type": "phase", "phase": "expressing"}, b"")
    done = performer.express(goal)
    assert desk.stage is not None
    desk.mood = Mood(goal, done, desk.stage)
    head = {
        "type": "expressed",
        "frame": desk.stage.frame,
        "text": goal_text(goal),
        "whole": done.full is not None,
        "reads": done.reading.expression,
        "method": done.method.split()[0],
    }
    desk.say(head, encoding.webp(done.full if done.full is not None else done.view))


def enter(desk: Desk) -> None:
    """Put the emotion into the session, as the model's latents have it, to drag on from there."""
    session, engine = desk.ready()
    mood = desk.mood
    if mood is None:
        raise Told("no_emotion")
    performer, done = mood.stage.performer, mood.done
    if done.ws is None:  # it was drawn; a drag needs latents
        desk.say({"type": "phase", "phase": "expressing"}, b"")
        done = performer.by_model(performer.plan(mood.goal))
    assert done.ws is not None
    shares = [math.sin(math.pi / 2 * number / FRAMES) ** 2 for number in range(1, FRAMES + 1)]
    ways = tuple(performer.ws.lerp(done.ws, share) for share in shares)
    name = next(iter(mood.goal.emotions), "features")
    desk.receive(session, sessions.Play(f"emotion {name}", mood.stage.frame, ways), engine)


def save(desk: Desk, name: str) -> None:
    """File the emotion as an edit: by the edit stage, or with the drag that led to its face."""
    if desk.mood is None or desk.session is None:
        raise Told("no_emotion")
    if desk.saver.busy:
        raise Told("busy")
    assert desk.subject is not None
    frame = desk.mood.stage.frame
    if frame == 0:
        work = partial(
            desk.makers.keep_emotion, desk.model_reference, desk.subject.inversion,
            desk.subject.about.get("seed"), desk.mood.goal, name,
        )  # fmt: skip
    else:
        folder = taking.write_take(desk, desk.mood.stage.session)
        keep = partial(desk.makers.keep, desk.model_reference, desk.subject.inversion, folder, name)
        work = partial(_file, desk.mood, folder, keep)
    desk.saver.start(work, frame, desk.subject)


def _file(mood: Mood, folder: Path, keep: Callable[[], tuple[str, Path]]) -> tuple[str, Path]:
    """Add the emotion to a take, and file that."""
    from pipeline.edit.emotions import goal_text
    from pipeline.edit.emotions.edit import FRAMES as VIEWS
    from pipeline.edit.emotions.edit import described, views_between

    done = mood.done
    views = list(views_between(mood.stage.performer, done, VIEWS))
    about = {
        "goal": goal_text(mood.goal),
        "method": done.method,
        "before": described(mood.stage.performer.reading),
        "after": described(done.reading),
    }
    take.add_emotion(folder, views, done.full, about)
    return keep()


def sheet(desk: Desk, header: Header) -> None:
    """File a sheet of all emotions (or of those named) and a loop, by the emotions stage."""
    name = reading.text(header, "name")
    emotions = header.get("emotions")
    if emotions is not None and not (
        isinstance(emotions, list) and all(isinstance(one, str) for one in emotions)
    ):
        raise DataError("sheet: emotions must be names.")
    session, _ = desk.ready()
    assert desk.subject is not None
    if desk.subject.inversion is None:
        raise Told("sheet_of_drawing")
    if desk.saver.busy:
        raise Told("busy")
    _performer(desk)  # refuses what has no face that can be read
    work = partial(desk.makers.sheet, desk.model_reference, desk.subject.inversion, name, emotions)
    desk.saver.start(work, session.frame.id, desk.subject, kind="sheet")


def stop_sheet(desk: Desk) -> None:
    """Leave the sheet that is being made; asked for again, it goes on."""
    if desk.saver.kind == "sheet":
        desk.saver.stop()


def goal_of(header: Header) -> Goal:
    """What a page asks of a face; DataError, one sentence, where it cannot be."""
    from pipeline.edit.emotions import Goal

    parts = []
    for key in ("emotions", "sliders"):
        values = header.get(key, {})
        if not isinstance(values, dict):
            raise DataError(f"express: {key} must be names with numbers.")
        told = {"type": "express", **values}
        parts.append({str(name)[:40]: reading.number(told, name) for name in values})
    try:
        goal = Goal(parts[0], parts[1], header.get("mirror") is True)
    except AnimedragError as error:
        raise DataError(f"express: {error}") from None
    if not any(parts):
        raise DataError("express: no emotion and no slider was named.")
    return goal


def _performer(desk: Desk) -> Performer:
    """The picture shown, read; made once for each."""
    from pipeline.data.face_reader import FaceReader
    from pipeline.edit.emotions.express import Performer, load_directions

    session, _ = desk.ready()
    subject, frame, mask = desk.subject, session.frame, session.state.mask
    assert subject is not None
    stage = desk.stage
    if stage is None or stage.frame != frame.id or stage.mask is not mask:
        inputs = {"model": desk.makers.model(desk.model_reference)}
        dragged = frame.id != 0 and subject.source is not None
        performer = Performer(
            subject.generator,
            frame.ws,
            FaceReader.shipped(desk.device),
            load_directions(inputs),
            None,
            home.full_picture(session, subject) if dragged else subject.source,
            subject.transform,
        )
        stage = desk.stage = Stage(session, performer)
    if not stage.performer.reading.confident:
        raise Told("unread")
    return stage.performer

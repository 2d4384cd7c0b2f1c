"""Emotions of what is edited: a palette of its own face, one of them at full size, and the sheet.

They start from the face as it was brought, whatever has been dragged since: that is what the edit
and emotions stages do, too, which file what is taken home.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import cv2

from pipeline.edit import session as sessions
from pipeline.edit.studio import encoding, reading
from pipeline.edit.studio.makers import Header, Wanted
from pipeline.errors import AnimedragError, DataError

if TYPE_CHECKING:
    from pipeline.edit.emotions import Goal
    from pipeline.edit.emotions.express import Expressed, Performer
    from pipeline.edit.studio.desk import Desk

THUMBNAIL = 160
# Pictures on the way from the face to its emotion, to scrub through.
FRAMES = 10


@dataclass
class Mood:
    """What was asked for last, and what came of it."""

    goal: Goal
    done: Expressed


def palette(desk: Desk, wanted: Wanted) -> None:
    """Say a small picture of the face in each emotion, drawn in its own lines."""
    from pipeline.edit.emotions import EMOTIONS, Goal
    from pipeline.edit.emotions.sheet import framed

    performer = _performer(desk)
    for name in EMOTIONS:
        if wanted():
            return
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
    desk.mood = Mood(goal, done)
    head = {
        "type": "expressed",
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
        raise DataError("There is no emotion yet; choose one first.")
    performer = _performer(desk)
    done = mood.done
    if done.ws is None:  # it was drawn; a drag needs latents
        desk.say({"type": "phase", "phase": "expressing"}, b"")
        done = performer.by_model(performer.plan(mood.goal))
    assert done.ws is not None
    shares = [math.sin(math.pi / 2 * number / FRAMES) ** 2 for number in range(1, FRAMES + 1)]
    ways = tuple(performer.ws.lerp(done.ws, share) for share in shares)
    name = next(iter(mood.goal.emotions), "features")
    desk.receive(session, sessions.Play(f"emotion {name}", 0, ways), engine)


def save(desk: Desk, name: str) -> None:
    """File the emotion as an edit, by the edit stage."""
    if desk.mood is None or desk.session is None:
        raise DataError("There is no emotion yet; choose one first.")
    if desk.saver.busy:
        raise DataError("Something is being saved already; wait until it is.")
    assert desk.subject is not None
    work = partial(
        desk.makers.keep_emotion, desk.model_reference, desk.subject.inversion,
        desk.subject.about.get("seed"), desk.mood.goal, name,
    )  # fmt: skip
    desk.saver.start(work, desk.session.frame.id, desk.subject)


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
        raise DataError("A sheet is made of a drawing; bring one.")
    if desk.saver.busy:
        raise DataError("Something is being saved already; wait until it is.")
    _performer(desk)  # refuses what has no face that can be read
    work = partial(desk.makers.sheet, desk.model_reference, desk.subject.inversion, name, emotions)
    desk.saver.start(work, session.frame.id, desk.subject, kind="sheet")


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
    """The face as it was brought, read; made once."""
    from pipeline.data.face_reader import FaceReader
    from pipeline.edit.emotions.express import Performer, load_directions

    session, _ = desk.ready()
    assert desk.subject is not None
    if desk.performer is None:
        inputs = {"model": desk.makers.model(desk.model_reference)}
        desk.performer = Performer(
            desk.subject.generator,
            session.frames[0].ws,
            FaceReader.shipped(desk.device),
            load_directions(inputs),
            None,
            desk.subject.source,
            desk.subject.transform,
        )
    if not desk.performer.reading.confident:
        raise DataError(
            "No face can be read in this picture, so it can be given no emotion; drag points."
        )
    return desk.performer

"""What is taken home of a session: its recipe, and the whole picture with the face pasted back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.edit import recipe as recipes
from pipeline.edit import session as sessions
from pipeline.edit.full_picture import Dragged
from pipeline.edit.full_picture import full_picture as drawing_with
from pipeline.edit.recipe import Move, Recipe
from pipeline.edit.sentences import Told
from pipeline.edit.session import Engine, Session
from pipeline.edit.session_acts import acts_of
from pipeline.edit.session_machine import receive
from pipeline.edit.studio.encoding import mask_bytes
from pipeline.edit.studio.subject import Subject, draw
from pipeline.errors import DataError

STRATEGY = "draggan"


def recipe_of(session: Session, engine: Engine) -> Recipe:
    """The session's points and mask."""
    mask = session.state.mask
    return Recipe(
        width=engine.model.width,
        height=engine.model.height,
        moves=tuple(Move(h.start, h.target) for h in session.state.handles),
        mask=None if mask is None else mask_bytes(mask),
        strategy=STRATEGY,
    )


def with_recipe(session: Session, data: Any, engine: Engine, device: torch.device) -> Session:
    """The session with the points and mask of a recipe (parsed JSON) instead of its own."""
    try:
        recipe = recipes.from_json(data)
    except DataError as error:
        raise Told("bad_recipe", why=error) from error
    recipe = recipe.scaled_to(engine.model.width, engine.model.height)
    gone: set[int] = set()
    for handle in session.state.handles:
        if handle.id not in gone:
            gone |= {handle.id, session.partner(handle.id) or handle.id}
            session, _ = receive(session, sessions.Remove(handle.id), engine)
    for move in recipe.moves:
        session, _ = receive(session, sessions.Add(move.start, move.target), engine)
    mask = None
    if recipe.mask is not None:
        mask = torch.from_numpy(recipe.mask.astype(np.float32) / 255).to(device)
    return receive(session, sessions.Mask(mask), engine)[0]


def full_picture(session: Session, subject: Subject) -> np.ndarray | None:
    """The uploaded picture with the edit in it, as `edit.paste=auto` has it; None without one."""
    if subject.source is None or subject.transform is None:
        return None
    mask = session.state.mask
    dragged = Dragged(
        subject.source,
        subject.transform,
        draw(subject.generator, session.frames[0].ws),
        draw(subject.generator, session.frame.ws),
        acts_of(session),
        None if mask is None else mask_bytes(mask),
    )
    return drawing_with(dragged, "auto")[0]

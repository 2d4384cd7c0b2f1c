"""How fast a drag is to be expected here: a step and its picture, tried before anybody asks."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

from pipeline.edit import session as sessions
from pipeline.edit.session import Engine
from pipeline.edit.session_machine import receive

# The first step makes what later ones reuse, and does not count.
STEPS = 2


def expected_step_seconds(
    ws: Tensor, rows: tuple[int, int], engine: Engine, picture: Callable[[Tensor], object]
) -> float:
    """Seconds of a step with one point, and of `picture` of its ws; nothing of it is kept."""
    middle = engine.model.width / 2, engine.model.height / 2
    aside = engine.model.width * 0.6, engine.model.height / 2
    session, _ = receive(sessions.begin(ws, rows), sessions.Add(middle, aside), engine)
    seconds = 0.0
    for _ in range(STEPS):
        began = time.perf_counter()
        session, _ = receive(session, sessions.StepOnce(), engine)
        picture(session.frame.ws)
        seconds = time.perf_counter() - began
    return seconds

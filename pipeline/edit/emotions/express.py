"""One face ready to be given emotions: what sheet, animation, batch and edit have in common.

Two ways lead to an emotion, and `auto` takes the one whose picture the face reader likes better:
the model's (latents, see `reach`; or a drag), carried over to the drawing, and the drawing's own
lines and colours (see `drawn`). Everything is judged on the *view*: the face as it is cut from the
finished picture, or the model's face, sharpened, where there is no drawing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.console import complain
from pipeline.data import landmarks as lm
from pipeline.data.align import CropTransform, crop
from pipeline.data.face_reader import FaceReader, Reading
from pipeline.edit import drag
from pipeline.edit.blending import Blend
from pipeline.edit.drag import AddHandle, DragModel, Limits, SetMask, Status, Step
from pipeline.edit.drawn_drag import HIDDEN
from pipeline.edit.emotions.carry import Sides, carry_emotion
from pipeline.edit.emotions.directions import Directions
from pipeline.edit.emotions.drawn import Drawn, draw_emotion, marks_of
from pipeline.edit.emotions.plan import EmotionPlan, Goal, plan_goal, preset_of
from pipeline.edit.emotions.reach import SIGMA, Canvas, Reached, reach
from pipeline.edit.full_picture import Dragged, full_picture
from pipeline.edit.generator import choose_layer, drag_model, free_rows, latent_prior
from pipeline.edit.own_face import at_width, kept_part, own_face, put_back
from pipeline.edit.proposed_mask import propose_mask
from pipeline.edit.recipe import Recipe
from pipeline.edit.sharpening import crisp
from pipeline.edit.strategies import Auto, build_strategy
from pipeline.invert.inversion import Inversion, model_digest
from pipeline.invert.pti import picture_of
from torch_utils.pixels import to_uint8

# Side of the view.
VIEW_SIDE = 512
# How much a doubt about the expression counts beside one `SIGMA` of landmarks.
_DOUBT = 2.0


@dataclass(frozen=True)
class Ways:
    """How emotions are reached; see `EmotionConfig`. strategy, max_steps: of a drag."""

    method: str = "auto"
    steps: int = 14
    prior: float = 1.0
    assume: str = "read"
    strategy: str = "auto"
    max_steps: int = 120


@dataclass(frozen=True, eq=False)
class Expressed:
    """A face with an emotion.

    Attributes:
        plan: in px of the view.
        view: the face in the finished picture, h × w × 3 uint8; `reading` is of it.
        full: the finished drawing; None for a face of the model.
        method: "drawn", "search", "direction", "drag NAME"; reached: how, where a model did it.
        face, ws: the model's picture and latents where a model did it.
        parts: what was drawn or painted anew.
        tried: method -> score of all that were tried; the lowest was taken.
    """

    plan: EmotionPlan
    view: np.ndarray
    full: np.ndarray | None
    reading: Reading
    method: str
    seconds: float
    reached: Reached | None = None
    face: np.ndarray | None = None
    ws: Tensor | None = None
    parts: tuple[str, ...] = ()
    tried: Mapping[str, float] = field(default_factory=dict)

    @property
    def off(self) -> float:
        """Mean distance of its landmarks from the plan's, in face widths."""
        misses = np.linalg.norm(self.reading.landmarks - self.plan.landmark_targets, axis=1)
        return float(misses.mean()) / self.plan.face_px

    @property
    def chance(self) -> float | None:
        """How far the reader sees what was asked: the sum over expressions of what is both there
        and wanted (1: exactly the goal's shares); None where only sliders were asked."""
        named = self.plan.goal.reads_as
        if not named:
            return None
        return sum(min(share, self.reading.expressions.get(n, 0.0)) for n, share in named.items())

    @property
    def reads_right(self) -> bool | None:
        """Whether the most probable expression is one that was asked for."""
        named = self.plan.goal.reads_as
        return self.reading.expression in named if named else None

    @property
    def score(self) -> float:
        """By which ways are compared; lower is better."""
        doubt = 0.0 if self.chance is None else 1 - self.chance
        return self.off / SIGMA + _DOUBT * doubt


class Performer:
    """A face of a model, with what is needed to change its expression.

    Args:
        generator: in evaluation mode, tuned to the drawing where there is one.
        ws: 1 × num_ws × w_dim.
        source, transform: the drawing and where the face lies in it; None for a face of the model.
    """

    def __init__(
        self,
        generator: Any,
        ws: Tensor,
        reader: FaceReader,
        directions: Directions | None = None,
        ways: Ways | None = None,
        source: np.ndarray | None = None,
        transform: CropTransform | None = None,
    ) -> None:
        self.generator, self.ws, self.reader = generator, ws, reader
        self.directions, self.ways = directions, ways or Ways()
        self.source, self.transform = source, transform
        self.layer = choose_layer(generator)
        self.face = self._plain(ws)
        self.own = self._own_size()
        self.view = at_width(self.own, VIEW_SIDE)
        self.reading = reader.read(self.view)

    @classmethod
    def of_inversion(
        cls,
        inputs: Mapping[str, Path],
        reader: FaceReader,
        ways: Ways,
        device: torch.device,
        picture: str | None = None,
    ) -> Performer:
        """Of inputs "inversion", "model" and perhaps "directions" (folders)."""
        found = Inversion.load(inputs["inversion"], inputs["model"], device, picture)
        return cls(
            found.generator,
            found.ws,
            reader,
            load_directions(inputs),
            ways,
            found.source,
            found.transform,
        )

    def plan(self, goal: Goal) -> EmotionPlan:
        """Where the landmarks of the view should go."""
        height, width = self.view.shape[:2]
        return plan_goal(self.reading, goal, width=width, height=height, assume=self.ways.assume)

    def express(self, goal: Goal) -> Expressed:
        """The face with this goal, by the ways set; the better of both where they are "auto"."""
        plan = self.plan(goal)
        if self.ways.method == "drawn":
            return self.drawn(plan)
        by_model = self.by_model(plan)
        if self.ways.method != "auto":
            return by_model
        return better_of([by_model, self.drawn(plan)])

    def follow(self, recipe: Recipe) -> Expressed:
        """The face dragged as a recipe says, by its strategy; as the edit stage has it, which
        proposes a mask for the model's face where `auto` drags."""
        began = time.process_time()
        height, width = self.view.shape[:2]
        wanted = recipe.scaled_to(width, height)
        small = recipe.scaled_to(self.face.shape[1], self.face.shape[0])
        mask = small.mask
        if mask is None and recipe.strategy == Auto.name:
            read = self.face_reading
            places = read.landmarks if read.confident else None
            mask = propose_mask(small.moves, small.width, small.height, places)
        own = replace(self.model_plan(Goal()), moves=small.moves, mask=mask)
        ways = replace(self.ways, strategy=recipe.strategy, max_steps=recipe.max_steps)
        reached = self._dragged(own, ways, recipe.constants, recipe.patience)
        plan = replace(self.plan(Goal()), moves=wanted.moves, mask=wanted.mask)
        face = self.picture(reached.ws, own)
        if self.source is None or self.transform is None:
            return self.carried(reached.ws, face, plan, reached, time.process_time() - began)
        acts = (small.moves,)
        dragged = Dragged(self.source, self.transform, self.face, face, acts, small.mask)
        full, _ = full_picture(dragged, "auto")
        view = at_width(crop(full, self.transform, self.own.shape[1]), VIEW_SIDE)
        reading, method = self.reader.read(view), reached.method
        seconds = time.process_time() - began
        return Expressed(plan, view, full, reading, method, seconds, reached, face, reached.ws)

    # --- the drawing's own lines ---

    def drawn(self, plan: EmotionPlan, share: float = 1.0) -> Expressed:
        """The plan, or `share` of its way, drawn in the drawing's own lines."""
        began = time.process_time()
        done = self.draw(plan, share)
        full = self.pasted(done.face)
        view = at_width(done.face, VIEW_SIDE)
        seconds = time.process_time() - began
        reading = self.reader.read(view)
        return Expressed(plan, view, full, reading, "drawn", seconds, parts=done.parts)

    def drawn_view(self, plan: EmotionPlan, share: float) -> np.ndarray:
        """The view of it alone."""
        return at_width(self.draw(plan, share).face, VIEW_SIDE)

    def draw(
        self, plan: EmotionPlan, share: float = 1.0, marks: Mapping[str, float] | None = None
    ) -> Drawn:
        """The same as the bare face, at the drawing's own size; `marks`: instead of the goal's."""
        scale = self.own.shape[1] / self.view.shape[1]
        target = plan.source + share * (plan.target - plan.source)
        if marks is None:
            marks = {name: share * value for name, value in marks_of(plan.goal).items()}
        there = preset_of(self.reading.expression) if self.ways.assume == "read" else None
        return draw_emotion(
            self.own,
            plan.source[: lm.NUM_LANDMARKS] * scale,
            target[: lm.NUM_LANDMARKS] * scale,
            kept_part(plan.mask, self.own.shape),
            marks,
            marks_of(Goal({there: 1.0})) if there else {},
            (plan.source[-2:] * scale, target[-2:] * scale),
            [part for part, seen in self.reading.part_visibility.items() if seen < HIDDEN],
        )

    def pasted(self, face: np.ndarray) -> np.ndarray | None:
        """The drawing with a face of its own size in it; None for a face of the model."""
        if self.source is None or self.transform is None:
            return None
        return put_back(self.source, self.transform, self.own, face)

    def _own_size(self) -> np.ndarray:
        """The face cut from the drawing at its own size, else the model's face, sharpened."""
        if self.source is not None and self.transform is not None:
            return own_face(self.source, self.transform)
        return at_width(crisp(self.face), VIEW_SIDE)

    # --- the model ---

    @cached_property
    def face_reading(self) -> Reading:
        """Of the model's own picture."""
        return self.reader.read(self.face)

    @cached_property
    def canvas(self) -> Canvas:
        """What the search for latents works on."""
        first, last = free_rows(self.generator, self.layer, self.generator.num_ws, False)
        if self.directions is not None:
            first, last = max(first, self.directions.rows[0]), self.directions.rows[1]
        prior = latent_prior(self.generator)
        return Canvas(self.generator, self.ws, self.reader, prior, (first, last))

    def model_plan(self, goal: Goal) -> EmotionPlan:
        """Where the landmarks of the model's own picture should go."""
        height, width = self.face.shape[:2]
        reading = self.face_reading
        return plan_goal(reading, goal, width=width, height=height, assume=self.ways.assume)

    def by_model(self, plan: EmotionPlan) -> Expressed:
        """The plan, reached in the model's latents."""
        began = time.process_time()
        own = self.model_plan(plan.goal)
        ways = self.ways
        if ways.method == "drag":
            reached = self._dragged(own, ways)
        else:
            reached = reach(self.canvas, own, self.directions, ways.method, ways.steps, ways.prior)
        face = self.picture(reached.ws, own)
        return self.carried(reached.ws, face, plan, reached, time.process_time() - began)

    def carried(
        self,
        ws: Tensor,
        face: np.ndarray,
        plan: EmotionPlan,
        reached: Reached | None,
        seconds: float,
    ) -> Expressed:
        """A picture of the model, carried over to the drawing where there is one."""
        full = None
        view = at_width(crisp(face), VIEW_SIDE)
        if self.source is not None and self.transform is not None:
            after = self.reader.read(face).landmarks
            sides = Sides(self.face, face, self.face_reading.landmarks, after)
            mask = plan.mask
            if mask is not None:
                mask = cv2.resize(mask, face.shape[1::-1], interpolation=cv2.INTER_AREA)
            full, _ = carry_emotion(self.source, sides, self.transform, mask)
            # By way of the drawing's own size, as the view before was made.
            view = at_width(crop(full, self.transform, self.own.shape[1]), VIEW_SIDE)
        method = reached.method if reached is not None else "model"
        return Expressed(
            plan, view, full, self.reader.read(view), method, seconds, reached, face, ws
        )

    def picture(self, ws: Tensor, plan: EmotionPlan) -> np.ndarray:
        """h × w × 3 uint8: the model's picture under the plan's mask (of the model's size)."""
        if plan.mask is None:
            return self._plain(ws)
        key = plan.mask.tobytes()
        kept = self._blend
        if kept is None or kept[0] != key:
            mask = torch.from_numpy(plan.mask.astype(np.float32) / 255).to(self.ws.device)
            kept = (key, Blend(self.generator, self.ws, mask, self.layer, picture_of))
            self._blend = kept
        return to_uint8(kept[1].picture(ws))[0]

    # The last mask's blend: each holds the maps of many layers.
    _blend: tuple[bytes, Blend] | None = None

    def _plain(self, ws: Tensor) -> np.ndarray:
        with torch.no_grad():
            return to_uint8(picture_of(self.generator, ws))[0]

    @cached_property
    def _drag_model(self) -> DragModel:
        return drag_model(self.generator, self.layer)

    def _dragged(
        self,
        plan: EmotionPlan,
        ways: Ways,
        constants: Mapping[str, float] | None = None,
        patience: int = Limits.patience,
    ) -> Reached:
        """By handles: what the drag engine makes of the plan's moves."""
        began = time.process_time()
        model, strategy = self._drag_model, build_strategy(ways.strategy, **(constants or {}))
        limits = Limits(max_steps=ways.max_steps, patience=patience)
        state = drag.start(self.ws, free_rows(self.generator, self.layer, 6, False))
        for move in plan.moves:
            event = AddHandle(move.start, move.target, move.radius)
            state, _ = drag.advance(state, event, model, strategy, limits)
        if plan.mask is not None and plan.moves:
            mask = torch.from_numpy(plan.mask.astype(np.float32) / 255).to(self.ws.device)
            state, _ = drag.advance(state, SetMask(mask), model, strategy, limits)
        while state.status is Status.DRAGGING:
            state, _ = drag.advance(state, Step(), model, strategy, limits)
        distances = [handle.distance_px for handle in state.handles] or [0.0]
        begun = [math.dist(move.start, move.target) for move in plan.moves] or [0.0]
        before = float(np.mean(begun))
        return Reached(
            ws=drag.result(state) if plan.moves else self.ws,
            method=f"drag {ways.strategy}",
            start="itself",
            begun=before,
            started=before,
            loss=float(np.mean(distances)),
            pictures=state.step,
            seconds=time.process_time() - began,
        )


def better_of(done: Sequence[Expressed]) -> Expressed:
    """What "auto" takes of the ways that were tried: the best score; seconds of all of them."""
    tried = {one.method: round(one.score, 4) for one in done}
    seconds = sum(one.seconds for one in done)
    return replace(min(done, key=lambda one: one.score), tried=tried, seconds=seconds)


def load_directions(inputs: Mapping[str, Path]) -> Directions | None:
    """The directions among a stage's inputs, else those that ship with its model, else None.

    Those of another model are left out, with a word.
    """
    own = inputs["model"] / "directions"
    folder = inputs.get("directions", own if own.is_dir() else None)
    if folder is None:
        return None
    found = Directions.load(folder)
    if found.about.get("model_digest") != model_digest(inputs["model"]):
        complain(
            f"The directions in {folder} were learnt from another model and are left out; learn "
            "this one's: make directions MODEL=..."
        )
        return None
    return found

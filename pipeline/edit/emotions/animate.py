"""The animate stage: a face blinks, talks, nods or turns.

    film.mp4, loop.webp, loop.gif
    sprites.png, sprites.json   all frames in one picture, and where each lies
    frames/0001.png ...         every frame as it is shown
    layers/0001.png ...         the face with alpha: only what differs from the drawing
    animation.json              keyframes, frames, rate, by what it was made

Frames between keyframes lie between them: landmarks on straight lines where the drawing's own
lines are moved, latents where a model draws. Interrupted, it goes on with the first frame that is
missing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.console import catch_stop, progress, say
from pipeline.data.align import change_mask
from pipeline.data.face_reader import FaceReader
from pipeline.edit import video
from pipeline.edit.emotion_config import AnimateConfig
from pipeline.edit.emotions import loops
from pipeline.edit.emotions.drawn import marks_of
from pipeline.edit.emotions.edit import check_face
from pipeline.edit.emotions.express import Expressed, Performer, Ways
from pipeline.edit.emotions.goal_text import goal_text
from pipeline.edit.emotions.keyframes import Animation, find_animation, read_animation
from pipeline.edit.emotions.plan import EmotionPlan, Goal
from pipeline.errors import DataError, Interrupted
from pipeline.invert.inversion import picture_folder, read_info, read_png
from torch_utils.device import choose_device, describe

FORMAT = 1
# Grey levels by which a frame must differ from the drawing to be on its layer.
_LAYER_LEVELS = 1.5


def check(config: AnimateConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what can be told without weights: the animation, the picture."""
    choose_device(config.device)
    _animation(config, inputs)
    read_info(picture_folder(inputs["inversion"], config.picture), inputs["model"])


def run(
    config: AnimateConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Make the animation; see the module for what is written."""
    device = choose_device(config.device)
    animation = _animation(config, inputs)
    ways = Ways(method=config.method, assume=config.assume)
    reader = FaceReader.shipped(device)
    performer = Performer.of_inversion(inputs, reader, ways, device, config.picture)
    check_face(performer)
    times = animation.frames(config.frames_per_second)
    say(f"animate: {animation.label}, {len(times)} frames, on {describe(device)}.")
    for folder in ("frames", "layers"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    actor = Actor(performer, animation)
    with catch_stop() as stop, progress("animate", len(times), "frames") as bar:
        for number, (before, after, share) in enumerate(times, 1):
            path = out / "frames" / f"{number:04d}.png"
            if not path.exists():
                face, full = actor.frame(before, after, share)
                _save(_layer(performer, face), out / "layers" / path.name)
                shown = full if config.of == "picture" and full is not None else face
                _save(shown, path)
            bar.advance(1)
            if stop():
                raise Interrupted(
                    f"Stopped after frame {number}; run the same command again to continue."
                )
    frames = [read_png(path) for path in sorted((out / "frames").glob("*.png"))]
    _write_films(frames, config, out)
    about = {
        "format": FORMAT,
        "label": animation.label,
        "seconds": animation.seconds,
        "frames_per_second": config.frames_per_second,
        "frames": len(frames),
        "of": config.of,
        "method": config.method,
        "keyframes": [
            {
                "at": key.at,
                "goal": None if key.goal is None else goal_text(key.goal),
                "easing": key.easing,
            }
            for key in animation.keyframes
        ],
    }
    (out / "animation.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return {
        "frames": len(frames),
        "seconds_long": animation.seconds,
        "largest_step_levels": round(_largest_step(frames), 2),
    }


class Actor:
    """A performer with the keyframes of one animation, ready to draw what lies between."""

    def __init__(self, performer: Performer, animation: Animation) -> None:
        self.performer, self.animation = performer, animation
        goals = [key.goal for key in animation.keyframes]
        still = performer.plan(Goal())
        self.plans = [still if goal is None else performer.plan(goal) for goal in goals]
        masks = [
            plan.mask for plan, goal in zip(self.plans, goals, strict=True) if goal is not None
        ]
        # One mask for all frames: what is free in any of them.
        kept = [mask for mask in masks if mask is not None]
        self.mask = None if len(kept) < len(masks) or not kept else np.minimum.reduce(kept)
        self._states: dict[int, Expressed | None] = {}

    def frame(self, before: int, after: int, share: float) -> tuple[np.ndarray, np.ndarray | None]:
        """The face (of the drawing's own size, or the view), and the drawing with it."""
        if self.performer.ways.method == "drawn":
            plan = self.plan_between(before, after, share)
            marks = self._marks(before, after, share)
            face = self.performer.draw(plan, marks=marks).face
            return face, self.performer.pasted(face)
        ws = self._ws(before).lerp(self._ws(after), share)
        plan = self.plan_between(before, after, share)
        goal = self._goal(after) or self._goal(before)
        if goal is None or (share == 0 and self._goal(before) is None):
            return self.performer.view, self.performer.source
        picture = self.performer.picture(ws, self.performer.model_plan(goal))
        done = self.performer.carried(ws, picture, plan, None, 0.0)
        return done.view, done.full

    def plan_between(self, before: int, after: int, share: float) -> EmotionPlan:
        """The plan whose target lies that share of the way between two keyframes' targets."""
        first, last = self.plans[before], self.plans[after]
        target = first.target + share * (last.target - first.target)
        return replace(last, target=target, mask=self.mask)

    def _goal(self, index: int) -> Goal | None:
        return self.animation.keyframes[index].goal

    def _marks(self, before: int, after: int, share: float) -> dict[str, float]:
        ends = [marks_of(goal) if (goal := self._goal(index)) else {} for index in (before, after)]
        names = {*ends[0], *ends[1]}
        return {
            name: (1 - share) * ends[0].get(name, 0.0) + share * ends[1].get(name, 0.0)
            for name in names
        }

    def _ws(self, index: int) -> Any:
        goal = self._goal(index)
        if goal is None:
            return self.performer.ws
        if index not in self._states:
            self._states[index] = self.performer.express(goal)
        done = self._states[index]
        assert done is not None
        assert done.ws is not None
        return done.ws


def _animation(config: AnimateConfig, inputs: Mapping[str, Path]) -> Animation:
    if config.file is None:
        return find_animation(config.animation)
    return read_animation(inputs["file"])


def _layer(performer: Performer, face: np.ndarray) -> np.ndarray:
    """H × W × 4: the face where it differs from the drawing, clear elsewhere."""
    still = performer.own if face.shape == performer.own.shape else performer.view
    if face.shape != still.shape:
        raise DataError("The frame and the drawing's face differ in size.")
    alpha = change_mask(still, face, threshold=_LAYER_LEVELS, grow=0.01)
    return np.dstack([face, np.rint(255 * alpha).astype(np.uint8)])


def _write_films(frames: Sequence[np.ndarray], config: AnimateConfig, out: Path) -> None:
    longest = max(frames[0].shape[:2])
    small = [loops.resized(frame, min(longest, config.film_px)) for frame in frames]
    video.write_mp4(out / "film.mp4", small, config.frames_per_second)
    times = _times(len(small), config.frames_per_second)
    loops.write_webp(out / "loop.webp", small, times)
    # A GIF of many colours and frames is large: half the side.
    loops.write_gif(out / "loop.gif", [loops.resized(f, max(f.shape) // 2) for f in small], times)
    sprites = [loops.resized(frame, config.sprite_px) for frame in frames]
    columns = max(1, round(len(sprites) ** 0.5))
    height, width = sprites[0].shape[:2]
    rows = -(-len(sprites) // columns)
    page = np.zeros((rows * height, columns * width, 3), np.uint8)
    for index, sprite in enumerate(sprites):
        row, column = divmod(index, columns)
        page[row * height : (row + 1) * height, column * width : (column + 1) * width] = sprite
    _save(page, out / "sprites.png")
    about = {
        "image": "sprites.png", "width": width, "height": height, "columns": columns,
        "rows": rows, "frames": len(sprites), "frames_per_second": config.frames_per_second,
    }  # fmt: skip
    (out / "sprites.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _times(count: int, per_second: int) -> list[int]:
    """Whole milliseconds a frame that add up to the film's length."""
    marks = [round(1000 * index / per_second) for index in range(count + 1)]
    return [later - earlier for earlier, later in itertools.pairwise(marks)]


def _largest_step(frames: Sequence[np.ndarray]) -> float:
    """Largest mean change from one frame to the next, the last to the first among them."""
    pairs = zip(frames, [*frames[1:], frames[0]], strict=True)
    return max(float(np.abs(a.astype(np.float32) - b).mean()) for a, b in pairs)


def _save(picture: np.ndarray, path: Path) -> None:
    aside = path.with_suffix(".part")
    Image.fromarray(picture).save(aside, "PNG", compress_level=3)
    aside.replace(path)

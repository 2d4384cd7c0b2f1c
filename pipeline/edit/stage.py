"""The edit stage: an inverted picture (or a face of a model) + what to drag -> edit.

Where an emotion is asked for, `emotions.edit` does the work; what follows is of points.

    recipe.json           what was dragged, replayable on any face
    result.png            the edited face, at the model's resolution
    before_after.png      both faces beside each other, enlarged; of a drawing, its own two crops
    full.png              the uploaded picture with the edit carried out in it (not for a seed)
    drawing.webp          the same on its way, its face alone
    frames/0001.png ...   the face at that step, at the model's resolution, without marks
    frames.mp4, .gif      the drag with handles (red) and targets (blue)
    marked_first.png, marked_last.png
    trace.jsonl           one line a step
    edit.json             where every handle ended, why it stopped, by what it was made

Stopped by a signal, it goes on from the step where it stopped; killed, from the last step that was
saved (every `save_every`). Either way the pictures come out as they would have without.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.console import catch_stop, progress, say
from pipeline.data.face_reader import FaceReader
from pipeline.data.landmarks import Points
from pipeline.edit import drag, outcome, state_file
from pipeline.edit import recipe as recipes
from pipeline.edit.blending import Blend
from pipeline.edit.config import EditConfig
from pipeline.edit.drag import (
    AddHandle,
    DragModel,
    DragState,
    Ended,
    Limits,
    SetMask,
    Status,
    Step,
    Stepped,
)
from pipeline.edit.emotions import edit as emotion_edit
from pipeline.edit.emotions import parse_goal
from pipeline.edit.generator import choose_layer, drag_model, free_rows, numbered_ws
from pipeline.edit.points import check_moves, parse_points
from pipeline.edit.proposed_mask import propose_mask
from pipeline.edit.recipe import Recipe
from pipeline.edit.strategies import Auto, build_strategy
from pipeline.edit.task import Subject, Task, render, save_frame
from pipeline.errors import DataError, Interrupted
from pipeline.invert.inversion import (
    Inversion,
    picture_folder,
    read_info,
    read_png,
    transform_of,
)
from pipeline.invert.pti import picture_of
from pipeline.models import checkpoint
from pipeline.models.characters import find_character
from torch_utils.device import choose_device, describe
from torch_utils.pixels import to_uint8

_STATE = "drag_state.safetensors"


def check(config: EditConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what can be told without weights: points, recipe, layer, a model that does not fit."""
    choose_device(config.device)
    generator: Any = checkpoint.blank(inputs["model"], "G_ema")
    source = transform = None
    if config.seed_face is not None:
        find_character("edit.label", config.label, inputs["model"], generator.c_dim)
    else:
        folder = picture_folder(inputs["inversion"], config.picture)
        info = read_info(folder, inputs["model"])
        source = read_png(folder / "source.png")
        transform = transform_of(info, folder)
    subject = Subject(generator, torch.zeros(0), source, transform, {})
    if config.emotion.asked:
        asked = config.emotion
        parse_goal(asked.name, asked.sliders, asked.strength, asked.mirror)
        return
    _task(config, inputs, subject, out=Path())


def run(config: EditConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, float | int | str]:
    """Drag as the recipe or the points say; see the module for what is written to `out`."""
    device = choose_device(config.device)
    subject = _subject(config, inputs, device)
    if config.emotion.asked:
        drawn = (subject.generator, subject.ws, subject.source, subject.transform)
        performer = emotion_edit.performer_of(config, inputs, *drawn)
        return emotion_edit.run(config, performer, subject.about, out)
    task = _task(config, inputs, subject, out)
    if config.blend and task.mask is not None:
        mask = torch.from_numpy(task.mask.astype(np.float32) / 255).to(device)
        start = subject.ws.to(device)
        blend = Blend(subject.generator, start, mask, task.layer, picture_of)
        task = replace(task, blend=blend)
    (out / "frames").mkdir(parents=True, exist_ok=True)
    state, trace = _resume(task, device)
    say(f"edit: {task.strategy.name} at layer {task.layer}, on {describe(device)}.")
    recipes.write(task.recipe, out / "recipe.json")
    state, trace, reason = _drag(task, state, trace, config.frame_every)
    metrics = outcome.write(task, state, trace, reason, config)
    (out / _STATE).unlink(missing_ok=True)
    return metrics


# --- what is dragged, and how ---


def _subject(config: EditConfig, inputs: Mapping[str, Path], device: torch.device) -> Subject:
    if config.seed_face is not None:
        return _face_of_seed(config, inputs["model"], device)
    found = Inversion.load(inputs["inversion"], inputs["model"], device, config.picture)
    about = {"inversion": inputs["inversion"].name, "model_digest": found.info["model"]["digest"]}
    return Subject(found.generator, found.ws, found.source, found.transform, about)


def _face_of_seed(config: EditConfig, folder: Path, device: torch.device) -> Subject:
    generator: Any = checkpoint.load(folder, names=("G_ema",), device=device)["G_ema"]
    generator.eval().requires_grad_(False)
    number = find_character("edit.label", config.label, folder, generator.c_dim)
    ws = numbered_ws(generator, int(config.seed_face or 0), config.truncation, number)
    about = {"seed_face": config.seed_face, "truncation": config.truncation}
    return Subject(generator, ws, None, None, about)


def _task(config: EditConfig, inputs: Mapping[str, Path], subject: Subject, out: Path) -> Task:
    layer = config.layer or choose_layer(subject.generator)
    model = drag_model(subject.generator, layer)
    recipe = _recipe(config, inputs, subject, model)
    strategy = build_strategy(recipe.strategy, **recipe.constants)
    _check_distance(recipe, strategy.stop_distance_px(model), subject.drawing_px(model.width))
    mask = recipe.mask
    if mask is None and config.mask == "auto" and strategy.name == Auto.name:
        # `auto` comes as near under a mask as without one; motion supervision hardly moves then.
        # It is for the model's face, and no wish of the user's: the recipe stays without.
        mask = propose_mask(recipe.moves, recipe.width, recipe.height, _landmarks(subject))
    return Task(
        subject=subject,
        recipe=recipe,
        mask=mask,
        model=model,
        strategy=strategy,
        limits=Limits(max_steps=recipe.max_steps, patience=recipe.patience),
        layer=layer,
        rows=free_rows(subject.generator, layer, config.rows, config.move_whole_face),
        out=out,
        save_every=config.save_every,
    )


def _check_distance(recipe: Recipe, stop_px: float, drawing_px: float | None) -> None:
    """Refuse a drag that would end where it begins, without a word."""
    if all(math.dist(move.start, move.target) <= stop_px for move in recipe.moves):
        near = f"{stop_px * (drawing_px or 1):.2g} px"
        raise DataError(
            f"Every point is within {near} of its target already, which counts as arrived: "
            "there is nothing to drag. Put a target further away, or set edit.drag.stop_distance."
        )


def _recipe(
    config: EditConfig, inputs: Mapping[str, Path], subject: Subject, model: DragModel
) -> Recipe:
    """The recipe at the model's resolution, with the settings' own values on top."""
    width, height = model.width, model.height
    if config.recipe is not None:
        recipe = recipes.read(inputs["recipe"]).scaled_to(width, height)
    else:
        moves = parse_points(config.points or "")
        if config.points_frame == "picture":
            assert subject.source is not None
            assert subject.transform is not None
            full_height, full_width = subject.source.shape[:2]
            check_moves(moves, full_width, full_height, "picture")
            moves = recipes.moves_of_picture(moves, subject.transform, width, height)
        recipe = Recipe(width, height, moves, strategy=Auto.name)
    moves = recipes.mirrored(recipe.moves, width) if config.symmetric else recipe.moves
    check_moves(moves, width, height)
    settings = config.drag
    strategy = settings.strategy or recipe.strategy
    mask = recipe.mask
    if mask is None and config.mask == "proposed":
        mask = propose_mask(moves, width, height, _landmarks(subject))
    # Another strategy has other constants: the recipe's do not carry over.
    kept = recipe.constants if strategy == recipe.strategy else {}
    return Recipe(
        width=width,
        height=height,
        moves=moves,
        mask=mask,
        strategy=strategy,
        constants={**kept, **settings.constants()},
        max_steps=settings.max_steps or recipe.max_steps,
        patience=settings.patience or recipe.patience,
    )


@torch.no_grad()
def _landmarks(subject: Subject) -> Points | None:
    """28×2 px of the face to drag; None where none is readable, or there is no picture yet."""
    if not subject.ws.numel() or subject.generator.img_channels != 3:
        return None
    reading = FaceReader.shipped().read(to_uint8(picture_of(subject.generator, subject.ws))[0])
    return reading.landmarks if reading.confident else None


# --- the drag ---


def _begin(task: Task, device: torch.device) -> DragState:
    state = drag.start(task.subject.ws.to(device), task.rows)
    for move in task.recipe.moves:
        state = _apply(task, state, AddHandle(move.start, move.target, move.radius))
    if task.mask is not None:
        mask = torch.from_numpy(task.mask.astype(np.float32) / 255).to(device)
        state = _apply(task, state, SetMask(mask))
    return state


def _apply(task: Task, state: DragState, event: drag.EventIn) -> DragState:
    return drag.advance(state, event, task.model, task.strategy, task.limits)[0]


def _resume(task: Task, device: torch.device) -> tuple[DragState, list[dict[str, Any]]]:
    """The state and trace of an earlier run of the same edit, else a fresh start."""
    path = task.out / _STATE
    if path.exists():
        try:
            state = state_file.read(path, str(device))
            lines = (task.out / "trace.jsonl").read_text(encoding="utf-8").splitlines()
            trace = [json.loads(line) for line in lines[: state.step]]
            if len(trace) == state.step:
                say(f"edit: going on after step {state.step}.")
                _drop_frames_after(task, state.step)
                return state, trace
        except Exception as error:  # a file cut off by a crash; the drag is cheap to redo
            say(f"edit: the saved state cannot be read ({error}); starting anew.")
    # Without a state, what lies here is of a run that was killed before it had saved one.
    for old in (task.out / "frames").glob("*.png"):
        old.unlink()
    (task.out / "trace.jsonl").unlink(missing_ok=True)
    return _begin(task, device), []


def _drop_frames_after(task: Task, step: int) -> None:
    """Frames of steps that were killed before they were saved; they are made again."""
    for path in (task.out / "frames").glob("*.png"):
        if int(path.stem) > step:
            path.unlink()


def _drag(
    task: Task, state: DragState, trace: list[dict[str, Any]], frame_every: int
) -> tuple[DragState, list[dict[str, Any]], str]:
    """Step until the engine ends; frames and the trace are written on the way."""
    reason = ""
    with (
        catch_stop() as stop,
        # Most drags end long before their last step, so that a time left would be wrong.
        progress("edit", None, f"steps of at most {task.limits.max_steps}") as bar,
        (task.out / "trace.jsonl").open("w", encoding="utf-8") as log,
    ):
        log.writelines(json.dumps(record) + "\n" for record in trace)
        bar.advance(state.step)
        while True:
            began = time.perf_counter()
            state, events = drag.advance(state, Step(), task.model, task.strategy, task.limits)
            seconds = time.perf_counter() - began
            for event in events:
                if isinstance(event, Stepped):
                    record = _record(event, seconds)
                    trace.append(record)
                    log.write(json.dumps(record) + "\n")
                    bar.advance(1, left=task.distance(event.mean_distance_px))
                    if (event.step - 1) % frame_every == 0:
                        save_frame(task, event.step, event.ws)
                elif isinstance(event, Ended):
                    reason = event.reason
            if state.status is not Status.DRAGGING:
                break
            asked = stop()
            if asked or state.step % task.save_every == 0:
                # The trace first: a state is of use only with every step that led to it.
                log.flush()
                os.fsync(log.fileno())
                state_file.write(state, task.out / _STATE)
            if asked:
                _interrupt(task, state)
    return state, trace, reason


def _interrupt(task: Task, state: DragState) -> None:
    """Leave the best picture for the user; the drag is kept for the next run already."""
    Image.fromarray(render(task, drag.result(state))).save(task.out / "result.png")
    raise Interrupted(
        f"The drag was stopped after step {state.step}; run the same command again to continue."
    )


def _record(event: Stepped, seconds: float) -> dict[str, Any]:
    return {
        "step": event.step,
        "loss": event.loss,
        "motion_loss": event.motion_loss,
        "mask_loss": event.mask_loss,
        "mean_distance_px": event.mean_distance_px,
        "handles": [asdict(handle) for handle in event.handles],
        "seconds": seconds,
    }

"""What an edit leaves: the pictures, the film, edit.json and its figures (see `stage`)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.console import say
from pipeline.data.align import crop
from pipeline.edit import drag, pictures, video
from pipeline.edit.config import EditConfig
from pipeline.edit.drag import DragState
from pipeline.edit.full_picture import FILM_FRAMES, Dragged, full_picture, views_between
from pipeline.edit.handle_check import Check, check_handle
from pipeline.edit.pictures import Marker
from pipeline.edit.task import Task, render, save_frame

FORMAT = 1


def write(
    task: Task,
    state: DragState,
    trace: list[dict[str, Any]],
    reason: str,
    config: EditConfig,
) -> dict[str, float | int | str]:
    """Write all that `stage` names but the frames so far and the recipe; returns the figures."""
    out = task.out
    before = render(task, state.start_ws)
    after = render(task, drag.result(state))
    assert state.best is not None
    trace = _end_at_best(task, state, trace)
    factor = pictures.display_factor(*after.shape[:2])
    Image.fromarray(after).save(out / "result.png")
    description: dict[str, Any] = {}
    shown = pictures.before_after(before, after, factor)
    if task.subject.source is not None and task.subject.transform is not None:
        dragged = Dragged(
            task.subject.source,
            task.subject.transform,
            before,
            after,
            # All the way, also where the model could not follow.
            (task.recipe.moves,),
            task.recipe.mask,
        )
        full, description["paste"] = full_picture(dragged, config.paste)
        if description["paste"]["from"] != "face":
            views = views_between(dragged, description["paste"]["from"], FILM_FRAMES)
            video.write_webp(out / "drawing.webp", views, config.frames_per_second)
        Image.fromarray(full).save(out / "full.png")
        side = after.shape[1] * factor
        drawn, edited = (
            crop(picture, task.subject.transform, side) for picture in (task.subject.source, full)
        )
        shown = pictures.before_after(drawn, edited, 1)
    Image.fromarray(shown).save(out / "before_after.png")
    _write_film(task, trace, factor, config.frames_per_second)
    checks = [check_handle(before, after, m.start, m.target) for m in task.recipe.moves]
    description = {**_description(task, state, reason, checks), **description}
    if task.mask is not None:
        description["change_in_mask_levels"] = _change_in_mask(task.mask, before, after)
    metrics = _metrics(state, trace, checks)
    description["metrics"] = metrics
    text = json.dumps(description, indent=1) + "\n"
    (out / "edit.json").write_text(text, encoding="utf-8")
    left = task.distance(sum(h.distance_px for h in state.handles) / len(state.handles))
    ended = f"{reason}; the points end {left} from their targets"
    _tell(ended, description.get("paste", {}).get("from"), config.paste)
    return metrics


def _tell(ended: str, pasted_from: str | None, paste: str) -> None:
    """Say how it ended: of the picture that the user sees first, then of the model's face."""
    if pasted_from != "drawn":
        say(f"edit: {ended}.")
        return
    why = "the model changed the face rather than move it, so " if paste == "auto" else ""
    say(f"edit: {why}full.png is the drawing itself, its points moved all the way.")
    say(f"edit: apart from that, the model's own face is in result.png: {ended}.")


def _end_at_best(task: Task, state: DragState, trace: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trace, with the best step once more at its end if the drag went back to it."""
    assert state.best is not None
    if state.best.step == trace[-1]["step"]:
        save_frame(task, state.best.step, state.best.ws)
        return trace
    last = {
        **trace[state.best.step - 1],
        "step": trace[-1]["step"] + 1,
        "back_to_step": state.best.step,
    }
    with (task.out / "trace.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(last) + "\n")
    save_frame(task, last["step"], state.best.ws)
    return [*trace, last]


def _write_film(
    task: Task, trace: list[dict[str, Any]], factor: int, frames_per_second: int
) -> None:
    by_step = {record["step"]: record for record in trace}
    starts = [move.start for move in task.recipe.moves]
    frames = []
    for path in sorted((task.out / "frames").glob("*.png"), key=lambda path: int(path.stem)):
        with Image.open(path) as image:
            face = np.asarray(image)
        handles = by_step[int(path.stem)]["handles"]
        markers = [
            Marker(start, tuple(handle["position"]), tuple(handle["target"]))
            for start, handle in zip(starts, handles, strict=True)
        ]
        frames.append(pictures.draw_markers(face, markers, factor))
    # Half a second before it begins, a second to see where it ended.
    held = [*frames[:1] * (frames_per_second // 2), *frames, *frames[-1:] * frames_per_second]
    video.write_mp4(task.out / "frames.mp4", held, frames_per_second)
    video.write_gif(task.out / "frames.gif", frames, frames_per_second)
    Image.fromarray(frames[0]).save(task.out / "marked_first.png")
    Image.fromarray(frames[-1]).save(task.out / "marked_last.png")


def _description(task: Task, state: DragState, reason: str, checks: list[Check]) -> dict[str, Any]:
    assert state.best is not None
    return {
        "format": FORMAT,
        "stopped": {"status": state.status.value, "reason": reason},
        "steps": state.step,
        "kept_step": state.best.step,
        # All distances below are in pixels of this face; one is that many of the drawing's.
        "face": {"width": task.model.width, "height": task.model.height},
        "drawing_px_per_face_px": task.subject.drawing_px(task.model.width),
        "subject": task.subject.about,
        "drag": {
            "strategy": task.strategy.name,
            "source": task.strategy.source,
            "constants": dict(task.recipe.constants),
            "stop_distance_px": task.strategy.stop_distance_px(task.model),
            "layer": task.layer,
            "rows": list(task.rows),
        },
        "handles": [
            {
                "from": list(handle.start),
                "to": list(handle.target),
                "ended": list(handle.position),
                "distance_px": handle.distance_px,
                "confidence": handle.confidence,
                "picture_check": asdict(check),
            }
            for handle, check in zip(state.handles, checks, strict=True)
        ],
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }


def _metrics(
    state: DragState, trace: list[dict[str, Any]], checks: list[Check]
) -> dict[str, float | int | str]:
    distances = [handle.distance_px for handle in state.handles]
    errors = [check.error_px for check in checks]
    steps = [record["seconds"] for record in trace[: state.step]]
    return {
        "stopped": state.status.value,
        "steps": state.step,
        "final_distance_px": sum(distances) / len(distances),
        "worst_distance_px": max(distances),
        # By the pictures, not by the tracker.
        "handle_error_px": sum(errors) / len(errors),
        "worst_handle_error_px": max(errors),
        "return_error_px": sum(check.return_error_px for check in checks) / len(checks),
        "seconds_per_step": sum(steps) / len(steps),
    }


def _change_in_mask(mask: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute change of what the mask keeps, in grey levels of 255."""
    weight = mask.astype(np.float64) / 255
    change = np.abs(after.astype(np.float64) - before).mean(axis=2)
    return float((change * weight).sum() / max(weight.sum(), 1e-9))

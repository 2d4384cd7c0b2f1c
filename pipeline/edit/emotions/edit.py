"""The edit stage where an emotion is asked for instead of points: the same files, see `stage`.

emotion.json   goal, plan (28 landmarks as read, neutral, wanted, reached), what was read before
               and after, how it was reached and what else was tried
recipe.json    the plan as a drag's handles and mask, replayable by RECIPE=
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.console import progress, say
from pipeline.data import face_measures
from pipeline.data import landmarks as lm
from pipeline.data.face_reader import FaceReader
from pipeline.edit import pictures, video
from pipeline.edit import recipe as recipes
from pipeline.edit.config import EditConfig
from pipeline.edit.emotions.express import Expressed, Performer, Ways, load_directions
from pipeline.edit.emotions.goal_text import goal_text, parse_goal
from pipeline.edit.pictures import Marker
from pipeline.edit.recipe import Recipe
from pipeline.errors import DataError

FORMAT = 1
# Frames of the film from the face as it was to the face as it is.
FRAMES = 14
# Mean distance of the landmarks from the plan, in face widths, that counts as arrived.
ARRIVED = 0.03


def ways_of(config: EditConfig) -> Ways:
    """The settings' own ways."""
    return Ways(
        method=config.emotion.method,
        steps=config.emotion.steps,
        prior=config.emotion.prior,
        assume=config.emotion.assume,
        strategy=config.drag.strategy or "auto",
        max_steps=config.drag.max_steps or Ways.max_steps,
    )


def run(
    config: EditConfig, performer: Performer, about: Mapping[str, Any], out: Path
) -> dict[str, float | int | str]:
    """Give the performer's face the emotion; everything is written to `out`.

    about: how the face came about, for edit.json.
    """
    asked = config.emotion
    goal = parse_goal(asked.name, asked.sliders, asked.strength, asked.mirror)
    check_face(performer)
    with progress("edit", 2 + FRAMES, "pictures") as bar:
        done = performer.express(goal)
        bar.advance(2)
        frames = _frames(performer, done, out / "frames", bar.advance)
    Image.fromarray(done.face if done.face is not None else done.view).save(out / "result.png")
    if done.full is not None:
        Image.fromarray(done.full).save(out / "full.png")
    shown = pictures.before_after(performer.view, done.view, 1)
    Image.fromarray(shown).save(out / "before_after.png")
    trace = _trace(performer, done, len(frames))
    lines = "".join(json.dumps(record) + "\n" for record in trace)
    (out / "trace.jsonl").write_text(lines, encoding="utf-8")
    _film(done, trace, frames, config.frames_per_second, out)
    if performer.source is not None:
        video.write_webp(out / "drawing.webp", frames, config.frames_per_second)
    if done.plan.moves:
        recipes.write(_recipe(performer, done), out / "recipe.json")
    metrics = metrics_of(performer, done)
    _write_about(performer, done, trace, metrics, about, out)
    say(
        f"edit: {goal_text(goal)}: reads {done.reading.expression} "
        f"({done.reading.expressions[done.reading.expression]:.2f}), landmarks "
        f"{100 * done.off:.1f} % of the face's width from where they should be; {done.method}."
    )
    return metrics


def metrics_of(performer: Performer, done: Expressed) -> dict[str, float | int | str]:
    """Figures of one expressed face, flat."""
    change = np.abs(done.view.astype(np.float64) - performer.view).mean(axis=2)
    kept = done.plan.mask
    outside = float(change[kept == 255].mean()) if kept is not None and (kept == 255).any() else 0.0
    metrics: dict[str, float | int | str] = {
        "stopped": "arrived" if done.off < ARRIVED else "stuck",
        "steps": done.reached.pictures if done.reached is not None else 1,
        "final_distance_px": done.off * done.plan.face_px,
        "begun_widths": round(done.plan.way, 5),
        "off_widths": round(done.off, 5),
        "read_before": performer.reading.expression,
        "read_after": done.reading.expression,
        "outside_levels": round(outside, 4),
        "seconds": round(done.seconds, 2),
        "method": done.method,
    }
    if done.chance is not None:
        metrics["chance"] = round(done.chance, 4)
        metrics["reads_right"] = int(bool(done.reads_right))
    return metrics


def check_face(performer: Performer) -> None:
    """DataError where the reader sees no face to work on."""
    if not performer.reading.confident:
        raise DataError(
            "The face reader does not recognise a face in this picture "
            f"(expected error {performer.reading.expected_error:.2f} face widths); invert a "
            "picture with one face seen from the front, or drag points: POINTS=..."
        )


def _frames(performer: Performer, done: Expressed, folder: Path, advance: Any) -> list[np.ndarray]:
    """The way from the face as it was, as pictures, filed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    frames = []
    for number, view in enumerate(views_between(performer, done, FRAMES), 1):
        Image.fromarray(view).save(folder / f"{number:04d}.png")
        frames.append(view)
        advance(1)
    return frames


def views_between(performer: Performer, done: Expressed, count: int) -> Iterator[np.ndarray]:
    """`count` views from the face as it was to the face as it is, slower at both ends
    (3t^2 - 2t^3)."""
    for index in range(count):
        t = index / max(count - 1, 1)
        t = t * t * (3 - 2 * t)
        yield done.view if index + 1 == count else view_at(performer, done, t)


def view_at(performer: Performer, done: Expressed, share: float) -> np.ndarray:
    """The view that share of the way from the face as it was: h × w × 3 uint8."""
    if share <= 0:
        return performer.view
    if done.ws is None:
        return performer.drawn_view(done.plan, share)
    own = performer.model_plan(done.plan.goal)
    ws = performer.ws.lerp(done.ws, share)
    return performer.carried(ws, performer.picture(ws, own), done.plan, None, 0.0).view


def _handles(done: Expressed) -> list[int]:
    """Landmarks that the plan moves; all of them where none does."""
    ways = np.linalg.norm((done.plan.target - done.plan.source)[: lm.NUM_LANDMARKS], axis=1)
    moved = np.flatnonzero(ways > 0.006 * done.plan.face_px)
    return moved.tolist() or list(range(lm.NUM_LANDMARKS))


def _trace(performer: Performer, done: Expressed, count: int) -> list[dict[str, Any]]:
    """A line a frame, as a drag's: the landmarks go straight from where they were read to where
    they were read at the end."""
    first, last = performer.reading.landmarks, done.reading.landmarks
    records = []
    for step in range(1, count + 1):
        t = (step - 1) / max(count - 1, 1)
        t = t * t * (3 - 2 * t)
        handles: list[dict[str, Any]] = []
        for index in _handles(done):
            place = first[index] + t * (last[index] - first[index])
            target = done.plan.landmark_targets[index]
            handles.append(
                {
                    "landmark": lm.NAMES[index],
                    "position": [round(float(v), 3) for v in place],
                    "target": [round(float(v), 3) for v in target],
                    "distance_px": float(np.linalg.norm(place - target)),
                    "confidence": float(done.reading.visibility[index]),
                }
            )
        mean = sum(handle["distance_px"] for handle in handles) / len(handles)
        records.append(
            {
                "step": step,
                "loss": done.plan.way + t * (done.off - done.plan.way),
                "mean_distance_px": mean,
                "handles": handles,
                "seconds": done.seconds / count,
            }
        )
    return records


def _film(
    done: Expressed,
    trace: list[dict[str, Any]],
    frames: list[np.ndarray],
    rate: int,
    out: Path,
) -> None:
    starts = {lm.NAMES[index]: done.plan.source[index] for index in _handles(done)}
    marked = []
    for record, face in zip(trace, frames, strict=True):
        markers = [
            Marker(
                tuple(starts[handle["landmark"]].tolist()),
                tuple(handle["position"]),
                tuple(handle["target"]),
            )
            for handle in record["handles"]
        ]
        marked.append(pictures.draw_markers(face, markers, 1))
    held = [*marked[:1] * (rate // 2), *marked, *marked[-1:] * rate]
    video.write_mp4(out / "frames.mp4", held, rate)
    video.write_gif(out / "frames.gif", marked, rate)
    Image.fromarray(marked[0]).save(out / "marked_first.png")
    Image.fromarray(marked[-1]).save(out / "marked_last.png")


def _recipe(performer: Performer, done: Expressed) -> Recipe:
    height, width = performer.view.shape[:2]
    return Recipe(width, height, done.plan.moves, done.plan.mask, strategy="auto")


def _write_about(
    performer: Performer,
    done: Expressed,
    trace: list[dict[str, Any]],
    metrics: Mapping[str, float | int | str],
    about: Mapping[str, Any],
    out: Path,
) -> None:
    height, width = performer.view.shape[:2]
    goal = done.plan.goal
    emotion = {
        "format": FORMAT,
        "goal": {
            "text": goal_text(goal),
            "emotions": dict(goal.emotions),
            "sliders": dict(goal.sliders),
            "mirror": goal.mirror,
            "reads_as": goal.reads_as,
        },
        "landmarks": {
            "before": lm.to_json(performer.reading.landmarks),
            "neutral": lm.to_json(done.plan.neutral[: lm.NUM_LANDMARKS]),
            "wanted": lm.to_json(done.plan.landmark_targets),
            "after": lm.to_json(done.reading.landmarks),
        },
        "before": described(performer.reading),
        "after": described(done.reading),
        "method": done.method,
        "tried": dict(done.tried),
        "drawn_anew": list(done.parts),
        "latents": None if done.reached is None else done.reached.to_json(),
    }
    (out / "emotion.json").write_text(json.dumps(emotion, indent=1) + "\n", encoding="utf-8")
    edit = {
        "format": FORMAT,
        "stopped": {
            "status": metrics["stopped"],
            "reason": f"{goal_text(goal)}, {done.method}",
        },
        "steps": metrics["steps"],
        "face": {"width": width, "height": height},
        "drawing_px_per_face_px": (
            None if performer.transform is None else performer.transform.width / width
        ),
        "subject": dict(about),
        "emotion": emotion["goal"],
        "handles": [
            {
                "from": list(done.plan.source[lm.INDEX[handle["landmark"]]]),
                "to": handle["target"],
                "ended": handle["position"],
                "distance_px": handle["distance_px"],
                "confidence": handle["confidence"],
            }
            for handle in trace[-1]["handles"]
        ],
        "metrics": dict(metrics),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    (out / "edit.json").write_text(json.dumps(edit, indent=1) + "\n", encoding="utf-8")


def described(reading: Any) -> dict[str, Any]:
    """Expressions, measures and angles of a reading, rounded."""
    measures = face_measures.measures(reading.landmarks)
    return {
        "expressions": {name: round(value, 4) for name, value in reading.expressions.items()},
        "measures": {name: round(value, 4) for name, value in measures.items()},
        "yaw": round(reading.yaw, 2),
        "pitch": round(reading.pitch, 2),
        "roll": round(reading.roll, 2),
    }


def performer_of(
    config: EditConfig,
    inputs: Mapping[str, Path],
    generator: Any,
    ws: Tensor,
    source: np.ndarray | None,
    transform: Any,
) -> Performer:
    """A performer for the edit stage's subject."""
    reader = FaceReader.shipped(ws.device)
    return Performer(
        generator, ws, reader, load_directions(inputs), ways_of(config), source, transform
    )

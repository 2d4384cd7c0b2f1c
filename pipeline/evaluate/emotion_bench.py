"""The emotion_bench stage: which way reaches an emotion, and keeps the character, on one model.

    results.jsonl   one line a painted character, emotion and method
    summary.json    means by method, and by method and emotion; what was used
    table.md        the same as tables
    report.html     the same as a page, with the pictures
    examples.png    a block a character, a row a method, a column an emotion

A painted character, neutral, is found in the model (`invert`), and given every emotion by every
method. What is measured is measured on the finished picture: the face reader's expression, its
landmarks against the plan's and against *the painter's truth of the same character in that
emotion*, the similarity to the drawing beside that of two paintings, and what changed outside the
mask. An interrupted run goes on with the first case that is missing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline import weights
from pipeline.console import catch_stop, progress, say
from pipeline.data import face_measures
from pipeline.data import landmarks as lm
from pipeline.data.face_reader import FaceReader
from pipeline.data.painter import Pose, character, face_landmarks, paint_face
from pipeline.edit.emotions import Goal, derive
from pipeline.edit.emotions.edit import metrics_of
from pipeline.edit.emotions.express import (
    Expressed,
    Performer,
    Ways,
    better_of,
    load_directions,
)
from pipeline.edit.generator import check_colour
from pipeline.errors import Interrupted
from pipeline.evaluate import emotion_table
from pipeline.evaluate.config import EmotionBenchConfig
from pipeline.evaluate.results_file import RESULTS, read_rows
from pipeline.evaluate.sheet import Sheet, draw_sheet
from pipeline.invert import stage as invert_stage
from pipeline.invert.config import InvertConfig, ProjectConfig, TuneConfig
from pipeline.invert.inversion import Inversion
from pipeline.metrics import features
from pipeline.metrics.features import FeatureNetwork
from pipeline.metrics.identity import similarity
from pipeline.models import checkpoint
from torch_utils.device import choose_device, describe
from torch_utils.pixels import to_tensor

WORK, EXAMPLES = "unfinished", "examples.png"
IDENTITY = "efficientnet-lite0"
# Side of the painted drawings, px: a drawing is larger than a model's picture.
DRAWING_PX = 512
# How far the painted heads are turned, degrees: standard deviations of yaw, pitch and roll.
_POSE = (7.0, 3.0, 3.0)


@dataclass(frozen=True, eq=False)
class Case:
    """A painted character, ready: its number, pose, drawing, and the performer.

    known: what was made of it, by method and emotion; "auto" chooses among it.
    """

    number: int
    pose: Pose
    drawing: np.ndarray
    performer: Performer
    known: dict[tuple[str, str], Expressed] = field(default_factory=dict)


def check(config: EmotionBenchConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what can be told without weights."""
    choose_device(config.device)
    check_colour(checkpoint.blank(inputs["model"], "G_ema"), "emotion_bench.model")


def run(
    config: EmotionBenchConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Measure `config.methods` on `inputs["model"]`; see the module for what is written."""
    device = choose_device(config.device)
    reader = FaceReader.shipped(device)
    there = weights.find(IDENTITY) is not None
    network = features.load(IDENTITY, device) if there else None
    say(f"emotion_bench: {', '.join(config.methods)}, on {describe(device)}.")
    pictures = out / WORK / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = read_rows(out / RESULTS)
    total = len(config.characters) * len(config.methods) * len(config.emotions)
    with (
        catch_stop() as stop,
        progress("emotion_bench", total, "edits") as bar,
        (out / RESULTS).open("w", encoding="utf-8") as log,
    ):
        log.writelines(json.dumps(row) + "\n" for row in rows)
        bar.advance(len(rows))
        done = {(row["character"], row["method"], row["emotion"]) for row in rows}
        for number in config.characters:
            case: Case | None = None
            for method in config.methods:
                for emotion in config.emotions:
                    if (number, method, emotion) in done:
                        continue
                    if stop():
                        raise Interrupted(
                            f"emotion_bench was stopped after {len(rows)} of {total} edits; run "
                            "the same command again to continue."
                        )
                    case = case or prepare(config, inputs, number, reader, out / WORK, device)
                    row, view = measure(case, method, emotion, network, config)
                    Image.fromarray(view).save(pictures / f"{number}.{method}.{emotion}.png")
                    rows.append(row)
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                    bar.advance(1)
    summary = emotion_table.summarise(rows, config.name)
    summary["about"] = {
        "characters": list(config.characters),
        "identity": None if network is None else network.name,
        "reader": "the face reader that ships with the code",
        "drawing_px": DRAWING_PX,
        "directions": "directions" in inputs or (inputs["model"] / "directions").is_dir(),
    }
    draw_sheet(_examples(config, pictures)).save(out / EXAMPLES)
    emotion_table.write(out, summary, out / EXAMPLES)
    shutil.rmtree(out / WORK)
    say(emotion_table.markdown([summary]))
    return emotion_table.metrics(summary)


def prepare(
    config: EmotionBenchConfig,
    inputs: Mapping[str, Path],
    number: int,
    reader: FaceReader,
    work: Path,
    device: torch.device,
) -> Case:
    """Paint a character, neutral, and find it in the model; what is found is kept in `work`."""
    pose = pose_of(config.seed, number)
    drawing = paint_face(character(number), pose, size=DRAWING_PX).image
    folder = work / f"character-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "drawing.png"
    Image.fromarray(drawing).save(image)
    settings = InvertConfig(
        name="bench", model=str(inputs["model"]), image=str(image), align="none",
        device=config.device, seed=config.seed,
        project=ProjectConfig(steps=config.project_steps, prior_weight=config.prior_weight),
        tune=TuneConfig(steps=config.tune_steps),
    )  # fmt: skip
    whole = folder / "inversion"
    if not whole.exists():  # else an earlier run has found it
        part = folder / "unfinished"
        invert_stage.run(settings, {"model": inputs["model"], "image": image}, part)
        part.rename(whole)
    found = Inversion.load(whole, inputs["model"], device)
    directions = load_directions(inputs)
    performer = Performer(
        found.generator, found.ws, reader, directions, Ways(), found.source, found.transform
    )
    return Case(number, pose, drawing, performer)


def pose_of(seed: int, number: int) -> Pose:
    """A head pose, the same for all emotions of a character."""
    yaw, pitch, roll = np.random.default_rng([seed, number, 83]).normal(0, _POSE)
    return Pose(float(yaw), float(pitch), float(roll))


def measure(
    case: Case,
    method: str,
    emotion: str,
    network: FeatureNetwork | None,
    config: EmotionBenchConfig,
) -> tuple[dict[str, Any], np.ndarray]:
    """One edit's figures, and its view."""
    performer = case.performer
    done = _express(case, method, emotion, config.max_steps)
    mood = derive.expression_of(emotion)
    who = character(case.number)
    side = performer.view.shape[1]
    truth = face_landmarks(who, case.pose, mood, size=side)
    width = lm.face_width(truth)
    misses = np.linalg.norm(done.reading.landmarks - truth, axis=1)
    painted = paint_face(who, case.pose, mood, size=side).image
    row: dict[str, Any] = {
        **metrics_of(performer, done),
        "character": case.number,
        "method": method,  # what was asked for; `taken`: what "auto" took
        "emotion": emotion,
        "taken": done.method,
        "by_model": int(done.reached is not None),
        "truth_widths": round(float(misses.mean()) / width, 5),
        "probabilities": {n: round(v, 4) for n, v in done.reading.expressions.items()},
        "measures": _measures(done),
        "measures_before": {
            n: round(v, 4) for n, v in face_measures.measures(performer.reading.landmarks).items()
        },
        "tried": dict(done.tried),
    }
    if network is not None:
        kept = _similarity(network, performer.view, done.view)
        usual = _similarity(network, performer.view, painted)
        row |= {
            "identity": round(kept, 4),
            "identity_of_paintings": round(usual, 4),
            "identity_share": round(kept / usual, 4) if usual > 0 else None,
        }
    return row, done.view


def _express(case: Case, method: str, emotion: str, max_steps: int) -> Expressed:
    """The character in the emotion; "auto" is the better of what was made already, if it was."""
    both = [case.known.get((name, emotion)) for name in ("search", "drawn")]
    found = [one for one in both if one is not None]
    if method == "auto" and len(found) == len(both):
        return better_of(found)
    name, _, strategy = method.partition(":")
    case.performer.ways = Ways(method=name, strategy=strategy or "auto", max_steps=max_steps)
    done = case.performer.express(Goal({emotion: 1.0}))
    case.known[method, emotion] = done
    return done


def _measures(done: Expressed) -> dict[str, float]:
    measures = face_measures.measures(done.reading.landmarks)
    found = {name: round(value, 4) for name, value in measures.items()}
    return found | {
        "yaw": round(done.reading.yaw, 2),
        "pitch": round(done.reading.pitch, 2),
        "roll": round(done.reading.roll, 2),
    }


def _similarity(network: FeatureNetwork, one: np.ndarray, other: np.ndarray) -> float:
    return similarity(network, to_tensor(one), to_tensor(other))


def _examples(config: EmotionBenchConfig, pictures: Path) -> Sheet:
    cells, labels = [], []
    for number in config.characters:
        pose = pose_of(config.seed, number)
        cells.append(
            [
                paint_face(character(number), pose, derive.expression_of(emotion), size=256).image
                for emotion in config.emotions
            ]
        )
        labels.append("as painted")
        for method in config.methods:
            views = [_read(pictures / f"{number}.{method}.{e}.png") for e in config.emotions]
            cells.append(views)
            labels.append(method)
    return Sheet(
        title="One neutral drawing, every emotion, by every way",
        subtitle="First row of each block: the painter's own drawing of the same character in that "
        "emotion, which no method has seen.",
        cells=cells,
        column_labels=list(config.emotions),
        row_labels=labels,
    )


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((256, 256), Image.Resampling.LANCZOS))

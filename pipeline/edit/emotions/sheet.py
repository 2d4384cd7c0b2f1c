"""The emotions stage: one inverted drawing -> the same character in every emotion.

    sheet.png           the labelled page
    cells/<name>.png    every emotion's face, 512 px; cells/original.png
    full/<name>.png     the whole drawing with that face in it
    loop.webp, .gif     from one emotion to the next and round again
    emotions.json       an entry an emotion: how it was reached, what is read of it

Interrupted, it goes on with the first emotion that is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline import files
from pipeline.console import catch_stop, progress, say
from pipeline.data import landmarks as lm
from pipeline.data.face_reader import FaceReader
from pipeline.data.landmarks import Points
from pipeline.edit.emotion_config import EmotionsConfig
from pipeline.edit.emotions import loops
from pipeline.edit.emotions.edit import check_face, described, metrics_of, view_at
from pipeline.edit.emotions.express import Expressed, Performer, Ways
from pipeline.edit.emotions.page import Cell, draw_page
from pipeline.edit.emotions.plan import Goal
from pipeline.edit.emotions.presets import find_preset
from pipeline.errors import Interrupted
from pipeline.invert.inversion import picture_folder, read_info, read_png
from torch_utils.device import choose_device, describe

FORMAT = 1
ABOUT, WORK = "emotions.json", "unfinished"
# Side of a cell's picture, in face widths.
FRAMED = 1.72
# Shares of the way shown between the drawing and an emotion, and how long each is shown.
_BETWEEN, _BETWEEN_MS = (0.3, 0.7), 60


def check(config: EmotionsConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what can be told without weights."""
    choose_device(config.device)
    read_info(picture_folder(inputs["inversion"], config.picture), inputs["model"])


def run(
    config: EmotionsConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Make the sheet; see the module for what is written."""
    device = choose_device(config.device)
    ways = Ways(method=config.method, steps=config.steps, assume=config.assume)
    reader = FaceReader.shipped(device)
    performer = Performer.of_inversion(inputs, reader, ways, device, config.picture)
    check_face(performer)
    say(f"emotions: {len(config.emotions)} of them, {config.method}, on {describe(device)}.")
    for folder in ("cells", "full", WORK):
        (out / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(performer.view).save(out / "cells" / "original.png")
    entries = []
    with catch_stop() as stop, progress("emotions", len(config.emotions), "emotions") as bar:
        for name in config.emotions:
            entries.append(_one(performer, config, name, out))
            bar.advance(1, last=name)
            if stop():
                raise Interrupted(f"Stopped after {name}; run the same command again to continue.")
    if performer.source is None:
        (out / "full").rmdir()
    cells = [
        Cell(
            framed(read_png(out / "cells" / f"{name}.png"), performer.reading.landmarks),
            find_preset("emotion", name).label,
        )
        for name in config.emotions
    ]
    title = config.title if config.title is not None else _titled(config)
    sheet = draw_page(
        portrait(performer),
        "Original",
        cells,
        title,
        config.subtitle,
        config.columns,
        config.cell_px,
    )
    sheet.save(out / "sheet.png", optimize=True)
    _write_loops(config, out)
    about = {
        "format": FORMAT,
        "before": described(performer.reading),
        "landmarks": lm.to_json(performer.reading.landmarks),
        "emotions": entries,
    }
    (out / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    for path in sorted((out / WORK).iterdir()):
        path.unlink()
    (out / WORK).rmdir()
    metrics = _metrics(entries)
    say(
        f"emotions: {metrics['read_right']} of {len(entries)} are read as what was asked, "
        f"landmarks {100 * float(metrics['off_widths']):.1f} % of the face's width off."
    )
    return metrics


def _one(performer: Performer, config: EmotionsConfig, name: str, out: Path) -> dict[str, Any]:
    """One emotion's files and its entry; those of an earlier run are kept."""
    record = out / WORK / f"{name}.json"
    if record.exists():
        entry: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        return entry
    goal = Goal({name: config.strength}, mirror=config.mirror)
    done = performer.express(goal)
    Image.fromarray(done.view).save(out / "cells" / f"{name}.png")
    if done.full is not None:
        Image.fromarray(done.full).save(out / "full" / f"{name}.png")
    for number, share in enumerate(_BETWEEN):
        view = view_at(performer, done, share)
        Image.fromarray(view).save(out / WORK / f"{name}.{number}.png")
    entry = entry_of(performer, done, name)
    # Last: what it says is there, is.
    files.put_text(record, json.dumps(entry))
    return entry


def entry_of(performer: Performer, done: Expressed, name: str) -> dict[str, Any]:
    """What is said of one emotion."""
    return {
        "emotion": name,
        "tried": dict(done.tried),
        "drawn_anew": list(done.parts),
        "latents": None if done.reached is None else done.reached.to_json(),
        "after": described(done.reading),
        "landmarks": lm.to_json(done.reading.landmarks),
        "wanted": lm.to_json(done.plan.landmark_targets),
        "metrics": metrics_of(performer, done),
    }


def _write_loops(config: EmotionsConfig, out: Path) -> None:
    """From the drawing to each emotion and on to the next, by way of the in-betweens."""
    frames: list[np.ndarray] = []
    times: list[int] = []
    original = loops.resized(read_png(out / "cells" / "original.png"), config.loop_px)
    for name in config.emotions:
        between = [
            loops.resized(read_png(out / WORK / f"{name}.{number}.png"), config.loop_px)
            for number in range(len(_BETWEEN))
        ]
        cell = loops.resized(read_png(out / "cells" / f"{name}.png"), config.loop_px)
        frames += [*between, cell, *between[::-1], original]
        times += [_BETWEEN_MS] * len(between)
        times += [round(1000 * config.hold)]
        times += [_BETWEEN_MS] * (len(between) + 1)
    loops.write_webp(out / "loop.webp", frames, times)
    loops.write_gif(out / "loop.gif", frames, times)


def portrait(performer: Performer) -> np.ndarray:
    """The view without what lies beyond the drawing's borders (its mirror image): the largest part
    of the view's proportions around the face; all of the view where that would cut the face."""
    view = performer.view
    if performer.source is None or performer.transform is None:
        return view
    height, width = view.shape[:2]
    tall, wide = performer.source.shape[:2]
    corners = np.array([[0, 0], [wide, 0], [wide, tall], [0, tall]], dtype=np.float64)
    x, y = performer.transform.apply(corners, width).T
    left, right = max(0.0, x[0], x[3]), min(float(width), x[1], x[2])
    top, bottom = max(0.0, y[0], y[1]), min(float(height), y[2], y[3])
    share = min((right - left) / width, (bottom - top) / height)
    x0, y0, x1, y1 = lm.bounding_box(performer.reading.landmarks)
    if share * width < x1 - x0 or share * height < y1 - y0:
        return view
    across, down = int(share * width), int(share * height)
    first = int(np.clip((x0 + x1 - across) / 2, np.ceil(left), max(np.ceil(left), right - across)))
    upper = int(np.clip((y0 + y1 - down) / 2, np.ceil(top), max(np.ceil(top), bottom - down)))
    return view[upper : upper + down, first : first + across]


def framed(view: np.ndarray, landmarks: Points) -> np.ndarray:
    """The view's part around the face, of the view's proportions: small cells show what matters."""
    height, width = view.shape[:2]
    x0, y0, x1, y1 = lm.bounding_box(landmarks)
    share = min(1.0, FRAMED * lm.face_width(landmarks) / width)
    wide, tall = round(share * width), round(share * height)
    # The eyes' line lies in the upper half, so that hair shows above it.
    left = round(min(max((x0 + x1) / 2 - wide / 2, 0), width - wide))
    top = round(min(max(y0 + 0.42 * (y1 - y0) - 0.55 * tall, 0), height - tall))
    return view[top : top + tall, left : left + wide]


def _titled(config: EmotionsConfig) -> str:
    name = config.picture or config.name
    return name.replace("_", " ").replace("-", " ").strip().capitalize() or "Emotions"


def _metrics(entries: list[dict[str, Any]]) -> dict[str, float | int | str]:
    figures = [entry["metrics"] for entry in entries]
    named = [figure["reads_right"] for figure in figures if "reads_right" in figure]
    return {
        "emotions": len(entries),
        "read_right": sum(named),
        "share_read_right": round(sum(named) / max(len(named), 1), 4),
        "off_widths": round(float(np.mean([figure["off_widths"] for figure in figures])), 5),
        "outside_levels": round(
            float(np.mean([figure["outside_levels"] for figure in figures])), 4
        ),
        "drawn": sum(figure["method"] == "drawn" for figure in figures),
        "seconds": round(sum(figure["seconds"] for figure in figures), 1),
    }

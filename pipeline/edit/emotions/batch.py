"""The batch stage: one emotion, or one drag recipe, for many pictures and many faces of the model.

    pictures/<name>.png   each face after, 512 px; before/<name>.png: before
    full/<name>.png       the whole drawing with that face in it
    table.json, table.csv a line an item: figures, or the reason why it was left out
    contact_sheet.png     before and after, side by side

Items are the inversion's pictures and the model's numbered faces (`seed-7`). One that fails is
listed with its reason and stops nobody. Interrupted, it goes on with the first item that is
missing.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline import files
from pipeline.console import catch_stop, complain, progress, say
from pipeline.data import landmarks as lm
from pipeline.data.face_reader import FaceReader
from pipeline.edit import recipe as recipes
from pipeline.edit.emotion_config import BatchConfig
from pipeline.edit.emotions.edit import ARRIVED, check_face, metrics_of
from pipeline.edit.emotions.express import Performer, Ways, load_directions
from pipeline.edit.emotions.goal_text import parse_goal
from pipeline.edit.emotions.page import draw_pairs
from pipeline.edit.generator import numbered_ws
from pipeline.errors import AnimedragError, ConfigError, DataError, Interrupted
from pipeline.invert.inversion import names_of_pictures, read_png
from pipeline.models import checkpoint
from torch_utils.device import choose_device, describe

COLUMNS = (
    "name", "read_before", "read_after", "reads_right", "chance", "begun_widths", "off_widths",
    "outside_levels", "method", "seconds", "reason",
)  # fmt: skip
MOST_SEEDS = 100_000
ONLY = "picture"  # what the only picture of an inversion is called

Row = dict[str, Any]


def check(config: BatchConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what can be told without weights."""
    choose_device(config.device)
    if not config.emotion.asked and config.recipe is None:
        raise ConfigError(
            "batch.emotion.name (or .sliders) or batch.recipe must say what to do (make: "
            "EMOTION=smile or RECIPE=file.json)."
        )
    if "inversion" not in inputs and not config.seeds:
        raise ConfigError(
            "batch has nothing to work on: invert a folder first (make batch IMAGE=folder ...), or "
            "name faces of the model (make: SEEDS=0-9)."
        )
    parse_seeds(config.seeds)
    _goal(config)
    if config.recipe is not None:
        recipes.read(inputs["recipe"])


def parse_seeds(text: str | None) -> list[int]:
    """The numbers in "0-9, 17"; ConfigError where it cannot be read."""
    numbers: list[int] = []
    for part in filter(None, (piece.strip() for piece in (text or "").split(","))):
        first, dash, last = part.partition("-")
        ends = [first.strip(), last.strip()] if dash else [first.strip()] * 2
        if not all(end.isdigit() for end in ends) or not int(ends[0]) <= int(ends[1]) < 2**31:
            raise ConfigError(
                f'batch.seeds: "{part}" cannot be read; write numbers as in "0-9, 17".'
            )
        if int(ends[1]) - int(ends[0]) + len(numbers) >= MOST_SEEDS:
            raise ConfigError(
                f"batch.seeds names more than {MOST_SEEDS} faces; take fewer at once."
            )
        numbers += range(int(ends[0]), int(ends[1]) + 1)
    return list(dict.fromkeys(numbers))


def run(config: BatchConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, float | int | str]:
    """Change every item; see the module for what is written."""
    device = choose_device(config.device)
    items = list(_items(config, inputs, FaceReader.shipped(device), device))
    for name, count in Counter(name for name, _ in items).items():
        if count > 1:
            raise ConfigError(
                f"Both a picture and a numbered face are called {name}; rename the picture, or "
                "leave that number out of batch.seeds."
            )
    say(f"batch: {len(items)} faces, on {describe(device)}.")
    for folder in ("pictures", "before", "full", "unfinished"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with catch_stop() as stop, progress("batch", len(items), "faces") as bar:
        for name, perform in items:
            rows.append(_one(config, inputs, name, perform, out))
            bar.advance(1, last=name)
            if stop():
                raise Interrupted(f"Stopped after {name}; run the same command again to continue.")
    rows += _left_out(inputs)
    good = [row for row in rows if "reason" not in row]
    _write_table(out, rows)
    if not good:
        raise DataError(f"None of the {len(rows)} faces could be changed; {rows[0]['reason']}")
    pairs = [
        (
            read_png(out / "before" / f"{row['name']}.png"),
            read_png(out / "pictures" / f"{row['name']}.png"),
            row["name"],
        )
        for row in good
    ]
    draw_pairs(pairs, config.columns, config.cell_px).save(out / "contact_sheet.png", optimize=True)
    for path in (out / "unfinished").iterdir():
        path.unlink()
    (out / "unfinished").rmdir()
    right = [row["reads_right"] for row in good if row.get("reads_right") is not None]
    metrics: dict[str, float | int | str] = {
        "faces": len(good),
        "left_out": len(rows) - len(good),
        "off_widths": round(float(np.mean([row["off_widths"] for row in good])), 5),
    }
    if right:
        metrics["share_read_right"] = round(sum(right) / len(right), 4)
    say(f"batch: {len(good)} changed, {len(rows) - len(good)} left out.")
    return metrics


def _items(
    config: BatchConfig, inputs: Mapping[str, Path], reader: FaceReader, device: torch.device
) -> Iterator[tuple[str, Callable[[], Performer]]]:
    """Names of the faces, and what makes each ready."""
    asked = config.emotion
    ways = Ways(asked.method, asked.steps, asked.prior, asked.assume)

    def of_picture(picture: str | None) -> Performer:
        return Performer.of_inversion(inputs, reader, ways, device, picture)

    if "inversion" in inputs:
        names = names_of_pictures(inputs["inversion"])
        for name in names:
            yield name, lambda name=name: of_picture(name)  # type: ignore[misc]
        if not names:
            yield ONLY, lambda: of_picture(None)
    seeds = parse_seeds(config.seeds)
    if not seeds:
        return
    generator: Any = checkpoint.load(inputs["model"], ("G_ema",), device)["G_ema"]
    generator.eval().requires_grad_(False)
    directions = load_directions(inputs)

    def of_seed(seed: int) -> Performer:
        ws = numbered_ws(generator, seed, config.truncation)
        return Performer(generator, ws, reader, directions, ways)

    for seed in seeds:
        yield f"seed-{seed}", lambda seed=seed: of_seed(seed)  # type: ignore[misc]


def _one(
    config: BatchConfig,
    inputs: Mapping[str, Path],
    name: str,
    perform: Callable[[], Performer],
    out: Path,
) -> Row:
    """One item's files and its row; those of an earlier run are kept."""
    record = out / "unfinished" / f"{name}.json"
    if record.exists():
        kept: Row = json.loads(record.read_text(encoding="utf-8"))
        return kept
    try:
        row = _change(config, inputs, name, perform(), out)
    except AnimedragError as error:
        complain(f"batch: {name} is left out: {error}")
        row = {"name": name, "reason": str(error)}
    files.put_text(record, json.dumps(row))
    return row


def _change(
    config: BatchConfig, inputs: Mapping[str, Path], name: str, performer: Performer, out: Path
) -> Row:
    check_face(performer)
    goal = _goal(config)
    if goal is not None:
        done = performer.express(goal)
    else:
        done = performer.follow(recipes.read(inputs["recipe"]))
    Image.fromarray(performer.view).save(out / "before" / f"{name}.png")
    Image.fromarray(done.view).save(out / "pictures" / f"{name}.png")
    if done.full is not None:
        Image.fromarray(done.full).save(out / "full" / f"{name}.png")
    row: Row = {"name": name, **metrics_of(performer, done)}
    if done.reached is not None and goal is None:
        # A recipe asks for its handles' places, not for the landmarks'.
        width = lm.face_width(performer.face_reading.landmarks)
        row["begun_widths"] = round(done.reached.begun / width, 5)
        row["off_widths"] = round(done.reached.loss / width, 5)
        row["stopped"] = "arrived" if row["off_widths"] < ARRIVED else "stuck"
    return row


def _goal(config: BatchConfig) -> Any:
    asked = config.emotion
    if not asked.asked:
        return None
    return parse_goal(asked.name, asked.sliders, asked.strength, asked.mirror)


def _left_out(inputs: Mapping[str, Path]) -> list[Row]:
    """Pictures of the folder that could not even be inverted, with their reasons."""
    if "inversion" not in inputs:
        return []
    try:
        table = json.loads((inputs["inversion"] / "table.json").read_text(encoding="utf-8"))
        return [
            {"name": str(row.get("file", row.get("name", "?"))), "reason": str(row["reason"])}
            for row in table
            if isinstance(row, dict) and "reason" in row
        ]
    except (OSError, ValueError, TypeError):
        return []


def _write_table(out: Path, rows: list[Row]) -> None:
    files.put_text(out / "table.json", json.dumps(rows, indent=1) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    files.put_text(out / "table.csv", text.getvalue())

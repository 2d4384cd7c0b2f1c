"""The drag_bench stage: every way of dragging on the same pairs, judged by landmarks.

    results.jsonl     one line a pair, number of points and strategy
    summary.json      means with 95 % intervals by points and strategy, comparisons, what was used
    table.md          the same as a table
    plots.png         the same as bars with their intervals
    examples.png      sources, targets, and what each strategy made of them

The source's landmarks are dragged to the target's. The tracker is not believed: where the points
ended is read from the picture that was made, by the face reader. An interrupted run goes on with
the first case that is missing.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import weights
from pipeline.console import catch_stop, progress, say
from pipeline.data.face_reader import FaceReader
from pipeline.data.landmarks import Points
from pipeline.edit import drag
from pipeline.edit.blending import Blend
from pipeline.edit.drag import AddHandle, Limits, SetMask, Status, Step
from pipeline.edit.generator import check_colour, choose_layer, drag_model, free_rows
from pipeline.edit.proposed_mask import propose_mask
from pipeline.edit.recipe import Move
from pipeline.edit.strategies import build_strategy
from pipeline.errors import DataError, Interrupted
from pipeline.evaluate import drag_table
from pipeline.evaluate.config import DragBenchConfig
from pipeline.evaluate.drag_pairs import Pair, own_pairs, painted_pairs
from pipeline.evaluate.drag_plots import draw_plots
from pipeline.evaluate.results_file import RESULTS, read_rows
from pipeline.evaluate.sheet import Sheet, draw_sheet
from pipeline.invert.pti import picture_of
from pipeline.metrics import features
from pipeline.metrics.features import FeatureNetwork
from pipeline.metrics.identity import similarity
from pipeline.models import checkpoint
from torch_utils.device import choose_device, describe
from torch_utils.pixels import to_uint8

WORK = "unfinished"
PLOTS, EXAMPLES = "plots.png", "examples.png"
# Chin, middle of each upper lid, nose, middle of the lower lip: the five points.
FIVE = (2, 12, 18, 23, 27)
IDENTITY = "efficientnet-lite0"
# Pairs shown on the sheet.
_SHOWN = 6


@dataclass(frozen=True)
class Judges:
    """The networks that judge."""

    reader: FaceReader
    identity: FeatureNetwork | None
    second: FaceReader | None = None


def check(config: DragBenchConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what the model cannot do before anything is begun."""
    choose_device(config.device)
    check_colour(checkpoint.blank(inputs["model"], "G_ema"), "drag_bench.model")


def run(
    config: DragBenchConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Measure `config.strategies` on `inputs["model"]`; see the module for what is written."""
    device = choose_device(config.device)
    generator: Any = checkpoint.load(inputs["model"], ("G_ema",), device)["G_ema"]
    generator.eval().requires_grad_(False)
    there = weights.find(IDENTITY) is not None
    judges = Judges(
        FaceReader.shipped(device),
        features.load(IDENTITY, device) if there else None,
        FaceReader.load(inputs["judge"], device) if "judge" in inputs else None,
    )
    say(f"drag_bench: {', '.join(config.strategies)}, on {describe(device)}.")
    pairs = own_pairs(generator, judges.reader, config.pairs, config.seed, config.truncation)
    if len(pairs) < config.pairs:
        raise DataError(
            f"The face reader finds faces in the model's pictures for {len(pairs)} pairs only, not "
            f"{config.pairs}; train the model longer, or set drag_bench.pairs to less."
        )
    work = out / WORK
    size = int(generator.img_resolution)
    pairs += painted_pairs(inputs["model"], size, config.painted, config.seed, work, device.type)
    cases = [
        (pair, points, chosen_landmarks(points, index), name)
        for index, pair in enumerate(pairs)
        for points in config.points
        for name in config.strategies
    ]
    path = out / RESULTS
    rows = read_rows(path)
    pictures = out / WORK / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    with (
        catch_stop() as stop,
        progress("drag_bench", len(cases), "drags") as bar,
        path.open("w", encoding="utf-8") as log,
    ):
        log.writelines(json.dumps(row) + "\n" for row in rows)
        bar.advance(len(rows))
        for number, (pair, points, chosen, name) in enumerate(cases):
            if number < len(rows):
                continue
            if stop():
                raise Interrupted(
                    f"drag_bench was stopped after {number} of {len(cases)} drags; run the same "
                    "command again to continue."
                )
            row, picture = measure(pair, chosen, name, judges, config)
            rows.append({"points": points, **row})
            np.save(pictures / f"{pair.name}.{points}.{name}.npy", picture)
            log.write(json.dumps(rows[-1]) + "\n")
            log.flush()
            bar.advance(1, left=f"{row['mean_distance_px']:.2f} px")
    summary = drag_table.summarise(rows, size)
    summary["about"] = _about(config, generator, judges)
    drag_table.write(out, summary)
    draw_plots(summary).save(out / PLOTS)
    draw_sheet(_examples(pairs, config, pictures)).save(out / EXAMPLES)
    shutil.rmtree(work)
    say(drag_table.markdown(summary))
    return drag_table.metrics(summary)


def chosen_landmarks(points: int, pair: int) -> tuple[int, ...]:
    """Which landmarks are dragged: one of the five in turn of the pairs, the five, or the first."""
    if points == 1:
        return (FIVE[pair % len(FIVE)],)
    return FIVE if points == len(FIVE) else tuple(range(points))


def measure(
    pair: Pair, chosen: Sequence[int], name: str, judges: Judges, config: DragBenchConfig
) -> tuple[dict[str, Any], np.ndarray]:
    """One drag there and back: its figures, and the picture that it made (H × W × 3 uint8)."""
    layer = config.layer or choose_layer(pair.generator)
    starts = [_inside(pair.source[index], pair) for index in chosen]
    targets = [_inside(pair.target[index], pair) for index in chosen]
    moves = tuple(Move(a, b) for a, b in zip(starts, targets, strict=True))
    before = _picture(pair.generator, pair.ws)
    there = _drag(pair.generator, layer, pair.ws, moves, name, config, pair.source)
    after = there.picture
    read = judges.reader.read(after)
    ended = read.landmarks[list(chosen)]
    free = propose_mask(moves, before.shape[1], before.shape[0])
    row = {
        "pair": pair.name,
        "kind": pair.kind,
        "strategy": name,
        "landmarks": list(chosen),
        "begun_px": _mean_distance(starts, targets),
        "mean_distance_px": _mean_distance(ended, targets),
        "second_px": _second_opinion(judges, pair, after, chosen),
        "second_begun_px": _second_opinion(judges, pair, before, chosen),
        "tracked_px": there.tracked_px,
        "outside_levels": _change(before, after, free.astype(np.float64) / 255),
        "identity": _identity(judges, before, after),
        "steps": there.steps,
        "seconds": there.seconds,
        "status": there.status,
        "read": read.confident,
    }
    # What a mask kept is in no latents: there is no way back from such a picture.
    if config.back and config.mask == "none":
        # From where the points were meant to be, back to where they were.
        returning = tuple(Move(move.target, move.start) for move in moves)
        back = _drag(pair.generator, layer, there.ws, returning, name, config, pair.target)
        picture = back.picture
        again = judges.reader.read(picture).landmarks[list(chosen)]
        row["back_px"] = _mean_distance(again, starts)
        row["back_levels"] = _change(before, picture, np.ones(before.shape[:2]))
    return row, after


@dataclass(frozen=True, eq=False)
class _Drag:
    ws: Tensor
    picture: np.ndarray
    tracked_px: float
    steps: int
    seconds: float
    status: str


def _drag(
    generator: Any,
    layer: str,
    ws: Tensor,
    moves: Sequence[Move],
    name: str,
    config: DragBenchConfig,
    landmarks: Points,
) -> _Drag:
    """One drag from `ws`, whose face has these landmarks (28×2 px)."""
    model = drag_model(generator, layer)
    strategy = build_strategy(name)
    limits = Limits(max_steps=config.max_steps)
    rows = free_rows(generator, layer, config.rows, config.move_whole_face)
    state = drag.start(ws, rows)
    for move in moves:
        state, _ = drag.advance(state, AddHandle(move.start, move.target), model, strategy, limits)
    keep: Tensor | None = None
    if config.mask == "proposed":
        mask = propose_mask(moves, model.width, model.height, landmarks)
        keep = torch.from_numpy(mask.astype(np.float32) / 255).to(ws.device)
        state, _ = drag.advance(state, SetMask(keep), model, strategy, limits)
    # Of the processor where that does the work: other programs' share is no one's fault.
    clock = time.process_time if ws.device.type == "cpu" else time.perf_counter
    began = clock()
    while state.status is Status.DRAGGING:
        state, _ = drag.advance(state, Step(), model, strategy, limits)
    found = drag.result(state)
    seconds = clock() - began
    left = [handle.distance_px for handle in state.handles]
    if keep is None:
        picture = _picture(generator, found)
    else:
        with torch.no_grad():
            blend = Blend(generator, ws, keep, layer, picture_of)
            picture = to_uint8(blend.picture(found))[0]
    return _Drag(found, picture, sum(left) / len(left), state.step, seconds, state.status.value)


def _second_opinion(
    judges: Judges, pair: Pair, picture: np.ndarray, chosen: Sequence[int]
) -> float | None:
    """Mean distance to the target by the second reader: of own pairs it reads the target, too."""
    if judges.second is None:
        return None
    target = pair.target if pair.kind == "painted" else judges.second.read(pair.picture).landmarks
    found = judges.second.read(picture).landmarks
    return _mean_distance(found[list(chosen)], list(target[list(chosen)]))


@torch.no_grad()
def _picture(generator: Any, ws: Tensor) -> np.ndarray:
    return to_uint8(picture_of(generator, ws))[0]


def _inside(point: np.ndarray, pair: Pair) -> tuple[float, float]:
    height, width = pair.picture.shape[:2]
    return float(np.clip(point[0], 0, width)), float(np.clip(point[1], 0, height))


def _mean_distance(ones: Sequence[Any] | np.ndarray, others: Sequence[Any]) -> float:
    return float(np.mean([math.dist(a, b) for a, b in zip(ones, others, strict=True)]))


def _change(before: np.ndarray, after: np.ndarray, weight: np.ndarray) -> float:
    """Mean absolute change in grey levels (of 255) where the weight is."""
    change = np.abs(after.astype(np.float64) - before).mean(axis=2)
    return float((change * weight).sum() / max(weight.sum(), 1e-9))


def _identity(judges: Judges, before: np.ndarray, after: np.ndarray) -> float | None:
    if judges.identity is None:
        return None
    one, other = (
        torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
        for picture in (before, after)
    )
    return similarity(judges.identity, one, other)


def _about(config: DragBenchConfig, generator: Any, judges: Judges) -> dict[str, Any]:
    layer = config.layer or choose_layer(generator)
    return {
        "resolution": int(generator.img_resolution),
        "layer": layer,
        "rows": list(free_rows(generator, layer, config.rows, config.move_whole_face)),
        "pairs": config.pairs,
        "painted": config.painted,
        "truncation": config.truncation,
        "max_steps": config.max_steps,
        "mask": config.mask,
        "landmarks": "the face reader that ships with the code",
        "second_judge": judges.second is not None,
        "identity": None if judges.identity is None else judges.identity.name,
        "seconds": "of the processor, on one process"
        if next(generator.parameters()).device.type == "cpu"
        else "by the wall clock",
        "sources": {name: build_strategy(name).source for name in config.strategies},
    }


def _examples(pairs: Sequence[Pair], config: DragBenchConfig, pictures: Path) -> Sheet:
    shown = pairs[:_SHOWN]
    points = 5 if 5 in config.points else config.points[0]
    cells = [
        [
            _picture(pair.generator, pair.ws),
            pair.picture,
            *(np.load(pictures / f"{pair.name}.{points}.{name}.npy") for name in config.strategies),
        ]
        for pair in shown
    ]
    return Sheet(
        title="Dragged to another face's landmarks",
        subtitle=f"{points} landmarks of the source are dragged to where the target has them; "
        "colours and hair are not asked for.",
        cells=cells,
        column_labels=["source", "target", *config.strategies],
        row_labels=[pair.name for pair in shown],
    )

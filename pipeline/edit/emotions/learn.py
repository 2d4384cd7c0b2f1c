"""The directions stage: model -> directions, learnt from what the face reader reads of its samples.

    directions.safetensors, directions.json   see `directions`
    samples.safetensors   latents (u, whitened) and measures of the samples they were learnt from
    sheet.png             faces of the model, each moved along every expression's direction

Interrupted, it goes on after the last batch that was saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.console import catch_stop, progress, say
from pipeline.data.face_reader import CONFIDENT, FaceReader
from pipeline.data.painter.sheet import grid
from pipeline.edit.drag import LatentPrior
from pipeline.edit.emotion_config import DirectionsConfig
from pipeline.edit.emotions.directions import Directions, measure_names, measured
from pipeline.edit.emotions.regression import Logistic, Ridge, fit_logistic, fit_ridge
from pipeline.edit.generator import check_colour, choose_layer, free_rows, latent_prior
from pipeline.errors import DataError, Interrupted
from pipeline.invert.inversion import model_digest
from pipeline.invert.pti import picture_of
from pipeline.models import checkpoint
from pipeline.models.characters import one_hot
from torch_utils import rng
from torch_utils.device import choose_device, describe
from torch_utils.pixels import to_uint8

SAMPLES, SHEET = "samples.safetensors", "sheet.png"
# A sample whose expression is less sure is no example of it.
SURE = 0.5
# Length, among likely latents, of the moves by which rows are chosen and that the sheet shows.
TRIED_LENGTH = 3.0
# The fewest rows that have this share of all rows' effect are taken: later ones only colour.
_ENOUGH = 0.85
_SAVE_EVERY = 10


@dataclass(frozen=True, eq=False)
class Samples:
    """u: N × w_dim, whitened latents; measures: N × M; chances: N × E; errors: N, face widths."""

    u: Tensor
    measures: Tensor
    chances: Tensor
    errors: Tensor


def check(config: DirectionsConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what the model cannot do before anything is begun."""
    choose_device(config.device)
    check_colour(checkpoint.blank(inputs["model"], "G_ema"), "directions.model")


def run(
    config: DirectionsConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Learn directions of `inputs["model"]`; see the module for what is written."""
    device = choose_device(config.device)
    generator: Any = checkpoint.load(inputs["model"], ("G_ema",), device)["G_ema"]
    generator.eval().requires_grad_(False)
    reader = FaceReader.shipped(device)
    prior = latent_prior(generator)
    say(f"directions: {config.samples} faces of the model, on {describe(device)}.")
    samples = draw(config, generator, reader, prior, out)
    good = samples.errors <= CONFIDENT
    if int(good.sum()) < max(20, 2 * config.folds):
        raise DataError(
            f"The face reader finds a face in {int(good.sum())} of {len(good)} pictures of the "
            "model; train the model longer, or set directions.samples to more."
        )
    u, chances = samples.u[good], samples.chances[good]
    ridge = fit_ridge(u, samples.measures[good], config.folds)
    sure = chances.max(1).values >= SURE
    if int(sure.sum()) < 2 * config.folds:
        sure[:] = True
    labels = chances[sure].argmax(1)
    logistic = fit_logistic(u[sure], labels, chances.shape[1], config.folds, config.penalty)
    found = Directions(
        mean=prior.mean.float().cpu(),
        spread=prior.spread.float().cpu(),
        weights=ridge.weights,
        bias=ridge.bias,
        noise=ridge.noise,
        expression_weights=logistic.weights,
        measures=measure_names(reader.expressions),
        expressions=reader.expressions,
        rows=(0, int(generator.num_ws)),
        about={},
    )
    rows, effects, shown = choose_rows(config, generator, reader, found)
    counts = torch.bincount(labels, minlength=chances.shape[1]).tolist()
    scores = _scores(found, ridge, logistic, counts)
    about = {
        "model_digest": model_digest(inputs["model"]),
        "samples": len(good),
        "read": int(good.sum()),
        "truncation": config.truncation,
        "scores": scores,
        "rows_tried": effects,
    }
    found = Directions(**{**vars(found), "rows": rows, "about": about})
    found.save(out)
    Image.fromarray(shown).save(out / SHEET)
    metrics = _metrics(scores, len(good), int(good.sum()), rows)
    say(
        f"directions: expressions told apart in {100 * logistic.accuracy:.0f} % of the faces left "
        f"out, landmarks R² {metrics['landmarks_r2']}; rows {rows[0]} to {rows[1] - 1} are moved."
    )
    return metrics


def draw(
    config: DirectionsConfig,
    generator: Any,
    reader: FaceReader,
    prior: LatentPrior,
    out: Path,
) -> Samples:
    """The model's faces and what is read of them; what an earlier run has read is kept."""
    parts = _earlier(out / SAMPLES, config)
    done = sum(len(part["u"]) for part in parts)
    count = -(-config.samples // config.batch)
    with catch_stop() as stop, progress("directions", config.samples, "faces") as bar:
        bar.advance(done)
        for index in range(done // config.batch, count):
            part = _batch(config, generator, reader, prior, index)
            parts.append(part)
            bar.advance(min(config.batch, config.samples - index * config.batch))
            asked = stop()
            if asked or index + 1 == count or (index + 1) % _SAVE_EVERY == 0:
                _save(parts, out / SAMPLES)
            if asked:
                raise Interrupted(
                    f"Stopped after {(index + 1) * config.batch} faces; run the same command again "
                    "to continue."
                )
    whole = {key: torch.cat([part[key] for part in parts])[: config.samples] for key in parts[0]}
    _save([whole], out / SAMPLES)
    return Samples(**whole)


@torch.no_grad()
def _batch(
    config: DirectionsConfig,
    generator: Any,
    reader: FaceReader,
    prior: LatentPrior,
    index: int,
) -> dict[str, Tensor]:
    ws = latents(config, generator, index, config.batch)
    images = picture_of(generator, ws)
    reading = reader.tensors(images, mirror=False)
    spread = prior.spread.to(ws)
    centred = (ws[:, 0] - prior.mean.to(ws)).T
    points = reading.landmarks
    widths = (points[:, 4] - points[:, 0]).norm(dim=1).clamp_min(1e-6)
    return {
        "u": torch.linalg.solve_triangular(spread, centred, upper=False).T.float().cpu(),
        "measures": measured(reading, images).float().cpu(),
        "chances": reading.expressions.float().cpu(),
        "errors": (reading.errors.mean(1) / widths).float().cpu(),
    }


@torch.no_grad()
def latents(config: DirectionsConfig, generator: Any, index: int, count: int) -> Tensor:
    """count × num_ws × w_dim: batch `index` of the model's own faces, classes in turn."""
    draws = rng.generator(config.seed, 0, index, "directions")
    z = torch.randn(count, generator.z_dim, generator=draws)
    device = next(generator.parameters()).device
    label = torch.cat(
        [
            one_hot((index * count + k) % generator.c_dim if generator.c_dim else None,
                    generator.c_dim)
            for k in range(count)
        ]
    )  # fmt: skip
    ws: Tensor = generator.mapping(z.to(device), label.to(device), truncation_psi=config.truncation)
    return ws


@torch.no_grad()
def choose_rows(
    config: DirectionsConfig, generator: Any, reader: FaceReader, directions: Directions
) -> tuple[tuple[int, int], list[dict[str, float]], np.ndarray]:
    """Which rows of ws to move: the fewest leading ones with most of the effect.

    Returns the rows, what was measured of each choice, and a sheet: a face a row, first as it is,
    then moved along each expression's direction.
    """
    layer = choose_layer(generator)
    first, coarse = free_rows(generator, layer, generator.num_ws, False)
    last = int(generator.num_ws)
    ends = sorted({max(first + 1, coarse), (coarse + last + 1) // 2, last})
    ws = latents(config, generator, -1, config.tried)
    images = picture_of(generator, ws)
    before = reader.tensors(images, mirror=False).expressions
    cells: dict[int, list[list[np.ndarray]]] = {}
    effects = []
    for end in ends:
        gains, changes = [], []
        cells[end] = [[picture] for picture in to_uint8(images)]
        for index, name in enumerate(directions.expressions):
            move = TRIED_LENGTH * directions.towards({name: 1.0}, {}).to(ws)
            moved = ws.clone()
            moved[:, first:end] += move
            pictures = picture_of(generator, moved)
            chances = reader.tensors(pictures, mirror=False).expressions
            gains.append((chances - before)[:, index])
            changes.append((pictures - images).abs().mean((1, 2, 3)))
            for row, picture in zip(cells[end], to_uint8(pictures), strict=True):
                row.append(picture)
        effects.append(
            {
                "rows_end": end,
                "gain": round(float(torch.stack(gains).mean()), 4),
                "change": round(float(torch.stack(changes).mean()), 4),
            }
        )
    most = max(effect["gain"] for effect in effects)
    end = next(
        e for e, effect in zip(ends, effects, strict=True) if effect["gain"] >= _ENOUGH * most
    )
    chosen = [cell for row in cells[end] for cell in row]
    return (first, end), effects, grid(chosen, 1 + len(directions.expressions))


def _scores(
    directions: Directions, ridge: Ridge, logistic: Logistic, counts: list[int]
) -> dict[str, Any]:
    """What the cross-validation says, by name."""
    r2 = dict(zip(directions.measures, ridge.r2.tolist(), strict=True))
    return {
        "ridge_penalty": ridge.penalty,
        "r2": {name: round(value, 4) for name, value in r2.items()},
        "expression_accuracy": round(logistic.accuracy, 4),
        "most_frequent_expression": round(max(counts) / max(sum(counts), 1), 4),
        "expressions": {
            name: {"auc": None if auc != auc else round(auc, 4), "samples": count}
            for name, auc, count in zip(
                directions.expressions, logistic.auc.tolist(), counts, strict=True
            )
        },
    }


def _metrics(
    scores: Mapping[str, Any], samples: int, read: int, rows: tuple[int, int]
) -> dict[str, float | int | str]:
    r2 = scores["r2"]

    def mean(prefix: str) -> float:
        values = [value for name, value in r2.items() if name.startswith(prefix)]
        return round(sum(values) / len(values), 4)

    points = [value for name, value in r2.items() if name.endswith((".x", ".y"))]
    return {
        "samples": samples,
        "read": read,
        "expression_accuracy": scores["expression_accuracy"],
        "most_frequent_expression": scores["most_frequent_expression"],
        "landmarks_r2": round(sum(points) / len(points), 4),
        "odds_r2": mean("odds."),
        "yaw_r2": mean("yaw"),
        "rows": f"{rows[0]}-{rows[1] - 1}",
    }


def _earlier(path: Path, config: DirectionsConfig) -> list[dict[str, Tensor]]:
    """Whole batches of an earlier run of the same config; nothing where the file is not whole."""
    if not path.exists():
        return []
    try:
        part = load_file(path)
        if len(part["u"]) >= config.samples:
            return [part] if len(part["u"]) == config.samples else []
        return [part] if len(part["u"]) % config.batch == 0 else []
    except Exception as error:  # a file cut off by a crash; reading it again is cheap
        say(f"directions: what was read before is damaged ({error}); starting anew.")
        return []


def _save(parts: list[dict[str, Tensor]], path: Path) -> None:
    aside = path.with_name(f"unfinished-{path.name}")
    whole = {key: torch.cat([part[key] for part in parts]).contiguous() for key in parts[0]}
    save_file(whole, aside)
    aside.replace(path)

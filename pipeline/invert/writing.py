"""Writing an inversion, and how close it came: figures of what a reader gets back."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pipeline import files
from pipeline.console import say
from pipeline.invert import inversion, picture, pti
from pipeline.invert.phases import Pivot, Tuned
from pipeline.invert.subject import Subject
from pipeline.invert.tuning import View
from pipeline.metrics.closeness import psnr_db, ssim
from pipeline.metrics.identity import similarity
from torch_utils.pixels import to_uint8

Metrics = dict[str, float | int | str]

# Looked at in pictures of 64 px: at 18 dB the same character, softly drawn; at 15 dB nobody.
FAR_DB = 17


@dataclass
class Result:
    """One picture and what was found of it."""

    prepared: picture.Prepared
    view: View
    character: int | None
    pivot: Pivot


def write(
    subject: Subject,
    result: Result,
    tuned: Tuned,
    out: Path,
    shared_delta: Mapping[str, Any] | None = None,
) -> Metrics:
    """Write the inversion of one picture into `out`.

    `shared_delta`: what `write_shared_delta` said of the delta that this picture shares with
    others; None: it has its own.
    """
    inversion.write_latents(out / "latents.safetensors", result.view.ws, result.view.buffers)
    delta = shared_delta
    if delta is None:
        delta = _write_delta(subject, [result.view], tuned, out / "delta.safetensors")
    info = _info(subject, result, dict(delta))
    _write_json(out / "inversion.json", info)
    restored = inversion.Inversion.load(out, subject.model_folder, subject.device)
    metrics = _metrics(subject, result, restored.generator, tuned, out)
    metrics["delta_bytes"] = int(delta["bytes"])
    metrics["delta_share"] = float(delta["share_of_generator"])
    _write_json(out / "inversion.json", info | {"metrics": metrics})
    _tell(metrics)
    return metrics


def write_shared_delta(
    subject: Subject, views: list[View], tuned: Tuned, path: Path, seen_from: str
) -> dict[str, Any]:
    """Write one delta for several pictures; `seen_from`: its path from their folders."""
    return _write_delta(subject, views, tuned, path) | {"file": seen_from}


def _write_delta(subject: Subject, views: list[View], tuned: Tuned, path: Path) -> dict[str, Any]:
    options = subject.config.tune
    shown = [(view.ws, view.buffers) for view in views]
    said = inversion.write_delta(path, tuned.stored, subject.generator, shown)
    form: dict[str, Any] = {"weights": options.weights, "layers": list(options.layers)}
    if options.weights == "low-rank":
        form["rank"] = tuned.rank
    size = inversion.generator_bytes(subject.generator)
    share = round(said["bytes"] / size, 4)
    return said | form | {"file": path.name, "share_of_generator": share}


def _info(subject: Subject, result: Result, delta: dict[str, Any]) -> dict[str, Any]:
    prepared, config, generator = result.prepared, subject.config, subject.generator
    return {
        "format": inversion.FORMAT,
        "model": {
            "digest": inversion.model_digest(subject.model_folder),
            "num_ws": generator.num_ws,
            "w_dim": generator.w_dim,
            "width": subject.size[0],
            "height": subject.size[1],
        },
        "picture": {"width": prepared.source.shape[1], "height": prepared.source.shape[0]},
        "alignment": {
            "method": prepared.method,
            "detector": prepared.detector,
            "score": prepared.score,
            "transform": prepared.transform.to_json(),
        },
        "perceptual": {
            "name": subject.metric.name,
            "smallest_px": subject.metric.smallest_px,
            "largest_px": subject.metric.largest_px,
        },
        "line_art": {"edges": config.line_art.edges, "flats": config.line_art.flats},
        "space": config.project.space,
        "start": result.pivot.start,
        "prior_weight": config.project.prior_weight,
        "label": result.character,
        "seed": config.seed,
        "delta": delta,
        "metrics": {},
    }


def _metrics(
    subject: Subject, result: Result, tuned_generator: Any, tuned: Tuned, out: Path
) -> Metrics:
    """Figures of the pivot's and the tuned picture against the target; writes both pictures."""
    metric, target = subject.metric, result.view.target
    metrics: Metrics = {"perceptual": metric.name}
    untuned = copy.deepcopy(subject.generator)
    pti.set_buffers(untuned, result.view.buffers)
    identity = subject.identity
    if identity is not None:
        metrics["identity_network"] = identity.name
    with torch.no_grad():
        wanted = metric.features(target)
        for name, generator in (("pivot", untuned), ("tuned", tuned_generator)):
            image = pti.picture_of(generator, result.view.ws).clamp(-1, 1)
            distance = metric.distance(metric.features(image), wanted)
            metrics[f"psnr_{name}_db"] = _rounded(psnr_db(image, target))
            metrics[f"ssim_{name}"] = _rounded(ssim(image, target))
            metrics[f"perceptual_{name}"] = _rounded(float(distance))
            if identity is not None:
                metrics[f"identity_{name}"] = _rounded(similarity(identity, image, target))
            Image.fromarray(to_uint8(image)[0]).save(out / f"{name}.png")
    metrics["start"] = result.pivot.start
    prior = subject.prior(result.character)
    metrics["prior_pivot"] = _rounded(float(prior.penalty(result.view.ws)))
    metrics["project_steps"] = result.pivot.steps
    metrics["project_seconds"] = round(result.pivot.seconds, 2)
    metrics["tune_steps"] = tuned.steps
    metrics["tune_seconds"] = round(tuned.seconds, 2)
    metrics["tune_ended"] = tuned.ended
    metrics["stopped_early"] = int(tuned.ended != "steps")
    return metrics


def _tell(metrics: Metrics) -> None:
    say(
        f"invert: PSNR {metrics['psnr_pivot_db']:.1f} -> {metrics['psnr_tuned_db']:.1f} dB, "
        f"{metrics['perceptual']} {metrics['perceptual_pivot']:.3f} -> "
        f"{metrics['perceptual_tuned']:.3f}; the delta is {metrics['delta_share']:.1%} of the "
        "generator."
    )
    if float(metrics["psnr_tuned_db"]) < FAR_DB:
        say(
            f"invert: that is far from the picture (below {FAR_DB} dB), so an edit of it will not "
            "look like it; compare aligned.png with tuned.png. Perhaps the model was trained on "
            "other faces, or for too short; invert.tune.steps takes it nearer."
        )


def _rounded(value: float) -> float:
    return round(value, 6) if math.isfinite(value) else value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    files.put_text(path, json.dumps(value, indent=1) + "\n")

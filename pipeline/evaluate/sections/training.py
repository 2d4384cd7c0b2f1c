"""The training's section: curves and samples over time.

Knows the keys of stats.jsonl and the names of samples/*.png and reals.png.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluate.payload import Record, number, read_records
from pipeline.evaluate.pictures import Picture, embed_picture
from pipeline.evaluate.plots import Plot, Series, make_plot, spread
from pipeline.evaluate.sections.shared import (
    TILE_PX,
    Table,
    fact_table,
    in_words,
    number_in_name,
    numbered_pictures,
)


@dataclass(frozen=True)
class Curve:
    """A plot of training statistics: stats.jsonl's keys and the names shown for them."""

    title: str
    y_label: str
    keys: Mapping[str, str]
    zero: bool = False


STATISTICS = "stats.jsonl"
IMAGES_SEEN = "images_seen"
CURVES = (
    Curve(
        "Adversarial loss",
        "loss",
        {
            "loss_G": "generator",
            "loss_D_real": "D on real",
            "loss_D_fake": "D on generated",
        },
        zero=True,
    ),
    Curve(
        "Discriminator's opinion",
        "logit",
        {
            "logits_real": "real images",
            "logits_fake": "generated images",
            "logits_made": "reconstructions",
        },
    ),
    Curve(
        "Reconstructions while training",
        "distance",
        {"loss_mse": "squared error", "loss_perceptual": "perceptual distance"},
        zero=True,
    ),
    Curve("Held-out images, reconstructed", "PSNR (dB)", {"heldout_psnr_db": "PSNR"}),
    Curve(
        "Held-out images, reconstructed",
        "distance",
        {"heldout_perceptual": "perceptual distance"},
        zero=True,
    ),
    Curve(
        "Sign of the logits",
        "mean sign",
        {"sign_real": "real images", "sign_fake": "generated images"},
    ),
    Curve("Augmentation strength", "p", {"augment_p": "p"}, zero=True),
    Curve("R1 penalty", "penalty", {"loss_r1": "R1"}, zero=True),
    Curve("Path length penalty", "penalty", {"loss_path_length": "path length"}, zero=True),
    Curve(
        "Gradient norms",
        "norm",
        {
            "grad_norm_Gmain": "generator",
            "grad_norm_Gboth": "generator",
            "grad_norm_Dmain": "discriminator",
            "grad_norm_Dboth": "discriminator",
        },
        zero=True,
    ),
    Curve("Time per thousand images", "seconds", {"seconds_per_kimg": "mean so far"}, zero=True),
)


@dataclass(frozen=True)
class TrainingSection:
    """How the training went."""

    lead: str
    images_seen: float
    plots: list[Plot]
    samples: list[Picture]
    reals: Picture | None
    tables: list[Table]


def training_section(
    folder: Path,
    grids: int,
    picture_px: int,
    *,
    ada_target: float = math.nan,
    metrics: Mapping[str, object] | None = None,
) -> TrainingSection:
    """Curves from stats.jsonl and sample grids at up to `grids` points, the last one larger.

    ada_target: the mean sign that ADA keeps to, NaN without ADA. metrics: what the stage reported.
    """
    records = read_records(folder / STATISTICS)
    seen = [number(record.get(IMAGES_SEEN)) for record in records]
    finite = [value for value in seen if math.isfinite(value)]
    images_seen = max(finite, default=math.nan)
    lead = "No statistics were kept."
    if finite:
        lead = f"The networks saw {images_seen:,.0f} images."
    return TrainingSection(
        lead=lead,
        images_seen=images_seen,
        plots=_curves(records, seen, ada_target),
        samples=_samples(folder / "samples", grids, picture_px),
        reals=embed_picture(
            folder / "reals.png",
            "Grid of faces out of the dataset",
            picture_px,
            "faces of the dataset, to compare with",
        ),
        tables=[fact_table("Figures of the training", in_words(metrics))] if metrics else [],
    )


def _curves(records: Sequence[Record], seen: Sequence[float], ada_target: float) -> list[Plot]:
    kimg = [value / 1000 for value in seen]
    plots = []
    for curve in CURVES:
        series = [
            Series(label, kimg, [number(record.get(key)) for record in records])
            for key, label in curve.keys.items()
        ]
        if not any(value for item in series for value in item.y if math.isfinite(value)):
            continue  # not measured, or switched off: zero throughout
        guide = [(ada_target, "ADA's target")] if "sign_real" in curve.keys else []
        plot = make_plot(
            curve.title,
            series,
            x_label="thousand images seen",
            y_label=curve.y_label,
            zero=curve.zero,
            references=guide,
        )
        if plot:
            plots.append(plot)
    return plots


def _samples(folder: Path, grids: int, picture_px: int) -> list[Picture]:
    files = numbered_pictures(folder)
    pictures = []
    for index in spread(len(files), grids):
        last = index == len(files) - 1
        caption = f"after {number_in_name(files[index].stem):,} images"
        alt = f"Grid of generated faces {caption}"
        picture = embed_picture(files[index], alt, picture_px if last else TILE_PX, caption)
        if picture:
            pictures.append(picture)
    return pictures

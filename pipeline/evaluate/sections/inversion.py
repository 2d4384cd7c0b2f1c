"""The inversion's section: the picture as uploaded, aligned, found and tuned; how close it came.

Knows inversion.json, the four PNG files and trace.jsonl; of a folder's inversion also
contact_sheet.png.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluate.payload import Record, nested, number, read_object, read_records, text
from pipeline.evaluate.pictures import Picture, embed_picture
from pipeline.evaluate.plots import Plot, Series, format_number, make_plot
from pipeline.evaluate.sections.shared import TILE_PX, Table, fact_table


@dataclass(frozen=True)
class InversionSection:
    """The uploaded picture and what the network makes of it."""

    lead: str
    pictures: list[Picture]
    plots: list[Plot]
    tables: list[Table]


# Longest side of a contact sheet.
SHEET_PX = 1600
# File, what it is called in inversion.json's metrics, what it shows.
INVERSION_PICTURES = (
    ("source.png", "", "Uploaded picture"),
    ("aligned.png", "", "Aligned: the face, centred and levelled"),
    ("pivot.png", "pivot", "Pivot: the model's nearest face"),
    ("tuned.png", "tuned", "Tuned: the model adapted to the picture"),
)
INVERSION_MEASURES = (
    ("psnr_{}_db", "PSNR (dB, higher is closer)"),
    ("ssim_{}", "SSIM (1 is equal)"),
    ("perceptual_{}", "perceptual distance (0 is equal)"),
    ("identity_{}", "identity (cosine of embeddings, 1 is equal)"),
)
STARTS = {
    "w_avg": "the mean latent",
    "best": "the best of random latents",
    "encoder": "the encoder's latent",
}
ENDS = {
    "arrived": "early, as the picture was close enough",
    "plateau": "early, as it came no nearer",
}
PHASES = {"project": "finding the pivot", "tune": "tuning"}


def inversion_section(folder: Path) -> InversionSection:
    """The four pictures side by side, the distances and the traces of both phases."""
    description = read_object(folder / "inversion.json")
    metrics = nested(description, "metrics")
    pictures = []
    for name, key, what in INVERSION_PICTURES:
        psnr = number(metrics.get(f"psnr_{key}_db"))
        caption = f"{what} (PSNR {psnr:.1f} dB)" if math.isfinite(psnr) else what
        pictures.append(embed_picture(folder / name, caption, TILE_PX, caption))
    tables = [_closeness(metrics), _inversion_facts(description, metrics)]
    if description.get("pictures"):
        sheet = "All pictures: aligned, pivot, tuned"
        pictures.append(embed_picture(folder / "contact_sheet.png", sheet, SHEET_PX, sheet))
        tables.append(_all_pictures(description))
    return InversionSection(
        lead="The uploaded picture, found again by the model, which was then tuned to it.",
        pictures=[picture for picture in pictures if picture],
        plots=_inversion_plots(read_records(folder / "trace.jsonl")),
        tables=[table for table in tables if table.rows],
    )


def _all_pictures(description: Record) -> Table:
    """A line a picture of a folder's inversion, those left out with their reason."""
    keys = ("psnr_pivot_db", "psnr_tuned_db", "perceptual_tuned", "identity_tuned")
    rows = []
    lines = description.get("table")
    for line in lines if isinstance(lines, list) else []:
        if not isinstance(line, Mapping):
            continue
        values = [number(line.get(key)) for key in keys]
        shown = [format_number(value) if math.isfinite(value) else "" for value in values]
        rows.append([text(line.get("file")), *shown, text(line.get("reason", ""))])
    head = ["picture", "pivot PSNR (dB)", "tuned PSNR (dB)", "perceptual", "identity", "left out"]
    return Table("Pictures", head, rows, frozenset({1, 2, 3, 4}))


def _closeness(metrics: Record) -> Table:
    """How close pivot and tuned picture are to the aligned one."""
    rows = []
    for pattern, label in INVERSION_MEASURES:
        values = [number(metrics.get(pattern.format(key))) for key in ("pivot", "tuned")]
        if any(math.isfinite(value) for value in values):
            rows.append([label, *(format_number(value) for value in values)])
    head = ["against the aligned picture", "pivot", "tuned"]
    return Table("Closeness", head, rows, frozenset({1, 2}))


def _inversion_facts(description: Record, metrics: Record) -> Table:
    """How the picture was aligned, what measured the distances, and how long it took."""
    alignment, network = (nested(description, key) for key in ("alignment", "perceptual"))
    facts = {
        "perceptual distance measured by": network.get("name"),
        "alignment": alignment.get("method"),
    }
    if alignment.get("detector"):
        facts["face found by"] = alignment["detector"]
    for phase, words in PHASES.items():
        steps, seconds = (metrics.get(f"{phase}_{unit}") for unit in ("steps", "seconds"))
        if steps is not None:
            facts[words] = f"{text(steps)} steps in {text(seconds)} s"
    facts["the search began at"] = STARTS.get(text(metrics.get("start")))
    facts["identity measured by"] = metrics.get("identity_network")
    ended = text(metrics.get("tune_ended", "arrived" if metrics.get("stopped_early") else ""))
    facts["tuning ended"] = ENDS.get(ended)
    share = number(metrics.get("delta_share"))
    if math.isfinite(share):
        facts["what tuning changed takes"] = f"{share:.1%} of the generator's size"
    known = {key: value for key, value in facts.items() if value is not None}
    return fact_table("How", known)


def _inversion_plots(trace: Sequence[Record]) -> list[Plot]:
    """Perceptual distance while projecting, both terms while tuning, over steps."""
    lines = {
        "project": {"distance": "perceptual distance"},
        "tune": {"perceptual": "perceptual distance", "mse": "mean squared error"},
    }
    plots = []
    for phase, keys in lines.items():
        records = [record for record in trace if record.get("phase") == phase]
        steps = [number(record.get("step")) for record in records]
        series = [
            Series(label, steps, [number(record.get(key)) for record in records])
            for key, label in keys.items()
        ]
        title = PHASES[phase].capitalize()
        plots.append(make_plot(title, series, x_label="step", y_label="distance", zero=True))
    return [plot for plot in plots if plot]

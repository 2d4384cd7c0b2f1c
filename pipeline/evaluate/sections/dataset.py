"""The dataset's section: contact sheet, counts, detectors, what was left out.

Knows contact_sheet.png, faces.jsonl (source, detector, score), rejects.jsonl, split.json.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluate.payload import Record, number, read_object, read_records, text
from pipeline.evaluate.pictures import Picture, embed_picture
from pipeline.evaluate.plots import format_number
from pipeline.evaluate.sections.shared import Table, count_text

# Reasons shown one by one.
MAX_REASONS = 15
# How preprocess begins a reason that ends with the name of another picture.
DUPLICATES = ("near-duplicate of", "the same picture as")


@dataclass(frozen=True)
class DatasetSection:
    """What the dataset holds and what was left out."""

    lead: str
    images: int
    rejected: int
    contact_sheet: Picture | None
    tables: list[Table]


def dataset_section(folder: Path, picture_px: int) -> DatasetSection:
    """Contact sheet, counts, detectors used and reasons for leaving pictures out."""
    faces = read_records(folder / "faces.jsonl")
    rejects = read_records(folder / "rejects.jsonl")
    split = read_object(folder / "split.json")
    train, heldout = (_length(split.get(key)) for key in ("train", "heldout"))
    images = len(faces) or train + heldout
    sources = len({text(face.get("source")) for face in faces})
    lead = f"{count_text(images, 'face')} from {count_text(sources, 'picture')}"
    if train or heldout:
        lead += f"; {train} to train on, {heldout} held out"
    lead += f"; {count_text(len(rejects), 'more picture')} left out."
    return DatasetSection(
        lead=lead,
        images=images,
        rejected=len(rejects),
        contact_sheet=embed_picture(
            folder / "contact_sheet.png",
            f"Contact sheet: a grid of centred faces out of the dataset's {images}",
            picture_px,
            "A sample of the dataset after centring and levelling.",
        ),
        tables=[table for table in (_detectors(faces), _reasons(rejects)) if table.rows],
    )


def _detectors(faces: Sequence[Record]) -> Table:
    scores: dict[str, list[float]] = defaultdict(list)
    for face in faces:
        scores[text(face.get("detector"))].append(number(face.get("score")))
    rows = []
    for detector, values in sorted(scores.items(), key=lambda item: -len(item[1])):
        finite = [value for value in values if math.isfinite(value)]
        mean = format_number(sum(finite) / len(finite)) if finite else "–"
        share = f"{100 * len(values) / len(faces):.1f} %"
        rows.append([detector, str(len(values)), share, mean])
    head = ["detector", "faces", "share", "mean score"]
    return Table("Detectors used", head, rows, frozenset({1, 2, 3}))


def _reasons(rejects: Sequence[Record]) -> Table:
    reasons = [_kind_of(text(record.get("reason"))) for record in rejects]
    counts = Counter(reasons)
    examples: dict[str, str] = {}
    for reason, record in zip(reasons, rejects, strict=True):
        examples.setdefault(reason, text(record.get("source")))
    rows = [
        [reason, str(count), examples[reason]] for reason, count in counts.most_common(MAX_REASONS)
    ]
    rest = sum(counts.values()) - sum(int(row[1]) for row in rows)
    if rest:
        rows.append([f"{len(counts) - len(rows)} other reasons", str(rest), "see rejects.jsonl"])
    head = ["reason", "pictures", "for example"]
    return Table("Pictures left out", head, rows, frozenset({1}))


def _kind_of(reason: str) -> str:
    """The reason without what is particular to one picture, so that equal ones count together."""
    for start in DUPLICATES:
        if reason.startswith(start):
            return f"{start} another"
    return reason.split(" (")[0]


def _length(value: object) -> int:
    return len(value) if isinstance(value, list) else 0

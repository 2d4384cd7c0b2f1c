"""The report's sections, each from one artifact's folder to plain values for the template.

Knows the payloads' file names and keys (they are listed at the head of each section); knows
nothing of HTML, of the store, or of the other artifacts.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluate.payload import (
    Record,
    nested,
    number,
    point,
    read_object,
    read_records,
    text,
)
from pipeline.evaluate.pictures import (
    Film,
    Picture,
    embed_film,
    embed_picture,
)
from pipeline.evaluate.plots import Plot, Series, format_number, make_plot, spread

# Longest side of a picture in a row of several.
TILE_PX = 512
MAX_TABLE_ROWS = 15
# Lines in one plot of handles; of more handles the mean and the farthest are shown.
MAX_HANDLE_LINES = 4
# A marker is drawn for a frame of this many pixels; frames of other sizes scale it.
MARKER_FRAME_PX = 170


@dataclass(frozen=True)
class Table:
    """A table with a caption; `numeric` are the columns set flush right; `wide` fills the page."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    wide: bool = False


def fact_table(caption: str, facts: Mapping[str, object]) -> Table:
    """Names and values, one a row."""
    return Table(caption, ["what", "value"], [[key, text(value)] for key, value in facts.items()])


# --- dataset: contact_sheet.png, faces.jsonl (detector, score), rejects.jsonl, split.json ---


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
    lead = f"{_count(images, 'face')} from {_count(sources, 'picture')}"
    if train or heldout:
        lead += f"; {train} to train on, {heldout} held out"
    lead += f"; {_count(len(rejects), 'picture')} left out."
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
    counts = Counter(text(record.get("reason")) for record in rejects)
    examples: dict[str, str] = {}
    for record in rejects:
        examples.setdefault(text(record.get("reason")), text(record.get("source")))
    rows = [
        [reason, str(count), examples[reason]]
        for reason, count in counts.most_common(MAX_TABLE_ROWS)
    ]
    rest = sum(counts.values()) - sum(int(row[1]) for row in rows)
    if rest:
        rows.append([f"{len(counts) - len(rows)} other reasons", str(rest), "see rejects.jsonl"])
    head = ["reason", "pictures", "for example"]
    return Table("Pictures left out", head, rows, frozenset({1}))


# --- model: stats.jsonl, samples/*.png ---


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
        {"logits_real": "real images", "logits_fake": "generated images"},
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
        lead = f"The discriminator saw {images_seen:,.0f} images."
    return TrainingSection(
        lead=lead,
        images_seen=images_seen,
        plots=_curves(records, seen, ada_target),
        samples=_samples(folder / "samples", grids, picture_px),
        tables=[fact_table("Figures of the training", metrics)] if metrics else [],
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
    files = _numbered(folder)
    pictures = []
    for index in spread(len(files), grids):
        last = index == len(files) - 1
        caption = f"after {_digits(files[index].stem):,} images"
        alt = f"Grid of generated faces {caption}"
        picture = embed_picture(files[index], alt, picture_px if last else TILE_PX, caption)
        if picture:
            pictures.append(picture)
    return pictures


# --- inversion: inversion.json, source.png, aligned.png, pivot.png, tuned.png, trace.jsonl ---


@dataclass(frozen=True)
class InversionSection:
    """The uploaded picture and what the network makes of it."""

    lead: str
    pictures: list[Picture]
    plots: list[Plot]
    tables: list[Table]


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
)
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
    return InversionSection(
        lead="The uploaded picture, found again by the model, which was then tuned to it.",
        pictures=[picture for picture in pictures if picture],
        plots=_inversion_plots(read_records(folder / "trace.jsonl")),
        tables=[table for table in tables if table.rows],
    )


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
        "face found by": alignment.get("detector"),
    }
    for phase, words in PHASES.items():
        steps, seconds = (metrics.get(f"{phase}_{unit}") for unit in ("steps", "seconds"))
        if steps is not None:
            facts[words] = f"{text(steps)} steps in {text(seconds)} s"
    if metrics.get("stopped_early"):
        facts["tuning ended"] = "early, as the picture was close enough"
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


# --- edit: edit.json, result.png, full.png, frames/*.png, frames.mp4, marked_first.png, trace.jsonl


@dataclass(frozen=True)
class Pair:
    """A handle and its target, in the frame's continuous pixels (x, y)."""

    handle: tuple[float, float]
    target: tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """One shown frame of the drag with its markers; `unit` is the markers' size in its pixels."""

    src: str
    width: int
    height: int
    unit: float
    pairs: list[Pair]
    alt: str
    caption: str


@dataclass(frozen=True)
class DragSection:
    """What was dragged where, and how it went. `final_px`: mean distance left, NaN if unknown."""

    lead: str
    final_px: float
    before: Picture | None
    after: Picture | None
    frames: list[Frame]
    film: Film | None
    poster: str
    full: list[Picture]
    plots: list[Plot]
    tables: list[Table]


def drag_section(
    folder: Path,
    key_frames: int,
    picture_px: int,
    video_bytes: int,
    inversion_folder: Path | None = None,
) -> DragSection:
    """Key frames with markers, animation, traces, tables and the full picture.

    inversion_folder: where the uploaded picture is, to stand beside the edited one.
    """
    description = read_object(folder / "edit.json")
    trace = [r for r in read_records(folder / "trace.jsonl") if isinstance(r.get("handles"), list)]
    files = _numbered(folder / "frames")
    shown = _key_frames(files, trace, key_frames)
    full = [embed_picture(folder / "full.png", "The edited picture", picture_px, "Edited")]
    if inversion_folder and full[0]:
        source = inversion_folder / "source.png"
        full.insert(0, embed_picture(source, "The uploaded picture", picture_px, "Uploaded"))
    return DragSection(
        lead=_drag_lead(trace, description),
        final_px=_distance(trace[-1]) if trace else math.nan,
        # The first frame is the face as it was: it is measured before anything moves.
        before=embed_picture(files[0], "The face before the drag", TILE_PX, "Before")
        if files
        else None,
        after=embed_picture(folder / "result.png", "The face after the drag", TILE_PX, "After"),
        frames=shown,
        film=embed_film(folder, video_bytes),
        poster=_poster(folder, shown),
        full=[picture for picture in full if picture],
        plots=_drag_plots(trace, number(nested(description, "drag").get("stop_distance_px"))),
        tables=[t for t in (_handle_table(description), _drag_facts(description)) if t.rows],
    )


def _poster(folder: Path, frames: Sequence[Frame]) -> str:
    """What the video shows before it plays: its own first picture, else the first key frame."""
    marked = embed_picture(folder / "marked_first.png", "", TILE_PX)
    return marked.src if marked else (frames[0].src if frames else "")


def _pairs(record: Record) -> list[Pair]:
    """Handles and targets of one step; the trace's `handles` hold position and target."""
    pairs = []
    for handle in record.get("handles", []):
        if isinstance(handle, dict):
            position, target = point(handle.get("position")), point(handle.get("target"))
            if position and target:
                pairs.append(Pair(position, target))
    return pairs


def _key_frames(files: Sequence[Path], trace: Sequence[Record], count: int) -> list[Frame]:
    """Frames spread over the drag, each with the handles and targets of its step."""
    frames: list[Frame] = []
    for index in spread(len(files), count):
        picture = embed_picture(files[index], "", TILE_PX)
        if picture is None:
            continue
        step = _digits(files[index].stem)
        record = _at_step(trace, step)
        scale = picture.width / picture.original_width
        pairs = [Pair(_scaled(p.handle, scale), _scaled(p.target, scale)) for p in _pairs(record)]
        left = _distance(record)
        caption = f"step {step}"
        if math.isfinite(left):
            caption += f", {left:.1f} px left"
        frames.append(
            Frame(
                src=picture.src,
                width=picture.width,
                height=picture.height,
                unit=round(max(picture.width, picture.height) / MARKER_FRAME_PX, 3),
                pairs=pairs,
                alt=f"The face at {caption}; {_count(len(pairs), 'handle')} and targets marked",
                caption=caption,
            )
        )
    return frames


def _scaled(at: tuple[float, float], scale: float) -> tuple[float, float]:
    return round(at[0] * scale, 2), round(at[1] * scale, 2)


def _at_step(trace: Sequence[Record], step: int) -> Record:
    """The last record not after `step` (a frame shows the state its record measured)."""
    fitting = [record for record in trace if number(record.get("step")) <= step]
    return fitting[-1] if fitting else (trace[0] if trace else {})


def _distance(record: Record) -> float:
    """Mean distance of the handles to their targets in pixels of the model; NaN without handles."""
    distances = [math.dist(pair.handle, pair.target) for pair in _pairs(record)]
    return sum(distances) / len(distances) if distances else math.nan


def _drag_lead(trace: Sequence[Record], description: Record) -> str:
    if not trace:
        return "The edit kept no trace."
    start, end = _distance(trace[0]), _distance(trace[-1])
    handles = _count(len(_pairs(trace[0])), "handle")
    lead = f"{handles} dragged from {start:.1f} px to {end:.1f} px from the target"
    if len(_pairs(trace[0])) > 1:
        lead += " on average"
    size = [text(nested(description, "face").get(side)) for side in ("width", "height")]
    if "–" not in size:
        lead += f", in a face of {size[0]} × {size[1]} pixels"
    reason = nested(description, "stopped").get("reason")
    return f"{lead}. It ended because: {text(reason).rstrip('.')}." if reason else f"{lead}."


def _drag_plots(trace: Sequence[Record], stop_px: float) -> list[Plot]:
    steps = [number(record.get("step")) for record in trace]
    every = [_pairs(record) for record in trace]
    handles = max((len(pairs) for pairs in every), default=0)
    columns: dict[str, list[float]] = {}
    for index in range(min(handles, MAX_HANDLE_LINES)):
        columns[f"handle {index + 1}"] = [
            math.dist(pairs[index].handle, pairs[index].target) if index < len(pairs) else math.nan
            for pairs in every
        ]
    if handles > MAX_HANDLE_LINES:
        distances = [[math.dist(pair.handle, pair.target) for pair in pairs] for pairs in every]
        columns = {
            "mean": [sum(row) / len(row) if row else math.nan for row in distances],
            "farthest": [max(row, default=math.nan) for row in distances],
        }
    series = [Series(label, steps, values) for label, values in columns.items()]
    loss = Series("loss", steps, [number(record.get("loss")) for record in trace])
    guide = [(stop_px, "arrived")]
    plots = (
        make_plot(
            "Distance to target", series, x_label="step", y_label="px", zero=True, references=guide
        ),
        make_plot("Loss", [loss], x_label="step", y_label="loss", zero=True),
    )
    return [plot for plot in plots if plot]


def _handle_table(description: Record) -> Table:
    """Where every handle was, ended and should have ended; what the pictures say about it."""
    handles = description.get("handles")
    rows = []
    for index, handle in enumerate(handles if isinstance(handles, list) else []):
        if not isinstance(handle, dict):
            continue
        places = [point(handle.get(key)) for key in ("from", "ended", "to")]
        cells = [f"{at[0]:.1f}, {at[1]:.1f}" if at else "–" for at in places]
        check = nested(handle, "picture_check")
        values = (handle.get("distance_px"), check.get("error_px"), handle.get("confidence"))
        figures = [format_number(number(value)) for value in values]
        rows.append([str(index + 1), *cells, *figures])
    head = ["handle", "from", "ended", "target", "px left", "px left, by picture", "confidence"]
    return Table("Handles (x, y in pixels of the face)", head, rows, frozenset({4, 5, 6}))


def _drag_facts(description: Record) -> Table:
    """By what the drag was done."""
    drag, metrics = (nested(description, key) for key in ("drag", "metrics"))
    facts = {
        "ended": nested(description, "stopped").get("status"),
        "steps": description.get("steps"),
        "kept": None,
        "strategy": drag.get("strategy"),
        "after": drag.get("source"),
        "feature layer": drag.get("layer"),
        "rows of ws that may change": None,
        "counts as arrived (px)": drag.get("stop_distance_px"),
        "seconds a step": metrics.get("seconds_per_step"),
        "change under the mask (levels of 255)": description.get("change_in_mask_levels"),
    }
    if description.get("kept_step") is not None:
        facts["kept"] = f"the state of step {text(description['kept_step'])}"
    rows = point(drag.get("rows"))
    if rows:
        facts["rows of ws that may change"] = f"{rows[0]:g} to {rows[1] - 1:g}"
    return fact_table("How", {key: value for key, value in facts.items() if value is not None})


# --- shared ---


def _numbered(folder: Path) -> list[Path]:
    """The PNG files of a folder (which may be missing), by the numbers in their names."""
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if path.suffix == ".png" and path.is_file()]
    return sorted(files, key=lambda path: _digits(path.stem))


def _digits(stem: str) -> int:
    digits = "".join(character for character in stem if character in "0123456789")
    return int(digits[:18]) if digits else 0


def _length(value: object) -> int:
    return len(value) if isinstance(value, list) else 0


def _count(value: int, noun: str) -> str:
    return f"{value} {noun}" if value == 1 else f"{value} {noun}s"

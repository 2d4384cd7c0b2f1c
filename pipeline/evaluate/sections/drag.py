"""The drag's section: full picture, film, key frames with handles and targets, traces.

Knows edit.json, before_after.png, full.png, drawing.webp, frames, marked_first.png and trace.jsonl.
All distances in those files are in pixels of the model's face, which nobody sees beside a drawing:
of a drawing they are shown in its own pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluate.payload import Record, nested, number, point, read_object, read_records, text
from pipeline.evaluate.pictures import Film, Picture, embed_film, embed_picture
from pipeline.evaluate.plots import Plot, Series, format_number, make_plot, spread
from pipeline.evaluate.sections.shared import (
    TILE_PX,
    Table,
    count_text,
    fact_table,
    number_in_name,
    numbered_pictures,
)

# Lines in one plot of handles; of more handles the mean and the farthest are shown.
MAX_HANDLE_LINES = 4
# A marker is drawn for a frame of this many pixels; frames of other sizes scale it.
MARKER_FRAME_PX = 170
_ENDS = ("from", "to")


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
    """What was dragged where, or what emotion was given, and how it went.

    lead: of the picture; model_lead: of the model's face, where the picture was not made of it.
    final_px: mean distance left in the picture, NaN if unknown; unit: of what it is pixels.
    emotion: what was asked for, "" where points were dragged.
    film_of_drawing: the film shows the drawing on its way, not the model's face.
    """

    lead: str
    emotion: str
    model_lead: str
    final_px: float
    unit: str
    before: Picture | None
    after: Picture | None
    frames: list[Frame]
    film: Film | None
    film_of_drawing: bool
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
    files = numbered_pictures(folder / "frames")
    scale, unit = _scale(description)
    shown = _key_frames(files, trace, key_frames, scale)
    drawn = nested(description, "paste").get("from") == "drawn"
    emotion = text(nested(description, "emotion").get("text") or "")
    went = _way_of_model(trace, description, scale, unit)
    views = folder / "drawing.webp"
    film = embed_film([views], video_bytes)
    faces = [folder / "frames.mp4", folder / "frames.webm", folder / "frames.gif"]
    # Of a drawing its own pixels, else the model's: what the user sees of the edit.
    both = folder / "before_after.png"
    full = [embed_picture(folder / "full.png", "The edited picture", picture_px, "Edited")]
    if inversion_folder and full[0]:
        source = inversion_folder / "source.png"
        full.insert(0, embed_picture(source, "The uploaded picture", picture_px, "Uploaded"))
    return DragSection(
        lead=_lead_of_drawn(description, scale, unit) if drawn else went,
        emotion=emotion,
        model_lead=went if drawn else "",
        final_px=scale * _distance(trace[-1]) if trace and not (drawn or emotion) else math.nan,
        unit=unit,
        before=embed_picture(both, "The face before the drag", TILE_PX, "Before", half="left"),
        after=embed_picture(both, "The face after the drag", TILE_PX, "After", half="right"),
        frames=shown,
        film=film or embed_film(faces, video_bytes),
        film_of_drawing=film is not None,
        poster=_poster(views if film else folder / "marked_first.png", shown),
        full=[picture for picture in full if picture],
        plots=_drag_plots(
            trace, number(nested(description, "drag").get("stop_distance_px")), scale, unit
        ),
        tables=[t for t in (_handle_table(description), _drag_facts(description)) if t.rows],
    )


def _poster(first: Path, frames: Sequence[Frame]) -> str:
    """What the film shows before it plays: its own first picture, else the first key frame."""
    picture = embed_picture(first, "", TILE_PX)
    return picture.src if picture else (frames[0].src if frames else "")


def _scale(description: Record) -> tuple[float, str]:
    """What the files' distances are multiplied by to be shown, and the unit they then have."""
    scale = number(description.get("drawing_px_per_face_px"))
    return (scale, "px of the drawing") if math.isfinite(scale) else (1.0, "px of the face")


def _pairs(record: Record) -> list[Pair]:
    """Handles and targets of one step; the trace's `handles` hold position and target."""
    pairs = []
    for handle in record.get("handles", []):
        if isinstance(handle, dict):
            position, target = point(handle.get("position")), point(handle.get("target"))
            if position and target:
                pairs.append(Pair(position, target))
    return pairs


def _key_frames(
    files: Sequence[Path], trace: Sequence[Record], count: int, scale: float
) -> list[Frame]:
    """Frames spread over the drag, each with the handles and targets of its step. Distances are
    shown `scale` times."""
    frames: list[Frame] = []
    for index in spread(len(files), count):
        picture = embed_picture(files[index], "", TILE_PX)
        if picture is None:
            continue
        step = number_in_name(files[index].stem)
        record = _at_step(trace, step)
        reduced = picture.width / picture.original_width
        pairs = [
            Pair(_scaled(p.handle, reduced), _scaled(p.target, reduced)) for p in _pairs(record)
        ]
        left = scale * _distance(record)
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
                alt=f"The face at {caption}; {count_text(len(pairs), 'handle')} and targets marked",
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


def _lead_of_drawn(description: Record, scale: float, unit: str) -> str:
    """How far the points of a drawing were moved that was moved itself, without the model."""
    handles = description.get("handles")
    ways = []
    for handle in handles if isinstance(handles, list) else []:
        ends = [point(handle.get(key)) if isinstance(handle, dict) else None for key in _ENDS]
        if ends[0] and ends[1]:
            ways.append(scale * math.dist(ends[0], ends[1]))
    lead = "The model changed the face rather than move it, so the drawing itself was moved"
    if not ways:
        return f"{lead}, all the way."
    far = f"{sum(ways) / len(ways):.1f} {unit}" + (" on average" if len(ways) > 1 else "")
    return f"{lead}: {count_text(len(ways), 'handle')} all the way, {far}."


def _way_of_model(trace: Sequence[Record], description: Record, scale: float, unit: str) -> str:
    """How the drag went in the model's face, or the emotion in the drawing's."""
    if not trace:
        return "The edit kept no trace."
    start, end = scale * _distance(trace[0]), scale * _distance(trace[-1])
    if goal := nested(description, "emotion").get("text"):
        return (
            f"The face was asked for: {text(goal)}. {count_text(len(_pairs(trace[0])), 'landmark')}"
            f" came from {start:.1f} to {end:.1f} {unit} from where they should be, on average."
        )
    handles = count_text(len(_pairs(trace[0])), "handle")
    lead = f"{handles} dragged from {start:.1f} to {end:.1f} {unit} from the target"
    if len(_pairs(trace[0])) > 1:
        lead += " on average"
    size = [text(nested(description, "face").get(side)) for side in ("width", "height")]
    if "–" not in size:
        lead += f", in a face of {size[0]} × {size[1]} pixels"
    reason = nested(description, "stopped").get("reason")
    return f"{lead}. It ended because: {text(reason).rstrip('.')}." if reason else f"{lead}."


def _drag_plots(trace: Sequence[Record], stop_px: float, scale: float, unit: str) -> list[Plot]:
    steps = [number(record.get("step")) for record in trace]
    distances = [
        [scale * math.dist(pair.handle, pair.target) for pair in _pairs(record)] for record in trace
    ]
    handles = max(map(len, distances), default=0)
    columns: dict[str, list[float]] = {}
    for index in range(min(handles, MAX_HANDLE_LINES)):
        columns[f"handle {index + 1}"] = [
            row[index] if index < len(row) else math.nan for row in distances
        ]
    if handles > MAX_HANDLE_LINES:
        columns = {
            "mean": [sum(row) / len(row) if row else math.nan for row in distances],
            "farthest": [max(row, default=math.nan) for row in distances],
        }
    series = [Series(label, steps, values) for label, values in columns.items()]
    loss = Series("loss", steps, [number(record.get("loss")) for record in trace])
    guide = [(scale * stop_px, "arrived")]
    plots = (
        make_plot(
            "Distance to target", series, x_label="step", y_label=unit, zero=True, references=guide
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
        cells = [f"{at[0]:.1f},\N{NO-BREAK SPACE}{at[1]:.1f}" if at else "–" for at in places]
        check = nested(handle, "picture_check")
        values = (handle.get("distance_px"), check.get("error_px"), handle.get("confidence"))
        figures = [format_number(number(value)) for value in values]
        rows.append([str(index + 1), *cells, *figures])
    head = ["handle", "from", "ended", "target", "px left", "px left, by picture", "confidence"]
    return Table("Handles (in pixels of the face)", head, rows, frozenset({4, 5, 6}))


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
        "counts as arrived (px of the face)": drag.get("stop_distance_px"),
        "seconds a step": metrics.get("seconds_per_step"),
        "change under the mask (levels of 255)": description.get("change_in_mask_levels"),
    }
    if description.get("kept_step") is not None:
        facts["kept"] = f"the state of step {text(description['kept_step'])}"
    rows = point(drag.get("rows"))
    if rows:
        facts["rows of ws that may change"] = f"{rows[0]:g} to {rows[1] - 1:g}"
    return fact_table("How", {key: value for key, value in facts.items() if value is not None})

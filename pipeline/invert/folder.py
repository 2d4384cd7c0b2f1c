"""Many pictures: each inverted by itself, or all of one character into one tuned generator.

    pictures/<name>/       an inversion each, as of one picture (see `inversion`)
    delta.safetensors      where they share one generator: what changed, once for all
    table.json, table.csv  a line a picture: figures, or the reason why it was left out
    contact_sheet.png      each picture as it was aligned, found and tuned
    inversion.json, ...    the first picture's inversion once more: what a reader who asks for no
                           picture by name gets

A picture that cannot be inverted is listed with its reason, and never stops the others.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.console import say
from pipeline.data.image_zip import SUFFIXES
from pipeline.errors import AnimedragError, ConfigError, DataError, Interrupted
from pipeline.invert import inversion, single
from pipeline.invert.phases import Stop, Tuned, tune
from pipeline.invert.resume import Workspace
from pipeline.invert.sheet import sheet
from pipeline.invert.subject import Subject
from pipeline.invert.writing import Metrics, Result, write, write_shared_delta

PICTURES = inversion.PICTURES
COLUMNS = (
    "psnr_pivot_db",
    "psnr_tuned_db",
    "ssim_tuned",
    "perceptual_pivot",
    "perceptual_tuned",
    "identity_tuned",
    "project_steps",
    "tune_steps",
    "project_seconds",
    "tune_seconds",
)
# Of these the stage's own figures are means over the pictures.
MEANS = COLUMNS[:6]
SHARED_DELTA = "../../delta.safetensors"

Row = dict[str, Any]


def pictures_in(folder: Path) -> dict[str, Path]:
    """The picture files in a folder by the name of their inversion; DataError if there are none."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            # a.png and a.jpg are two pictures.
            found[path.name if path.stem in found else path.stem] = path
    if not found:
        raise DataError(
            f"{folder} holds no pictures ({', '.join(SUFFIXES)}); give one picture (a PNG, JPEG or "
            "WebP file), or a folder of them."
        )
    return found


def invert(subject: Subject, folder: Path, out: Path, stop: Stop) -> Metrics:
    """Invert all pictures in the folder; returns the means of their figures.

    DataError where not a single one could be inverted.
    """
    pictures = pictures_in(folder)
    work = _together if subject.config.together else _each
    rows = work(subject, pictures, out, stop)
    good = [row for row in rows if "reason" not in row]
    write_table(out, rows)
    if not good:
        raise DataError(
            f"None of the {len(rows)} pictures in {folder} could be inverted; the first: "
            f"{rows[0]['reason']}"
        )
    sheet(out, good).save(out / "contact_sheet.png")
    for line in table_lines(rows):
        say(line)
    return _lead_with(out, good, rows, subject.config.together)


def _each(subject: Subject, pictures: Mapping[str, Path], out: Path, stop: Stop) -> list[Row]:
    """Every picture by itself; a line each."""
    rows: list[Row] = []
    for number, (name, path) in enumerate(pictures.items(), start=1):
        say(f"invert: picture {number} of {len(pictures)}, {path.name}.")
        place = out / PICTURES / name
        try:
            rows.append(_row(name, path, single.invert(subject, path, place, stop)))
        except (Interrupted, ConfigError):
            raise
        except AnimedragError as error:
            rows.append(_left_out(name, path, error, place))
    return rows


def _together(subject: Subject, pictures: Mapping[str, Path], out: Path, stop: Stop) -> list[Row]:
    """A pivot for each picture, then one generator for all of them; a line each."""
    results: dict[str, Result] = {}
    rows: dict[str, Row] = {}
    for number, (name, path) in enumerate(pictures.items(), start=1):
        say(f"invert: picture {number} of {len(pictures)}, {path.name}.")
        place = out / PICTURES / name
        workspace = Workspace(place)
        try:
            results[name] = single.find(subject, path, place, workspace, stop).result
            workspace.write_trace()
        except (Interrupted, ConfigError):
            raise
        except AnimedragError as error:
            rows[name] = _left_out(name, path, error, place)
    if results:
        tuned = _tune_together(subject, list(results.values()), out, stop)
        views = [result.view for result in results.values()]
        delta = write_shared_delta(subject, views, tuned, out / "delta.safetensors", SHARED_DELTA)
        for name, result in results.items():
            metrics = write(subject, result, tuned, out / PICTURES / name, delta)
            rows[name] = _row(name, pictures[name], metrics)
        for name in results:
            Workspace(out / PICTURES / name).clear()
        Workspace(out).clear()
    return [rows[name] for name in pictures]


def _tune_together(subject: Subject, results: Sequence[Result], out: Path, stop: Stop) -> Tuned:
    say(f"invert: one generator for {len(results)} pictures.")
    workspace = Workspace(out)
    state = workspace.load()
    if state is not None:
        say(f"invert: going on with {state.phase} at step {state.step}.")
    views = [result.view for result in results]
    tuned = tune(subject, views, results[0].character, workspace, stop, state, {})
    workspace.write_trace()
    return tuned


def _row(name: str, path: Path, metrics: Mapping[str, Any]) -> Row:
    return {"name": name, "file": path.name} | {
        key: metrics[key] for key in COLUMNS if key in metrics
    }


def _left_out(name: str, path: Path, error: AnimedragError, place: Path) -> Row:
    say(f"invert: {path.name} is left out: {error}")
    shutil.rmtree(place, ignore_errors=True)
    return {"name": name, "file": path.name, "reason": str(error)}


def write_table(out: Path, rows: Sequence[Row]) -> None:
    """table.json and table.csv."""
    files.put_text(out / "table.json", json.dumps(list(rows), indent=1) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, ["name", "file", *COLUMNS, "reason"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.put_text(out / "table.csv", text.getvalue())


def table_lines(rows: Sequence[Row]) -> list[str]:
    """The table for a terminal."""
    width = max(len("picture"), *(len(row["file"]) for row in rows))
    lines = [f"{'picture':{width}}  PSNR dB        perceptual     identity  seconds"]
    for row in rows:
        if "reason" in row:
            lines.append(f"{row['file']:{width}}  left out: {row['reason']}")
            continue
        seconds = row["project_seconds"] + row["tune_seconds"]
        identity = row.get("identity_tuned")
        lines.append(
            f"{row['file']:{width}}  {row['psnr_pivot_db']:4.1f} -> {row['psnr_tuned_db']:4.1f}"
            f"   {row['perceptual_pivot']:.3f} -> {row['perceptual_tuned']:.3f}"
            f"  {'-' if identity is None else f'{identity:.3f}':>8}  {seconds:7.1f}"
        )
    return lines


def _lead_with(out: Path, good: Sequence[Row], rows: Sequence[Row], together: bool) -> Metrics:
    """Put the first picture's inversion at the top; returns the figures of them all."""
    lead = out / PICTURES / good[0]["name"]
    for path in sorted(lead.iterdir()):
        if path.is_file() and path.name not in ("inversion.json", "trace.jsonl"):
            shutil.copyfile(path, out / path.name)
    if not together:
        shutil.copyfile(lead / "trace.jsonl", out / "trace.jsonl")
    info = json.loads((lead / "inversion.json").read_text(encoding="utf-8"))
    metrics: Metrics = dict(info["metrics"])
    for key in MEANS:
        values = [float(row[key]) for row in good if key in row]
        if values:
            metrics[key] = round(sum(values) / len(values), 6)
    metrics |= {"pictures": len(good), "left_out": len(rows) - len(good)}
    info["delta"]["file"] = "delta.safetensors"
    info |= {
        "pictures": [row["name"] for row in good],
        "table": list(rows),
        "together": together,
        "metrics": metrics,
    }
    # Last: its presence says that all is done.
    files.put_text(out / "inversion.json", json.dumps(info, indent=1) + "\n")
    return metrics

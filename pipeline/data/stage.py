"""preprocess: pictures of any kind in, a dataset of levelled, centred faces out.

Lists the source, lets `pipeline.data.preparation` do each picture (in several processes), then puts
the results together in the order of the pictures' names, so that the result depends neither on the
number of processes nor on interruptions. Writes into `out`:

    images.zip         the faces, see pipeline.data.image_zip
    faces.jsonl        a line an image: file, source, source_sha256, source_size, face (its number
                       in the picture), character (where there are several), detector, score, box,
                       eyes, face_width, roll_degrees, parts, landmarks, transform (see
                       CropTransform), mirrored (share of the crop that lies outside the picture);
                       coordinates are the picture's continuous pixels
    rejects.jsonl      a line a picture or face that was left out: source, reason
    split.json         names of the images for training, and of those held out from it
    characters.json    names of the characters by class number, where the source has several
    crop_rule.json     how faces were framed, for uploads to be framed alike
    contact_sheet.png
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.console import catch_stop, progress, say
from pipeline.data.characters import characters_of
from pipeline.data.config import FramingConfig, PreprocessConfig
from pipeline.data.contact_sheet import SheetStyle, contact_sheet
from pipeline.data.crop_rule import CropRule, read_crop_rule
from pipeline.data.dataset import CONTACT_SHEET, FACES, IMAGES, REJECTS, SPLIT
from pipeline.data.duplicates import Fingerprint, find_duplicates
from pipeline.data.faces import FaceFinder
from pipeline.data.image_zip import ImageZip, ImageZipWriter
from pipeline.data.pictures import parse_colour
from pipeline.data.preparation import (
    UNFORESEEN,
    Settings,
    WorkerFactory,
    finished,
    image_path,
    read_result,
    write_result,
)
from pipeline.data.sources import Item, open_source
from pipeline.data.workers import run_all
from pipeline.errors import DataError, Interrupted
from pipeline.models.characters import FILE as CHARACTERS
from pipeline.models.characters import SHOWN, write_characters

WORK = "work"
CONFIG = "config.json"
# Mirrored share of the median crop from which the user is told that the pictures are cut tightly.
TIGHT = 0.10


@dataclass(frozen=True)
class _Candidate:
    """A face that was cropped, before duplicates are dropped."""

    item: Item
    record: dict[str, Any]  # its line in faces.jsonl, without `file`
    fingerprint: Fingerprint

    @property
    def quality(self) -> tuple[float, float, str, int, str]:
        """Best first: the largest, then the surest; the rest makes the order complete."""
        record = self.record
        return (
            -record["face_width"],
            -record["score"],
            record["source_sha256"],
            record["face"],
            self.item.name,
        )


@dataclass(frozen=True)
class _Reject:
    source: str
    reason: str


def check(config: PreprocessConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse a colour that is none, and a source that is missing, no source, or empty."""
    parse_colour(config.background)
    open_source(_with_path(config, inputs).source, config.limit)


def _with_path(config: PreprocessConfig, inputs: Mapping[str, Path]) -> PreprocessConfig:
    if "source.path" not in inputs:
        return config
    return replace(config, source=replace(config.source, path=str(inputs["source.path"])))


def run(config: PreprocessConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Make the dataset; returns its figures for the manifest.

    A run that was interrupted goes on where it stopped: finished pictures are not done again.
    """
    config = _with_path(config, inputs)
    if "like" in inputs:
        config = like_model(config, inputs["like"])
    work = out / WORK
    settings = Settings.of(config, work)
    items = open_source(config.source, config.limit)
    _prepare_folder(work, config, _missing_detectors(config))
    _do_items(items, settings, config)
    candidates, rejects = _collect(items, work)
    kept, duplicates = _drop_duplicates(candidates, config.duplicate_bits)
    rejects += duplicates
    if not kept:
        shutil.rmtree(work)  # going on from it would find no more
        raise DataError(_nothing_left(items, rejects))
    characters = _characters(kept, config)
    records = _write_images(kept, work, out, characters)
    heldout = _heldout(records, config.heldout)
    _write_json_lines(out / FACES, records)
    rejects.sort(key=lambda one: (one.source, one.reason))
    _write_json_lines(out / REJECTS, [asdict(one) for one in rejects])
    _write_split(out / SPLIT, records, heldout)
    framing = config.framing
    CropRule(framing.face_widths, framing.eye_height, config.background).write(out)
    metrics = _metrics(len(items), records, rejects, heldout)
    _write_contact_sheet(out, config, heldout, metrics)
    shutil.rmtree(work)
    _tell_result(metrics)
    return metrics


def like_model(config: PreprocessConfig, folder: Path) -> PreprocessConfig:
    """The settings with size, shape and framing of the images that the model in `folder` draws.

    An imported model does not say how its images were framed; the settings decide that then.
    """
    # Imported here, because it brings torch, which preprocess otherwise does without.
    from pipeline.models.checkpoint import read_architecture

    networks = read_architecture(folder)
    arguments = networks.get("G_ema", next(iter(networks.values()))).arguments
    height = int(arguments["img_resolution"])
    shape = "square" if arguments.get("square", True) else "tall"
    config = replace(config, resolution=height, shape=shape)
    rule = read_crop_rule(folder)
    framed = "as the settings say; the model does not tell"
    if rule is not None:
        framing = FramingConfig(rule.face_widths, rule.eye_height)
        config = replace(config, framing=framing, background=rule.background)
        framed = "as the model's images"
    width, height = config.size
    say(f"preprocess: images of {width}x{height} for {config.like}, framed {framed}.")
    return config


def _prepare_folder(work: Path, config: PreprocessConfig, missing: Sequence[str]) -> None:
    """Keep an interrupted run's results if the same settings and detectors made them."""
    work.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in asdict(config).items() if key != "workers"}
    text = json.dumps({**settings, "missing_detectors": sorted(missing)}, sort_keys=True)
    path = work / CONFIG
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    shutil.rmtree(work)
    work.mkdir()
    path.write_text(text, encoding="utf-8")


def _missing_detectors(config: PreprocessConfig) -> list[str]:
    """Names of the detectors that cannot run here; the user is told why."""
    if config.source.kind == "painter" and config.source.truth:
        return []
    with FaceFinder(config.detectors) as finder:
        for sentence in finder.missing.values():
            say(sentence)
        return list(finder.missing)


def _do_items(items: Sequence[Item], settings: Settings, config: PreprocessConfig) -> None:
    todo = [item for item in items if not finished(settings.work, item)]
    if len(todo) < len(items):
        say(f"Going on: {len(items) - len(todo)} of {len(items)} pictures are done already.")
    processes = _processes(config.workers)

    def reject_crash(item: Item) -> None:
        reason = "reading the picture, or looking for faces in it, crashed the process"
        write_result(settings.work, item, {"faces": [], "rejects": [reason]})

    make_worker = WorkerFactory(settings, own_process=processes > 0)
    done = 0
    with catch_stop() as stop, progress("preprocess", len(todo), "pictures") as bar:
        for _ in run_all(todo, make_worker, processes, reject_crash, stop):
            done += 1
            bar.advance(1)
    if done < len(todo):
        total = len(items) - len(todo) + done
        raise Interrupted(
            f"Stopped after {total} of {len(items)} pictures; run the same command again to "
            "continue."
        )


def _processes(workers: int | None) -> int:
    if workers is not None:
        return workers
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _collect(items: Sequence[Item], work: Path) -> tuple[list[_Candidate], list[_Reject]]:
    candidates: list[_Candidate] = []
    rejects: list[_Reject] = []
    for item in items:
        result = read_result(work, item)
        rejects += [_Reject(item.name, reason) for reason in result["rejects"]]
        for face in result["faces"]:
            record = {
                "source": item.name,
                "source_sha256": result["sha256"],
                "source_size": result["size"],
                **face["record"],
            }
            candidates.append(_Candidate(item, record, Fingerprint.from_json(face["fingerprint"])))
    return candidates, rejects


def _drop_duplicates(
    candidates: list[_Candidate], max_bits: int
) -> tuple[list[_Candidate], list[_Reject]]:
    dropped = find_duplicates(
        [one.fingerprint for one in candidates], [one.quality for one in candidates], max_bits
    )
    rejects = []
    for index, keeper in dropped.items():
        one, better = candidates[index], candidates[keeper]
        same = one.record["source_sha256"] == better.record["source_sha256"]
        kind = "the same picture as" if same else "near-duplicate of"
        rejects.append(_Reject(one.item.name, f"{kind} {better.item.name}"))
    return [one for index, one in enumerate(candidates) if index not in dropped], rejects


def _characters(kept: Sequence[_Candidate], config: PreprocessConfig) -> list[str] | None:
    """The character of each face, where the source tells several apart."""
    if config.characters == "none" or config.source.kind == "painter":
        return None
    path = config.source.path
    source = None if path is None else Path(path).expanduser()
    return characters_of([one.item.name for one in kept], source)


def _write_images(
    kept: Sequence[_Candidate], work: Path, out: Path, characters: Sequence[str] | None
) -> list[dict[str, Any]]:
    """images.zip, and where there are several characters their names, class 0 first."""
    names = sorted(set(characters or ()))
    records = []
    with ImageZipWriter(out / IMAGES) as writer:
        for index, one in enumerate(kept):
            png = image_path(work, one.item, one.record["face"]).read_bytes()
            record = dict(one.record)
            label = None
            if characters is not None:
                record["character"] = characters[index]
                label = names.index(characters[index])
            records.append({"file": writer.add_png(png, label), **record})
    (out / CHARACTERS).unlink(missing_ok=True)  # of an earlier piece of this run
    if names:
        write_characters(out, names)
        counts = Counter(record["character"] for record in records)
        shown = ", ".join(f"{name} ({counts[name]})" for name in names[:SHOWN])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        say(f"{len(names)} characters: {shown}{more}.")
    return records


def _heldout(records: Sequence[dict[str, Any]], share: float) -> list[int]:
    """Indices that are held out. A picture's own content decides, so that it stays on its side
    when the set grows, and all faces of one picture are on one side."""
    chosen = [
        index
        for index, record in enumerate(records)
        if int(record["source_sha256"][:13], 16) / 16**13 < share
    ]
    # A handful of pictures may all fall on one side; without any there is nothing to train on.
    return chosen if len(chosen) < len(records) else []


def _write_json_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(record, ensure_ascii=True) + "\n" for record in records)
    path.write_text(text, encoding="utf-8")


def _write_split(path: Path, records: Sequence[dict[str, Any]], heldout: Sequence[int]) -> None:
    names = [record["file"] for record in records]
    left_out = set(heldout)
    split = {
        "train": [name for index, name in enumerate(names) if index not in left_out],
        "heldout": [names[index] for index in heldout],
    }
    path.write_text(json.dumps(split, indent=1) + "\n", encoding="utf-8")


def _metrics(
    pictures: int,
    records: Sequence[dict[str, Any]],
    rejects: Sequence[_Reject],
    heldout: Sequence[int],
) -> dict[str, Any]:
    detectors = Counter(record["detector"] for record in records)
    return {
        "pictures": pictures,
        "images": len(records),
        "heldout": len(heldout),
        "rejected": len(rejects),
        "duplicates": sum(_is_duplicate(one.reason) for one in rejects),
        "no_face": sum(one.reason == "no face found" for one in rejects),
        "unforeseen": sum(one.reason.startswith(UNFORESEEN) for one in rejects),
        "characters": len({record["character"] for record in records if "character" in record})
        or 1,
        **{f"by_{name}": count for name, count in sorted(detectors.items())},
        "median_face_px": round(float(np.median([r["face_width"] for r in records])), 1),
        "median_mirrored": round(float(np.median([r["mirrored"] for r in records])), 4),
    }


def _is_duplicate(reason: str) -> bool:
    return reason.startswith(("near-duplicate of", "the same picture as"))


def _write_contact_sheet(
    out: Path, config: PreprocessConfig, heldout: Sequence[int], metrics: Mapping[str, Any]
) -> None:
    width, height = config.size
    parts = [f"{metrics['images']} faces of {metrics['pictures']} pictures, {width}x{height}"]
    if metrics["rejected"]:
        parts.append(f"{metrics['rejected']} left out")
    if heldout:
        parts.append(f"{len(heldout)} held out (marked)")
    style = SheetStyle(
        config.name, ", ".join(parts), config.framing.eye_height, guides=config.guides
    )
    with ImageZip(out / IMAGES) as images:
        sheet = contact_sheet(images.read, len(images), heldout, style)
    sheet.save(out / CONTACT_SHEET)


def _tell_result(metrics: Mapping[str, Any]) -> None:
    counts = {"without a face": metrics["no_face"], "duplicates": metrics["duplicates"]}
    counts["for other reasons"] = metrics["rejected"] - sum(counts.values())
    why = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    left_out = f"{metrics['rejected']} left out ({why}), see {REJECTS}" if why else "none left out"
    say(f"{metrics['images']} faces from {metrics['pictures']} files; {left_out}.")
    if metrics["unforeseen"]:
        count = metrics["unforeseen"]
        say(
            f"{count} picture{'' if count == 1 else 's'} met an error that nobody foresaw; "
            f"{REJECTS} says where, please report it."
        )
    if metrics["median_mirrored"] > TIGHT:
        say(
            f"The pictures are cut tightly: half of the crops show more than "
            f"{metrics['median_mirrored']:.0%} mirror image; preprocess.framing.face_widths=1.7 "
            "would show less of it."
        )


def _nothing_left(items: Sequence[Item], rejects: Sequence[_Reject]) -> str:
    reasons = Counter(one.reason.split(" (")[0] for one in rejects)
    common = "; ".join(f"{reason} ({count}x)" for reason, count in reasons.most_common(3))
    if len(items) == 1:
        return f"The picture gave no face: {rejects[0].reason}."
    return f"None of the {len(items)} pictures gave a face: {common}."

"""What an artist did in the studio, filed as an edit.

A *take* is a folder: `take.json` (handles, targets, frames, mask, acts), `latents.npy` (the
frames' ws, frames × num_ws × w_dim) and `frames/0001.png` and on, the pictures that the artist saw.
`run` writes of it what the edit stage writes, so that a report, a replay and the lineage find
everything where they expect it. It computes nothing that the studio has computed: no model is read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.data.align import CropTransform, crop
from pipeline.edit import pictures, video
from pipeline.edit import recipe as recipes
from pipeline.edit.full_picture import FILM_FRAMES, Dragged, full_picture, views_between
from pipeline.edit.pictures import Marker
from pipeline.edit.recipe import Move, Recipe
from pipeline.edit.session import Frame, Session
from pipeline.edit.session_acts import acts_of
from pipeline.errors import DataError
from pipeline.invert.inversion import read_info, read_png, transform_of

FORMAT = 3
# Folder of what an emotion made of the last frame, where one was shown when it was saved.
EMOTION = "emotion"
# A film of more is tiresome, and its making slow.
MOST_FILM_FRAMES = 60


@dataclass
class TakeConfig:
    """One take; plain values, no Hydra node of its own: the studio fills it in."""

    name: str
    take: str
    model: str
    inversion: str | None = None
    frames_per_second: int = 20


def write(
    session: Session,
    recipe: Recipe,
    subject: Mapping[str, Any],
    png_of: Callable[[Frame], bytes],
    folder: Path,
) -> None:
    """Write what led to the frame shown, from the first one on.

    `png_of`: a frame's picture.
    """
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    shown: list[Frame] = []
    at: int | None = session.frame.id
    while at is not None:
        shown.insert(0, session.frames[at])
        at = session.frames[at].parent
    for number, frame in enumerate(shown, 1):
        (folder / "frames" / f"{number:04d}.png").write_bytes(png_of(frame))
    latents = torch.cat([frame.ws.cpu() for frame in shown]).numpy()
    np.save(folder / "latents.npy", latents)
    data = {
        "format": FORMAT,
        "subject": dict(subject),
        "status": session.state.status.value,
        "recipe": recipes.to_json(recipe),
        "acts": [[(m.start, m.target) for m in act] for act in acts_of(session)],
        "handles": [
            {"id": h.id, "from": h.start, "to": h.target, "ended": h.position,
             "confidence": h.confidence}
            for h in session.state.handles
        ],
        "frames": [
            {"step": frame.step, "distance_px": frame.distance_px,
             "positions": {str(key): point for key, point in frame.positions.items()}}
            for frame in shown
        ],
    }  # fmt: skip
    (folder / "take.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def add_emotion(
    folder: Path, views: Sequence[np.ndarray], full: np.ndarray | None, about: Mapping[str, Any]
) -> None:
    """Add to a take what its last frame became with an emotion.

    Args:
        views: the face on the way there, h × w × 3 uint8 each.
        full: the whole drawing with it; None for a face of the model.
        about: goal and readings, for emotion.json.
    """
    home = folder / EMOTION
    home.mkdir()
    for number, view in enumerate(views, 1):
        Image.fromarray(view).save(home / f"{number:04d}.png")
    if full is not None:
        Image.fromarray(full).save(home / "full.png")
    text = json.dumps(dict(about), indent=1)
    (home / "emotion.json").write_text(text + "\n", encoding="utf-8")


def run(config: TakeConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, float | int | str]:
    """Write the edit of a take; see the module."""
    take, faces = _read(inputs["take"])
    recipe = recipes.from_json(take["recipe"])
    before, after = faces[0], faces[-1]
    factor = pictures.display_factor(*after.shape[:2])
    shutil.copytree(inputs["take"] / "frames", out / "frames", dirs_exist_ok=True)
    shutil.copyfile(inputs["take"] / "latents.npy", out / "latents.npy")
    Image.fromarray(after).save(out / "result.png")
    shown = pictures.before_after(before, after, factor)
    paste: dict[str, Any] | None = None
    views: list[np.ndarray] = []
    if "inversion" in inputs:
        source, transform = _drawing(inputs["inversion"], inputs["model"])
        acts = [[Move(tuple(a), tuple(b)) for a, b in act] for act in take["acts"]]
        dragged = Dragged(source, transform, before, after, acts, recipe.mask)
        full, paste = full_picture(dragged, "auto")
        views = views_between(dragged, paste["from"], FILM_FRAMES)
        Image.fromarray(full).save(out / "full.png")
        side = after.shape[1] * factor
        shown = pictures.before_after(crop(source, transform, side), crop(full, transform, side), 1)
    Image.fromarray(shown).save(out / "before_after.png")
    recipes.write(recipe, out / "recipe.json")
    _write_film(take, faces, views, factor, config.frames_per_second, out)
    lines = [json.dumps(frame) + "\n" for frame in take["frames"]]
    (out / "trace.jsonl").write_text("".join(lines), encoding="utf-8")
    if (inputs["take"] / EMOTION).is_dir():
        _emotion(inputs["take"] / EMOTION, config.frames_per_second, out)
    left = take["frames"][-1]["distance_px"]
    metrics: dict[str, float | int | str] = {
        "stopped": take["status"],
        "steps": len(faces) - 1,
        "final_distance_px": left if left is not None else 0.0,
    }
    about = {key: take[key] for key in ("subject", "status", "handles")}
    text = json.dumps({"format": FORMAT, **about, "paste": paste, "metrics": metrics}, indent=1)
    (out / "edit.json").write_text(text + "\n", encoding="utf-8")
    return metrics


def _read(folder: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What `write` wrote, and the frames' pictures."""
    try:
        take = json.loads((folder / "take.json").read_text(encoding="utf-8"))
        faces = [read_png(path) for path in sorted((folder / "frames").iterdir())]
        whole = take["format"] == FORMAT and len(faces) == len(take["frames"]) >= 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"The take {folder} cannot be read ({error}).") from error
    if not whole:
        raise DataError(f"The take {folder} is not whole; save it again.")
    return take, faces


def _emotion(folder: Path, rate: int, out: Path) -> None:
    """What is taken home shows the emotion; the drag's own frames and latents stay beside it."""
    views = [read_png(path) for path in sorted(folder.glob("[0-9]*.png"))]
    if not views:
        raise DataError("The take is not whole; save it again.")
    Image.fromarray(views[-1]).save(out / "result.png")
    if (folder / "full.png").is_file():
        shutil.copyfile(folder / "full.png", out / "full.png")
    shutil.copyfile(folder / "emotion.json", out / "emotion.json")
    shown = read_png(out / "before_after.png")
    width = shown.shape[1] // 2
    after = Image.fromarray(views[-1]).resize((width, shown.shape[0]), Image.Resampling.LANCZOS)
    both = np.concatenate([shown[:, :width], np.asarray(after)], axis=1)
    Image.fromarray(both).save(out / "before_after.png")
    _write_films(views, views, rate, out)


def _drawing(inversion: Path, model: Path) -> tuple[np.ndarray, CropTransform]:
    """The whole uploaded picture, and where the face lies in it."""
    transform = transform_of(read_info(inversion, model), inversion)
    return read_png(inversion / "source.png"), transform


def _write_film(
    take: Mapping[str, Any],
    faces: list[np.ndarray],
    views: list[np.ndarray],
    factor: int,
    rate: int,
    out: Path,
) -> None:
    """Of a drawing the `views` of it on its way; else the model's faces, with marks in the mp4."""
    stride = max(1, -(-len(faces) // MOST_FILM_FRAMES))
    numbers = sorted({*range(0, len(faces), stride), len(faces) - 1})
    clean = [pictures.enlarge(faces[number], factor) for number in numbers]
    films = []
    for number, face in zip(numbers, clean, strict=True):
        at = take["frames"][number]["positions"]
        markers = [
            Marker(
                *(
                    (point[0] * factor, point[1] * factor)
                    for point in (
                        handle["from"],
                        at.get(str(handle["id"]), handle["from"]),
                        handle["to"],
                    )
                )
            )
            for handle in take["handles"]
        ]
        films.append(pictures.draw_markers(face, markers, 1))
    _write_films(views or films, views or clean, rate, out)
    Image.fromarray(films[0]).save(out / "marked_first.png")
    Image.fromarray(films[-1]).save(out / "marked_last.png")


def _write_films(marked: list[np.ndarray], clean: list[np.ndarray], rate: int, out: Path) -> None:
    """The same pictures as mp4 (with its end held for a second), gif and webp."""
    video.write_mp4(out / "frames.mp4", [*marked, *marked[-1:] * rate], rate, preset="veryfast")
    video.write_gif(out / "frames.gif", clean, rate)
    video.write_webp(out / "frames.webp", clean, rate)

"""What an artist did in the studio, filed as an edit.

A *take* is a folder: `take.json` (handles, targets, frames, mask) and `latents.npy` (the frames'
ws, frames × num_ws × w_dim). `run` draws it with the model it was made with and writes what the
edit stage writes, so that a report, a replay and the lineage find everything where they expect it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.data.align import crop
from pipeline.edit import pictures, video
from pipeline.edit import recipe as recipes
from pipeline.edit.carry import carry_over
from pipeline.edit.pictures import Marker
from pipeline.edit.recipe import Recipe
from pipeline.edit.session import Session
from pipeline.errors import DataError
from pipeline.invert.inversion import Inversion
from pipeline.invert.pti import picture_of
from pipeline.models import checkpoint
from torch_utils.pixels import to_uint8

FORMAT = 1
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


def write(session: Session, recipe: Recipe, subject: Mapping[str, Any], folder: Path) -> None:
    """Write what led to the frame shown: the timeline up to it."""
    folder.mkdir(parents=True, exist_ok=True)
    timeline = session.timeline()
    shown = [session.frames[number] for number in timeline[: timeline.index(session.frame.id) + 1]]
    latents = torch.cat([frame.ws.cpu() for frame in shown]).numpy()
    np.save(folder / "latents.npy", latents)
    data = {
        "format": FORMAT,
        "subject": dict(subject),
        "status": session.state.status.value,
        "recipe": recipes.to_json(recipe),
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


def run(config: TakeConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, float | int | str]:
    """Draw the take's frames and write the edit; see the module."""
    take, latents = _read(inputs["take"])
    found = Inversion.load(inputs["inversion"], inputs["model"]) if "inversion" in inputs else None
    generator: Any = (
        found.generator
        if found is not None
        else checkpoint.load(inputs["model"], names=("G_ema",))["G_ema"].eval()
    )
    if latents.shape[1:] != (generator.num_ws, generator.w_dim):
        raise DataError(f"{inputs['take']} is of another model than {inputs['model']}.")
    recipe = recipes.from_json(take["recipe"])
    faces = _draw(generator, latents)
    before, after = faces[0], faces[-1]
    factor = pictures.display_factor(*after.shape[:2])
    (out / "frames").mkdir(parents=True, exist_ok=True)
    for number, face in enumerate(faces, 1):
        Image.fromarray(face).save(out / "frames" / f"{number:04d}.png")
    Image.fromarray(after).save(out / "result.png")
    shown = pictures.before_after(before, after, factor)
    paste: dict[str, Any] | None = None
    if found is not None:
        keep = None if recipe.mask is None else recipe.mask.astype(np.float32) / 255
        full, motion = carry_over(found.source, before, after, found.transform, keep)
        Image.fromarray(full).save(out / "full.png")
        side = after.shape[1] * factor
        shown = pictures.before_after(
            crop(found.source, found.transform, side), crop(full, found.transform, side), 1
        )
        paste = {"from": "drawing", "explained_by_motion": round(motion.explained, 4)}
    Image.fromarray(shown).save(out / "before_after.png")
    recipes.write(recipe, out / "recipe.json")
    _write_film(take, faces, factor, config.frames_per_second, out)
    lines = [json.dumps(frame) + "\n" for frame in take["frames"]]
    (out / "trace.jsonl").write_text("".join(lines), encoding="utf-8")
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


def _read(folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    try:
        take = json.loads((folder / "take.json").read_text(encoding="utf-8"))
        latents = np.load(folder / "latents.npy", allow_pickle=False)
        whole = take["format"] == FORMAT and len(latents) == len(take["frames"]) >= 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"The take {folder} cannot be read ({error}).") from error
    if not whole:
        raise DataError(f"The take {folder} is not whole; save it again.")
    return take, latents


@torch.no_grad()
def _draw(generator: Any, latents: np.ndarray) -> list[np.ndarray]:
    return [to_uint8(picture_of(generator, torch.from_numpy(ws)[None]))[0] for ws in latents]


def _write_film(
    take: Mapping[str, Any], faces: list[np.ndarray], factor: int, rate: int, out: Path
) -> None:
    stride = max(1, -(-len(faces) // MOST_FILM_FRAMES))
    numbers = sorted({*range(0, len(faces), stride), len(faces) - 1})
    films = []
    for number in numbers:
        at = take["frames"][number]["positions"]
        markers = [
            Marker(
                tuple(handle["from"]),
                tuple(at.get(str(handle["id"]), handle["from"])),
                tuple(handle["to"]),
            )
            for handle in take["handles"]
        ]
        films.append(pictures.draw_markers(faces[number], markers, factor))
    video.write_mp4(out / "frames.mp4", [*films, *films[-1:] * rate], rate)
    clean = [pictures.enlarge(faces[number], factor) for number in numbers]
    video.write_gif(out / "frames.gif", clean, rate)
    first, *rest = map(Image.fromarray, clean)
    first.save(
        out / "frames.webp", save_all=True, append_images=rest, duration=1000 // rate, loop=0
    )
    Image.fromarray(films[0]).save(out / "marked_first.png")
    Image.fromarray(films[-1]).save(out / "marked_last.png")

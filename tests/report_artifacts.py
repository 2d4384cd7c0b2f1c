"""Small artifacts in the payload formats of the stages, for the tests of the report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

from pipeline.artifacts.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    Parent,
    Plan,
    Source,
    hash_files,
)

SIZE = 64
STEPS = 40


def face(shift: float = 0.0, size: int = SIZE) -> Image.Image:
    """A flat face whose mouth corner lies `shift` pixels higher."""
    image = Image.new("RGB", (size, size), (236, 226, 214))
    draw = ImageDraw.Draw(image)
    unit = size / 64
    draw.ellipse([8 * unit, 6 * unit, 56 * unit, 60 * unit], fill=(250, 220, 205))
    for x in (22, 42):
        draw.ellipse([(x - 5) * unit, 26 * unit, (x + 5) * unit, 38 * unit], fill=(70, 60, 150))
    draw.line([26 * unit, 48 * unit, 38 * unit, (48 - shift) * unit], fill=(150, 50, 60), width=2)
    return image


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def finish(
    folder: Path,
    stage: str,
    *,
    parents: dict[str, Manifest] | None = None,
    sources: dict[str, Source] | None = None,
    config: dict[str, Any] | None = None,
    metrics: dict[str, float | int | str] | None = None,
) -> Manifest:
    """Write the manifest of the payload in <kind>/<name>/v<N>."""
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    kind, name = folder.parts[-3:-1]
    plan = Plan(
        kind=kind,
        name=name,
        stage=stage,
        stage_version=1,
        config=config or {"name": name, "seed": 1, "network": {"name": "stylegan2-tiny"}},
        ignored=(),
        parents={
            key: Parent(m.plan.kind, m.plan.name, m.version, m.digest)
            for key, m in (parents or {}).items()
        },
        sources=sources or {},
    )
    manifest = Manifest(
        version=int(folder.name[1:]),
        plan=plan,
        files=hash_files(folder, files),
        metrics=metrics or {},
        wall_seconds=83.5,
        created="2025-01-02T03:04:05+00:00",
        code={"commit": "0123456789abcdef", "dirty": False},
        environment={"python": "3.11.2", "torch": "2.13.0", "system": "Linux"},
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_text())
    return manifest


def new_folder(root: Path, kind: str, name: str) -> Path:
    """<root>/<kind>/<name>/v1, made."""
    folder = root / kind / name / "v1"
    folder.mkdir(parents=True)
    return folder


def dataset(root: Path, name: str, hostile: str = "") -> tuple[Path, Manifest]:
    """A dataset without its images (the report does not open them)."""
    folder = new_folder(root, "dataset", name)
    sheet = Image.new("RGB", (SIZE * 8, SIZE * 3))
    for index in range(24):
        sheet.paste(face(index % 5), (SIZE * (index % 8), SIZE * (index // 8)))
    sheet.save(folder / "contact_sheet.png")
    names = [f"00000/img{index:08d}.png" for index in range(40)]
    write_lines(
        folder / "faces.jsonl",
        [
            {
                "file": file,
                "source": f"{hostile}drawing{index:03d}.png",
                "detector": "mediapipe" if index % 9 == 0 else f"animeface{hostile}",
                "score": 0.9 - index / 100,
            }
            for index, file in enumerate(names)
        ],
    )
    write_lines(
        folder / "rejects.jsonl",
        [
            {"source": f"{hostile}a.png", "reason": f"the file is truncated{hostile}"},
            {"source": "b.png", "reason": "no face was found"},
            {"source": "c.png", "reason": "no face was found (the best guess had 0.1)"},
            {"source": "d.png", "reason": "near-duplicate of drawing001.png"},
            {"source": "e.png", "reason": "near-duplicate of drawing002.png"},
        ],
    )
    split = {"train": names[:36], "heldout": names[36:]}
    (folder / "split.json").write_text(json.dumps(split))
    files = tuple(FileEntry(f"{hostile}drawing{i:03d}.png", "ab" * 32, 10) for i in range(42))
    source = Source(f"/somewhere/private/drawings{hostile}", "cd" * 32, files)
    return folder, finish(folder, "preprocess", sources={"source.path": source})


def model(root: Path, name: str, parent: Manifest) -> tuple[Path, Manifest]:
    """A model without its networks."""
    folder = new_folder(root, "model", name)
    rng = np.random.default_rng(0)
    stats = []
    for tick in range(1, 121):
        fade = math.exp(-tick / 30)
        stats.append(
            {
                "images_seen": tick * 500,
                "loss_G": 0.9 + 0.6 * fade + 0.1 * rng.normal(),
                "loss_D_real": 0.6 - 0.2 * fade + 0.05 * rng.normal(),
                "loss_D_fake": 0.6 - 0.3 * fade + 0.05 * rng.normal(),
                "logits_real": 0.5 + fade + 0.1 * rng.normal(),
                "logits_fake": -0.5 - fade + 0.1 * rng.normal(),
                "sign_real": 0.6 * (1 - fade),
                "sign_fake": -0.6 * (1 - fade),
                "augment_p": 0.2 * (1 - fade),
                "loss_r1": 0.02 + 0.01 * rng.normal(),
                "seconds_per_kimg": 21 + rng.normal(),
            }
        )
    write_lines(folder / "stats.jsonl", stats)
    samples = folder / "samples"
    samples.mkdir()
    for seen in range(0, 60001, 6000):
        grid = Image.new("RGB", (SIZE * 4, SIZE * 4))
        for index in range(16):
            blend = Image.blend(Image.new("RGB", (SIZE, SIZE), "grey"), face(index), seen / 60000)
            grid.paste(blend, (SIZE * (index % 4), SIZE * (index // 4)))
        grid.save(samples / f"{seen:09d}.png")
    grid.save(folder / "reals.png")
    return folder, finish(
        folder,
        "train",
        parents={"dataset": parent},
        config={"name": name, "seed": 1, "augment": {"mode": "ada", "target": 0.6}},
        metrics={"images_seen": 60000, "augment_p": 0.196},
    )


def inversion(root: Path, name: str, parent: Manifest) -> tuple[Path, Manifest]:
    """An inversion without its tensors."""
    folder = new_folder(root, "inversion", name)
    face(2, 200).save(folder / "source.png")
    for index, picture in enumerate(("aligned.png", "pivot.png", "tuned.png")):
        face(index).save(folder / picture)
    metrics = {
        **{"psnr_pivot_db": 15.21, "psnr_tuned_db": 27.4, "ssim_pivot": 0.5, "ssim_tuned": 0.91},
        **{"perceptual_pivot": 0.31, "perceptual_tuned": 0.055},
        **{"project_steps": 30, "project_seconds": 9.5, "tune_steps": 30, "tune_seconds": 12.25},
        "stopped_early": 1,
    }
    description = {
        "format": 1,
        "alignment": {"method": "face", "detector": "animeface"},
        "perceptual": {"name": "lpips-alex"},
        "metrics": metrics,
    }
    (folder / "inversion.json").write_text(json.dumps(description))
    write_lines(
        folder / "trace.jsonl",
        [{"phase": "project", "step": step, "distance": 1 / (1 + step)} for step in range(30)]
        + [
            {"phase": "tune", "step": step, "perceptual": 0.3 / (1 + step), "mse": 0.1}
            for step in range(30)
        ],
    )
    file = FileEntry("upload.png", "ef" * 32, 99)
    source = Source("/somewhere/private/upload.png", file.sha256, (file,))
    return folder, finish(folder, "invert", parents={"model": parent}, sources={"image": source})


def edit(root: Path, name: str, parents: dict[str, Manifest]) -> tuple[Path, Manifest]:
    """An edit with two handles."""
    folder = new_folder(root, "edit", name)
    (folder / "frames").mkdir()
    trace = []
    for step in range(1, STEPS + 2):
        share = (step - 1) / STEPS
        trace.append(
            {
                "step": step,
                "loss": 0.3 * (1 - share),
                "seconds": 0.1,
                "handles": [
                    {"id": 1, "position": [38, 48 - 8 * share], "target": [38, 39]},
                    {"id": 2, "position": [26, 48 - 4 * share], "target": [26, 44]},
                ],
            }
        )
        if step % 4 == 1:
            face(8 * share).save(folder / "frames" / f"{step:04d}.png")
    write_lines(folder / "trace.jsonl", trace)
    face(8).save(folder / "result.png")
    both = Image.new("RGB", (2 * SIZE, SIZE))
    both.paste(face(0), (0, 0))
    both.paste(face(8), (SIZE, 0))
    both.save(folder / "before_after.png")
    face(8, 200).save(folder / "full.png")
    description = {
        "format": 1,
        "stopped": {"status": "arrived", "reason": "every handle is within 1.00 px of its target"},
        "steps": STEPS + 1,
        "kept_step": STEPS + 1,
        "face": {"width": SIZE, "height": SIZE},
        "drag": {
            "strategy": "draggan",
            "source": "Pan et al. 2023",
            "stop_distance_px": 1.0,
            "layer": "b32",
            "rows": [0, 6],
        },
        "handles": [
            {
                "from": [38, 48],
                "to": [38, 39],
                "ended": [38, 40],
                "distance_px": 1.0,
                "confidence": 0.93,
                "picture_check": {"error_px": 1.31},
            }
        ],
        "metrics": {"seconds_per_step": 0.1},
    }
    (folder / "edit.json").write_text(json.dumps(description))
    face(0).save(folder / "marked_first.png")
    write_video(folder / "frames.mp4", [face(8 * i / 10) for i in range(11)])
    return folder, finish(folder, "edit", parents=parents)


def write_video(path: Path, frames: Sequence[Image.Image]) -> None:
    """H.264, 10 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


def road(root: Path, name: str = "ganyu", hostile: str = "") -> dict[str, Path]:
    """One artifact of each kind, each made from the one before: the inputs of a report."""
    dataset_folder, dataset_manifest = dataset(root, name, hostile)
    model_folder, model_manifest = model(root, name, dataset_manifest)
    inversion_folder, inversion_manifest = inversion(root, name, model_manifest)
    parents = {"inversion": inversion_manifest, "model": model_manifest}
    edit_folder, _ = edit(root, name, parents)
    return {
        "dataset": dataset_folder,
        "model": model_folder,
        "inversion": inversion_folder,
        "edit": edit_folder,
    }

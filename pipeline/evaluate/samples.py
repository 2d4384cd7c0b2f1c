"""The samples stage: a model in; pictures and films of what it draws out.

    grid.png                      faces by number
    truncation.png                the same faces, nearer to and farther from the mean face
    mixing_<which>.png            faces that take some rows of ws from others
    walk.mp4, walk.webp           from face to face and back to the first
    characters.png                the same latents as each character (models with labels)
    between_characters.png        the way from each character to the next
    walk_of_characters.mp4, .webp the same as a film, of several faces
    samples.json                  seeds, psi and rows behind each

Every picture follows from the model and the settings. Frames of an unfinished film lie in
`unfinished/`, and are not made again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pipeline.console import Progress, catch_stop, progress, say
from pipeline.errors import ConfigError
from pipeline.evaluate.config import SamplesConfig
from pipeline.evaluate.faces_of_model import Faces, round_trip
from pipeline.evaluate.film import make_frames, mosaic, write_film, write_webp
from pipeline.evaluate.sheet import Sheet, draw_sheet, rows_of
from pipeline.models import checkpoint
from pipeline.models.build import Generator
from pipeline.models.characters import find_character, names_of
from torch_utils.device import choose_device, describe

DESCRIPTION = "samples.json"
UNFINISHED = "unfinished"
# More characters than that make no sheet that anybody looks at; an even choice of them is shown.
MAX_CHARACTERS = 16


@dataclass
class Work:
    """What all pictures are made with, and what is noted about them."""

    config: SamplesConfig
    faces: Faces
    names: list[str]  # of the characters
    out: Path
    bar: Progress
    stop: Callable[[], bool]
    notes: dict[str, Any] = field(default_factory=dict)

    def numbers(self, count: int, skip: int = 0) -> list[int]:
        """Numbers of faces: `count` from the configured one on."""
        first = self.config.seed + skip
        return list(range(first, first + count))

    def save(self, name: str, sheet: Sheet, **notes: Any) -> None:
        """Write a sheet under <name>.png; `notes` go into samples.json."""
        draw_sheet(sheet).save(self.out / f"{name}.png")
        self.notes[name] = notes
        self.bar.advance(1)

    def film(self, name: str, points: list[Tensor], columns: int, **notes: Any) -> None:
        """Write a film under <name>.mp4 and <name>.webp; one frame a point (N x num_ws x w_dim)."""
        config = self.config
        most = round(config.film_mib * 2**20)

        def frame(index: int) -> np.ndarray:
            return mosaic(self.faces.pictures(points[index]), columns, config.film_px)

        folder = self.out / UNFINISHED / name
        frames = make_frames(folder, len(points), frame, bar=self.bar, stop=self.stop)
        write_film(self.out / f"{name}.mp4", frames, config.frames_per_second, most)
        if not write_webp(self.out / f"{name}.webp", frames, config.frames_per_second, most):
            say(f"samples: {name}.webp would be above samples.film_mib, so there is the mp4 only.")
        self.notes[name] = {"frames": len(points), **notes}


def check(config: SamplesConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what the model cannot do before anything is begun."""
    described = checkpoint.read_architecture(inputs["model"])
    if "G_ema" not in described:
        raise ConfigError(f"The model in {inputs['model']} has no averaged generator G_ema.")
    labels = int(described["G_ema"].arguments.get("c_dim", 0))
    find_character("samples.label", config.label, inputs["model"], labels)
    if config.pictures == ["characters"] and labels < 2:
        raise ConfigError(
            "samples.pictures=[characters] needs a model of several characters, trained with "
            "train.conditional=true; this one has no labels."
        )


def run(
    config: SamplesConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Write what `config.pictures` names about `inputs["model"]` into `out`."""
    check(config, inputs)
    device = choose_device(config.device)
    network = cast(Generator, checkpoint.load(inputs["model"], ("G_ema",), device)["G_ema"])
    network.requires_grad_(False)
    character = find_character("samples.label", config.label, inputs["model"], network.c_dim)
    faces = Faces(network, config.batch, config.truncation_psi, character)
    names = names_of(inputs["model"], network.c_dim)
    wanted = [name for name in config.pictures if name != "characters" or network.c_dim > 1]
    say(f"samples: {', '.join(wanted)}, on {describe(device)}.")
    makers: dict[str, Callable[[Work], None]] = {
        "grid": _grid, "truncation": _truncation, "mixing": _mixing, "walk": _walk,
        "characters": _characters,
    }  # fmt: skip
    if len(wanted) < len(config.pictures):
        say("samples: the model has no labels, so there are no characters to tell apart.")
    # Before the first picture: a range of rows that the model does not have ends it here.
    tables = len(faces.mixing_ranges(config.mixing_rows))
    total = _steps(config, wanted, tables, min(network.c_dim, MAX_CHARACTERS))
    with catch_stop() as stop, progress("samples", total, "pictures") as bar:
        work = Work(config, faces, names, out, bar, stop)
        for name in wanted:
            makers[name](work)
    description = {"truncation_psi": config.truncation_psi, "pictures": work.notes}
    text = json.dumps(description, indent=1) + "\n"
    (out / DESCRIPTION).write_text(text, encoding="utf-8")
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    return {"pictures": len(work.notes), "characters": network.c_dim}


def _steps(config: SamplesConfig, wanted: list[str], tables: int, characters: int) -> int:
    """Sheets and frames in all."""
    steps = {
        "mixing": tables,
        "walk": config.walk_stops * config.walk_steps,
        "characters": 2 + characters * config.walk_steps,
    }
    return sum(steps.get(name, 1) for name in wanted)


def _grid(work: Work) -> None:
    columns, rows = work.config.grid
    numbers = work.numbers(columns * rows)
    pictures = work.faces.pictures(work.faces.ws_of(numbers))
    sheet = Sheet(
        title="Faces by number",
        subtitle=f"Truncation psi {work.faces.psi:g}. Any of them can be dragged: make edit "
        f'POINTS="x,y>x,y" ARGS="edit.seed_face=NUMBER edit.truncation={work.faces.psi:g}".',
        cells=rows_of(pictures, columns),
        captions=rows_of([str(number) for number in numbers], columns),
    )
    work.save("grid", sheet, seeds=numbers)


def _truncation(work: Work) -> None:
    numbers = work.numbers(work.config.sweep_rows)
    columns = [work.faces.pictures(work.faces.ws_of(numbers, psi)) for psi in work.config.sweep]
    sheet = Sheet(
        title="Truncation",
        subtitle="Each row is one face. At psi 0 all are the mean face, at 1 the model is as it "
        "is, below 0 lie the faces' opposites.",
        cells=[list(row) for row in zip(*columns, strict=True)],
        row_labels=[f"face {number}" for number in numbers],
        column_labels=[f"psi {psi:g}" for psi in work.config.sweep],
    )
    work.save("truncation", sheet, seeds=numbers, psi=work.config.sweep)


def _mixing(work: Work) -> None:
    columns, rows = work.config.mixing
    below, beside = work.numbers(rows), work.numbers(columns, skip=rows)
    base, source = work.faces.ws_of(below), work.faces.ws_of(beside)
    row_heads, column_heads = work.faces.pictures(base), work.faces.pictures(source)
    for name, taken in work.faces.mixing_ranges(work.config.mixing_rows).items():
        mixed = base[:, None].repeat(1, columns, 1, 1)
        mixed[:, :, taken.start : taken.stop] = source[None, :, taken.start : taken.stop]
        sheet = Sheet(
            title=f"Style mixing: {name}",
            subtitle="Each face of the left column, with rows "
            f"{taken.start} to {taken.stop - 1} of its {work.faces.network.num_ws} rows of ws "
            "taken from the face at the top.",
            cells=rows_of(work.faces.pictures(mixed.flatten(0, 1)), columns),
            row_labels=[f"face {number}" for number in below],
            column_labels=[f"face {number}" for number in beside],
            row_heads=row_heads,
            column_heads=column_heads,
        )
        file = f"mixing_{name.replace(' ', '_')}"
        work.save(file, sheet, rows=below, columns=beside, ws=[taken.start, taken.stop - 1])


def _walk(work: Work) -> None:
    config, faces = work.config, work.faces
    columns, rows = config.walk_grid
    walkers = columns * rows
    numbers = np.arange(config.seed, config.seed + walkers * config.walk_stops)
    stops = numbers.reshape(config.walk_stops, walkers).tolist()
    # A walker keeps its character.
    labels = faces.labels(faces.classes_of(stops[0]))
    z = torch.stack([faces.z(numbers) for numbers in stops])
    if config.walk_space == "z":
        path = round_trip(z, config.walk_steps, easing=config.walk_easing, arcs=True)
        points = [faces.ws(point, labels) for point in path]
    else:
        ws = torch.stack([faces.ws(some, labels) for some in z])
        points = round_trip(ws, config.walk_steps, easing=config.walk_easing)
    work.film("walk", points, columns, seeds=stops, space=config.walk_space)


def _characters(work: Work) -> None:
    config, faces = work.config, work.faces
    known = faces.network.c_dim
    shown = min(known, MAX_CHARACTERS)
    classes = [index * known // shown for index in range(shown)]
    note = "" if shown == known else f" {shown} of the model's {known} characters."
    numbers = work.numbers(config.character_columns)
    z = faces.z(numbers)
    ws = torch.stack([faces.ws(z, faces.labels([one] * len(numbers))) for one in classes])
    names = [work.names[one] for one in classes]
    sheet = Sheet(
        title="Characters",
        subtitle=f"Each column is one latent, drawn as each character.{note}",
        cells=rows_of(faces.pictures(ws.flatten(0, 1)), len(numbers)),
        row_labels=names,
        column_labels=[f"face {number}" for number in numbers],
    )
    work.save("characters", sheet, seeds=numbers, classes=classes)
    steps = config.character_steps
    # With two characters the way back is the way there.
    ends = [(i, (i + 1) % shown) for i in range(shown if shown > 2 else shown - 1)]
    shares = [step / (steps - 1) for step in range(steps)]
    between = torch.stack([ws[a, 0].lerp(ws[b, 0], t) for a, b in ends for t in shares])
    sheet = Sheet(
        title="Between characters",
        subtitle=f"Straight lines in w, at face {numbers[0]}.",
        cells=rows_of(faces.pictures(between), steps),
        row_labels=[f"{names[a]} to {names[b]}" for a, b in ends],
        column_labels=[f"{100 * t:.0f} %" for t in shares],
    )
    work.save("between_characters", sheet, seed=numbers[0], classes=classes)
    columns, rows = config.walk_grid
    stops = ws[:, : columns * rows]
    points = round_trip(stops, config.walk_steps, easing=config.walk_easing)
    work.film("walk_of_characters", points, columns, seeds=numbers[: stops.shape[1]])

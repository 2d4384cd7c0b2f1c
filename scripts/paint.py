"""Paint anime faces: python -m scripts.paint sheet|faces|scenes

The painter is this project's built-in source of drawings: by seed, with exact landmarks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from pipeline.console import progress, say
from pipeline.errors import DataError
from scripts.one_sentence import one_sentence

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHEETS = ("identities", "expressions", "poses", "mixed")
YAW_STEPS = (-32.0, -16.0, 0.0, 16.0, 32.0)
PITCH_STEPS = (12.0, 0.0, -12.0)


def _save(image: NDArray[np.uint8], path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def _new_folder(folder: Path) -> None:
    """Create `folder`; one that holds anything already is refused, so that nothing is lost."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not an empty folder; name a new one with --out.")
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _records(path: Path) -> Iterator[TextIO]:
    """A JSON-lines file that appears under its name only when complete."""
    draft = path.with_name(path.name + ".part")
    with draft.open("w", encoding="utf-8") as file:
        yield file
    draft.replace(path)


def _option_seed() -> Callable[..., Any]:
    return click.option(
        "--seed", default=0, show_default=True, type=click.IntRange(0), help="Which set of draws."
    )


def _option_character() -> Callable[..., Any]:
    return click.option(
        "--character",
        "character_number",
        default=None,
        type=click.IntRange(0),
        help="Paint one character, the one of this number (else a new one each time).",
    )


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--of", "what", default="identities", show_default=True, type=click.Choice(SHEETS))
@_option_seed()
@_option_character()
@click.option(
    "--count", default=24, show_default=True, type=click.IntRange(1, 1024),
    help="Faces (identities and mixed; the other sheets have their own number).",
)  # fmt: skip
@click.option("--columns", default=8, show_default=True, type=click.IntRange(1, 64))
@click.option("--size", default=192, show_default=True, type=click.IntRange(32, 2048))
@click.option(
    "--out", default=Path("sheet.png"), show_default=True, type=click.Path(path_type=Path)
)
@one_sentence
def sheet(
    what: str,
    seed: int,
    character_number: int | None,
    count: int,
    columns: int,
    size: int,
    out: Path,
) -> None:
    """One PNG with many faces: of identities, or one character's expressions or poses, or mixed."""
    from pipeline.data.painter.sheet import expressions, grid, identities, mixed, poses

    one = seed if character_number is None else character_number
    if what == "identities":
        images = identities(seed, count, size)
    elif what == "expressions":
        images = expressions(one, size)
    elif what == "poses":
        images, columns = poses(one, YAW_STEPS, PITCH_STEPS, size), len(YAW_STEPS)
    else:
        images = mixed(seed, count, size, character_number)
    _save(grid(images, columns), out)
    say(f"{len(images)} faces in {out}")


@main.command()
@_option_seed()
@_option_character()
@click.option("--count", default=100, show_default=True, type=click.IntRange(1))
@click.option("--size", default=256, show_default=True, type=click.IntRange(32, 4096))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@one_sentence
def faces(seed: int, character_number: int | None, count: int, size: int, out: Path) -> None:
    """A folder of square portraits, and landmarks.jsonl with one line a face."""
    from pipeline.data import landmarks as lm
    from pipeline.data.painter import sample_face

    _new_folder(out)
    with (
        _records(out / "landmarks.jsonl") as records,
        progress("painting", count, "faces") as bar,
    ):
        for index in range(count):
            painting = sample_face(seed, index, character_number=character_number, size=size)
            name = f"face{index:06d}.png"
            _save(painting.image, out / name)
            line = {
                "file": name,
                "landmarks": lm.to_json(painting.landmarks),
                "roll_degrees": lm.roll_degrees(painting.landmarks),
                **painting.meta,
            }
            records.write(json.dumps(line) + "\n")
            bar.advance()
    say(f"{count} faces and landmarks.jsonl in {out}")


@main.command()
@_option_seed()
@_option_character()
@click.option("--count", default=50, show_default=True, type=click.IntRange(1))
@click.option(
    "--faces", "face_count", default=None, type=click.IntRange(0, 2),
    help="Faces in every picture (else mostly one, some two or none).",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@one_sentence
def scenes(
    seed: int, character_number: int | None, count: int, face_count: int | None, out: Path
) -> None:
    """A folder of whole pictures of many sizes, and truth.jsonl with the faces in each."""
    from pipeline.data.painter import paint_scene

    _new_folder(out)
    with _records(out / "truth.jsonl") as records, progress("painting", count, "scenes") as bar:
        for index in range(count):
            scene = paint_scene(seed, index, character_number=character_number, faces=face_count)
            name = f"scene{index:06d}.png"
            _save(scene.image, out / name)
            height, width = scene.image.shape[:2]
            line = {
                "file": name,
                "width": width,
                "height": height,
                "faces": [face.to_json() for face in scene.faces],
            }
            records.write(json.dumps(line) + "\n")
            bar.advance()
    say(f"{count} scenes and truth.jsonl in {out}")


if __name__ == "__main__":
    main()

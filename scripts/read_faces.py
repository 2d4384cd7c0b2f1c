"""Read the faces in pictures: python -m scripts.read_faces drawing.png --out readings

Writes each picture with its landmarks drawn in, sheet.png of all of them, and readings.jsonl with a
line a face: landmarks, visibility, expression, angles. Says how well the landmarks agree with the
parts that animeface, which knows nothing of the reader, boxes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.console import progress, say
from pipeline.errors import DataError
from scripts.one_sentence import one_sentence

if TYPE_CHECKING:
    import numpy as np

    from pipeline.data.face_reader import FaceReader, Reading
    from pipeline.data.faces import FaceFinder

PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
# Share of a face's landmarks that must agree with animeface for it to be counted as right.
RIGHT = 0.8
SHEET_COLUMNS, CELL = 8, 256


@click.command(help=__doc__)
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", default=Path("readings"), show_default=True, type=click.Path(path_type=Path),
    help="Folder of the results; files in it are replaced.",
)  # fmt: skip
@click.option(
    "--reader", default=None, type=click.Path(path_type=Path),
    help="Folder of a face reader (by default the one that ships with the code).",
)  # fmt: skip
@click.option(
    "--size", default=512, show_default=True, type=click.IntRange(64, 4096),
    help="Longer side of the pictures that are written, px.",
)  # fmt: skip
@one_sentence
def main(pictures: tuple[Path, ...], out: Path, reader: Path | None, size: int) -> None:
    import numpy as np
    from PIL import Image

    from pipeline.data.face_reader import FaceReader
    from pipeline.data.faces import FaceFinder
    from pipeline.invert.picture import read
    from pipeline.train.logbook import tile

    paths = _files(pictures)
    known = FaceReader.shipped() if reader is None else FaceReader.load(reader)
    out.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    cells = []
    with FaceFinder(read=False) as finder, progress("read", len(paths), "pictures") as bar:
        for reason in finder.missing.values():
            say(reason)
        for path in paths:
            image = read(path)
            found = _read(finder, known, image)
            lines += [{"picture": path.name, **line} for _, line in found]
            drawn = _drawn(image, [reading for reading, _ in found], size)
            Image.fromarray(drawn).save(out / f"{path.stem}.png")
            cells += [_cell(image, reading) for reading, _ in found[:1]]
            bar.advance(1)
    with (out / "readings.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    if cells:
        Image.fromarray(tile(np.stack(cells), SHEET_COLUMNS)).save(out / "sheet.png")
    _tell(lines, len(paths), out)


def _files(given: tuple[Path, ...]) -> list[Path]:
    paths = []
    for path in given:
        if path.is_dir():
            paths += sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
        else:
            paths.append(path)
    if not paths:
        raise DataError(f"There is no picture in {given[0]}; name PNG, JPEG or WebP files.")
    return paths


def _read(
    finder: FaceFinder, reader: FaceReader, image: np.ndarray
) -> list[tuple[Reading, dict[str, Any]]]:
    """Every face of a picture, best first: what was read, and its line of readings.jsonl."""
    from pipeline.data import nvxs
    from pipeline.data.close_ups import Zoomable
    from pipeline.data.part_agreement import agreement

    library = nvxs.load()
    picture = Zoomable(image)
    found = []
    for face in finder.find(image, every=True):
        reading = reader.read_in(picture, face.box, face.roll_degrees)
        line = {"detector": face.detector, **reading.to_json()}
        if not isinstance(library, str):
            agreed = agreement(library, picture, face, reading.landmarks)
            line["agreement"] = None if agreed is None else round(agreed.share, 4)
        found.append((reading, line))
    return found


def _drawn(image: np.ndarray, readings: list[Reading], size: int) -> np.ndarray:
    from pipeline.data.overlay import draw_landmarks, resized

    drawn, scale = resized(image, size)
    for reading in readings:
        drawn = draw_landmarks(drawn, reading.landmarks * scale, radius=max(1.0, size / 340))
    return drawn


def _cell(image: np.ndarray, reading: Reading) -> np.ndarray:
    """A close-up of a face with its landmarks and what it says, for the sheet."""
    import cv2

    from pipeline.data.align import CropTransform, crop
    from pipeline.data.face_reader import close_up_frame
    from pipeline.data.overlay import draw_landmarks

    close = close_up_frame(reading.landmarks)
    frame = CropTransform.square(close.center_x, close.center_y, 1.3 * close.width)
    drawn = draw_landmarks(crop(image, frame, CELL), frame.apply(reading.landmarks, CELL))
    word = f"{reading.expression} {100 * reading.expressions[reading.expression]:.0f}%"
    for colour, width in ((0, 0, 0), 3), ((255, 255, 255), 1):
        cv2.putText(drawn, word, (6, CELL - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, width)
    return drawn


def _tell(lines: list[dict[str, Any]], pictures: int, out: Path) -> None:
    faces = "no face" if not lines else "1 face" if len(lines) == 1 else f"{len(lines)} faces"
    where = "1 picture" if pictures == 1 else f"{pictures} pictures"
    say(f"Read {faces} in {where}; look at {out}.")
    shares = [line["agreement"] for line in lines if line.get("agreement") is not None]
    if shares:
        right = sum(share >= RIGHT for share in shares)
        say(
            f"Of their landmarks {100 * sum(shares) / len(shares):.1f} % lie in the parts that "
            f"animeface boxes; in {right} of {len(shares)} faces at least {100 * RIGHT:.0f} % do."
        )


if __name__ == "__main__":
    main()

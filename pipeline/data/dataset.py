"""The dataset artifact as its readers see it: images, what is known of each face, the split.

Reads what `pipeline.data.stage` writes. Knows nothing about how faces were found.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.data.image_zip import ImageZip
from pipeline.errors import DataError

IMAGES = "images.zip"
FACES = "faces.jsonl"
REJECTS = "rejects.jsonl"
SPLIT = "split.json"
CONTACT_SHEET = "contact_sheet.png"


class Dataset:
    """A dataset folder (or a bare image zip, all of which is then for training).

    Attributes:
        images: reader of the images.
        train_indices, heldout_indices: positions in `images`; together all of them, none twice.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._bare = self.path.is_file()
        self.images = ImageZip(self.path if self._bare else self.path / IMAGES)
        self.train_indices, self.heldout_indices = self._read_split()

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def faces(self) -> list[dict[str, Any]]:
        """One record an image, in image order (see `pipeline.data.stage`); empty for a bare zip."""
        faces = [] if self._bare else read_jsonl(self.path / FACES)
        if faces and [face.get("file") for face in faces] != self.images.names:
            raise DataError(f"{self.path / FACES} does not list the images of {IMAGES} in order.")
        return faces

    @cached_property
    def rejects(self) -> list[dict[str, Any]]:
        """One record (source, reason) a picture that was left out."""
        return [] if self._bare else read_jsonl(self.path / REJECTS)

    def _read_split(self) -> tuple[list[int], list[int]]:
        path = self.path / SPLIT
        if self._bare or not path.exists():
            return list(range(len(self.images))), []
        try:
            split = json.loads(path.read_text(encoding="utf-8"))
            position = {name: index for index, name in enumerate(self.images.names)}
            train = sorted(position[name] for name in split["train"])
            heldout = sorted(position[name] for name in split["heldout"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} must list the images of {IMAGES} under train and heldout ({error})."
            ) from error
        if sorted(train + heldout) != list(range(len(self.images))):
            raise DataError(f"{path} must name every image of {IMAGES} exactly once.")
        return train, heldout


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a file with one JSON object a line; a missing file has none."""
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"Line {number} of {path} is no valid JSON ({error}).") from error
    return records

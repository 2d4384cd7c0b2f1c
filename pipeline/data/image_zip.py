"""The image dataset on disk: an uncompressed zip of equally sized images with optional labels.

The format is the one that the StyleGAN tools read and write: `00000/img00000000.png`, ... and
`dataset.json` with {"labels": null | [[name, label], ...]}. Knows nothing about faces or splits.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import DataError

LABELS_FILE = "dataset.json"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# The earliest moment a zip can name: equal images give equal bytes whenever they are written.
FIXED_TIME = (1980, 1, 1, 0, 0, 0)
# The fastest, and a tenth larger than the smallest; the zip itself is not compressed.
PNG_LEVEL = 1

Label = int | Sequence[float]


def image_name(index: int) -> str:
    """The member name of the image with that index: 00000/img00000000.png and so on."""
    digits = f"{index:08d}"
    return f"{digits[:5]}/img{digits}.png"


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of an image (H x W x 3, H x W x 1 or H x W, uint8); equal images, equal bytes."""
    stream = io.BytesIO()
    pixels = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=PNG_LEVEL)
    return stream.getvalue()


class ImageZip:
    """Reader of an image zip, ours or the StyleGAN tools'.

    Safe to hand to other processes: each opens the file for itself at its first read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._process = -1
        try:
            with zipfile.ZipFile(self.path) as archive:
                self.names = sorted(
                    name for name in archive.namelist() if name.lower().endswith(SUFFIXES)
                )
                labels = _read_labels(archive, self.path)
        except FileNotFoundError:
            raise DataError(f"There is no dataset at {self.path}.") from None
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{self.path} cannot be read as a zip file ({error}).") from error
        if not self.names:
            raise DataError(f"{self.path} holds no images ({', '.join(SUFFIXES)}).")
        self.labels = _order_labels(labels, self.names, self.path)
        first = self._decode(0)
        self.resolution: tuple[int, int] = (first.shape[1], first.shape[0])  # (width, height)
        self.channels: int = first.shape[2]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.read(index) for index in range(len(self)))

    def read(self, index: int) -> np.ndarray:
        """Image `index` in name order, H x W x channels uint8 (3 channels, or 1 if stored grey)."""
        image = self._decode(index)
        width, height = self.resolution
        if image.shape != (height, width, self.channels):
            raise DataError(
                f"{self.names[index]} in {self.path} is {image.shape[1]}x{image.shape[0]} with "
                f"{image.shape[2]} channels, but the first image is {width}x{height} with "
                f"{self.channels}; all must be alike."
            )
        return image

    @property
    def label_dim(self) -> int:
        """Length of a label vector: the number of classes, or of values; 0 without labels."""
        if self.labels is None:
            return 0
        return int(self.labels.max()) + 1 if self.labels.ndim == 1 else self.labels.shape[1]

    def label(self, index: int) -> np.ndarray:
        """Label of image `index` as float32 of `label_dim` values (one-hot for class numbers)."""
        vector = np.zeros(self.label_dim, np.float32)
        if self.labels is not None:
            if self.labels.ndim == 1:
                vector[self.labels[index]] = 1.0
            else:
                vector[:] = self.labels[index]
        return vector

    def verify(self) -> None:
        """Decode every image; raise one DataError that lists everything found wrong."""
        problems = []
        for index in range(len(self)):
            try:
                self.read(index)
            except DataError as error:
                problems.append(str(error))
        if problems:
            raise DataError(f"{self.path} has {len(problems)} bad image(s): {' '.join(problems)}")

    def close(self) -> None:
        """Close the file; reading again opens it anew."""
        if self._zip is not None:
            self._zip.close()
        self._zip = None

    def __enter__(self) -> ImageZip:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None, "_process": -1}

    def _archive(self) -> zipfile.ZipFile:
        # A forked process would share its parent's file position, so each opens its own.
        if self._zip is None or self._process != os.getpid():
            self._zip = zipfile.ZipFile(self.path)
            self._process = os.getpid()
        return self._zip

    def _decode(self, index: int) -> np.ndarray:
        name = self.names[index]
        try:
            with Image.open(io.BytesIO(self._archive().read(name))) as image:
                pixels = np.asarray(image if image.mode in ("RGB", "L") else image.convert("RGB"))
        # Decoders raise anything from SyntaxError to struct.error on damaged bytes.
        except Exception as error:
            raise DataError(f"{name} in {self.path} cannot be read ({error}).") from error
        return pixels[:, :, None] if pixels.ndim == 2 else pixels


class ImageZipWriter:
    """Writes an image zip; the file appears under its name only when it is complete.

    Used as a context manager: leaving it normally commits, leaving it by an exception removes the
    unfinished file. The same images in the same order give the same bytes.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._unfinished = self.path.with_name(self.path.name + ".unfinished")
        self._stream = self._unfinished.open("wb")
        self._zip = zipfile.ZipFile(self._stream, "w", zipfile.ZIP_STORED)
        self._names: list[str] = []
        self._labels: list[Label] = []

    def add(self, image: np.ndarray, label: Label | None = None) -> str:
        """Append an image (H x W x 3 uint8); returns its member name."""
        return self.add_png(encode_png(image), label)

    def add_png(self, png: bytes, label: Label | None = None) -> str:
        """Append an image that is PNG bytes already (see `encode_png`); returns its name."""
        name = image_name(len(self._names))
        self._write(name, png)
        self._names.append(name)
        if label is not None:
            self._labels.append(label)
        return name

    def close(self) -> None:
        """Write the labels, flush to disk and give the file its name."""
        if self._labels and len(self._labels) != len(self._names):
            self.discard()
            raise DataError(
                f"{len(self._labels)} of {len(self._names)} images have a label; "
                "either all or none must have one."
            )
        pairs = [
            [name, label] for name, label in zip(self._names, self._labels, strict=False)
        ] or None
        self._write(LABELS_FILE, json.dumps({"labels": pairs}).encode())
        self._zip.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._unfinished.replace(self.path)

    def discard(self) -> None:
        """Give up: remove the unfinished file."""
        self._zip.close()
        self._stream.close()
        self._unfinished.unlink(missing_ok=True)

    def __enter__(self) -> ImageZipWriter:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error_type is None:
            self.close()
        else:
            self.discard()

    def _write(self, name: str, data: bytes) -> None:
        info = zipfile.ZipInfo(name, FIXED_TIME)
        info.create_system = 3  # Unix, on whatever system this runs
        info.external_attr = 0o644 << 16
        self._zip.writestr(info, data, zipfile.ZIP_STORED)


def _read_labels(archive: zipfile.ZipFile, path: Path) -> list[Any] | None:
    if LABELS_FILE not in archive.namelist():
        return None
    try:
        content = json.loads(archive.read(LABELS_FILE))
        labels = content.get("labels") if isinstance(content, dict) else content
    except (ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{LABELS_FILE} in {path} is no valid JSON ({error}).") from error
    if labels is not None and not isinstance(labels, list):
        raise DataError(f'{LABELS_FILE} in {path} needs "labels": null or a list of pairs.')
    return labels or None


def read_class_numbers(archive: zipfile.ZipFile, path: Path) -> dict[str, int] | None:
    """Class numbers by member name; None where there are no labels, or others than numbers."""
    pairs = _read_labels(archive, path) or []
    try:
        found = {str(name).replace("\\", "/"): label for name, label in pairs}
    except (TypeError, ValueError) as error:
        raise DataError(f"{LABELS_FILE} in {path} must list pairs ({error}).") from error
    numbers = all(type(label) is int and label >= 0 for label in found.values())
    return found if found and numbers else None


def _order_labels(labels: list[Any] | None, names: list[str], path: Path) -> np.ndarray | None:
    """Labels in name order: int64 of N class numbers, or float32 of N x values."""
    if labels is None:
        return None
    try:
        by_name = {str(name).replace("\\", "/"): label for name, label in labels}
        values = np.array([by_name[name] for name in names])
    except KeyError as error:
        raise DataError(f"{LABELS_FILE} in {path} has no label for {error}.") from None
    except (TypeError, ValueError) as error:
        raise DataError(f"The labels in {path} are not alike ({error}).") from error
    if values.ndim == 1 and np.issubdtype(values.dtype, np.integer) and values.min() >= 0:
        return values.astype(np.int64)
    if values.ndim == 2 and np.issubdtype(values.dtype, np.number):
        return values.astype(np.float32)
    raise DataError(
        f"The labels in {path} must be class numbers from 0 or equally long lists of numbers."
    )

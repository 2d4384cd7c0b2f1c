"""Painted faces with what is true of them, kept on disk in chunks while a reader trains.

Chunk k holds the faces k·CHUNK to (k+1)·CHUNK - 1 of a seed, in two files: `00003.pixels.npy`
(uint8, faces × side × side × 3) and `00003.truth.npz`, which is written last. Knows nothing about
networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.painter import EXPRESSIONS, PARTS, Painting, sample_face
from pipeline.data.workers import run_all
from pipeline.errors import TrainingError
from pipeline.files import put

CHUNK = 100
EXPRESSION_NAMES = tuple(EXPRESSIONS)
ANGLE_NAMES = ("yaw", "pitch", "roll")
# What hides a landmark that it lies over.
COVERS = tuple(PARTS.index(name) for name in ("hair_front", "accessories"))


@dataclass(frozen=True)
class Truth:
    """What is true of n painted faces."""

    landmarks: np.ndarray  # n×28×2 float32, px
    visible: np.ndarray  # n×28 bool: neither hair nor anything worn lies over the landmark
    expressions: np.ndarray  # n int64, an index into EXPRESSION_NAMES
    angles: np.ndarray  # n×3 float32: yaw, pitch, roll in degrees


@dataclass(frozen=True)
class PaintingSet:
    """Faces 0 to count - 1 of a seed, each of a character of its own."""

    folder: Path
    seed: int
    count: int
    side: int
    pose_spread: float

    def chunks(self) -> list[int]:
        """Numbers of all chunks."""
        return list(range(-(-self.count // CHUNK)))

    def is_painted(self, chunk: int) -> bool:
        """Whether a chunk is there whole."""
        return _truth_path(self.folder, chunk).is_file()


@dataclass(frozen=True)
class Painter:
    """Makes the chunks of a set; a worker of `pipeline.data.workers`."""

    faces: PaintingSet

    def __call__(self) -> Painter:
        return self

    def work(self, item: int) -> None:
        """Paint chunk number `item`."""
        faces = self.faces
        numbers = range(item * CHUNK, min((item + 1) * CHUNK, faces.count))
        paintings = [
            sample_face(faces.seed, number, size=faces.side, pose_spread=faces.pose_spread)
            for number in numbers
        ]
        angles = [[float(one.meta[angle]) for angle in ANGLE_NAMES] for one in paintings]
        faces.folder.mkdir(parents=True, exist_ok=True)
        with put(_pixels_path(faces.folder, item)) as aside, aside.open("wb") as stream:
            np.save(stream, np.stack([one.image for one in paintings]))
        with put(_truth_path(faces.folder, item)) as aside, aside.open("wb") as stream:
            np.savez(
                stream,
                landmarks=np.stack([one.landmarks for one in paintings]).astype(np.float32),
                visible=np.stack([visible_landmarks(one) for one in paintings]),
                expressions=np.array([EXPRESSION_NAMES.index(_name(one)) for one in paintings]),
                angles=np.array(angles, dtype=np.float32),
            )

    def close(self) -> None:
        """Nothing to release."""


def paint_missing(faces: PaintingSet, processes: int, stop: Callable[[], bool]) -> Iterator[None]:
    """Paint the chunks that are not there yet; yields once a chunk."""

    def crashed(chunk: int) -> None:
        raise TrainingError(
            f"reader: the painter ended its process over faces {chunk * CHUNK} and following of "
            f"seed {faces.seed}; free some memory and run the same command again."
        )

    missing = [chunk for chunk in faces.chunks() if not faces.is_painted(chunk)]
    yield from run_all(missing, Painter(faces), processes, crashed, stop)


class Paintings:
    """A painted set, opened: pixels stay on the disk until they are asked for."""

    def __init__(self, faces: PaintingSet) -> None:
        self.side = faces.side
        parts = []
        self._pixels = []
        for chunk in faces.chunks():
            self._pixels.append(np.load(_pixels_path(faces.folder, chunk), mmap_mode="r"))
            with np.load(_truth_path(faces.folder, chunk)) as truth:
                parts.append({name: truth[name] for name in truth.files})
        self.truth = Truth(
            **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        )

    def __len__(self) -> int:
        return len(self.truth.expressions)

    def image(self, number: int) -> np.ndarray:
        """Face `number`: side × side × 3 uint8, a copy."""
        return np.array(self._pixels[number // CHUNK][number % CHUNK])


def visible_landmarks(painting: Painting) -> np.ndarray:
    """28 bool: whether most of the pixels around a landmark are free of what covers faces."""
    covered = np.isin(painting.labels, COVERS)
    height, width = covered.shape
    reach = max(1, round(width / 192))
    visible = []
    for x, y in painting.landmarks:
        column = int(np.clip(x, reach, width - 1 - reach))
        row = int(np.clip(y, reach, height - 1 - reach))
        around = covered[row - reach : row + reach + 1, column - reach : column + reach + 1]
        visible.append(bool(around.mean() < 0.5))
    return np.array(visible)


def _name(painting: Painting) -> str:
    return str(painting.meta["expression"])


def _pixels_path(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:05d}.pixels.npy"


def _truth_path(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:05d}.truth.npz"

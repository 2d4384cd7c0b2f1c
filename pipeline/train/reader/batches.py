"""Batches of distorted faces for the reader, a function of seed and images seen alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.data import landmarks as lm
from pipeline.models.face_reader import DEGREES
from pipeline.train.reader.colours import change_colours, occlude
from pipeline.train.reader.paintings import Paintings
from pipeline.train.reader.warp import BORDERS, random_warp
from torch_utils.rng import DataOrder, derive_seed

K = TypeVar("K")
V = TypeVar("V")


class Batch(NamedTuple):
    """N faces and what is true of them, in the units of `ReaderOutput`."""

    images: Tensor  # N×3×S×S in [-1, 1]
    landmarks: Tensor  # N×28×2, shares of the side; some may lie outside
    visible: Tensor  # N×28, 1 or 0
    expressions: Tensor  # N int64
    angles: Tensor  # N×3, in units of DEGREES

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        return Batch(*(value.to(device) for value in self))


class DistortedFaces:
    """Painted faces, cropped, reshaped, recoloured and damaged, each time differently.

    Args:
        paintings: what is distorted.
        seed: of the order and of the distortions.
        size: side of the crops, px.
        strength: of all distortions.
    """

    def __init__(self, paintings: Paintings, seed: int, size: int, strength: float) -> None:
        self._paintings = paintings
        self._seed = seed
        self._size = size
        self._strength = strength
        self._order = DataOrder(seed, len(paintings))

    def batch(self, images_seen: int, count: int) -> Batch:
        """The faces that follow the first `images_seen`."""
        numbers = self._order.items(images_seen, count)
        faces = [
            self._face(int(number), images_seen + place) for place, number in enumerate(numbers)
        ]
        images, landmarks, visible, angles = (
            np.stack(values) for values in zip(*faces, strict=True)
        )
        return Batch(
            images=torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1,
            landmarks=torch.from_numpy(landmarks).float(),
            visible=torch.from_numpy(visible).float(),
            expressions=torch.from_numpy(self._paintings.truth.expressions[numbers]),
            angles=torch.from_numpy(angles).float(),
        )

    def _face(
        self, number: int, position: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        truth, strength = self._paintings.truth, self._strength
        rng = np.random.default_rng(derive_seed(self._seed, position, "distortion"))
        warp = random_warp(rng, truth.landmarks[number], strength)
        border = int(rng.choice(BORDERS))
        colour = [int(value) for value in rng.integers(0, 256, 3)]
        image = warp.apply(self._paintings.image(number), self._size, border, colour)
        landmarks = warp.points(truth.landmarks[number])
        image, covered = occlude(rng, image, landmarks * self._size, strength)
        image = change_colours(rng, image, strength)
        yaw, pitch, roll = truth.angles[number]
        sign = -1.0 if warp.mirror else 1.0
        angles = np.array([sign * yaw, pitch, sign * (roll - warp.frame.roll_degrees)]) / DEGREES
        visible = truth.visible[number]
        if warp.mirror:
            visible = visible[list(lm.MIRROR)]
        inside = ((landmarks > 0) & (landmarks < 1)).all(axis=1)
        return image, landmarks, visible & ~covered & inside, angles


def read_ahead(make: Callable[[K], V], keys: Iterable[K]) -> Iterator[tuple[K, V]]:
    """`make` of each key, the next one being made in a thread while one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="faces") as thread:
        waiting = None
        for key in keys:
            following = (key, thread.submit(make, key))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()

"""Batches of training images: which ones (a function of seed and images seen) and their pixels.

Decoded images stay in memory as uint8 when they fit, each decoded at its first use; otherwise they
are read batch by batch. Knows nothing about networks or augmentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.data.image_zip import ImageZip
from pipeline.errors import DataError
from torch_utils.rng import DataOrder


class TrainingImages:
    """The images to train on, in an endless order that depends on the seed only.

    Args:
        images: where to read from.
        indices: the images to use (the training part of the split).
        seed: of the order.
        xflip: also use every image mirrored (the set is then twice as large).
        conditional: give out the labels; without it they have length 0.
        balance: show every class equally often, the images of small ones several times an epoch.
        rows: which rows of each batch are asked for (the share of one of several processes).
        cache_bytes: keep decoded images in memory if all of them take at most this much.
    """

    def __init__(
        self,
        images: ImageZip,
        indices: Sequence[int],
        *,
        seed: int,
        xflip: bool = False,
        conditional: bool = False,
        balance: bool = False,
        rows: slice = slice(None),
        cache_bytes: int = 0,
    ) -> None:
        if not indices:
            raise DataError(f"{images.path} has no images for training.")
        if conditional and images.labels is None:
            raise DataError(f"{images.path} has no labels; train it with train.conditional=false.")
        self._images = images
        self._indices = np.asarray(indices, dtype=np.int64)
        self._xflip = xflip
        self._share = rows
        width, height = images.resolution
        self.width, self.height, self.channels = width, height, images.channels
        self.label_dim = images.label_dim if conditional else 0

        size = len(indices) * self.channels * height * width
        self._cached = size <= cache_bytes
        self._is_decoded = np.zeros(len(indices), dtype=bool)
        shape = (len(indices) if self._cached else 0, self.channels, height, width)
        self._pixels = np.empty(shape, dtype=np.uint8)
        self._labels = np.zeros((len(indices), self.label_dim), dtype=np.float32)
        if self.label_dim:
            for row, index in enumerate(self._indices):
                self._labels[row] = images.label(int(index))
        self._are_classes = images.labels is not None and images.labels.ndim == 1
        # What an epoch shows: each row once, or those of small classes more often.
        self._shown = np.arange(len(indices))
        if balance:
            self._shown = _balanced(self._classes_of_rows())
        self._order = DataOrder(seed, len(self._shown) * (2 if xflip else 1))

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def fit_memory(self) -> bool:
        """Whether decoded images are kept."""
        return self._cached

    def batch(self, images_seen: int, count: int) -> tuple[Tensor, Tensor]:
        """Of the `count` images that follow the first `images_seen`, those of the share.

        Returns N×C×H×W float32 in [-1, 1] and N×label_dim float32 labels.
        """
        items = self._order.items(images_seen, count)[self._share]
        places, mirrored = (items // 2, items % 2 == 1) if self._xflip else (items, items < 0)
        rows = self._shown[places]
        pixels = np.stack([self._decode(int(row)) for row in rows])  # NCHW uint8
        pixels[mirrored] = pixels[mirrored, :, :, ::-1]
        images = torch.from_numpy(pixels).to(torch.float32).div_(127.5).sub_(1)
        return images, torch.from_numpy(self._labels[rows])

    def draw_labels(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` labels with the frequencies of what is shown, N×label_dim float32."""
        places = torch.randint(len(self._shown), (count,), generator=generator)
        return torch.from_numpy(self._labels[self._shown[places.numpy()]])

    @property
    def classes(self) -> int:
        """How many characters are told apart; 0 without labels, or with other labels."""
        return self.label_dim if self._are_classes else 0

    def first(self, count: int) -> Tensor:
        """The first images of the set (not of the order), N×C×H×W uint8, for a grid to look at."""
        return self._pixels_of(range(min(count, len(self))))

    def first_of(self, number: int, count: int) -> Tensor:
        """The first `count` images of a class, over again where it has fewer; as `first`."""
        rows = np.flatnonzero(self._classes_of_rows() == number)
        return self._pixels_of(np.resize(rows, count) if len(rows) else [])

    def _pixels_of(self, rows: Iterable[int]) -> Tensor:
        found = [self._decode(int(row)) for row in rows]
        shape = (0, self.channels, self.height, self.width)
        return torch.from_numpy(np.stack(found) if found else np.zeros(shape, np.uint8))

    def _classes_of_rows(self) -> np.ndarray:
        if self._images.labels is None or self._images.labels.ndim != 1:
            return np.zeros(len(self), dtype=np.int64)
        return self._images.labels[self._indices]

    def _decode(self, row: int) -> np.ndarray:
        """C×H×W uint8."""
        if self._cached and self._is_decoded[row]:
            return self._pixels[row]
        image = self._images.read(int(self._indices[row])).transpose(2, 0, 1)
        if self._cached:
            self._pixels[row] = image
            self._is_decoded[row] = True
        return image


def _balanced(classes: np.ndarray) -> np.ndarray:
    """Rows in which every class is as frequent as the largest one."""
    groups = [np.flatnonzero(classes == number) for number in np.unique(classes)]
    most = max(len(rows) for rows in groups)
    return np.concatenate([np.resize(rows, most) for rows in groups])

"""Batches made ready while the one before is being trained on.

Which images come next is known (images seen is the only clock), so one thread decodes them and, for
a GPU, puts them into memory that the GPU can fetch by itself. What comes out is what the source
itself would give. Knows nothing about where images come from or what is done with them.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]  # images, labels
Request = tuple[int, int]  # images seen, count


class Source(Protocol):
    """What is read ahead; see images.py."""

    def batch(self, images_seen: int, count: int) -> Batch:
        """The images and labels that follow the first `images_seen`."""

    def draw_labels(self, count: int, generator: torch.Generator) -> Tensor:
        """Random labels, N × c_dim."""


class Prefetched:
    """A source whose next batch is made ready in the background.

    Args:
        source: where images come from; only one batch of it is asked for at a time.
        stride: images between two batches that are asked for (of all processes together).
        device: where the batches are wanted.

    Use it as a context manager: its thread ends with the block.
    """

    def __init__(self, source: Source, stride: int, device: torch.device) -> None:
        self._source = source
        self._stride = stride
        self._device = device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._ahead: tuple[Request, Future[Batch]] | None = None

    def batch(self, images_seen: int, count: int) -> Batch:
        """The images and labels that follow the first `images_seen`, on the device."""
        request = (images_seen, count)
        if self._ahead is None or self._ahead[0] != request:
            # The thread does one thing after the other: what is being made is waited for.
            self._ahead = (request, self._thread.submit(self._make, request))
        images, labels = self._ahead[1].result()
        following = (images_seen + self._stride, count)
        self._ahead = (following, self._thread.submit(self._make, following))
        # From pinned memory the copy runs beside the computation, without a wait.
        return (
            images.to(self._device, non_blocking=True),
            labels.to(self._device, non_blocking=True),
        )

    def draw_labels(self, count: int, generator: torch.Generator) -> Tensor:
        """Random labels, N × c_dim, drawn at once."""
        return self._source.draw_labels(count, generator)

    def _make(self, request: Request) -> Batch:
        images, labels = self._source.batch(*request)
        if self._device.type == "cuda":
            return images.pin_memory(), labels.pin_memory()
        return images, labels

    def __enter__(self) -> Prefetched:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

"""Reading ahead changes when images are made, never which."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.train.prefetch import Prefetched

CPU = torch.device("cpu")


class Counting:
    """Batches that say what was asked for, and who asked."""

    def __init__(self, damaged_from: int = 1 << 60) -> None:
        self.asked: list[tuple[int, int]] = []
        self.threads: set[int] = set()
        self.changed = threading.Condition()
        self.damaged_from = damaged_from

    def batch(self, images_seen: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        with self.changed:
            self.asked.append((images_seen, count))
            self.threads.add(threading.get_ident())
            self.changed.notify_all()
        if images_seen >= self.damaged_from:
            raise DataError("img00000007.png cannot be read.")
        return torch.arange(images_seen, images_seen + count), torch.full((count, 1), images_seen)

    def draw_labels(self, count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(count, 1, generator=generator)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_every_request_gets_its_own_batch(requests: list[tuple[int, int]]) -> None:
    source = Counting()
    with Prefetched(source, 4, CPU) as images:
        for seen, count in requests:
            for got, expected in zip(
                images.batch(seen, count), Counting().batch(seen, count), strict=True
            ):
                assert torch.equal(got, expected)


def test_the_next_batch_is_made_before_it_is_asked_for() -> None:
    source = Counting()
    with Prefetched(source, 8, CPU) as images:
        images.batch(0, 4)
        with source.changed:
            assert source.changed.wait_for(lambda: (8, 4) in source.asked, timeout=30)
        images.batch(8, 4)
    assert source.asked.count((8, 4)) == 1
    assert threading.get_ident() not in source.threads


def test_a_damaged_image_is_reported_where_it_is_wanted() -> None:
    with Prefetched(Counting(damaged_from=4), 4, CPU) as images:
        images.batch(0, 4)
        with pytest.raises(DataError, match="img00000007"):
            images.batch(4, 4)


def test_the_thread_ends_with_the_block() -> None:
    before = threading.active_count()
    with Prefetched(Counting(), 4, CPU) as images:
        images.batch(0, 4)
        assert threading.active_count() > before
    assert threading.active_count() == before

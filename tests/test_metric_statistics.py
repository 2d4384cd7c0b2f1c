"""Streaming statistics: equal to the whole at once, however split, saved, or shared out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import DataError
from pipeline.metrics import cache
from pipeline.metrics.features import Outputs
from pipeline.metrics.statistics import FeatureStatistics
from torch_utils.distributed import World

DIM, CLASSES = 5, 4


def outputs(count: int, seed: int = 0) -> Outputs:
    draws = torch.Generator().manual_seed(seed)
    return Outputs(
        torch.randn(count, DIM, generator=draws) * 3 + 7,
        torch.randn(count, CLASSES, generator=draws),
    )


def part(some: Outputs, first: int, count: int) -> Outputs:
    assert some.logits is not None
    return Outputs(some.features[first : first + count], some.logits[first : first + count])


def observed(
    some: Outputs, sizes: Sequence[int], *, groups: int = 1, keep: int = 0
) -> FeatureStatistics:
    statistics = FeatureStatistics(DIM, CLASSES, groups=groups, keep=keep)
    first = 0
    for size in sizes:
        statistics.add(first, part(some, first, size))
        first += size
    return statistics


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8).filter(lambda s: sum(s) > 1),
    groups=st.integers(1, 5),
    keep=st.integers(0, 30),
)
@settings(max_examples=40, deadline=None)
def test_batches_give_what_numpy_gives_of_all_at_once(
    sizes: list[int], groups: int, keep: int
) -> None:
    count = sum(sizes)
    some = outputs(count)
    statistics = observed(some, sizes, groups=groups, keep=keep)
    x = some.features.double().numpy()
    found = statistics.gaussian()
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), rtol=1e-7, atol=1e-9)
    assert statistics.count == count
    torch.testing.assert_close(statistics.features, some.features[:keep])
    # Without a group: its samples never came.
    rest = np.arange(count) % groups != 0
    if rest.sum() > 1:
        found = statistics.gaussian(without=0)
        np.testing.assert_allclose(found.mean, x[rest].mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(
            found.covariance, np.cov(x[rest], rowvar=False), rtol=1e-6, atol=1e-8
        )
    assert some.logits is not None
    p = some.logits.double().softmax(dim=1)
    entropy, mean = statistics.class_statistics()
    assert entropy == pytest.approx(float((p * p.log()).sum(dim=1).mean()))
    torch.testing.assert_close(mean, p.mean(dim=0))


def test_a_covariance_of_one_image_is_refused() -> None:
    with pytest.raises(DataError, match="at least two images, but there are 1"):
        observed(outputs(1), [1]).gaussian()


@dataclass(frozen=True)
class Together(World):
    """Stands for two processes in one: what this one gives is put together with the other's."""

    others: tuple[Tensor, ...] = ()

    def _next(self) -> Tensor:
        waiting = list(self.others)
        other = waiting.pop(0)
        object.__setattr__(self, "others", tuple(waiting))
        return other

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor + self._next()

    def gather(self, rows: Tensor) -> Tensor:
        return torch.cat([rows, self._next()])


def test_two_processes_shares_are_one_process_statistics() -> None:
    some = outputs(40)
    shares = [FeatureStatistics(DIM, CLASSES, groups=3, keep=25) for _ in range(2)]
    for batch in range(10):
        shares[batch % 2].add(batch * 4, part(some, batch * 4, 4))
    world = Together(others=tuple(shares[1]._tensors.values()))
    whole = shares[0].reduced(world)
    alone = observed(some, [4] * 10, groups=3, keep=25)
    torch.testing.assert_close(whole.gaussian().covariance, alone.gaussian().covariance)
    torch.testing.assert_close(whole.gaussian(2).mean, alone.gaussian(2).mean)
    torch.testing.assert_close(whole.features, alone.features)
    assert whole.class_statistics()[0] == pytest.approx(alone.class_statistics()[0])


def test_saved_statistics_go_on_where_they_stopped(tmp_path: Path) -> None:
    some = outputs(20)
    empty = FeatureStatistics(DIM, CLASSES, groups=2, keep=9)
    early = observed(some, [8], groups=2, keep=9)
    early.save(tmp_path / "state.safetensors")
    resumed = FeatureStatistics.load(tmp_path / "state.safetensors", empty)
    assert resumed is not None
    assert resumed.count == 8
    resumed.add(8, part(some, 8, 12))
    whole = observed(some, [20], groups=2, keep=9)
    torch.testing.assert_close(resumed.gaussian().covariance, whole.gaussian().covariance)
    torch.testing.assert_close(resumed.features, whole.features)
    # Of other statistics, damaged, or absent: begin anew.
    other = FeatureStatistics(DIM + 1, CLASSES, groups=2, keep=9)
    assert FeatureStatistics.load(tmp_path / "state.safetensors", other) is None
    (tmp_path / "bad.safetensors").write_bytes(b"half a fi")
    assert FeatureStatistics.load(tmp_path / "bad.safetensors", empty) is None
    assert FeatureStatistics.load(tmp_path / "none.safetensors", empty) is None


def test_the_cache_keeps_by_all_that_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANIMEDRAG_CACHE", str(tmp_path))
    empty = FeatureStatistics(DIM, CLASSES, keep=5)
    made = observed(outputs(12), [12], keep=5)
    key: dict[str, str | int] = {"dataset": "ab" * 32, "part": "train", "keep": 5}
    assert cache.find(key, empty) is None
    cache.keep(key, made)
    found = cache.find(key, empty)
    assert found is not None
    torch.testing.assert_close(found.gaussian().covariance, made.gaussian().covariance)
    assert cache.find({**key, "part": "heldout"}, empty) is None
    assert cache.find({**key, "dataset": "cd" * 32}, empty) is None
    # A damaged entry is no entry.
    cache.entry_path(key).write_bytes(b"\x00" * 40)
    assert cache.find(key, empty) is None
    # The longest unused go.
    monkeypatch.setattr(cache, "MAX_ENTRIES", 3)
    for number in range(5):
        cache.keep({"number": number}, made)
        os.utime(cache.entry_path({"number": number}), (number, number))
    assert cache.find({"number": 0}, empty) is None
    assert cache.find({"number": 4}, empty) is not None
    assert len(list((tmp_path / cache.FOLDER).iterdir())) == 3


def test_a_cache_that_cannot_be_written_costs_nothing_but_the_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ANIMEDRAG_CACHE", str(tmp_path / "file"))
    cache.keep({"a": 1}, observed(outputs(4), [4]))
    assert cache.find({"a": 1}, FeatureStatistics(DIM, CLASSES)) is None

"""Randomness from (seed, rank, images seen) and the data order."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_utils import rng

KEYS = st.tuples(st.integers(0, 2**40), st.integers(0, 64), st.integers(0, 2**40), st.text())


@given(first=KEYS, second=KEYS)
def test_equal_keys_and_only_they_give_equal_draws(first, second):
    a = torch.rand(8, generator=rng.generator(*first))
    b = torch.rand(8, generator=rng.generator(*second))
    assert torch.equal(a, b) == (first == second)


def test_numbers_and_text_are_told_apart():
    assert rng.derive_seed(1, 23) != rng.derive_seed(12, 3)
    assert rng.derive_seed(1, "2") != rng.derive_seed(1, 2)


def test_draws_equal_across_processes(root: Path):
    code = (
        "import torch; from torch_utils import rng; "
        "print(torch.randn(4, generator=rng.generator(5, 1, 700, 'z')).tolist(), "
        "rng.DataOrder(5, 100).items(350, 7).tolist())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    here = torch.randn(4, generator=rng.generator(5, 1, 700, "z")).tolist()
    assert there == f"{here} {rng.DataOrder(5, 100).items(350, 7).tolist()}\n"


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 50),
    epoch=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 50), max_size=4),
)
def test_every_epoch_is_a_permutation_however_it_is_cut(seed, size, epoch, cuts):
    whole = rng.DataOrder(seed, size).items(epoch * size, size)
    assert sorted(whole) == list(range(size))
    order = rng.DataOrder(seed, size)
    edges = [0, *sorted(min(cut, size) for cut in cuts), size]
    parts = [order.items(epoch * size + a, b - a) for a, b in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_a_batch_may_span_several_epochs():
    order = rng.DataOrder(3, 4)
    items = order.items(2, 12)
    assert sorted(items[2:6]) == sorted(items[6:10]) == [0, 1, 2, 3]


def test_epochs_differ():
    order = rng.DataOrder(3, 1000)
    assert not np.array_equal(order.items(0, 1000), order.items(1000, 1000))


def test_no_items_is_an_error():
    with pytest.raises(ValueError, match="size=0"):
        rng.DataOrder(1, 0)


def test_global_seeding_repeats_draws_of_layers():
    rng.seed_global(1, 0, 64, "noise")
    first = torch.randn(3)
    torch.randn(5)
    rng.seed_global(1, 0, 64, "noise")
    assert torch.equal(first, torch.randn(3))

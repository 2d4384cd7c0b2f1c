"""Distances of feature sets: closed forms, unbiasedness, constructed manifolds, intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.metrics import distances
from pipeline.metrics.distances import Gaussian
from pipeline.metrics.estimate import Estimate, bootstrap, jackknife


def normal(count: int, dim: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=draws) * scale + mean


def covariance(rank: int, dim: int, seed: int) -> Tensor:
    half = normal(rank, dim, seed).double()
    return half.T @ half / rank


def test_frechet_distance_of_separate_axes() -> None:
    """Commuting covariances: sum of (m_a - m_b)^2 + (s_a - s_b)^2 along the axes."""
    mean_a, mean_b = torch.tensor([1.0, -2, 0]).double(), torch.tensor([0.5, 1, 0]).double()
    side_a, side_b = torch.tensor([1.0, 3, 0.2]).double(), torch.tensor([2.0, 3, 0]).double()
    a = Gaussian(mean_a, side_a.square().diag())
    b = Gaussian(mean_b, side_b.square().diag())
    expected = float((mean_a - mean_b).square().sum() + (side_a - side_b).square().sum())
    assert distances.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert distances.frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


@given(rank_a=st.integers(1, 12), rank_b=st.integers(1, 12), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_frechet_distance_equals_the_formula_at_any_rank(
    rank_a: int, rank_b: int, seed: int
) -> None:
    a = Gaussian(normal(1, 8, seed)[0].double(), covariance(rank_a, 8, seed + 1))
    b = Gaussian(normal(1, 8, seed + 2)[0].double(), covariance(rank_b, 8, seed + 3))
    # The eigenvalues of the product are the squares of those of the root.
    product = np.linalg.eigvals((a.covariance @ b.covariance).numpy())
    root = np.sqrt(np.clip(product.real, 0, None)).sum()
    expected = float((a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace())
    assert distances.frechet_distance(a, b) == pytest.approx(expected - 2 * root, abs=1e-5)
    assert distances.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_equals_scipys_root() -> None:
    a = Gaussian(normal(1, 16, 0)[0].double(), covariance(40, 16, 1))
    b = Gaussian(normal(1, 16, 2)[0].double(), covariance(40, 16, 3))
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy()).real.trace()
    expected = float((a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace())
    assert distances.frechet_distance(a, b) == pytest.approx(expected - 2 * root, rel=1e-9)


def naive_kid(x: np.ndarray, y: np.ndarray) -> float:
    """Binkowski's eq. 4, written out in loops."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    m, n = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_y = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    across = sum(k(a, b) for a in x for b in y) / (m * n)
    return within_x + within_y - 2 * across


def test_kid_equals_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(11, 5, 0), normal(7, 5, 1, mean=0.4)
    expected = naive_kid(x.double().numpy(), y.double().numpy())
    assert distances.kernel_distance(x, y).value == pytest.approx(expected, rel=1e-9)
    # In pieces of rows, as for large sets.
    monkeypatch.setattr(distances, "_ROWS", 4)
    assert distances.kernel_distance(x, y).value == pytest.approx(expected, rel=1e-9)


def test_kid_is_unbiased() -> None:
    """Same distribution: zero on average at any size, and not only from above."""
    values = []
    for seed in range(150):
        estimate = distances.kernel_distance(
            normal(12, 4, seed), normal(9, 4, 1000 + seed), seed=seed
        )
        values.append(estimate.value)
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert min(values) < 0 < max(values)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_intervals_of_kid_cover_what_more_fakes_would_give(shift: float) -> None:
    """The reals are taken as they are, so the truth is that of these reals and endless fakes."""
    reals = normal(60, 4, 0)
    truth = distances.kernel_distance(reals, normal(8000, 4, 9, mean=shift), resamples=1).value
    found = [
        distances.kernel_distance(reals, normal(60, 4, 100 + seed, mean=shift), seed=seed)
        for seed in range(100)
    ]
    # Percentile intervals of so few samples are known to be somewhat narrow.
    assert sum(estimate.low <= truth <= estimate.high for estimate in found) >= 80
    assert sum(estimate.low <= truth * 1.5 + 1 <= estimate.high for estimate in found) < 80


def test_kid_of_different_distributions_grows_with_the_difference() -> None:
    reals = normal(60, 4, 0)
    values = [
        distances.kernel_distance(reals, normal(60, 4, 1, mean=shift)).value
        for shift in (0.0, 0.5, 1.0, 2.0)
    ]
    assert abs(values[0]) < 0.3
    assert values == sorted(values)


def ring(count: int, radius: float, around: tuple[float, float] = (0, 0)) -> Tensor:
    angle = torch.arange(count) * 2 * math.pi / count
    return torch.stack([angle.cos(), angle.sin()], dim=1) * radius + torch.tensor(around)


def test_precision_and_recall_on_constructed_manifolds() -> None:
    reals = torch.cat([ring(60, 1.0), ring(60, 1.0, (10, 0))])
    half = ring(50, 1.0)  # one of the two islands only
    beside = torch.cat([half, ring(50, 1.0, (0, 30))])  # ... and as much where nothing is

    precision, recall = distances.precision_recall(reals, half)
    assert (precision.value, recall.value) == (1.0, 0.5)
    precision, recall = distances.precision_recall(reals, beside)
    assert (precision.value, recall.value) == (0.5, 0.5)
    assert precision.low < 0.5 < precision.high
    precision, recall = distances.precision_recall(reals, reals)
    assert (precision.value, recall.value) == (1.0, 1.0)
    # A single point far away covers no real image and lies in no ball.
    precision, recall = distances.precision_recall(reals, ring(5, 0.001, (0, 99)))
    assert (precision.value, recall.value) == (0.0, 0.0)


def test_radii_are_those_of_the_kth_other_point() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert distances.neighbour_radii(points, 1).tolist() == [1, 1, 2, 4]
    assert distances.neighbour_radii(points, 2).tolist() == [3, 2, 3, 6]
    assert distances.neighbour_radii(points, 99).tolist() == [7, 6, 4, 7]


def test_realism_is_one_at_the_border_and_falls_outside() -> None:
    reals = torch.arange(10, dtype=torch.float32)[:, None]  # every radius with k=1 is 1
    fakes = torch.tensor([[10.0], [11.0], [4.5]])
    scores = distances.realism(fakes, reals, neighbours=1)
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.5, 2.0]))


def test_inception_score_of_certain_and_of_blind_classifiers() -> None:
    classes = 7
    # Certain and even: as many as there are classes. Blind: one.
    assert distances.inception_score(0.0, torch.full([classes], 1 / classes)) == pytest.approx(7)
    blind = classes * (1 / classes) * math.log(1 / classes)
    assert distances.inception_score(blind, torch.full([classes], 1 / classes)) == pytest.approx(1)
    one_hot = torch.zeros(classes)
    one_hot[2] = 1
    assert distances.inception_score(0.0, one_hot) == pytest.approx(1)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = normal(40, 1, 5).squeeze().double()
    without = [float((values.sum() - value) / 39) for value in values]
    estimate = jackknife(float(values.mean()), without)
    error = float(values.std() / math.sqrt(40))
    assert estimate.high - estimate.low == pytest.approx(2 * 1.959964 * error, rel=1e-9)
    assert math.isnan(jackknife(1.0, []).low)
    assert math.isnan(jackknife(1.0, [1.0]).high)


def test_bootstrap_intervals_cover_the_truth_and_repeat_themselves() -> None:
    def mean(sets: Tensor) -> Tensor:
        return sets.mean(dim=1)

    hits = 0
    for seed in range(100):
        values = normal(50, 1, seed, mean=2.0).squeeze().double()
        estimate = bootstrap(values, mean, resamples=200, seed=seed)
        hits += estimate.low <= 2.0 <= estimate.high
        if seed == 0:
            assert estimate == bootstrap(values, mean, resamples=200, seed=seed)
            assert estimate.value == pytest.approx(float(values.mean()))
    assert 85 <= hits <= 100
    assert bootstrap(torch.tensor([3.0]), mean) == Estimate(3.0, *bootstrap_of_one())


def bootstrap_of_one() -> tuple[float, float]:
    """NaN twice, by identity, so that the dataclass compares equal."""
    return Estimate(3.0).low, Estimate(3.0).high

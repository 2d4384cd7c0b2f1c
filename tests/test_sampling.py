"""Reading feature maps at points equals resizing the whole map."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from drag_models import PlainFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.edit.sampling import bilinear, disc, mask_weights, resized_at, sample, vertex, window


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    fraction=st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    margin=st.sampled_from([0, 2, 10]),
    seed=st.integers(0, 99),
)
def test_sampling_at_pixel_centres_is_the_resized_and_cropped_map(
    size: tuple[int, int], fraction: float, margin: int, seed: int
) -> None:
    height, width = (4 * side for side in size)
    content = (round(height * fraction), round(width * fraction))
    noise = torch.Generator().manual_seed(seed)
    shape = (3, content[0] + 2 * margin, content[1] + 2 * margin)
    features = torch.randn(shape, generator=noise)
    # Resizing margin and all by the same factor, then cutting the margin away.
    factor = 1 / fraction
    whole = (round(shape[1] * factor), round(shape[2] * factor))
    resized = F.interpolate(features[None], whole, mode="bilinear", align_corners=False)[0]
    cut = round(margin * factor)
    resized = resized[:, cut : cut + height, cut : cut + width]
    rows = torch.randint(0, height, (50,), generator=noise)
    columns = torch.randint(0, width, (50,), generator=noise)
    points = torch.stack([columns, rows], -1).double() + 0.5

    got = sample(features, PlainFrame(fraction, float(margin)), points)

    torch.testing.assert_close(got, resized[:, rows, columns].T, atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    source=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    size=st.tuples(st.integers(2, 50), st.integers(2, 50)),
    seed=st.integers(0, 99),
)
def test_resized_at_is_resize_then_read_with_its_gradient(
    source: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    noise = torch.Generator().manual_seed(seed)
    features = torch.randn(4, *source, generator=noise, requires_grad=True)
    weight = torch.randn(30, 4, generator=noise)
    # Some points lie beyond the border, where both read zeros.
    points = torch.rand(30, 2, generator=noise) * (torch.tensor([size[1], size[0]]) + 4.0) - 2
    resized = F.interpolate(features[None], size, mode="bilinear", align_corners=False)
    grid = points / torch.tensor([size[1], size[0]]) * 2 - 1
    wanted = F.grid_sample(resized, grid[None, None], align_corners=False)[0, :, 0].T
    (wanted_gradient,) = torch.autograd.grad((wanted * weight).sum(), features)

    got = resized_at(features, size, points.double())
    (gradient,) = torch.autograd.grad((got * weight).sum(), features)

    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=0)
    torch.testing.assert_close(gradient, wanted_gradient, atol=1e-4, rtol=0)


def test_sampling_has_the_gradient_of_its_map() -> None:
    features = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    points = torch.rand(7, 2, dtype=torch.float64) * 8 - 1
    assert torch.autograd.gradcheck(lambda values: bilinear(values, points), features)


@pytest.mark.parametrize("radius", [0, 0.4, 1, 2, 3, 3.7, 12])
def test_disc_is_complete_and_symmetric(radius: float) -> None:
    offsets = {tuple(offset) for offset in disc(radius).tolist()}
    reach = math.floor(radius)
    assert {(reach, 0), (-reach, 0), (0, reach), (0, -reach)} <= offsets
    assert all((-x, -y) in offsets and (y, x) in offsets for x, y in offsets)
    square = range(-reach - 1, reach + 2)
    assert len(offsets) == sum(math.hypot(x, y) <= radius for x in square for y in square)


def test_window_reaches_every_side() -> None:
    offsets = window(3.0)
    assert offsets.shape == (49, 2)
    assert offsets.min() == -3
    assert offsets.max() == 3


@pytest.mark.parametrize("truth", [-0.5, -0.2, 0.0, 0.31, 0.5])
def test_vertex_finds_a_parabolas_minimum(truth: float) -> None:
    at = [(place - truth) ** 2 * 3 + 1 for place in (-1, 0, 1)]
    assert vertex(*at) == pytest.approx(truth)


def test_vertex_of_what_has_no_minimum_is_the_middle() -> None:
    assert vertex(1, 1, 1) == 0
    assert vertex(0, 1, 0) == 0
    assert vertex(math.inf, 1, 2) == 0


def test_mask_lies_on_the_visible_part_of_a_map() -> None:
    mask = torch.zeros(64, 64)
    mask[:, 32:] = 1
    weights = mask_weights(mask, PlainFrame(0.5, 10.0), (52, 52))
    assert weights[10:42, 27:42].eq(1).all()
    assert weights[10:42, 10:25].eq(0).all()
    outside = weights.clone()
    outside[10:42, 10:42] = 0
    assert outside.eq(0).all()


def test_soft_masks_stay_soft() -> None:
    weights = mask_weights(torch.full((32, 32), 0.25), PlainFrame(1.0, 0.0), (32, 32))
    torch.testing.assert_close(weights, torch.full((32, 32), 0.25))

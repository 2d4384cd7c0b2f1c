"""Augmentation pipe and ADA controller against the reference values and the paper's rules."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.train.augment import GROUPS, AdaController, AugmentPipe, band_filters


def relative_error(ours: torch.Tensor, reference: np.ndarray) -> float:
    return float(np.abs(ours.detach().numpy() - reference).max() / np.abs(reference).max())


def test_filters_equal_the_reference(golden):
    arrays, _ = golden("ada/debug_percentile")
    pipe = AugmentPipe()
    assert relative_error(pipe.Hz_geom, arrays["Hz_geom"]) < 1e-6
    assert relative_error(pipe.Hz_fbank, arrays["Hz_fbank"]) < 1e-6


def test_bands_sum_to_the_unit_impulse():
    total = band_filters().sum(dim=0)
    impulse = torch.zeros_like(total)
    impulse[len(total) // 2] = 1
    assert torch.allclose(total, impulse, atol=1e-12)


def test_every_augmentation_at_fixed_percentiles(golden):
    arrays, description = golden("ada/debug_percentile")
    for name, case in description["cases"].items():
        images = torch.from_numpy(arrays[case["input"]])
        generator = torch.Generator().manual_seed(case["seed_before"])
        ours = AugmentPipe(**case["kwargs"])(images, 1.0, generator, case["debug_percentile"])
        assert relative_error(ours, arrays[name]) < 1e-5, name


def test_groups_equal_the_reference(golden):
    _, description = golden("ada/debug_percentile")
    assert {name: list(GROUPS[name]) for name in description["specs"]} == description["specs"]


def test_gradients_of_first_and_second_order(golden):
    arrays, description = golden("ada/debug_percentile")
    pipe = AugmentPipe(**description["cases"]["bgcf/0.3"]["kwargs"])
    images = torch.from_numpy(arrays["images"]).requires_grad_()
    weight = torch.from_numpy(arrays["grad_bgcf_0.3/dy"]).requires_grad_()
    generator = torch.Generator().manual_seed(801)
    out = pipe(images, 1.0, generator, 0.3)
    (gradient,) = torch.autograd.grad((out * weight).sum(), images, create_graph=True)
    direction = torch.from_numpy(arrays["grad_bgcf_0.3/v"])
    (second,) = torch.autograd.grad((gradient * direction).sum(), weight)
    assert relative_error(out, arrays["grad_bgcf_0.3/y"]) < 1e-5
    assert relative_error(gradient, arrays["grad_bgcf_0.3/dx"]) < 1e-5
    assert relative_error(second, arrays["grad_bgcf_0.3/ddy"]) < 1e-5


def test_own_draws_equal_the_reference(golden):
    """Our draws happen to come in the reference's order, so whole random batches agree."""
    arrays, description = golden("ada/random")
    for name, case in description["cases"].items():
        generator = torch.Generator().manual_seed(case["seed_before"])
        ours = AugmentPipe(**case["kwargs"])(
            torch.from_numpy(arrays["images"]), case["p"], generator
        )
        assert relative_error(ours, arrays[name]) < 1e-5, name


def test_share_of_changed_images(golden):
    _, description = golden("ada/rates")
    images = torch.rand(600, 3, 24, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for case, expected in description["rates"].items():
        name, p = case.split("/")
        generator = torch.Generator().manual_seed(5)
        pipe = AugmentPipe(**{name: 1})
        out = torch.cat([pipe(part, float(p), generator) for part in images.split(20)])
        share = ((out - images).abs().amax(dim=(1, 2, 3)) > 1e-3).float().mean().item()
        # The reference drew 2000 images, we 600: four standard deviations of the difference.
        spread = 4 * math.sqrt(max(expected * (1 - expected), 0.01) * (1 / 2000 + 1 / 600))
        assert abs(share - expected) < spread, case


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_strength_zero_returns_the_very_images(group):
    images = torch.randn(2, 3, 16, 16)
    assert AugmentPipe.from_group(group)(images, 0.0) is images


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (16, 16)])
def test_small_and_oblong_images(size):
    images = torch.rand(3, 3, *size)
    out = AugmentPipe.from_group("bgcfnc")(images, 1.0, torch.Generator().manual_seed(0))
    assert out.shape == images.shape
    assert torch.isfinite(out).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), p=st.floats(0.05, 1.0))
def test_an_image_does_not_depend_on_its_neighbours(seed, p):
    """Applying a batch equals applying its images alone (margins and skipping change nothing)."""
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    pipe = AugmentPipe.from_group("bgcf")
    parameters = pipe.draw(images, p, torch.Generator().manual_seed(seed))
    together = pipe.apply_parameters(images, parameters)
    for row in range(3):
        alone = type(parameters)(
            inverse_geometry=parameters.inverse_geometry[row : row + 1],
            color=parameters.color[row : row + 1],
            band_gains=parameters.band_gains[row : row + 1],
        )
        single = pipe.apply_parameters(images[row : row + 1], alone)
        assert torch.allclose(single, together[row : row + 1], atol=2e-5)


def test_unknown_group_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="bgcfnc"):
        AugmentPipe.from_group("bgcfncx")


@settings(max_examples=100, deadline=None)
@given(
    signs=st.lists(st.floats(-1, 1), min_size=1, max_size=60),
    p=st.floats(0, 1),
    batch=st.integers(1, 4096),
)
def test_controller_stays_in_range_and_moves_the_right_way(signs, p, batch):
    controller = AdaController(p=p, target=0.6, speed_kimg=500)
    for sign in signs:
        before = controller.p
        after = controller.update(sign, batch)
        assert 0 <= after <= 1
        assert abs(after - before) <= batch / 500_000 + 1e-12
        if sign > 0.6:
            assert after >= before
        if sign < 0.6:
            assert after <= before


def test_controller_needs_speed_kimg_from_zero_to_one():
    controller = AdaController(p=0.0, target=0.6, speed_kimg=2)
    for _ in range(20):
        assert controller.p < 1 - 1e-9
        controller.update(1.0, 100)
    assert controller.p == pytest.approx(1.0)

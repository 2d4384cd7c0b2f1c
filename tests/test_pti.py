"""Projection and tuning: equal to the original's traces, resumable, and good at their task."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.errors import ModelError, TrainingError
from pipeline.invert import pti
from pipeline.invert import tuning as tuning_engine
from pipeline.invert.tuning import View
from pipeline.metrics.closeness import psnr_db, ssim
from pipeline.models.stylegan2 import Generator as StyleGan2
from pipeline.models.stylegan3 import Generator as StyleGan3
from tests.conftest import GoldenLoader


class StandInFeatures:
    """The small feature net that the traces were made with; see "feature_net" in their JSON."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._weights = {
            name: torch.from_numpy(arrays[f"feat/{name}"])
            for name in ("c1.weight", "c1.bias", "c2.weight", "c2.bias")
        }

    def features(self, images: Tensor) -> list[Tensor]:
        maps, x = [], images
        for layer in ("c1", "c2"):
            weight, bias = self._weights[f"{layer}.weight"], self._weights[f"{layer}.bias"]
            x = nn.functional.conv2d(x, weight, bias, stride=2, padding=1).relu()
            unit = x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()
            maps.append(unit / (x.shape[2] * x.shape[3]) ** 0.5)
        return maps

    def distance(self, features_a: Any, features_b: Any) -> Tensor:
        pairs = zip(features_a, features_b, strict=True)
        return torch.stack([(a - b).square().sum(dim=(1, 2, 3)) for a, b in pairs]).sum(dim=0)


class Pixels:
    """The plainest distance there is: for tests that are not about perception."""

    def features(self, images: Tensor) -> list[Tensor]:
        return [images]

    def distance(self, features_a: Any, features_b: Any) -> Tensor:
        return (features_a[0] - features_b[0]).square().mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def reference_generator(golden: GoldenLoader) -> StyleGan2:
    """G_ema of pkl_nosource/sg2ada_u."""
    arrays, description = golden("pkl_nosource/sg2ada_u")
    arguments = dict(description["init_kwargs"]["G_ema"])
    generator = StyleGan2(**arguments.pop("synthesis_kwargs"), **arguments)
    state = {
        name.removeprefix("G_ema/"): torch.from_numpy(value)
        for name, value in arrays.items()
        if name.startswith("G_ema/")
    }
    generator.load_state_dict(state, strict=True)
    return generator.eval().requires_grad_(False)


def tiny(kind: str, seed: int = 0, **more: Any) -> Any:
    """A small random generator whose noise shows."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"z_dim": 16, "c_dim": 0, "w_dim": 16, "img_channels": 3}
    generator: Any
    if kind == "stylegan2":
        small = {"channel_base": 256, "channel_max": 8}
        generator = StyleGan2(**shape, img_resolution=16, mapping_kwargs={"num_layers": 2},
                              **(small | more))  # fmt: skip
    else:
        small = {"channel_base": 256, "channel_max": 8, "num_layers": 4, "num_critical": 1}
        generator = StyleGan3(**shape, img_resolution=16, mapping_kwargs={"num_layers": 2},
                              **(small | more))  # fmt: skip
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.1)
    return generator.eval().requires_grad_(False)


def close(actual: Tensor, expected: np.ndarray | Tensor, relative: float = 1e-5) -> None:
    """Equal within `relative` of the expected values' scale."""
    expected = torch.as_tensor(expected)
    error = float((actual - expected).abs().max())
    assert error <= relative * max(float(expected.abs().max()), 1e-6), error


# ---- golden values --------------------------------------------------------------------------


def test_noise_regulariser_equals_the_reference(golden: GoldenLoader) -> None:
    arrays, _ = golden("loss/noise_reg")
    sides = [int(key.removeprefix("noise/")) for key in arrays if key.startswith("noise/")]
    assert len(sides) >= 5
    total = 0.0
    for side in sides:
        noise = torch.from_numpy(arrays[f"noise/{side}"]).requires_grad_()
        value = pti.noise_regulariser(noise)
        (gradient,) = torch.autograd.grad(value, noise)
        close(value.detach(), arrays[f"reg/{side}"])
        close(gradient, arrays[f"grad/{side}"])
        close(pti.normalise_noise(noise).detach(), arrays[f"normalised/{side}"])
        total += value.item()
    assert total == pytest.approx(float(arrays["reg_all"]), rel=1e-5)


@pytest.mark.parametrize("name", ["pti/project_w", "pti/project_wplus"])
def test_projection_equals_the_reference(
    golden: GoldenLoader, reference_generator: StyleGan2, name: str
) -> None:
    arrays, about = golden(name)
    generator = reference_generator
    z = torch.from_numpy(arrays["z_samples"]).float()
    mean, deviation = pti.w_statistics(generator, z, torch.zeros(len(z), 0))
    close(mean, arrays["w_avg"])
    assert deviation == pytest.approx(float(arrays["w_std"]), rel=1e-5)
    assert [f"{key}" for key in pti.noise_maps(generator)] == about["noise_buffer_order"]
    schedule = pti.ProjectionSchedule(
        steps=about["num_steps"],
        learning_rate=about["initial_learning_rate"],
        rampup=about["lr_rampup_length"],
        rampdown=about["lr_rampdown_length"],
        w_noise=about["initial_noise_factor"],
        w_noise_ramp=about["noise_ramp_length"],
        noise_weight=about["regularize_noise_weight"],
    )
    scale, shift = about["feature_scale"]
    projection = pti.Projection(
        generator,
        StandInFeatures(arrays),
        torch.from_numpy(arrays["target"])[None] * scale + shift,
        mean if name == "pti/project_w" else mean.expand(-1, generator.num_ws, -1),
        deviation,
        {key: torch.from_numpy(arrays[f"noise_init/{key}"]) for key in about["noise_buffer_order"]},
        schedule,
    )
    for step in range(about["num_steps"]):
        measured = projection.step(torch.from_numpy(arrays[f"w_noise/{step + 1}"]))
        assert measured.learning_rate == pytest.approx(about["lr"][step], abs=1e-12)
        assert measured.loss == pytest.approx(about["loss"][step], rel=1e-5)
        close(projection.w.detach(), arrays[f"w/{step + 1}"])
    for key, value in projection.noise.items():
        close(value.detach(), arrays[f"noise_final/{key}"])
    # The original repeats W's result 18 times whatever the network; ours fits the network.
    assert projection.finished
    assert projection.ws().shape == (1, generator.num_ws, generator.w_dim)


@pytest.mark.parametrize("name", ["pti/tune", "pti/tune_locality"])
def test_tuning_equals_the_reference(
    golden: GoldenLoader, reference_generator: StyleGan2, name: str
) -> None:
    arrays, about = golden(name)
    generator = copy.deepcopy(reference_generator)
    wanted = about["locality_options"]
    locality = tuning_engine.LocalityOptions(
        alpha=wanted["alpha"],
        mse_weight=wanted["l2_lambda"],
        perceptual_weight=wanted["lpips_lambda"],
    )
    options = tuning_engine.TuningOptions(
        learning_rate=about["lr"],
        mse_weight=about["l2_lambda"],
        perceptual_weight=about["lpips_lambda"],
        locality=locality if about["locality"] else None,
    )
    tuning = tuning_engine.Tuning(
        generator,
        StandInFeatures(arrays),
        [View(torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["w_pivot"]))],
        options,
    )
    for step, loss in enumerate(about["loss"]):
        other = None
        if about["locality"]:
            z = torch.from_numpy(arrays[f"z_local/{step + 1}"]).float()
            psi = wanted["mapping_truncation_psi"]
            with torch.no_grad():
                other = reference_generator.mapping(z, torch.zeros(1, 0), truncation_psi=psi)
        assert tuning.step(other).loss == pytest.approx(loss, rel=1e-5)
    expected = {key[3:]: value for key, value in arrays.items() if key.startswith("G1/")}
    state = tuning.tuned().state_dict()
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        close(state[key], value)
    untouched = {key for key, value in state.items()
                 if torch.equal(value, reference_generator.state_dict()[key])}  # fmt: skip
    assert set(about["parameters_without_gradient"]) <= untouched
    image = pti.picture_of(generator, torch.from_numpy(arrays["w_pivot"])).detach()
    close(image, arrays["img_after"])


# ---- behaviour ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3"])
@pytest.mark.parametrize("space", ["w", "w+"])
def test_projection_finds_a_picture_of_the_model(kind: str, space: str) -> None:
    generator = tiny(kind)
    generator_state = copy.deepcopy(generator.state_dict())
    z = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    mean, deviation = pti.w_statistics(generator, z, torch.zeros(64, 0))
    target = pti.picture_of(generator, generator.mapping(z[:1], torch.zeros(1, 0)))
    start = mean.expand(-1, generator.num_ws, -1) if space == "w+" else mean
    projection = pti.Projection(
        generator, Pixels(), target, start, deviation, pti.noise_maps(generator),
        pti.ProjectionSchedule(steps=40, learning_rate=0.15, noise_weight=1.0),
    )  # fmt: skip
    draws = torch.Generator().manual_seed(2)
    steps = []
    while not projection.finished:
        steps.append(projection.step(torch.randn(projection.w.shape, generator=draws)))
    assert steps[-1].distance < 0.3 * steps[0].distance
    assert projection.ws().shape == (1, generator.num_ws, 16)
    assert bool(projection.noise) == (kind == "stylegan2")
    for key, value in generator.state_dict().items():
        assert torch.equal(value, generator_state[key]), f"projection changed the generator's {key}"


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3"])
def test_tuning_reaches_a_picture_that_the_model_cannot_draw(kind: str) -> None:
    untuned = tiny(kind)
    generator = copy.deepcopy(untuned)
    ws = generator.mapping(torch.zeros(1, 16), torch.zeros(1, 0))
    target = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
    options = tuning_engine.TuningOptions(learning_rate=0.01, stop_at=0.0)
    tuning = tuning_engine.Tuning(generator, Pixels(), [View(target, ws)], options)
    first = tuning.step()
    for _ in range(60):
        last = tuning.step()
    tuning.tuned()
    assert last.mse < 0.3 * first.mse
    changed = {name for name, value in generator.named_parameters()
               if not torch.equal(value, dict(untuned.named_parameters())[name])}  # fmt: skip
    assert changed
    assert all(name.startswith("synthesis.") for name in changed)
    assert not any(name.startswith("synthesis.input.") for name in changed)
    assert any("affine" in name for name in changed)


def test_tuning_stops_where_it_arrives_and_changes_nothing_more() -> None:
    generator = tiny("stylegan2")
    ws = generator.mapping(torch.zeros(1, 16), torch.zeros(1, 0))
    target = pti.picture_of(generator, ws)
    before = copy.deepcopy(generator.state_dict())
    tuning = tuning_engine.Tuning(
        generator, Pixels(), [View(target, ws)], tuning_engine.TuningOptions(stop_at=0.01)
    )
    assert tuning.step().arrived
    assert tuning.step_index == 0
    tuning.tuned()
    for key, value in generator.state_dict().items():
        assert torch.equal(value, before[key])


def test_locality_keeps_other_pictures_nearer() -> None:
    def change_elsewhere(locality: tuning_engine.LocalityOptions | None) -> float:
        untuned = tiny("stylegan2")
        generator = copy.deepcopy(untuned)
        ws = generator.mapping(torch.zeros(1, 16), torch.zeros(1, 0))
        options = tuning_engine.TuningOptions(learning_rate=0.003, stop_at=0.0, locality=locality)
        target = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
        tuning = tuning_engine.Tuning(generator, Pixels(), [View(target, ws)], options)
        z = torch.randn(40, 16, generator=torch.Generator().manual_seed(5))
        others = untuned.mapping(z, torch.zeros(40, 0), truncation_psi=0.5)
        for step in range(20):
            tuning.step(others[step : step + 1])
        tuning.tuned()
        unseen = others[20:]
        with torch.no_grad():
            change = pti.picture_of(generator, unseen) - pti.picture_of(untuned, unseen)
        return float(change.square().mean())

    strong = tuning_engine.LocalityOptions(alpha=3.0, mse_weight=20.0, perceptual_weight=0.0)
    assert change_elsewhere(strong) < 0.8 * change_elsewhere(None)


@pytest.mark.parametrize("stop_at_step", [1, 3])
def test_a_resumed_projection_equals_an_uninterrupted_one(stop_at_step: int) -> None:
    generator = tiny("stylegan2")

    def new() -> pti.Projection:
        return pti.Projection(
            generator, Pixels(), torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16), 1.0,
            pti.noise_maps(generator), pti.ProjectionSchedule(steps=6),
        )  # fmt: skip

    draws = torch.randn(6, 1, 1, 16, generator=torch.Generator().manual_seed(3))
    straight, interrupted = new(), new()
    for draw in draws:
        straight.step(draw)
    for draw in draws[:stop_at_step]:
        interrupted.step(draw)
    saved = {key: value.detach().clone() for key, value in interrupted.tensors().items()}
    resumed = new()
    resumed.load(saved, stop_at_step)
    for draw in draws[stop_at_step:]:
        resumed.step(draw)
    for key, value in straight.tensors().items():
        assert torch.equal(value, resumed.tensors()[key]), key


def test_a_resumed_tuning_equals_an_uninterrupted_one() -> None:
    untuned = tiny("stylegan3")
    ws = untuned.mapping(torch.zeros(1, 16), torch.zeros(1, 0))

    def new() -> tuning_engine.Tuning:
        target = torch.zeros(1, 3, 16, 16)
        options = tuning_engine.TuningOptions(stop_at=0.0)
        return tuning_engine.Tuning(copy.deepcopy(untuned), Pixels(), [View(target, ws)], options)

    straight, interrupted = new(), new()
    for _ in range(5):
        straight.step()
    interrupted.step()
    interrupted.step()
    saved = {key: value.clone() for key, value in interrupted.tensors().items()}
    resumed = new()
    resumed.load(saved, 2)
    for _ in range(3):
        resumed.step()
    for key, value in straight.tensors().items():
        assert torch.equal(value, resumed.tensors()[key]), key


def test_the_best_start_is_the_nearest_of_the_samples() -> None:
    generator = tiny("stylegan2")
    z = torch.randn(20, 16, generator=torch.Generator().manual_seed(6))
    ws = generator.mapping(z, torch.zeros(20, 0))
    target = pti.picture_of(generator, ws[13:14])
    best = pti.best_start(generator, Pixels(), target, z, torch.zeros(20, 0))
    torch.testing.assert_close(best, ws[13:14, :1])


def test_noise_is_set_only_where_it_belongs() -> None:
    generator = tiny("stylegan2")
    noise = {key: torch.full_like(value, 2.0) for key, value in pti.noise_maps(generator).items()}
    pti.set_buffers(generator, noise)
    assert all((value == 2).all() for value in pti.noise_maps(generator).values())
    with pytest.raises(ModelError, match="do not belong"):
        pti.set_buffers(generator, {})
    name = next(iter(noise))
    with pytest.raises(ModelError, match="size"):
        pti.set_buffers(generator, noise | {name: torch.zeros(3, 3)})


def test_a_loss_that_is_no_number_stops_with_one_sentence() -> None:
    generator = tiny("stylegan2")
    projection = pti.Projection(
        generator, Pixels(), torch.full((1, 3, 16, 16), float("nan")), torch.zeros(1, 1, 16),
        1.0, pti.noise_maps(generator), pti.ProjectionSchedule(steps=6),
    )  # fmt: skip
    before = projection.w.detach().clone()
    with pytest.raises(TrainingError, match=r"stopped being a number .*step 0"):
        projection.step(torch.zeros(1, 1, 16))
    assert torch.equal(projection.w.detach(), before)


@given(steps=st.integers(1, 500), rampup=st.floats(0, 1), rampdown=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_rates_stay_between_zero_and_the_highest(
    steps: int, rampup: float, rampdown: float
) -> None:
    schedule = pti.ProjectionSchedule(steps=steps, rampup=rampup, rampdown=rampdown)
    rates = [schedule.rate(step) for step in range(steps)]
    assert all(0 <= rate <= schedule.learning_rate for rate in rates)
    noise = [schedule.w_noise_scale(step) for step in range(steps)]
    assert noise == sorted(noise, reverse=True)
    assert noise[0] == pytest.approx(schedule.w_noise)


@given(amount=st.floats(0.01, 0.5), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_psnr_and_ssim_fall_as_noise_grows(amount: float, seed: int) -> None:
    image = torch.linspace(-0.4, 0.4, 24).expand(1, 3, 24, 24)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    assert psnr_db(image, image) == 100
    assert ssim(image, image) == pytest.approx(1)
    near, far = image + amount * noise, image + 2 * amount * noise
    assert psnr_db(image, far) == pytest.approx(psnr_db(image, near) - 6.02, abs=0.01)
    assert ssim(image, far) < ssim(image, near) < 1


def test_ssim_equals_its_formula_on_constant_pictures() -> None:
    """Constant pictures: means only, so SSIM is (2 a b + c1) / (a^2 + b^2 + c1)."""
    a, b = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.25)
    c1 = (0.01 * 2) ** 2
    expected = (2 * 0.5 * 0.25 + c1) / (0.25 + 0.0625 + c1)
    assert ssim(a, b) == pytest.approx(expected, rel=1e-6)
    assert psnr_db(a, b) == pytest.approx(10 * np.log10(4 / 0.0625))

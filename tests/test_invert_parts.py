"""What inversion is put together from: prior, plateau, forms of weights, placement, line art."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import weights
from pipeline.errors import ConfigError, ModelError
from pipeline.invert import placement, pti, weight_forms
from pipeline.invert.latent_prior import LatentPrior
from pipeline.invert.plateau import Plateau
from pipeline.invert.refinement import Refinement
from pipeline.invert.tuning import Tuning, TuningOptions, View
from pipeline.metrics import perceptual
from pipeline.metrics.closeness import psnr_db
from pipeline.metrics.line_art import LineArt, LineArtWeights
from tests.test_pti import Pixels, tiny

# ---- the prior ------------------------------------------------------------------------------


def some_latents(count: int = 4000, w_dim: int = 6) -> torch.Tensor:
    """Outputs of a leaky ReLU behind a correlated Gaussian."""
    draws = torch.Generator().manual_seed(3)
    mix = torch.eye(w_dim) + 0.3 * torch.randn(w_dim, w_dim, generator=draws)
    p = torch.randn(count, w_dim, generator=draws) @ mix + torch.randn(w_dim, generator=draws)
    return F.leaky_relu(p, 0.2)


def test_whitened_latents_have_unit_variance_and_no_correlation() -> None:
    w = some_latents()
    prior = LatentPrior(w)
    v = prior.whitened(w)
    torch.testing.assert_close(torch.cov(v.t(), correction=0), torch.eye(6), atol=1e-3, rtol=0)
    assert v.mean(dim=0).abs().max() < 1e-3
    assert float(prior.penalty(w)) == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(prior.unwhitened(v), w, atol=1e-3, rtol=1e-3)


def test_the_prior_finds_a_strange_latent_strange() -> None:
    prior = LatentPrior(some_latents())
    at_home = prior.unwhitened(torch.zeros(1, 1, 6))
    strange = prior.unwhitened(torch.full((1, 1, 6), 5.0))
    assert float(prior.penalty(at_home)) == pytest.approx(0, abs=1e-6)
    assert float(prior.penalty(strange)) == pytest.approx(25, rel=1e-3)
    with pytest.raises(ModelError, match="two latents"):
        LatentPrior(torch.zeros(1, 6))


def test_a_weight_of_the_prior_keeps_the_pivot_among_the_models_latents() -> None:
    generator = tiny("stylegan2")
    z = torch.randn(400, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(400, 0)
    mean, deviation = pti.w_statistics(generator, z, labels)
    prior = LatentPrior.of(generator, z, labels)
    target = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)  # nothing that the model draws

    def penalty(weight: float) -> float:
        projection = pti.Projection(
            generator, Pixels(), target, mean, deviation, pti.noise_maps(generator),
            pti.ProjectionSchedule(steps=40, learning_rate=0.2, noise_weight=1.0),
            pti.Extras(prior_weight=weight, prior=prior),
        )  # fmt: skip
        while not projection.finished:
            measured = projection.step(torch.zeros_like(projection.w))
        assert (measured.prior > 0) == (weight > 0)
        return float(prior.penalty(projection.ws()))

    assert penalty(0.05) < 0.3 * penalty(0.0)
    with pytest.raises(ModelError, match="needs the prior"):
        pti.Projection(
            generator, Pixels(), target, mean, deviation, {}, None, pti.Extras(prior_weight=1.0)
        )


# ---- the plateau ----------------------------------------------------------------------------


def test_a_plateau_is_seen_when_two_windows_are_alike() -> None:
    plateau = Plateau(window=5, gain=0.01)
    falling = [plateau.add(100 * 0.9**step) for step in range(30)]
    assert not any(falling)
    flat = [plateau.add(4.0) for _ in range(10)]
    assert flat[-1]
    assert not any(Plateau(0, 0.5).add(1.0) for _ in range(50))


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=40), st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_a_restored_plateau_goes_on_as_if_never_left(losses: list[float], window: int) -> None:
    straight, other = Plateau(window, 0.01), Plateau(window, 0.01)
    for loss in losses:
        straight.add(loss)
    other.restore(losses)
    assert [straight.add(1.0) for _ in range(6)] == [other.add(1.0) for _ in range(6)]


def test_a_settled_projection_jumps_to_the_falling_rate() -> None:
    generator = tiny("stylegan3")
    projection = pti.Projection(
        generator, Pixels(), torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16), 1.0, {},
        pti.ProjectionSchedule(steps=40, rampdown=0.25),
    )  # fmt: skip
    for _ in range(5):
        projection.step(torch.zeros(1, 1, 16))
    assert projection.settle()
    assert not projection.settle()
    rates = []
    while not projection.finished:
        rates.append(projection.step(torch.zeros(1, 1, 16)).learning_rate)
    assert len(rates) == 10
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1 * rates[0]


# ---- few steps from a near start ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3"])
def test_refinement_needs_few_steps_and_goes_on_as_if_never_left(kind: str) -> None:
    generator = tiny(kind)
    before = copy.deepcopy(generator.state_dict())
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    ws = generator.mapping(z, torch.zeros(2, 0))
    target = pti.picture_of(generator, ws[:1])
    extras = pti.Extras(motion=torch.zeros(3) if kind == "stylegan3" else None)

    def new() -> Refinement:
        return Refinement(generator, Pixels(), target, ws[1:, :1], 20, extras)

    straight, interrupted = new(), new()
    steps = []
    while not straight.finished:
        steps.append(straight.step())
    assert steps[-1].distance < 0.2 * steps[0].distance
    assert sum(step.evaluations for step in steps) < 2.5 * len(steps)
    for _ in range(5):
        interrupted.step()
    saved = {key: value.detach().clone() for key, value in interrupted.tensors().items()}
    resumed = new()
    resumed.load(saved, 5)
    while not resumed.finished:
        resumed.step()
    torch.testing.assert_close(resumed.ws(), straight.ws(), atol=1e-5, rtol=1e-5)
    assert straight.buffers().keys() == pti.own_buffers(generator).keys()
    for key, value in generator.state_dict().items():
        assert torch.equal(value, before[key])


# ---- forms of weights -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stylegan2", "stylegan3"])
@pytest.mark.parametrize("form", weight_forms.NAMES)
def test_what_a_form_stores_makes_its_weights_again(kind: str, form: str) -> None:
    untuned = tiny(kind)
    ws = untuned.mapping(torch.zeros(1, 16), torch.zeros(1, 0))
    target = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
    chosen = weight_forms.make(form, weight_forms.tuned_parameters(untuned), rank=2)
    options = TuningOptions(learning_rate=0.02, stop_at=0.0)
    tuning = Tuning(copy.deepcopy(untuned), Pixels(), [View(target, ws)], options, chosen)
    first = tuning.step()
    for _ in range(30):
        last = tuning.step()
    assert last.mse < 0.5 * first.mse
    stored = tuning.stored()
    parameters = dict(untuned.named_parameters())
    for name, difference in weight_forms.restore(stored, parameters).items():
        with torch.no_grad():
            parameters[name] += difference
    tuned = tuning.tuned()
    torch.testing.assert_close(
        pti.picture_of(untuned, ws), pti.picture_of(tuned, ws), atol=1e-5, rtol=1e-4
    )
    is_low = [name.endswith(weight_forms.LEFT) for name in stored]
    assert any(is_low) == (form == weight_forms.LOW_RANK)
    for name in stored:
        if name.endswith(weight_forms.LEFT):
            assert stored[name].shape[1] == 2


def test_low_rank_stores_less_and_leaves_out_what_did_not_move() -> None:
    generator = tiny("stylegan2")
    parameters = weight_forms.tuned_parameters(generator)
    form = weight_forms.LowRank(parameters, rank=1)
    assert form.stored() == {}
    for name, value in form.weights().items():
        assert torch.equal(value, parameters[name])
    numbers = sum(value.numel() for value in form.variables().values())
    assert numbers < 0.5 * sum(value.numel() for value in parameters.values())


def test_an_aimed_form_moves_where_the_gradient_points() -> None:
    weights_before = {"w": torch.randn(8, 4, 3, 1, generator=torch.Generator().manual_seed(1))}
    form = weight_forms.LowRank(weights_before, rank=2)
    direction = torch.nn.functional.normalize(torch.arange(1.0, 13.0), dim=0)
    gradient = torch.outer(torch.linspace(-1, 1, 8), direction).reshape(8, 4, 3, 1)
    form.aim({"w": gradient})
    assert torch.equal(form.weights()["w"], weights_before["w"])  # nothing has moved yet
    row = form.variables()["w" + weight_forms.RIGHT][0].detach()
    assert float(row @ direction) ** 2 == pytest.approx(float(row @ row), rel=1e-4)
    assert float(row @ row) == pytest.approx(12 / 2, rel=1e-4)


def test_tuning_is_quicker_when_it_is_aimed() -> None:
    untuned = tiny("stylegan2")
    ws = untuned.mapping(torch.zeros(1, 16), torch.zeros(1, 0))
    target = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
    options = TuningOptions(learning_rate=0.01, stop_at=0.0)
    reached = []
    for aimed in (False, True):
        form = weight_forms.LowRank(weight_forms.tuned_parameters(untuned), rank=1)
        tuning = Tuning(copy.deepcopy(untuned), Pixels(), [View(target, ws)], options, form)
        if aimed:
            tuning.aim()
        reached.append([tuning.step().mse for _ in range(12)])
    assert reached[0][0] == pytest.approx(reached[1][0])
    assert reached[1][-1] < 0.9 * reached[0][-1]


def test_a_settled_tuning_falls_to_rest_and_goes_on_as_if_never_left() -> None:
    untuned = tiny("stylegan2")
    ws = untuned.mapping(torch.zeros(1, 16), torch.zeros(1, 0))
    target = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
    options = TuningOptions(learning_rate=0.01, stop_at=0.0, steps=20, rampdown=0.3)

    def engine() -> Tuning:
        return Tuning(copy.deepcopy(untuned), Pixels(), [View(target, ws)], options)

    tuning = engine()
    for _ in range(4):
        tuning.step()
    assert not tuning.settled
    tuning.settle()  # 14 of 20 are over, at the full rate
    other = engine()
    other.load(tuning.tensors(), tuning.step_index)
    for one in (tuning, other):
        losses = []
        while not one.finished:
            losses.append(one.step().mse)
            one.settle()
        assert len(losses) == 6
        assert one.settled
    assert torch.equal(tuning.picture(), other.picture())


def test_the_fitting_rank_keeps_a_delta_within_a_fifth() -> None:
    generator = tiny("stylegan2")
    parameters = weight_forms.tuned_parameters(generator)
    numbers = sum(value.numel() for value in parameters.values())

    def share(rank: int) -> float:
        kept = weight_forms.LowRank(parameters, rank).variables().values()
        return sum(value.numel() for value in kept) / (2 * numbers)

    for of_all in (numbers, 3 * numbers):
        rank = weight_forms.fitting_rank(parameters, of_all)
        assert 1 <= rank <= weight_forms.MOST_RANK
        assert share(rank) * numbers <= 0.2 * of_all or rank == 1
        assert rank == weight_forms.MOST_RANK or share(rank + 1) * numbers > 0.2 * of_all


def test_layers_are_chosen_by_their_names() -> None:
    generator = tiny("stylegan2")
    names = set(weight_forms.tuned_parameters(generator, ["b16.*", "*.torgb.bias"]))
    assert "synthesis.b16.conv0.weight" in names
    assert "synthesis.b4.torgb.bias" in names
    assert "synthesis.b4.conv1.weight" not in names
    with pytest.raises(ConfigError, match=r"tune\.layers=b99\.\* names no layer"):
        weight_forms.tuned_parameters(generator, ["b99.*"])


def test_several_views_share_one_generator_and_stop_when_all_have_arrived() -> None:
    untuned = tiny("stylegan2")
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(8))
    ws = untuned.mapping(z, torch.zeros(2, 0))
    ramp = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
    noise = [
        {key: torch.randn(value.shape, generator=torch.Generator().manual_seed(number))
         for key, value in pti.noise_maps(untuned).items()}
        for number in range(2)
    ]  # fmt: skip
    views = [View(ramp, ws[:1], noise[0]), View(-ramp, ws[1:], noise[1])]
    options = TuningOptions(learning_rate=0.02, stop_at=0.05, mse_weight=0.0)
    tuning = Tuning(copy.deepcopy(untuned), Pixels(), views, options)
    steps = [tuning.step()]
    while not steps[-1].arrived and len(steps) < 400:
        steps.append(tuning.step())
    assert steps[-1].arrived
    assert {step.view for step in steps} == {0, 1}
    tuned = tuning.tuned()
    for view in views:
        pti.set_buffers(tuned, view.buffers)
        image = pti.picture_of(tuned, view.ws)
        # The other view's last update came after this one's last look.
        assert float((image - view.target).square().mean()) < 0.08


def test_psnr_can_be_asked_for_beside_the_distance() -> None:
    generator = tiny("stylegan2")
    ws = generator.mapping(torch.zeros(1, 16), torch.zeros(1, 0))
    target = pti.picture_of(generator, ws) + 0.2  # 20 dB
    for wanted_db, arrives in ((19.9, True), (20.1, False)):
        options = TuningOptions(stop_at=1e6, stop_at_db=wanted_db)
        tuning = Tuning(copy.deepcopy(generator), Pixels(), [View(target, ws)], options)
        assert tuning.step().arrived is arrives


# ---- StyleGAN3's plane ----------------------------------------------------------------------


def test_a_motion_moves_the_picture_where_it_says() -> None:
    generator = tiny("stylegan3", num_layers=6)
    ws = generator.mapping(torch.zeros(1, 16), torch.zeros(1, 0))

    def drawn(turn: float, right: float, down: float) -> torch.Tensor:
        moved = copy.deepcopy(generator)
        motion = torch.tensor([turn, right, down], dtype=torch.float32)
        pti.set_buffers(moved, {placement.BUFFER: placement.matrix(motion)})
        return pti.picture_of(moved, ws)[0]

    still = drawn(0.0, 0.0, 0.0)
    torch.testing.assert_close(still, pti.picture_of(generator, ws)[0])
    right = drawn(0, 4 / 16, 0)  # a quarter of 16 px
    assert (right[:, :, 4:] - still[:, :, :-4]).abs().mean() < 0.2 * (right - still).abs().mean()
    down = drawn(0, 0, 4 / 16)
    assert (down[:, 4:] - still[:, :-4]).abs().mean() < 0.2 * (down - still).abs().mean()
    # The matrix alone: a point right of the centre, turned a quarter anticlockwise, lies above it.
    matrix = placement.matrix(torch.tensor([math.pi / 2, 0.0, 0.0]))
    above = torch.tensor([0.0, -1.0, 1.0])
    torch.testing.assert_close(matrix @ above, torch.tensor([1.0, 0.0, 1.0]), atol=1e-6, rtol=0)


def test_the_placement_of_a_moved_picture_is_found() -> None:
    generator = tiny("stylegan3", num_layers=6)
    ws = generator.mapping(torch.zeros(1, 16), torch.zeros(1, 0))
    moved = copy.deepcopy(generator)
    truth = torch.tensor([0.2, 0.12, -0.08])
    pti.set_buffers(moved, {placement.BUFFER: placement.matrix(truth)})
    target = pti.picture_of(moved, ws)

    def distance(matrix: torch.Tensor) -> float:
        pti.set_buffers(moved, {placement.BUFFER: matrix})
        return float((pti.picture_of(moved, ws) - target).square().mean())

    start = placement.nearest(distance, torch.device("cpu"))
    projection = pti.Projection(
        generator, Pixels(), target, ws[:, :1], 1.0, {},
        pti.ProjectionSchedule(steps=60, learning_rate=0.01, w_noise=0.0),
        pti.Extras(motion=start),
    )  # fmt: skip
    while not projection.finished:
        projection.step(torch.zeros_like(projection.w))
    found = copy.deepcopy(generator)
    pti.set_buffers(found, projection.buffers())
    still = psnr_db(pti.picture_of(generator, ws), target)
    assert psnr_db(pti.picture_of(found, projection.ws()), target) > still + 15


# ---- line art and distances -----------------------------------------------------------------


def drawing(line: float = -1.0) -> torch.Tensor:
    """Two flat colours and a line between them, 1 x 3 x 32 x 32."""
    image = torch.full((1, 3, 32, 32), 0.5)
    image[:, :, :, 16:] = -0.2
    image[:, :, :, 15:17] = line
    return image


def test_line_art_terms_see_what_they_are_for() -> None:
    target = drawing()
    both = LineArt(target, LineArtWeights(edges=1.0, flats=1.0))
    assert float(both.edges(target)) == pytest.approx(0, abs=1e-6)
    faint, textured = drawing(line=-0.5), target.clone()
    textured[:, :, ::2, :12:2] += 0.1
    assert both.edges(faint) > 0.01
    assert both.flats(textured) > 1.5 * both.flats(target)
    # A weaker line hardly stirs the flats; a texture there does.
    off = float(both.flats(target))
    assert both.flats(textured) - off > 3 * (both.flats(faint) - off)
    image = faint.clone().requires_grad_(True)
    both(image).backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    only = LineArt(target, LineArtWeights(flats=2.0))
    assert float(only(faint)) == pytest.approx(2 * float(both.flats(faint)))
    assert not LineArtWeights()
    with pytest.raises(ConfigError, match=r"line_art\.edges"):
        LineArtWeights(edges=-1.0)


def test_the_classifiers_distance_orders_and_has_gradients() -> None:
    name = "efficientnet-lite0"
    if weights.find(name) is None:
        pytest.skip(f"{name} is not in the cache: python -m scripts.fetch_weights")
    metric = perceptual.load(name, smallest_px=64)
    target = drawing()
    features = metric.features(target)
    assert len(features) == 5
    near = (target + 0.02).requires_grad_(True)
    distance = metric.distance(metric.features(near), features).sum()
    assert 0 < distance.item() < float(metric.distance(metric.features(target.flip(3)), features))
    assert float(metric.distance(features, features)) == 0
    distance.backward()
    assert near.grad is not None
    assert near.grad.abs().sum() > 0

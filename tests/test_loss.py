"""Losses and regularisers against the reference values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.models import stylegan2, stylegan3
from pipeline.train import loss
from pipeline.train.augment import AugmentPipe
from torch_utils import native
from torch_utils.ops import upfirdn2d


def relative_error(ours: torch.Tensor, reference: np.ndarray) -> float:
    scale = max(float(np.abs(reference).max()), 1e-12)
    return float(np.abs(ours.detach().numpy() - reference).max()) / scale


def load_network(golden, name: str) -> torch.nn.Module:
    arrays, description = golden(name)
    short = name.rsplit("/", 1)[-1]
    if "_d_" in short:
        network = stylegan2.Discriminator(**description["init_kwargs"])
    else:
        module = stylegan3 if short.startswith("sg3") else stylegan2
        network = module.Generator(**description["init_kwargs"])
    state = {
        key.removeprefix("state/"): torch.from_numpy(value)
        for key, value in arrays.items()
        if key.startswith("state/")
    }
    network.load_state_dict(state)
    return network


def gradients_under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)
    }


def check_gradients(network: torch.nn.Module, expected: dict[str, np.ndarray]) -> None:
    found = {
        name: parameter.grad
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    # A bias behind a linear layer has gradient zero here; operators may leave it out instead.
    nonzero = {name for name, value in expected.items() if value.any()}
    assert nonzero <= set(found) <= set(expected)
    largest = max(float(np.abs(value).max()) for value in expected.values())
    for name in found:
        value = expected[name]
        # Tensors whose gradient is small beside the others' carry the others' rounding.
        scale = max(float(np.abs(value).max()), 1e-3 * largest)
        error = float(np.abs(found[name].numpy() - value).max()) / scale
        assert error < 1e-4, f"{name}: {error:.1e}"


@pytest.mark.parametrize("prefix", ["", "aug/"])
def test_r1_equals_the_reference(golden, prefix):
    arrays, description = golden("loss/r1_sg2_d_32_u")
    network = load_network(golden, description["state_from"])
    images = torch.from_numpy(arrays["img"]).requires_grad_()
    c = torch.from_numpy(arrays["c"])
    seen = images
    if prefix:
        generator = torch.Generator().manual_seed(0)
        seen = AugmentPipe.from_group("bgc")(images, 1.0, generator, percentile=0.3)
    logits = network(seen, c)
    penalty = loss.r1_penalty(images, logits)
    value = (penalty * description["r1_gamma"] / 2).mean()
    value.backward()
    assert relative_error(logits, arrays[prefix + "logits"]) < 1e-5
    assert relative_error(penalty, arrays[prefix + "r1_penalty"]) < 1e-5
    assert relative_error(value, arrays[prefix + "loss"]) < 1e-5
    check_gradients(network, gradients_under(arrays, prefix + "grad/"))


def test_objective_runs_r1_alone_and_with_the_main_loss(golden):
    arrays, description = golden("loss/r1_sg2_d_32_u")
    images, c = torch.from_numpy(arrays["img"]), torch.from_numpy(arrays["c"])
    for main, prefix in ((False, "grad/"), (True, "grad_both/")):
        network = load_network(golden, description["state_from"])
        objective = loss.Objective(network, network, r1_gamma=description["r1_gamma"])
        reports = objective.discriminator_real(images, c, main=main, r1=True)
        assert relative_error(reports["loss_r1"], arrays["r1_penalty"]) < 1e-5
        if main:
            assert relative_error(reports["loss_D_real"].mean(), arrays["real_loss"]) < 1e-5
        check_gradients(network, gradients_under(arrays, prefix))


@pytest.mark.parametrize("name", ["sg2_g_32_u", "sg3t_g_32_u"])
def test_path_length_equals_the_reference(golden, name):
    arrays, description = golden(f"loss/pl_{name}")
    network = load_network(golden, description["state_from"])
    z, c = torch.from_numpy(arrays["z"]), torch.from_numpy(arrays["c"])
    noise = torch.from_numpy(arrays["pl_noise"]) * 32  # the reference divided by sqrt(32 * 32)
    ws = network.mapping(z, c)
    images = network.synthesis(ws, noise_mode="const")
    lengths = loss.path_lengths(images, ws, noise)
    penalty, mean = loss.path_length_penalty(lengths, torch.tensor(description["pl_mean_before"]))
    value = (penalty * description["pl_weight"]).mean()
    value.backward()
    assert relative_error(lengths, arrays["pl_lengths"]) < 1e-5
    assert relative_error(mean, arrays["pl_mean_after"]) < 1e-5
    assert relative_error(penalty, arrays["pl_penalty"]) < 1e-5
    check_gradients(network, gradients_under(arrays, "grad/"))
    assert not set(description["parameters_without_gradient"]) & set(
        gradients_under(arrays, "grad/")
    )


def test_losses_are_those_of_the_logistic_game():
    logits = torch.tensor([-50.0, -1.0, 0.0, 1.0, 50.0], dtype=torch.float64)
    probability = torch.sigmoid(logits)
    assert torch.allclose(loss.generator_loss(logits), -probability.log())
    assert torch.allclose(loss.discriminator_loss_real(logits), -probability.log())
    assert torch.allclose(loss.discriminator_loss_fake(logits), -torch.sigmoid(-logits).log())


def test_blur_fetches_nothing_from_the_device_of_the_images(monkeypatch):
    """Its kernel is new at every step: one on a GPU would be waited for there.

    Plain torch wants the kernel beside the images, and sends it.
    """
    prepared, asked, sent = upfirdn2d.prepared, [], []

    def noted(f, *arguments):
        asked.append(f.device.type)
        return prepared(f, *arguments)

    def passed(x, kernel, *_):
        sent.append(kernel.device.type)
        return x

    monkeypatch.setattr(upfirdn2d, "prepared", noted)
    monkeypatch.setattr(upfirdn2d, "_compiled", lambda x, *_: x)
    monkeypatch.setattr(upfirdn2d, "_pass", passed)
    images = torch.empty(2, 3, 16, 16, device="meta")
    for runs_compiled in (True, False):
        monkeypatch.setattr(native, "runs_on", lambda x, answer=runs_compiled: answer)
        loss.blur(images, 2.0)
    assert asked == ["cpu"]
    assert sent == ["meta", "meta"]


def test_blur_keeps_the_level_and_falls_to_half_at_sigma():
    image = torch.zeros(1, 1, 41, 41)
    image[0, 0, 20, 20] = 1
    blurred = loss.blur(image, 4.0)
    assert blurred.sum() == pytest.approx(1, abs=1e-5)
    assert blurred[0, 0, 20, 24] / blurred[0, 0, 20, 20] == pytest.approx(0.5, abs=1e-5)
    assert torch.equal(loss.blur(image, 0.2), image)


def test_style_mixing_takes_rows_after_the_crossover_from_the_other_latent(golden):
    network = load_network(golden, "nets/sg2_g_32_u")
    objective = loss.Objective(network, network, r1_gamma=1)
    z = torch.randn(2, 2, network.z_dim, generator=torch.Generator().manual_seed(1))
    c = torch.zeros(2, 0)
    crossover = torch.tensor([3, network.num_ws])
    mixed = objective.map_latents(loss.Latents(z[0], c, z[1], crossover))
    first, second = network.mapping(z[0], c), network.mapping(z[1], c)
    assert torch.equal(mixed[0, :3], first[0, :3])
    assert torch.equal(mixed[0, 3:], second[0, 3:])
    assert torch.equal(mixed[1], first[1])


def test_share_of_mixed_latents():
    latents = loss.draw_latents(
        4000, 4, 10, torch.zeros(4000, 0), 0.9, torch.Generator().manual_seed(3)
    )
    mixed = latents.crossover < 10
    assert mixed.float().mean().item() == pytest.approx(0.9, abs=0.02)
    assert latents.crossover.min() == 1
    assert loss.draw_latents(2, 4, 10, torch.zeros(2, 0), 0, torch.Generator()).mixing_z is None

"""The pretrain stage as its user runs it: a set in, a start for train out, cut off and gone on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline import weights
from pipeline.evaluate.sections.training import training_section
from pipeline.models import checkpoint
from pipeline.models.layers import MappingNetwork
from pipeline.models.picture_encoder import PictureEncoder
from pipeline.train.augment import AdaController
from pipeline.train.averaged_state import AveragedState
from pipeline.train.pretrain.autoencoder import Autoencoder
from pipeline.train.pretrain.mapping import energy_distance, fit
from tests import quick_python

needs_weights = pytest.mark.skipif(
    weights.find("lpips-alex") is None, reason="the weights of LPIPS are not on this machine"
)
SMALL = (
    "network=stylegan2-tiny", "network.channel_base=256", "network.channel_max=16",
    "network.z_dim=8", "network.w_dim=8", "pretrain.kimg=0.24", "pretrain.batch=8",
    "pretrain.breadth=8", "pretrain.save_kimg=0.08", "pretrain.log_kimg=0.08",
    "pretrain.mapping_steps=60", "pretrain.mapping_batch=64", "pretrain.looks=8",
    "pretrain.threads=1", "pretrain.encoder_lr=0.003", "pretrain.generator_lr=0.02",
)  # fmt: skip


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(quick_python.ROOT)}


def run(store: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.run", f"store={store}", "character=x", *options]
    return quick_python.run(command, cwd=store.parent, env=ENVIRONMENT)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A store with a painted set of 32 px."""
    folder = tmp_path_factory.mktemp("pretrain") / "store"
    done = run(
        folder, "stage=preprocess", "source=painter", "source.count=40", "source.size=96",
        "preprocess.min_face_px=20", "source.truth=true", "preprocess.resolution=32",
        "preprocess.heldout=0.2", "preprocess.duplicate_bits=-1", "preprocess.workers=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def model(store) -> Path:
    """What the stage makes of it without interruption."""
    done = run(store, "stage=pretrain", *SMALL)
    assert done.returncode == 0, done.stderr
    return store / "model" / "x" / "v1"


@needs_weights
def test_it_learns_to_draw_held_out_pictures(model):
    lines = [json.loads(line) for line in (model / "stats.jsonl").read_text().splitlines()]
    assert lines[-1]["images_seen"] == 240
    assert lines[-1]["loss_perceptual"] < lines[0]["loss_perceptual"]
    assert lines[-1]["heldout_perceptual"] < lines[0]["heldout_perceptual"]
    assert set(checkpoint.read_architecture(model)) == {"G", "G_ema", "E"}
    generator = checkpoint.load(model)["G_ema"]
    picture = generator(torch.randn(2, 8), None, noise_mode="none")
    assert picture.shape == (2, 3, 32, 32)
    assert (model / "crop_rule.json").is_file()
    assert not (model / "work").exists()
    grids = sorted((model / "samples").iterdir())
    assert [grid.stem for grid in grids] == ["000000080", "000000160", "000000240", "000000241"]
    shown = np.asarray(Image.open(grids[-1]))
    assert shown.shape == (4 * 32, 8 * 32, 3)
    assert shown.std() > 5


@needs_weights
def test_a_report_shows_its_curves(model):
    section = training_section(model, grids=3, picture_px=200)
    titles = {plot.title for plot in section.plots}
    assert {"Reconstructions while training", "Held-out images, reconstructed"} <= titles
    assert section.images_seen == 240
    assert len(section.samples) == 3


@needs_weights
def test_train_goes_on_from_it_with_a_new_discriminator(store, model):
    done = run(
        store, "stage=train", *SMALL[:5], "train.resume_from=model/x:v1", "train.kimg=0.032",
        "train.batch=8", "augment=none", "train.threads=1", "train.score_samples=8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no discriminator, so one with random weights learns" in done.stdout
    assert (store / "model" / "x" / "v2" / "D.safetensors").is_file()


@needs_weights
def test_with_an_adversary_it_goes_on_from_a_start(store, model):
    """From the first model's networks; the adversary joins in after 0.08 kimg and is kept."""
    done = run(
        store, "stage=pretrain", *SMALL, "pretrain.name=sharp", "pretrain.adversarial=0.5",
        "pretrain.resume_from=model/x:v1", "pretrain.adversarial_from=0.08",
        "pretrain.r1_interval=4", "pretrain.store_half=true", "pretrain.augment.p=0.2",
        "pretrain.augment.speed_kimg=0.5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = store / "model" / "sharp" / "v1"
    lines, before = (
        [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
        for folder in (made, model)
    )
    middle = (before[0]["loss_mse"] + before[-1]["loss_mse"]) / 2
    assert lines[0]["loss_mse"] < middle  # its encoder knows the generator already
    assert "loss_D" not in lines[0]
    assert 0.5 < lines[-1]["loss_D"] < 2
    strengths = [line["loss_augment_p"] for line in lines if "loss_augment_p" in line]
    assert all(0 < p < 1 for p in strengths)
    assert strengths[-1] != pytest.approx(0.2, abs=0.01)  # it follows the discriminator
    assert set(checkpoint.read_architecture(made)) == {"G", "D", "G_ema", "E"}
    assert load_file(made / "G_ema.safetensors")["synthesis.b4.conv1.weight"].dtype == torch.float16


@needs_weights
def test_a_start_of_another_size_is_refused(root, store, model):
    done = run(
        store, "stage=pretrain", *SMALL, "pretrain.name=other",
        f"pretrain.resume_from={root}/assets/start-64",
    )  # fmt: skip
    assert done.returncode == 2
    assert "makes pictures of 64x64 px" in done.stderr
    assert "are 32x32" in done.stderr


@needs_weights
def test_killed_and_gone_on_the_pictures_are_the_same(root, store, model, tmp_path):
    other = tmp_path / "store"
    other.mkdir()
    (other / "dataset").symlink_to(store / "dataset")
    command = [sys.executable, "-m", "scripts.run", f"store={other}", "character=x"]
    process = subprocess.Popen(
        [*command, "stage=pretrain", *SMALL],
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(other.glob(".drafts/*/payload/work/*.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = run(other, "stage=pretrain", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "going on from" in done.stdout
    z = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    whole, pieced = (
        checkpoint.load(folder)["G_ema"](z, None, noise_mode="none")
        for folder in (model, other / "model/x/v1")
    )
    # Not to the bit: LPIPS' gradient rounds differently in a process of another history.
    assert (whole - pieced).abs().mean() < 0.02 * whole.std()
    assert (whole - whole.roll(1, 0)).abs().mean() > 0.1 * whole.std()


def test_a_run_that_goes_on_augments_as_strongly_as_it_did(tmp_path):
    def state() -> AveragedState[Autoencoder]:
        network = Autoencoder(torch.nn.Linear(2, 2), None, PictureEncoder(3, 8, 8, 2, 8))
        network.strength = 0.2
        return AveragedState.begin("pretrain", network, torch.optim.Adam(network.parameters()))

    begun, resumed = state(), state()
    begun.network.ada[1:] = torch.tensor([8.0, 8.0])  # its adversary is sure of all it saw
    begun.network.adjust(AdaController(0.0, target=0.6, speed_kimg=1.0), batch=8)
    begun.save(tmp_path)
    assert resumed.restore(tmp_path)
    assert resumed.network.strength == begun.network.strength == pytest.approx(0.2 + 0.064)


def test_a_device_that_cannot_is_refused(store):
    done = run(store, "stage=pretrain", *SMALL, "pretrain.precision=fp16", "device=cpu")
    assert done.returncode == 2
    assert "pretrain.precision=fp16: fp16 runs on a GPU only; use bf16 or fp32." in done.stderr


def test_energy_distance_tells_distributions_apart():
    torch.manual_seed(0)
    a, b = torch.randn(400, 4), torch.randn(400, 4)
    assert abs(float(energy_distance(a, b))) < 0.05
    assert float(energy_distance(a, b + 1)) > 0.5
    # The same mean and spread, but in two heaps.
    heaps = torch.randn(400, 4) * 0.1 + torch.sign(torch.randn(400, 1))
    heaps = (heaps - heaps.mean(0)) / heaps.std(0)
    assert float(energy_distance(a, heaps)) > 0.2


@pytest.mark.parametrize("count", [1, 5])
def test_latents_that_are_all_alike_are_learnt_too(count):
    mapping = MappingNetwork(z_dim=4, c_dim=0, w_dim=4, num_ws=2, num_layers=2)
    alike = torch.tensor([[1.0, -1.0, 0.5, 0.0]]).repeat(count, 1)
    distances = list(
        fit(mapping, alike, steps=60, batch=16, rate=1.0, noise=0.0, seed=0, stop=lambda: False)
    )
    assert distances[-1] < 0.8 * distances[0]
    assert all(bool(torch.isfinite(p).all()) for p in mapping.parameters())


def test_the_mapping_network_finds_heaps_of_latents():
    torch.manual_seed(0)
    centres = torch.tensor([[3.0, 0, 0, 0], [-3.0, 0, 0, 0], [0, 3.0, 0, 0]])
    latents = centres[torch.arange(600) % 3] + 0.2 * torch.randn(600, 4)
    mapping = MappingNetwork(z_dim=4, c_dim=0, w_dim=4, num_ws=2, num_layers=2)
    distances = list(
        fit(
            mapping, latents, steps=600, batch=256, rate=1.0, noise=0.0, seed=0,
            stop=lambda: False,
        )
    )  # fmt: skip
    assert sum(distances[-20:]) / 20 < 0.1 < distances[0]
    w = mapping(torch.randn(600, 4), None)[:, 0]
    nearest = torch.cdist(w, centres).argmin(dim=1)
    shares = torch.bincount(nearest, minlength=3) / len(w)
    assert shares.min() > 0.2

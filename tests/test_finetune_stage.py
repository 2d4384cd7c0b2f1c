"""Fine-tuning as it really runs, on tiny networks: what is kept, scored, published and taken back,
and the options that the train stage shares with it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline import weights
from pipeline.data.dataset import Dataset
from pipeline.errors import ConfigError, TrainingError
from pipeline.metrics import perceptual
from pipeline.models import checkpoint
from pipeline.models.config import NetworkConfig
from pipeline.train import loss, stage
from pipeline.train.augment import GROUPS
from pipeline.train.config import AugmentConfig, FinetuneConfig
from pipeline.train.memorisation import TrainingSet
from tests import quick_python
from tests.train_tiny import NETWORK, SETTINGS, make_config, make_dataset

needs_weights = pytest.mark.skipif(
    weights.find("lpips-alex") is None,
    reason="the weights of lpips-alex are not in the cache (python -m scripts.fetch_weights)",
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def base(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with every state of its training: at 0, 40, 80, ... 160 images."""
    out = tmp_path_factory.mktemp("base")
    config = make_config(kimg=0.16, snapshot_kimg=0.04, kept_states=None, keep_training_state=True)
    stage.run(config, {"dataset": dataset}, out)
    return out


def finetune_config(**changes: Any) -> FinetuneConfig:
    settings = {**SETTINGS, "resume_from": "model/tiny", "score_samples": 8, "rollbacks": 3}
    augment = AugmentConfig(**{"mode": "ada", "interval": 2, **changes.pop("augment", {})})
    return FinetuneConfig(
        **{**settings, **changes}, network=NetworkConfig(**NETWORK), augment=augment
    )


def finetune(dataset: Path, base: Path, out: Path, **changes: Any) -> dict[str, Any]:
    inputs = {"dataset": dataset, "resume_from": base}
    return stage.run(finetune_config(**changes), inputs, out)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def scalars(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


# ---- scores and publication ----


@needs_weights
def test_the_best_snapshot_is_published(dataset, base, tmp_path):
    """The published networks are those that a training which ends there has."""
    out = tmp_path / "best"
    metrics = finetune(dataset, base, out, kimg=0.16, snapshot_kimg=0.032)
    record = read(out / "snapshots.json")
    seen = [one["images_seen"] for one in record["verdicts"]]
    assert seen == [0, 32, 64, 96, 128, 160]
    lowest = min(record["verdicts"][1:], key=lambda one: one["guarded"])
    assert record["published"] == lowest["images_seen"]
    assert metrics["published_kimg"] == lowest["images_seen"] / 1000
    assert metrics["heldout_score"] == lowest["score"]
    assert metrics["heldout_images"] == 4
    assert not (out / "best").exists()

    short = tmp_path / "short"
    finetune(
        dataset,
        base,
        short,
        kimg=lowest["images_seen"] / 1000,
        snapshot_kimg=0.032,
        ema_kimg=0.008,  # what follows from the whole length of 0.16
        publish="last",
        score_samples=0,
    )
    for name in ("G", "D", "G_ema"):
        published, last = (load_file(f / f"{name}.safetensors") for f in (out, short))
        assert all(torch.equal(published[key], last[key]) for key in published), name


@needs_weights
def test_evidence_is_in_the_log_and_in_tensorboard(dataset, base, tmp_path):
    finetune(dataset, base, tmp_path, kimg=0.064, snapshot_kimg=0.032)
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    wanted = {
        "loss_G", "loss_D", "loss_r1", "logits_real", "sign_real", "sign_fake", "augment_p",
        "grad_norm_Gmain", "grad_norm_Dmain", "seconds_per_kimg", "memory_mb", "heldout_score",
        "heldout_score_low", "heldout_score_high", "copied", "guarded_score",
    }  # fmt: skip
    assert wanted - set().union(*lines) == set()
    # The start is judged, too.
    assert "heldout_score" in lines[0]
    assert lines[0]["images_seen"] == 0
    events = scalars(tmp_path)
    assert wanted - set(events.Tags()["scalars"]) == set()
    assert [event.step for event in events.Scalars("heldout_score")] == [0, 32, 64]
    assert [event.step for event in events.Images("samples")] == [0, 32, 64]


@needs_weights
def test_the_sheet_shows_the_nearest_training_images(dataset, base, tmp_path):
    finetune(dataset, base, tmp_path, kimg=0.032)
    numbers = read(tmp_path / "memorisation.json")
    assert numbers["network"] == "lpips-alex"
    assert len(numbers["pairs"]) == 8
    distances = [pair["distance"] for pair in numbers["pairs"]]
    assert distances == sorted(distances)
    known = {Dataset(dataset).images.names[index] for index in Dataset(dataset).train_indices}
    assert {pair["nearest"] for pair in numbers["pairs"]} <= known
    near = [distance < numbers["threshold"] for distance in distances]
    assert numbers["copied"] == sum(near) / len(near)
    with Image.open(tmp_path / "memorisation.png") as sheet:
        assert sheet.width > 1000
        assert len(sheet.getcolors(maxcolors=1_000_000) or []) > 200  # faces and text, not paper


@needs_weights
def test_copies_are_known_and_strangers_are_not(dataset):
    images = Dataset(dataset)
    pixels = np.stack([images.images.read(index) for index in images.train_indices])
    reals = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    metric = perceptual.load("lpips-alex")
    device = torch.device("cpu")
    training = TrainingSet(metric, reals.split(5), mirrored=False, device=device)
    copies = training.nearest([reals])
    assert copies.index == list(range(len(reals)))
    assert copies.copied == 1
    assert max(copies.distance) < 1e-3

    noise = torch.randint(0, 256, reals.shape, generator=torch.Generator().manual_seed(0))
    strangers = training.nearest([noise.to(torch.uint8)])
    assert strangers.copied == 0
    flipped = TrainingSet(metric, reals.split(5), mirrored=True, device=device)
    assert flipped.nearest([reals.flip(3)]).index == copies.index
    assert training.nearest([reals.flip(3)]).copied < 1


def test_without_held_out_images_the_last_is_published(dataset, base, tmp_path, capsys):
    few = make_dataset(tmp_path / "few", count=7)  # four of them held out
    split = read(few / "split.json")
    (few / "split.json").write_text(
        json.dumps({"train": split["train"] + split["heldout"], "heldout": []})
    )
    metrics = finetune(few, base, tmp_path / "out", kimg=0.032, min_heldout=0)
    assert metrics["published_kimg"] == 0.032
    assert "heldout_score" not in metrics
    assert "no snapshot is scored: the dataset holds out 0 images" in capsys.readouterr().out


# ---- what is kept ----


def test_frozen_parts_keep_their_weights(dataset, base, tmp_path):
    metrics = finetune(dataset, base, tmp_path, kimg=0.08, score_samples=0, publish="last")
    recipe = read(tmp_path / "recipe.json")
    # b16 and b8 have seven convolutions with fromrgb, b4 one: half of eight are kept.
    assert metrics["freeze_d"] == recipe["freeze_d"] == 4
    assert metrics["freeze_mapping"] == 1
    for network in ("G", "D"):
        before, after = (load_file(f / f"{network}.safetensors") for f in (base, tmp_path))
        for name, value in before.items():
            if not name.endswith((".weight", ".bias")):
                continue
            frozen = f"{network}.{name}" in recipe["frozen"]
            assert torch.equal(value, after[name]) == frozen, f"{network}.{name}"
    assert metrics["augment_p_start"] == 0.4
    assert metrics["generator_lr"] == 0.001


def test_a_base_with_one_generator_alone_will_do(dataset, base, tmp_path, capsys):
    """PTI's and StyleGAN-Human's files hold nothing but G_ema."""
    alone = tmp_path / "alone"
    checkpoint.save(alone, checkpoint.load(base, ("G_ema",)))
    out = tmp_path / "out"
    finetune(dataset, alone, out, kimg=0.032, score_samples=0, publish="last")
    assert "has no discriminator" in capsys.readouterr().out
    assert set(checkpoint.read_architecture(out)) == {"G", "D", "G_ema"}
    assert read(out / "recipe.json")["freeze_d"] == 0
    with pytest.raises(ConfigError, match=r"finetune\.freeze_d=2 would freeze random weights"):
        finetune(dataset, alone, tmp_path / "no", freeze_d=2)


# ---- divergence ----


def poison(monkeypatch: pytest.MonkeyPatch, value: float, calls: set[int]) -> None:
    """From now on the generator's loss is `value` at these calls of it."""
    original, count = loss.generator_loss, 0

    def poisoned(logits: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        good = original(logits)
        return good * 0 + value if count in calls else good

    monkeypatch.setattr(loss, "generator_loss", poisoned)


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_a_divergence_goes_back_and_on_with_lower_rates(
    dataset, tmp_path, monkeypatch, capsys, value
):
    poison(monkeypatch, value, {15})
    metrics = stage.run(make_config(), {"dataset": dataset}, tmp_path)
    told = capsys.readouterr().out
    assert "train: diverged (loss_G" in told
    assert "going back to 0.08 kimg with 0.5 of the learning rates (1 of 3 times)" in told
    assert metrics["images_seen"] == 240
    assert metrics["rollbacks"] == 1
    (once,) = read(tmp_path / "rollbacks.json")
    assert (once["back_to"], once["rate"]) == (80, 0.5)
    assert 80 < once["images_seen"] <= 160
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["images_seen"] for line in lines] == [80, 160, 240]
    assert all(line["loss_G"] is not None and line["loss_G"] < 100 for line in lines)
    generator = load_file(tmp_path / "G.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in generator.values())


def test_a_state_that_leads_nowhere_is_given_up(dataset, tmp_path, monkeypatch):
    # Twice from 80 images: the second time it goes back to the start.
    poison(monkeypatch, float("nan"), {15, 20})
    stage.run(make_config(), {"dataset": dataset}, tmp_path)
    assert [one["back_to"] for one in read(tmp_path / "rollbacks.json")] == [80, 0]


def test_it_does_not_try_for_ever(dataset, tmp_path, monkeypatch):
    poison(monkeypatch, float("nan"), set(range(15, 1000)))
    with pytest.raises(TrainingError, match=r"diverged, 3 times in spite of lower rates") as caught:
        stage.run(make_config(), {"dataset": dataset}, tmp_path)
    assert "last good state is kept in" in str(caught.value)
    assert list((tmp_path / "training_state").glob("*.safetensors"))
    assert len(read(tmp_path / "rollbacks.json")) == 3


# ---- options ----


def test_a_training_is_taken_up_at_any_snapshot(dataset, base, tmp_path):
    """From the middle of another training, which began with a model itself, optimisers and all: it
    ends as that one did."""
    settings = {"kimg": 0.12, "snapshot_kimg": 0.04, "resume_from": "model/tiny"}
    whole, out = tmp_path / "whole", tmp_path / "out"
    kept = make_config(**settings, kept_states=None, keep_training_state=True)
    stage.run(kept, {"dataset": dataset, "resume_from": base}, whole)
    config = make_config(**settings, resume_at=0.08)
    stage.run(config, {"dataset": dataset, "resume_from": whole}, out)
    for name in ("G", "D", "G_ema"):
        one, other = (load_file(f / f"{name}.safetensors") for f in (whole, out))
        assert all(torch.equal(one[key], other[key]) for key in one), name
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    assert [line["images_seen"] for line in lines] == [120]


def test_a_snapshot_that_is_not_there_is_refused_with_those_that_are(dataset, base, tmp_path):
    config = make_config(resume_from="model/tiny", resume_at=0.05)
    with pytest.raises(ConfigError, match=r"resume_at=0.05: .* at 0, 0.04, 0.08, 0.12, 0.16 kimg"):
        stage.run(config, {"dataset": dataset, "resume_from": base}, tmp_path)


def test_so_many_states_are_kept(dataset, tmp_path):
    config = make_config(
        kimg=0.16, snapshot_kimg=0.04, kept_states=3, keep_training_state=True, batch=8
    )
    stage.run(config, {"dataset": dataset}, tmp_path)
    kept = sorted(int(path.stem) for path in (tmp_path / "training_state").iterdir())
    assert kept == [80, 120, 160]


def test_a_file_stops_a_training_cleanly(root, dataset, tmp_path):
    changes = {"kimg": 20.0, "snapshot_kimg": 0.4, "batch": 40}
    out, config = tmp_path / "out", tmp_path / "config.json"
    config.write_text(json.dumps(changes))
    command = [sys.executable, "-m", "tests.train_tiny", str(config), str(dataset), str(out)]
    process = quick_python.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while process.poll() is None and not list(out.glob("training_state/*.safetensors")):
        time.sleep(0.01)
    (out / "stop").touch()
    told, complaint = process.communicate(timeout=120)
    assert process.returncode == 130, told + complaint
    assert f"a file {out / 'stop'}, ends it cleanly" in told
    assert "everything is saved" in told
    # Gone, so that the next call goes on.
    assert not (out / "stop").exists()
    assert max(int(path.stem) for path in (out / "training_state").iterdir()) < 20_000


def test_a_subset_is_trained_on(dataset, tmp_path):
    config = make_config(kimg=0.016, max_images=5)
    metrics = stage.run(config, {"dataset": dataset}, tmp_path)
    assert metrics["training_images"] == 5
    assert read(tmp_path / "recipe.json")["heldout_images"] == 4


@pytest.mark.parametrize("pipe", sorted(GROUPS))
def test_every_augmentation_trains(dataset, tmp_path, pipe):
    config = make_config(
        kimg=0.016, r1_interval=1, augment={"mode": "fixed", "pipe": pipe, "p": 0.9}
    )
    metrics = stage.run(config, {"dataset": dataset}, tmp_path)
    assert metrics["augment_p"] == 0.9
    last = json.loads((tmp_path / "stats.jsonl").read_text().splitlines()[-1])
    assert last["loss_r1"] >= 0
    assert last["grad_norm_Dmain"] > 0


def test_without_augmentation_p_stays_at_zero(dataset, tmp_path):
    config = make_config(kimg=0.016, augment={"mode": "none", "p": 0.5})
    assert stage.run(config, {"dataset": dataset}, tmp_path)["augment_p"] == 0


def test_a_model_can_be_stored_at_half_the_size(dataset, tmp_path):
    """The same pictures to within rounding, in half the bytes."""
    sizes, pictures = [], []
    for half in (False, True):
        out = tmp_path / str(half)
        network = {"architecture": "stylegan2", "channel_base": 512}
        stage.run(
            make_config(kimg=0.008, network=network, store_half=half), {"dataset": dataset}, out
        )
        sizes.append((out / "G_ema.safetensors").stat().st_size)
        generator = checkpoint.load(out)["G_ema"]
        z = torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(0))
        pictures.append(generator(z, torch.zeros(2, generator.c_dim), noise_mode="const"))
    assert sizes[1] < 0.7 * sizes[0]  # the rest are names and vectors
    largest = (pictures[0] - pictures[1]).abs().max()
    assert 0 < largest < 0.02 * pictures[0].abs().max()


def test_the_magnitude_decay_is_in_the_architecture(dataset, tmp_path):
    """As in published StyleGAN3 networks, whose constructors take it; loading gives it back."""
    network = {"architecture": "stylegan3-t", "synthesis_layers": 4, "margin_size": 4}
    stage.run(make_config(kimg=0.008, network=network), {"dataset": dataset}, tmp_path)
    described = read(tmp_path / "architecture.json")["networks"]
    expected = 0.5 ** (8 / 20_000)
    assert described["G"]["arguments"]["magnitude_ema_beta"] == expected
    assert described["G_ema"]["arguments"]["magnitude_ema_beta"] == expected
    loaded = checkpoint.load(tmp_path)["G_ema"]
    layers = [m for m in loaded.modules() if "magnitude_ema_beta" in vars(m)]
    assert layers
    assert {vars(layer)["magnitude_ema_beta"] for layer in layers} == {expected}
    assert copy.deepcopy(loaded).init_kwargs["magnitude_ema_beta"] == expected


def test_a_network_file_is_no_artifact_yet(root, tmp_path):
    (tmp_path / "network.pkl").write_bytes(b"anything")
    done = quick_python.run(
        [
            *(sys.executable, "-m", "scripts.run", "stage=preprocess", f"store={tmp_path}/store"),
            *("source=painter", f"preprocess.like={tmp_path}/network.pkl"),
        ],
        cwd=root,
    )
    assert done.returncode == 2
    assert "is a file, not an artifact; `make import PKL=... NAME=x`" in done.stderr

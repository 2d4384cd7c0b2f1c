"""The train stage as it really runs: a tiny dataset, tiny networks, real processes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline.errors import ConfigError, DataError, TrainingError
from pipeline.models import checkpoint
from pipeline.models.build import architecture_of, build
from pipeline.models.config import NETWORKS
from pipeline.train import loss, stage
from pipeline.train.recipe import magnitude_ema_beta
from tests import quick_python
from tests.train_tiny import make_config, make_dataset

# What differs between two equal runs: clock and memory.
UNSTEADY = {"seconds", "seconds_per_kimg", "eta_seconds", "memory_mb"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("dataset"))


def start(root: Path, changes: dict, dataset: Path, out: Path) -> quick_python.Popen:
    config = out.with_suffix(".json")
    config.write_text(json.dumps(changes))
    return quick_python.Popen(
        [sys.executable, "-m", "tests.train_tiny", str(config), str(dataset), str(out)],
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_state(process: quick_python.Popen, out: Path, newer_than: int = -1) -> None:
    """Until a state of more than so many images lies there (or the process has ended)."""
    while process.poll() is None:
        names = [path.stem for path in (out / "training_state").glob("*.safetensors")]
        if any(int(name) > newer_than for name in names):
            return
        time.sleep(0.005)


def newest(out: Path) -> int:
    return max(int(path.stem) for path in (out / "training_state").glob("*.safetensors"))


def read_stats(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key not in UNSTEADY} for line in lines]


def numbers_of(path: Path) -> dict[str, float]:
    with safe_open(path, "pt") as file:
        numbers = json.loads(file.metadata()["state"])
    return {key: numbers[key] for key in numbers if key not in UNSTEADY}


def assert_equal_runs(one: Path, other: Path) -> None:
    files = sorted(str(path.relative_to(one)) for path in one.rglob("*.safetensors"))
    assert files == sorted(str(path.relative_to(other)) for path in other.rglob("*.safetensors"))
    for name in files:
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        for key in first:
            assert torch.equal(first[key], second[key]), f"{name}: {key}"
    for state in (one / "training_state").iterdir():
        assert numbers_of(state) == numbers_of(other / "training_state" / state.name)
    assert read_stats(one) == read_stats(other)
    grids = sorted(path.name for path in (one / "samples").iterdir())
    assert grids == sorted(path.name for path in (other / "samples").iterdir())
    for name in grids:
        assert (one / "samples" / name).read_bytes() == (other / "samples" / name).read_bytes()


# 2000 images; a state is saved every second iteration, so that kills also hit the saving.
LONG = {"kimg": 2.0, "batch": 40, "snapshot_kimg": 0.08, "keep_training_state": True}


@pytest.fixture(scope="module")
def straight(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model straight without interruption, its training state kept."""
    out = tmp_path_factory.mktemp("straight")
    metrics = stage.run(make_config(**LONG), {"dataset": dataset}, out)
    assert metrics["images_seen"] == 2000
    return out


def test_resume_equals_uninterrupted_bit_for_bit(root, dataset, straight, tmp_path):
    """2000 images straight, against SIGTERM, kill -9 at a random moment, and resumed."""
    broken = tmp_path / "broken"
    first = start(root, LONG, dataset, broken)
    wait_for_state(first, broken)
    first.send_signal(signal.SIGTERM)
    told, complaint = first.communicate()
    assert first.returncode == 130, told + complaint
    assert "run the same command again" in told
    stopped_at = newest(broken)
    assert 0 < stopped_at < 2000

    process = start(root, LONG, dataset, broken)
    wait_for_state(process, broken, newer_than=stopped_at)
    time.sleep(random.SystemRandom().uniform(0, 1))
    process.kill()
    process.communicate()
    assert newest(broken) > stopped_at

    last = start(root, LONG, dataset, broken)
    told, complaint = last.communicate()
    assert last.returncode == 0, told + complaint
    assert "going on from" in told
    assert_equal_runs(straight, broken)
    assert not list(broken.rglob("*.unfinished"))


def test_the_model_is_complete(straight):
    networks = checkpoint.load(straight, ("G", "D", "G_ema"))
    images = networks["G_ema"](torch.randn(2, 8), torch.zeros(2, 0))
    assert images.shape == (2, 3, 16, 16)
    grids = sorted(path.name for path in (straight / "samples").iterdir())
    assert grids == [f"{seen:09d}.png" for seen in range(0, 2001, 80)]
    assert (straight / "reals.png").exists()
    assert [line["images_seen"] for line in read_stats(straight)] == list(range(80, 2001, 80))
    assert {"loss_G", "loss_D", "sign_real", "grad_norm_Gmain", "augment_p"} <= read_stats(
        straight
    )[-1].keys()
    assert list((straight / "tensorboard").iterdir())
    states = sorted(path.name for path in (straight / "training_state").iterdir())
    assert states == ["000001920.safetensors", "000002000.safetensors"]


def test_training_moves_weights_and_averages(straight):
    networks = checkpoint.load(straight, ("G", "G_ema"))
    generator, averaged = networks["G"].state_dict(), networks["G_ema"].state_dict()
    assert not torch.equal(
        generator["synthesis.b16.conv1.weight"], averaged["synthesis.b16.conv1.weight"]
    )
    assert generator["mapping.w_avg"].abs().max() > 0
    assert torch.equal(generator["mapping.w_avg"], averaged["mapping.w_avg"])


def test_not_a_number_stops_and_names_the_last_good_state(dataset, tmp_path, monkeypatch):
    calls = 0

    def poisoned(logits: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        good = torch.nn.functional.softplus(-logits)
        return good * float("nan") if calls == 15 else good

    monkeypatch.setattr(loss, "generator_loss", poisoned)
    with pytest.raises(TrainingError) as caught:
        stage.run(make_config(rollbacks=0), {"dataset": dataset}, tmp_path)
    # 14 iterations of 8 images were good; the last state before them is after 80 images.
    state = tmp_path / "training_state" / "000000080.safetensors"
    assert "loss_G" in str(caught.value)
    assert str(state.parent) in str(caught.value)
    assert all(torch.isfinite(value).all() for value in load_file(state).values())

    monkeypatch.undo()
    metrics = stage.run(make_config(kimg=0.16), {"dataset": dataset}, tmp_path)
    assert metrics["images_seen"] == 160
    assert [line["images_seen"] for line in read_stats(tmp_path)] == [80, 160]


def test_a_damaged_newest_state_falls_back_to_the_one_before(dataset, straight, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    newest_state = out / "training_state" / "000002000.safetensors"
    newest_state.write_bytes(newest_state.read_bytes()[:-1000])
    stage.run(make_config(**LONG), {"dataset": dataset}, out)
    assert "trying the state before it" in capsys.readouterr().err
    assert_equal_runs(straight, out)


def test_the_training_state_goes_with_the_finished_model(dataset, straight, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    config = make_config(**{**LONG, "keep_training_state": False})
    metrics = stage.run(config, {"dataset": dataset}, out)
    assert metrics["images_seen"] == 2000
    assert not (out / "training_state").exists()
    assert checkpoint.load(out)


def test_freeze_d_keeps_the_first_layers_of_the_base_model(dataset, straight, tmp_path):
    config = make_config(kimg=0.08, resume_from="model/tiny", freeze_d=4)
    stage.run(config, {"dataset": dataset, "resume_from": straight}, tmp_path)
    before, after = (load_file(folder / "D.safetensors") for folder in (straight, tmp_path))
    # From the image on: b16's fromrgb, conv0, conv1, skip.
    for name, value in before.items():
        is_weight = name.endswith((".weight", ".bias"))
        assert torch.equal(value, after[name]) == (name.startswith("b16.") or not is_weight), name


def test_a_run_cut_off_after_its_last_file_is_not_trained_again(dataset, tmp_path):
    """The states are gone then, but so is the need for them."""
    metrics = stage.run(make_config(kimg=0.08), {"dataset": dataset}, tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = stage.run(make_config(kimg=0.08), {"dataset": dataset}, tmp_path)
    assert again == pytest.approx(metrics, rel=1e-4)
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_base_is_trained_as_its_own_architecture_asks(dataset, straight, tmp_path, capsys):
    """The settings' network is that of new models; a StyleGAN2 to start from stays one."""
    config = make_config(
        kimg=0.08, resume_from="model/tiny", network={"architecture": "stylegan3-t"}
    )
    stage.run(config, {"dataset": dataset, "resume_from": straight}, tmp_path)
    assert "train: stylegan2 at 16x16" in capsys.readouterr().out
    assert "loss_path_length" in read_stats(tmp_path)[-1]


@pytest.mark.parametrize("architecture", NETWORKS)
def test_a_models_architecture_is_told_from_its_file(tmp_path, architecture):
    network = {"architecture": architecture, "synthesis_layers": 4, "margin_size": 4}
    generator, _ = build(make_config(network=network).network, 16, 3, 0)
    checkpoint.save(tmp_path, {"G": generator})
    assert architecture_of(checkpoint.read_architecture(tmp_path)["G"]) == architecture


def test_a_batch_that_does_not_split_into_groups_is_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"batch=6 does not split into groups of 4 .* such as 8"):
        stage.run(make_config(batch=6), {"dataset": dataset}, tmp_path)
    assert not (tmp_path / "samples").exists()


def test_images_that_do_not_fit_into_memory_are_said_to_be_slow(dataset, tmp_path, capsys):
    stage.run(make_config(kimg=0.008, cache_gb=0.0), {"dataset": dataset}, tmp_path)
    assert "decoded anew" in capsys.readouterr().out


def test_too_many_frozen_layers(dataset, straight, tmp_path):
    config = make_config(resume_from="model/tiny", freeze_d=100)
    with pytest.raises(ConfigError, match=r"train\.freeze_d=100 .* use at most"):
        stage.run(config, {"dataset": dataset, "resume_from": straight}, tmp_path)


def test_a_base_of_another_size_is_refused(dataset, tmp_path):
    base, other = tmp_path / "base", tmp_path / "other"
    generator, discriminator = build(make_config().network, 32, 3, 0)
    checkpoint.save(base, {"G": generator, "D": discriminator, "G_ema": generator})
    with pytest.raises(DataError, match=r"16x16.*32x32"):
        stage.run(
            make_config(resume_from="model/other"),
            {"dataset": dataset, "resume_from": base},
            other,
        )


def test_labels_are_learned_where_asked(tmp_path):
    dataset = make_dataset(tmp_path / "labelled", labels=True)
    config = make_config(kimg=0.04, conditional=True)
    stage.run(config, {"dataset": dataset}, tmp_path / "out")
    generator = checkpoint.load(tmp_path / "out")["G_ema"]
    z = torch.randn(1, 8).expand(2, 8)
    first, second = generator(z, torch.eye(2), noise_mode="const")
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("architecture", ["stylegan3-t", "stylegan3-r"])
def test_stylegan3_trains(dataset, tmp_path, architecture):
    network = {"architecture": architecture, "synthesis_layers": 4, "margin_size": 4}
    config = make_config(
        kimg=0.024,
        network=network,
        augment={"mode": "none"},
        snapshot_kimg=1,
        blur_sigma=2.0,
    )
    stage.run(config, {"dataset": dataset}, tmp_path)
    line = read_stats(tmp_path)[-1]
    assert "loss_path_length" not in line
    assert line["augment_p"] == 0
    generator = load_file(tmp_path / "G.safetensors")
    magnitudes = [value for name, value in generator.items() if name.endswith("magnitude_ema")]
    assert magnitudes
    assert all(0 < abs(float(value) - 1) < 0.01 for value in magnitudes)
    # Three updates with the half-life of 20 thousand images.
    assert magnitude_ema_beta(8) == pytest.approx(0.5 ** (8 / 20000))


def test_microbatches_train_too(dataset, tmp_path):
    config = make_config(kimg=0.04, microbatch=4)
    metrics = stage.run(config, {"dataset": dataset}, tmp_path)
    assert metrics["images_seen"] == 40
    with pytest.raises(ConfigError, match="microbatch=5 must divide batch=8"):
        stage.run(make_config(microbatch=5), {"dataset": dataset}, tmp_path / "refused")

"""Training in several real processes: equal to one, stopped, killed, restarted, refused."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline import launch
from pipeline.errors import ConfigError, Interrupted
from scripts.run import for_several
from tests.crew_tiny import (
    finish,
    launched,
    make_store,
    process_of_rank,
    start,
    states,
    torchrun,
    train,
    wait_for_state,
)
from torch_utils.lifeline import Lifeline
from torch_utils.ranks import Ranks

SAVING_OFTEN = ("train.kimg=0.4", "train.snapshot_kimg=0.024")
# Of this run alone, or known to the last bit only to one order of summing.
UNSTEADY = {"seconds", "seconds_per_kimg", "eta_seconds", "memory_mb"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "store")


def tensors_of(model: Path) -> dict[str, torch.Tensor]:
    """Networks, optimisers and sums of a finished model with its last training state."""
    found = load_file(max((model / "training_state").iterdir()))
    assert any(name.startswith("optimizer_G/") for name in found)
    return found


def numbers_of(model: Path) -> dict[str, float]:
    with safe_open(max((model / "training_state").iterdir()), "pt") as file:
        return json.loads(file.metadata()["state"])


@pytest.mark.parametrize(
    "changes",
    [
        # Four iterations: path length at 0 and 2, R1 at 0 and 3, ADA after 2 and 4. More would part
        # by and by.
        pytest.param(("train.kimg=0.032",), id="stylegan2"),
        pytest.param(
            (
                "network=stylegan3-t-tiny",
                "network.synthesis_layers=4",
                "network.margin_size=4",
                "augment.pipe=bgcfnc",
                "train.kimg=0.024",
            ),
            id="stylegan3",
        ),
    ],
)
def test_two_processes_equal_one(tmp_path: Path, changes: tuple[str, ...]) -> None:
    stores = [make_store(tmp_path / name / "store") for name in ("one", "two")]
    run = start(stores[1], *changes, launcher=torchrun(2))
    train(stores[0], *changes)
    told = finish(run)
    assert run.returncode == 0, told
    models = [store / "model/tiny/v1" for store in stores]
    one, two = (tensors_of(model) for model in models)
    assert one.keys() == two.keys()
    for name, value in one.items():
        scale = max(float(value.abs().max()), 1e-3)
        error = float((value - two[name]).abs().max()) / scale
        # Rounding: a unit passes the kink of its activation in one run only, and Adam divides by
        # small moments. A gradient shared wrongly shows in the averages as tens of per cent.
        assert error < 2e-2, f"{name}: {error:.1e}"
    assert numbers_of(models[0])["augment_p"] == numbers_of(models[1])["augment_p"]
    lines = [(model / "stats.jsonl").read_text().splitlines() for model in models]
    assert len(lines[0]) == len(lines[1])
    for first, second in zip(*lines, strict=True):
        expected, found = json.loads(first), json.loads(second)
        assert expected.keys() == found.keys()
        steady = {name: found[name] for name in found if name not in UNSTEADY}
        assert steady == pytest.approx({name: expected[name] for name in steady}, rel=1e-3)


def test_a_killed_process_ends_the_run_with_its_number(store: Path) -> None:
    """And any number of processes goes on from what it left."""
    run = start(store, *SAVING_OFTEN, launcher=torchrun(2))
    wait_for_state(run, store)
    # The launcher stops the first process as soon as it sees the second one dead; more than once,
    # so that it ends at once and in the middle of what it does, is what slow machines see.
    first = process_of_rank(run.pid, 0)
    os.kill(process_of_rank(run.pid, 1), signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        for _ in range(10):
            os.kill(first, signal.SIGTERM)
            time.sleep(0.02)
    told = finish(run)
    assert run.returncode != 0
    sentences = [line for line in told.splitlines() if "died without a word" in line]
    assert len(sentences) == 1, told
    assert sentences[0].startswith("The process of rank 1 (of 2)")
    assert "run the same command again" in sentences[0]
    left = max(states(store))

    went_on = re.search(r"going on from ([\d.]+) kimg", train(store, *SAVING_OFTEN))
    assert went_on is not None
    assert int(1000 * float(went_on[1]) + 0.5) >= left
    assert (store / "model/tiny/v1/G_ema.safetensors").exists()


def test_a_second_ctrl_c_does_not_swallow_who_died() -> None:
    """It comes while the exception that was to say so is on its way."""
    place = Ranks(0, 2, 0, 2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    told: list[str] = []
    lifeline = Lifeline(place, {1: ours}, lambda rank: f"rank {rank} died", told.append)
    crew = launch.Crew(place, lifeline)
    theirs.close()
    lost = crew.explain(RuntimeError("connection closed"))
    assert str(lost) == "rank 1 died"
    with pytest.raises(launch.CrewLost, match="rank 1 died"):
        raise launch._leave(crew, Interrupted("train was stopped"))
    assert not told


def test_a_restart_goes_on_and_the_first_process_dying_is_told_by_the_second(store: Path) -> None:
    run = start(store, "train.kimg=4", *SAVING_OFTEN[1:], launcher=launched(2, "--restarts", "1"))
    left = wait_for_state(run, store)
    os.kill(process_of_rank(run.pid, 0), signal.SIGKILL)
    # Only those that were started again save more.
    wait_for_state(run, store, newer_than=max(left, *states(store)) + 24)
    os.kill(process_of_rank(run.pid, 0), signal.SIGKILL)
    told = finish(run)
    assert run.returncode == 1, told
    assert told.count("The process of rank 0 (of 2) died") == 2, told
    assert "going on from" in told
    assert "Traceback" not in told


def test_sigterm_to_the_launcher_saves_and_stops(store: Path) -> None:
    run = start(store, "train.kimg=4", launcher=launched(2))
    seen = wait_for_state(run, store)
    run.send_signal(signal.SIGTERM)
    told = finish(run)
    assert run.returncode == 130, told
    stopped = re.search(r"Training stopped at ([\d.]+) of 4 kimg, and everything is saved", told)
    assert stopped is not None, told
    assert round(1000 * float(stopped[1])) == max(states(store)) >= seen
    assert told.count("Training stopped") == 1
    assert "Traceback" not in told


def test_finished_work_is_reused_by_all(store: Path) -> None:
    train(store, "train.kimg=0.008")
    before = sorted(store.rglob("*"))
    again = start(store, "train.kimg=0.008", launcher=launched(2))
    told = finish(again)
    assert again.returncode == 0, told
    assert told.count("reused model/tiny:v1") == 1
    assert sorted(store.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("train.batch=7", "train.batch=7 does not divide by the 2 processes"),
        ("train.bacth=4", "the nearest valid one is train.batch"),
    ],
)
def test_what_cannot_be_is_refused_once(store: Path, change: str, expected: str) -> None:
    run = start(store, change, launcher=launched(2))
    told = finish(run)
    assert run.returncode == 2, told
    assert told.count(expected) == 1, told
    assert "Traceback" not in told
    assert not (store / "model").exists()


def test_sweeps_and_several_processes_are_two_things() -> None:
    with pytest.raises(ConfigError, match="--multirun runs one command many times"):
        for_several(["-m", "stage=train"], is_first=True)
    assert for_several(["stage=train"], is_first=True) == ["stage=train"]
    # Hydra's records are written once.
    assert "hydra.output_subdir=null" in for_several(["stage=train"], is_first=False)

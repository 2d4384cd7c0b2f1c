"""Real runs of the command line in several processes, small enough for tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline.artifacts.manifest import Plan
from pipeline.artifacts.store import Store
from tests.quick_python import Popen
from tests.train_tiny import make_dataset

ROOT = Path(__file__).resolve().parent.parent

SETTINGS = [
    "stage=train", "character=tiny", "device=cpu", "network=stylegan2-tiny",
    "network.channel_base=128", "network.channel_max=8",
    "network.d_channel_base=128", "network.d_channel_max=8",
    "network.z_dim=8", "network.w_dim=8", "network.use_noise=true",
    "augment.p=0.3", "augment.interval=2", "augment.speed_kimg=1",
    "train.batch=8", "train.kimg=0.04", "train.r1_interval=3", "train.path_length_interval=2",
    "train.log_kimg=0.04", "train.snapshot_kimg=0.04", "train.sample_grid=[3,2]",
    "train.keep_training_state=true", "train.score_samples=0",
]  # fmt: skip


def make_store(folder: Path, labels: bool = False) -> Path:
    """A store that holds dataset/tiny."""
    plan = Plan("dataset", "tiny", "preprocess", 1, {"name": "tiny"}, (), {}, {})
    draft = Store(folder).draft(plan, lambda holder: None)
    make_dataset(draft.out, labels=labels)
    draft.commit({})
    draft.close()
    return folder


def start(store: Path, *changes: str, launcher: tuple[str, ...] = ()) -> Popen:
    """Begin to train; `launcher` stands in front of scripts.run."""
    command = launcher or ("-m", "scripts.run")
    return Popen(
        [sys.executable, *command, *SETTINGS, f"store={store}", *changes],
        cwd=store.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: Popen, seconds: float = 300) -> str:
    """What the processes said, once they have ended."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def train(store: Path, *changes: str) -> str:
    """One process, to its good end; what it said."""
    process = start(store, *changes)
    told = finish(process)
    assert process.returncode == 0, told
    return told


def torchrun(count: int, *options: str) -> tuple[str, ...]:
    return (
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={count}",
        *options,
        "-m",
        "scripts.run",
    )


def launched(count: int, *options: str) -> tuple[str, ...]:
    return ("-m", "scripts.launch", "--processes", str(count), *options)


def states(store: Path) -> list[int]:
    """Images seen of the saved states of what is being trained."""
    found = store.glob(".drafts/*/payload/training_state/*.safetensors")
    return sorted(int(path.stem) for path in found)


def wait_for_state(process: Popen, store: Path, newer_than: int = 0) -> int:
    """Images seen of the first state newer than that."""
    while process.poll() is None:
        newest = max(states(store), default=0)
        if newest > newer_than:
            return newest
        time.sleep(0.01)
    raise AssertionError(f"ended before a state was saved: {process.communicate()[0]}")


def process_of_rank(launcher: int, rank: int) -> int:
    """Process id of a rank among the launcher's children."""
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True, check=True
    ).stdout
    for child in children.split():
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in variables:
            return int(child)
    raise AssertionError(f"no process of rank {rank}: {children}")

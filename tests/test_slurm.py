"""Training through submitit: on this machine, and on a pretended Slurm cluster of one machine.

The pretended commands do what submitit asks of Slurm's: sbatch runs the job script, srun starts
every task with its numbers in the environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.crew_tiny import ROOT, SETTINGS, make_store

SBATCH = """#!/bin/bash
script="${@: -1}"
export SLURM_JOB_ID=7 SLURM_NNODES=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0
export SLURM_JOB_NODELIST=localhost
export SLURM_NTASKS=$(sed -n 's/^#SBATCH --ntasks-per-node=//p' "$script")
bash "$script" > "$PRETENDED/log" 2>&1 < /dev/null &
echo "Submitted batch job 7"
"""
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do
  case "$1" in --output|--error) shift 2;; *) shift;; esac
done
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
done
wait
"""
SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
echo "7|RUNNING|localhost"
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Environment in which Slurm's commands are pretended."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PRETENDED": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


@pytest.mark.parametrize(
    "launcher",
    [
        ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=2"],
        ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2"],
    ],
    ids=["slurm", "local"],
)
def test_the_tasks_of_a_job_share_a_training(
    tmp_path: Path, cluster: dict[str, str], launcher: list[str]
) -> None:
    pytest.importorskip("submitit")
    store = make_store(tmp_path / "store")
    command = [sys.executable, "-m", "scripts.run", "--multirun", *launcher, *SETTINGS]
    command += ["hydra.launcher.timeout_min=5", "train.kimg=0.008", f"store={store}"]
    done = subprocess.run(
        command, cwd=tmp_path, env=cluster, capture_output=True, text=True, timeout=150
    )
    logs = sorted(tmp_path.glob("runs/**/*_log.out")) + sorted(tmp_path.glob("log"))
    told = "".join(log.read_text() for log in logs)
    assert done.returncode == 0, done.stdout + done.stderr + told
    # The launcher is content with the first task's result; the others end a moment later.
    deadline = time.monotonic() + 60
    while not (store / "model/tiny/v1").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (store / "model/tiny/v1/G_ema.safetensors").exists(), told
    assert [path.name for path in (store / "model/tiny").iterdir()] == ["v1"]
    assert "on 2 processes (2 on this machine)" in told
    assert told.count("made model/tiny:v1") == 1

"""Two small stages and a command line over them, for tests of the runner, the store and settings.

`collect` makes a dataset from a raw file or folder; `refine` makes a model from a dataset, slowly
where asked to, a step at a time, and resumes. Run as a script it is scripts/run.py with these
stages and the config folder named first.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from pipeline.console import catch_stop, say
from pipeline.errors import DataError, Interrupted, check_choice, check_range
from pipeline.stages import Group, Stage


@dataclass
class ShapeConfig:
    """A group shared by the stages."""

    kind: str = "round"
    size: int = 3

    def __post_init__(self) -> None:
        check_choice("shape.kind", self.kind, ("round", "square"))


@dataclass
class CollectConfig:
    """Settings of `collect`."""

    name: str = MISSING
    path: str = MISSING
    workers: int = 1
    fail: str = ""


@dataclass
class RefineConfig:
    """Settings of `refine`."""

    name: str = MISSING
    seed: int = 0
    dataset: str = MISSING
    start: str | None = None
    steps: int = 3
    rate: float = 0.5
    mode: str = "plain"
    seconds_a_step: float = 0.0
    shape: ShapeConfig = MISSING

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1, 1000)
        check_choice("refine.mode", self.mode, ("plain", "fancy"))


def collect(config: CollectConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Copy the names and sizes of the raw files."""
    if config.fail == "bug":
        raise ZeroDivisionError("a bug")
    if config.fail == "memory":
        bytearray(1 << 62)
    if config.fail == "gpu":
        # As torch calls it, which is not imported here.
        error = type("OutOfMemoryError", (RuntimeError,), {})
        raise error("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has more to say.")
    if config.fail == "chatter":
        for number in range(10_000):
            say(f"line {number}")
            time.sleep(0.01)
    raw = inputs["path"]
    files = [raw] if raw.is_file() else sorted(path for path in raw.rglob("*") if path.is_file())
    (out / "inner").mkdir(exist_ok=True)
    (out / "inner" / "names.txt").write_text("\n".join(path.name for path in files))
    (out / "sizes.txt").write_text("\n".join(str(path.stat().st_size) for path in files))
    return {"files": len(files)}


def check_refine(config: RefineConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what only the dataset can tell."""
    names = (inputs["dataset"] / "inner" / "names.txt").read_text().splitlines()
    if config.rate < 0:
        raise DataError(
            f"refine.rate={config.rate} cannot refine {len(names)} names; use 0 or more."
        )


def refine(config: RefineConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Append a line a step; `lines` shows that a resumed run goes on where it stopped."""
    log = out / "steps.txt"
    done = len(log.read_text().splitlines()) if log.exists() else 0
    first = done
    with catch_stop() as stop:
        for step in range(done, config.steps):
            with log.open("a") as stream:
                stream.write(f"{step} {config.rate} {config.shape.kind}\n")
            time.sleep(config.seconds_a_step)
            if stop():
                raise Interrupted("refine was stopped; run the same command again to continue.")
    text = (inputs["dataset"] / "sizes.txt").read_text()
    return {"first_step": first, "torch_loaded": int("torch" in sys.modules), "sizes": text}


GROUPS = (Group("shape", "toy_stages:ShapeConfig"),)
STAGES = (
    Stage(
        name="collect",
        version=1,
        produces="dataset",
        config="toy_stages:CollectConfig",
        run="toy_stages:collect",
        sources=("path",),
        transient=("workers", "fail"),
    ),
    Stage(
        name="refine",
        version=1,
        produces="model",
        config="toy_stages:RefineConfig",
        run="toy_stages:refine",
        check="toy_stages:check_refine",
        inputs={"dataset": "dataset", "start": "model"},
        transient=("seconds_a_step",),
    ),
)

CONF = {
    "config.yaml": """
defaults:
  - schema
  - shape: ball
  - stages/collect@collect
  - stages/refine@refine
  - _self_
  - experiment: null
  - override hydra/job_logging: disabled
stage: ???
character: toy
seed: 0
store: artifacts
device: auto
hydra:
  run: {dir: "runs/one-${oc.env:TOY_RUN,x}"}
  sweep: {dir: runs/sweep, subdir: "${hydra.job.num}"}
""",
    "shape/ball.yaml": "kind: round\nsize: 3\n",
    "shape/box.yaml": "kind: square\nsize: 4\n",
    "stages/collect.yaml": "name: ${character}\npath: ???\nworkers: 1\nfail: ''\n",
    "stages/refine.yaml": """
name: ${character}
seed: ${seed}
dataset: dataset/${character}
start: null
steps: 3
rate: 0.5
mode: plain
seconds_a_step: 0.0
shape: ${shape}
""",
    "experiment/good.yaml": """# @package _global_
defaults:
  - override /shape: box
collect: {path: raw}
refine: {steps: 2}
""",
    "experiment/misspelt.yaml": "# @package _global_\nrefine: {stepz: 2}\n",
    "experiment/wrong_type.yaml": "# @package _global_\nrefine: {steps: many}\n",
    "experiment/wrong_option.yaml": "# @package _global_\ndefaults:\n  - override /shape: bal\n",
    "experiment/broken.yaml": "# @package _global_\nrefine: {steps: 2\n",
}


def write_conf(folder: Path) -> Path:
    """Write the toy config folder below `folder`; returns it."""
    for name, text in CONF.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


if __name__ == "__main__":
    from scripts.run import main

    os.environ.setdefault("TOY_RUN", str(os.getpid()))
    # The stages name this module; under -m it would be a second one.
    sys.exit(main(STAGES, GROUPS, Path(sys.argv.pop(1))))

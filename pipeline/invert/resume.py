"""What an interrupted inversion needs to go on as if nothing had happened.

One file, `work/state.safetensors`, written aside and renamed: the phase, the step, the seconds
spent and every tensor that the next step depends on. The trace is one line a step; lines past the
saved step are dropped on going on, so a step never appears twice. Knows nothing of the phases.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline import files

PHASES = ("project", "tune", "train")


@dataclass(frozen=True)
class State:
    """Where an inversion stands: before step `step` of `phase`."""

    phase: str
    step: int
    seconds: Mapping[str, float]  # spent so far, by phase
    tensors: Mapping[str, Tensor]


class Workspace:
    """The working files of one inversion, in its draft folder."""

    def __init__(self, out: Path) -> None:
        self._folder = out / "work"
        self._state = self._folder / "state.safetensors"
        self._trace = out / "trace.jsonl"
        self._lines: list[dict[str, Any]] = []

    @property
    def in_use(self) -> bool:
        """Whether there is a saved state."""
        return self._state.exists()

    def load(self) -> State | None:
        """The saved state, on the CPU; None where there is none or it cannot be read."""
        try:
            with safe_open(self._state, framework="pt", device="cpu") as file:
                meta = json.loads(file.metadata()["state"])
                # The pages of the file are mapped; clones outlive its replacement by the next save.
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
            state = State(meta["phase"], meta["step"], meta["seconds"], tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            self._lines = []
            return None
        self._lines = [line for line in _read_lines(self._trace) if _is_before(line, state)]
        return state

    def save(self, state: State) -> None:
        """Replace the saved state; the trace so far is written with it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.write_trace()
        meta = {"phase": state.phase, "step": state.step, "seconds": dict(state.seconds)}
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.tensors.items()}
        with files.put(self._state) as aside:
            save_file(tensors, aside, metadata={"state": json.dumps(meta)})

    def record(self, **values: Any) -> None:
        """Add one line to the trace (on disk from the next save on)."""
        self._lines.append(values)

    def values(self, phase: str, key: str) -> list[float]:
        """That figure of all recorded steps of a phase."""
        return [line[key] for line in self._lines if line["phase"] == phase]

    def write_trace(self) -> None:
        """Put the trace on disk, whole."""
        files.put_text(self._trace, "".join(json.dumps(line) + "\n" for line in self._lines))

    def clear(self) -> None:
        """Remove the working files; the trace stays."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []


def _is_before(line: Mapping[str, Any], state: State) -> bool:
    phase, step = line.get("phase"), line.get("step")
    if phase not in PHASES or not isinstance(step, int):
        return False
    return (PHASES.index(phase), step) < (PHASES.index(state.phase), state.step)

"""The loop of a network that trains on its own: steps, statistics, saved states, a clean stop.

Knows nothing about what a step computes, nor about batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from pipeline.console import Progress
from pipeline.errors import Interrupted, TrainingError
from pipeline.train.averaged_state import AveragedState
from pipeline.train.logbook import Logbook

AGAIN = "run the same command again to go on."
# Share of the training over which the rate rises.
RISE = 0.05
# Steps whose losses are read together; each reading waits for the device.
READ_EVERY = 16

Batch = TypeVar("Batch")


def rate_at(images_seen: int, length: int) -> float:
    """Factor of the learning rate: up over RISE, then half a cosine down to 0."""
    share = min(1.0, images_seen / length)
    return min(1.0, share / RISE + 0.01) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass
class PlainLoop(Generic[Batch]):
    """One training, and what it reports to.

    Attributes:
        state: goes on from where it is. Its optimiser's rates are the highest ones, see `rate_at`.
        batches: (images seen before it, batch) from there to the end, all of `batch` images.
        step: trains on one batch; returns its losses by name, without gradients.
        look: figures on held-out images, every `save_kimg` and at the end.
        length: images in all.
    """

    state: AveragedState[Any]
    batches: Iterable[tuple[int, Batch]]
    step: Callable[[Batch], Mapping[str, Tensor]]
    look: Callable[[], Mapping[str, float]]
    states: Path
    logbook: Logbook
    bar: Progress
    stop: Callable[[], bool]
    length: int
    batch: int
    ema_kimg: float
    log_kimg: float
    save_kimg: float
    _unread: list[Mapping[str, Tensor]] = field(default_factory=list, init=False)

    def run(self) -> None:
        """Train to the end. Raises Interrupted when told to stop, TrainingError when it diverges;
        both with everything saved."""
        state = self.state
        rates = [group["lr"] for group in state.optimizer.param_groups]
        began, timed = time.monotonic(), 0
        for start, batch in self.batches:
            for group, highest in zip(state.optimizer.param_groups, rates, strict=True):
                group["lr"] = highest * rate_at(start, self.length)
            self._unread.append(self.step(batch))
            if len(self._unread) >= READ_EVERY:
                self._read()
            self._average()
            state.steps += 1
            timed += self.batch
            state.images_seen = start + self.batch
            self.bar.advance(self.batch / 1000)
            if self._passed(self.log_kimg) or state.images_seen >= self.length:
                seconds = (time.monotonic() - began) / timed * 1000
                self._report({"rate": rate_at(start, self.length), "seconds_per_kimg": seconds})
                began, timed = time.monotonic(), 0
            stopped = self.stop()
            if stopped or self._passed(self.save_kimg):
                self._save()
            if stopped:
                raise Interrupted(
                    f"{state.stage}: stopped at {state.images_seen / 1000:g} kimg, all is saved; "
                    f"{AGAIN}"
                )
        self._save()

    def _average(self) -> None:
        """Move the average; a short memory at first, so that it forgets the random weights."""
        half_life = min(self.ema_kimg * 1000, 0.1 * (self.state.images_seen + self.batch))
        self.state.average(0.5 ** (self.batch / half_life) if half_life > 0 else 0.0)

    def _read(self) -> None:
        """Add the losses of the steps since the last reading to the sums."""
        found = [(name, value) for losses in self._unread for name, value in losses.items()]
        self._unread.clear()
        if not found:
            return
        sums = self.state.sums
        values = torch.stack([value for _, value in found]).tolist()
        for (name, _), value in zip(found, values, strict=True):
            sums[name] = sums.get(name, 0.0) + value

    def _report(self, values: dict[str, float]) -> None:
        self._read()
        state = self.state
        means = {f"loss_{name}": value / state.steps for name, value in state.sums.items()}
        if not all(math.isfinite(value) for value in means.values()):
            raise TrainingError(
                f"{state.stage}: diverged before {state.images_seen / 1000:g} kimg; train with "
                f"lower learning rates (conf/stages/{state.stage}.yaml)."
            )
        if self._passed(self.save_kimg) or state.images_seen >= self.length:
            values |= self.look()
        self.logbook.write(state.images_seen, means | values)
        state.sums, state.steps = {}, 0

    def _save(self) -> None:
        self._read()
        self.logbook.flush()
        self.state.save(self.states)

    def _passed(self, kimg: float) -> bool:
        """Whether the last step crossed a multiple of so many thousand images."""
        interval = max(1, round(kimg * 1000))
        seen = self.state.images_seen
        return seen // interval != (seen - self.batch) // interval

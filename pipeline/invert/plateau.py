"""Whether a loss has stopped falling. Knows nothing about what is measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Plateau:
    """The mean loss of the last `window` steps against that of the `window` before them.

    Attributes:
        window: steps a mean; 0: never flat.
        gain: relative fall from one mean to the next that still counts as progress.
    """

    window: int
    gain: float
    _losses: list[float] = field(default_factory=list)

    def add(self, loss: float) -> bool:
        """Take one more loss; whether the last two windows show no progress."""
        if self.window == 0:
            return False
        self._losses.append(loss)
        del self._losses[: -2 * self.window]
        if len(self._losses) < 2 * self.window:
            return False
        before = sum(self._losses[: self.window])
        after = sum(self._losses[self.window :])
        return after > (1 - self.gain) * before

    def restore(self, losses: Iterable[float]) -> None:
        """Begin anew with earlier losses, as if each had been added."""
        self._losses = list(losses)[-2 * self.window :] if self.window else []

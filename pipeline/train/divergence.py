"""When a training has gone wrong beyond return, and how it goes on from its last good state.

A GAN that has diverged does not recover: its weights are spoilt, so the last state before is taken
up again with lower learning rates, a few times at most. What was done is kept in `rollbacks.json`,
which a resumed run reads, so that it trains with the same rates. Knows nothing about networks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import TrainingError
from pipeline.train.statistics import Statistics

FILE = "rollbacks.json"
# Each rollback multiplies the learning rates by this.
RATE_FACTOR = 0.5
# Losses that grow with the size of a wrong logit; all others may be large in a healthy run.
WATCHED = ("loss_G", "loss_D_fake", "loss_D_real")
# So many names of numbers are listed when all are bad at once.
SHOWN = 3


class Diverged(TrainingError):
    """Numbers of the training became infinite, not a number, or far too large."""

    def __init__(self, reason: str, images_seen: int) -> None:
        super().__init__(
            f"Training diverged: {reason} before {images_seen / 1000:g} kimg. Train with lower "
            "learning rates (generator_lr, discriminator_lr) or a larger gamma."
        )
        self.reason = reason
        self.images_seen = images_seen


def what_is_wrong(statistics: Statistics, limit: float) -> str:
    """Why a training with these statistics has diverged, as the start of a sentence; "" if not."""
    bad = statistics.not_finite()
    if bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        return f"{', '.join(bad[:SHOWN])}{more} became infinite or not a number"
    large = exploded(statistics.means(), limit)
    return f"{', '.join(large)} exceeded {limit:g}" if large else ""


def exploded(means: Mapping[str, float], limit: float) -> list[str]:
    """Names of the losses beyond `limit`: D's answers have lost all measure there."""
    return [name for name in WATCHED if means.get(name, 0.0) > limit]


@dataclass(frozen=True)
class Rollback:
    """One return to an earlier state.

    images_seen: where the numbers were seen to be wrong; back_to: the images that the state had
    seen; rate: what the learning rates are multiplied by from there on.
    """

    images_seen: int
    back_to: int
    rate: float
    reason: str


def read_rollbacks(folder: Path) -> list[Rollback]:
    """What was rolled back so far, oldest first."""
    path = folder / FILE
    if not path.is_file():
        return []
    return [Rollback(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def write_rollbacks(folder: Path, rollbacks: Sequence[Rollback]) -> None:
    """Keep them beside the model (aside, then renamed)."""
    aside = folder / f".{FILE}.part"
    text = json.dumps([asdict(rollback) for rollback in rollbacks], indent=1)
    aside.write_text(text + "\n", encoding="utf-8")
    aside.replace(folder / FILE)


def rate_after(rollbacks: Sequence[Rollback]) -> float:
    """What the learning rates are multiplied by after these rollbacks."""
    return rollbacks[-1].rate if rollbacks else 1.0


def state_to_take(saved: Sequence[int], rollbacks: Sequence[Rollback]) -> int | None:
    """Which of the saved states (images seen) is taken up after a divergence; None: none is left.

    The newest, unless training from it went wrong already: then it may be spoilt itself, and the
    one before it is taken (the oldest stays the last resort).
    """
    failed = {rollback.back_to for rollback in rollbacks}
    fresh = [seen for seen in saved if seen not in failed]
    if not saved:
        return None
    return max(fresh) if fresh else min(saved)

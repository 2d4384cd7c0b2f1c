"""Which snapshot becomes the model. Pure: numbers in, a choice out, and their file.

A generator that copies its few training images passes for them in any distance between sets. So a
snapshot's score on held-out images is raised where too many of its samples are near-copies, in
units of the distance that the whole training had to cover.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "snapshots.json"


@dataclass(frozen=True)
class Verdict:
    """What was measured at a snapshot.

    score: distance to the held-out images, lower is better, with its interval low..high;
    copied: share of samples that are near-copies of training images; guarded: the score that
    decides, see `guard`.
    """

    images_seen: int
    score: float
    low: float
    high: float
    copied: float
    guarded: float


def guard(score: float, copied: float, *, allowed: float, scale: float) -> float:
    """The score that decides: each share of copies beyond `allowed` costs as much of `scale`.

    `scale` is the score before training: with `allowed` a quarter, a generator that copies
    everything must have come three quarters of the way closer to make up for it.
    """
    return score + scale * max(copied - allowed, 0.0)


def best(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The snapshot to publish: the lowest guarded score; the start itself is no candidate."""
    trained = [verdict for verdict in verdicts if verdict.images_seen > 0]
    return min(trained, key=lambda verdict: verdict.guarded, default=None)


@dataclass(frozen=True)
class Record:
    """What the file holds: every verdict, and which snapshot was published (None: not yet)."""

    verdicts: tuple[Verdict, ...] = ()
    published: int | None = None

    @property
    def of_the_model(self) -> Verdict | None:
        """The verdict on what was published; None where it was not judged."""
        seen = self.published
        return next((one for one in self.verdicts if one.images_seen == seen), None)


def read_record(folder: Path) -> Record:
    """What is known of the snapshots in a folder."""
    path = folder / FILE
    if not path.is_file():
        return Record()
    content = json.loads(path.read_text(encoding="utf-8"))
    return Record(tuple(Verdict(**one) for one in content["verdicts"]), content["published"])


def write_record(folder: Path, record: Record) -> None:
    """Keep it (aside, then renamed)."""
    aside = folder / f".{FILE}.part"
    aside.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    aside.replace(folder / FILE)

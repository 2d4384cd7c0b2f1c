"""What the studio needs from outside: somebody to speak to, and somebody who makes artifacts.

The desk does not know the table of stages; `scripts/studio_worker.py` does, and hands in `Makers`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.invert.subject import Watch

if TYPE_CHECKING:
    from pipeline.edit.emotions import Goal

Header = dict[str, Any]
Say = Callable[[Header, bytes], None]
# Whether the page has asked for something that ends the work at hand.
Wanted = Callable[[], bool]


class Makers(Protocol):
    """What makes artifacts; each returns the folder of the finished one."""

    def model(self, reference: str) -> Path: ...

    def offers(self, reference: str) -> bool:
        """Whether a page may ask for that model."""
        ...

    def invert(
        self, model: str, picture: Path, crop: str, name: str, watch: Watch, stop: Wanted
    ) -> Path: ...

    def model_of_digest(self, digest: str) -> str | None:
        """Which offered model has that digest (see `inversion.model_digest`)."""
        ...

    def import_model(self, path: Path, name: str, stop: Wanted) -> str:
        """Make a model of a network pickle, in a bounded process: its reference."""
        ...

    def keep(self, model: str, inversion: Path | None, folder: Path, name: str) -> tuple[str, Path]:
        """File a take as an edit: its reference and its folder."""
        ...

    def keep_emotion(
        self, model: str, inversion: Path | None, seed: int | None, goal: Goal, name: str
    ) -> tuple[str, Path]:
        """File the drawing, or the model's face of that number, with an emotion as an edit."""
        ...

    def sheet(
        self, model: str, inversion: Path, name: str, emotions: list[str] | None
    ) -> tuple[str, Path]:
        """File a sheet of a drawing in these emotions; None: all."""
        ...

"""Files an edit beside the work: films take seconds, and the artist goes on meanwhile."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.console import complain, stop_when
from pipeline.edit.sentences import Told
from pipeline.errors import AnimedragError


@dataclass(frozen=True)
class Saved:
    """What became of it: the artifact's reference and folder, or why there is none."""

    frame: int
    of: object  # what was edited when it began
    reference: str = ""
    folder: Path | None = None
    failed: AnimedragError | None = None
    kind: str = "edit"  # or "sheet"


class Saver:
    """One save at a time. `done` is called, in another thread, when `take` has something."""

    def __init__(self, done: Callable[[], None]) -> None:
        self._done = done
        self._thread: threading.Thread | None = None
        self._result: Saved | None = None
        self._asked = threading.Event()
        self.kind = ""  # of what is being made

    @property
    def busy(self) -> bool:
        """Whether something is being saved, or was and has not been taken."""
        return self._thread is not None

    def start(
        self, work: Callable[[], tuple[str, Path]], frame: int, of: object, kind: str = "edit"
    ) -> None:
        """Have `work` file something of that frame."""
        self.kind = kind
        self._asked.clear()
        given = (work, Saved(frame, of, kind=kind))
        self._thread = threading.Thread(target=self._run, args=given, daemon=True)
        self._thread.start()

    def take(self) -> Saved | None:
        """The result, once."""
        result = self._result
        if result is not None:
            self._result = self._thread = None
            self.kind = ""
        return result

    def stop(self) -> None:
        """Have what is being made leave off where it can go on another time."""
        self._asked.set()

    def wait(self, seconds: float) -> None:
        """Let what is being saved end."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self, work: Callable[[], tuple[str, Path]], empty: Saved) -> None:
        try:
            with stop_when(self._asked.is_set):
                reference, folder = work()
            self._result = replace(empty, reference=reference, folder=folder)
        except AnimedragError as error:
            self._result = replace(empty, failed=error)
        except Exception as error:  # a bug must not take the artist's session with it
            complain(traceback.format_exc())
            self._result = replace(empty, failed=Told("unforeseen", why=error))
        self._done()

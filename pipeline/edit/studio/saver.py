"""Files an edit beside the work: films take seconds, and the artist goes on meanwhile."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.console import complain
from pipeline.errors import AnimedragError


@dataclass(frozen=True)
class Saved:
    """What became of it: an edit's reference and folder, or why there is none."""

    frame: int
    reference: str = ""
    folder: Path | None = None
    failed: str = ""


class Saver:
    """One save at a time. `done` is called, in another thread, when `take` has something."""

    def __init__(self, done: Callable[[], None]) -> None:
        self._done = done
        self._thread: threading.Thread | None = None
        self._result: Saved | None = None

    @property
    def busy(self) -> bool:
        """Whether something is being saved, or was and has not been taken."""
        return self._thread is not None

    def start(self, work: Callable[[], tuple[str, Path]], frame: int) -> None:
        """Have `work` file the edit of that frame."""
        self._thread = threading.Thread(target=self._run, args=(work, frame), daemon=True)
        self._thread.start()

    def take(self) -> Saved | None:
        """The result, once."""
        result = self._result
        if result is not None:
            self._result = self._thread = None
        return result

    def wait(self, seconds: float) -> None:
        """Let what is being saved end."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self, work: Callable[[], tuple[str, Path]], frame: int) -> None:
        try:
            reference, folder = work()
            self._result = Saved(frame, reference, folder)
        except AnimedragError as error:
            self._result = Saved(frame, failed=str(error))
        except Exception as error:  # a bug must not take the artist's session with it
            complain(traceback.format_exc())
            self._result = Saved(frame, failed=f"Something unforeseen happened ({error}).")
        self._done()

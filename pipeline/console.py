"""What the program tells its user: sentences, progress, and the wish to stop.

On a terminal progress is a bar; elsewhere (a log, a pipe, a CI job) it is a plain line about every
ten seconds, so that logs stay readable. Knows nothing about stages or artifacts, and imports `rich`
only when a bar is really drawn, so that command lines start quickly.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from torch_utils.ranks import ranks

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PLAIN_LINE_SECONDS = 10.0
# Ten redraws a second look smooth; more only cost time in tight loops.
BAR_UPDATE_SECONDS = 0.1

# What else asks for a stop; see `stop_when`.
_also_asked: ContextVar[Callable[[], bool]] = ContextVar("also_asked", default=lambda: False)

FieldValue = float | int | str


def say(text: str) -> None:
    """Print one sentence to the user at once (flushed, so that it keeps its place in logs).

    Of several processes of a run only the first one does.
    """
    if ranks().is_first:
        print(text, flush=True)


def complain(text: str) -> None:
    """Print one sentence about something that went wrong, on stderr."""
    print(text, file=sys.stderr, flush=True)


class Progress(Protocol):
    """Handle that `progress` gives out."""

    def advance(self, n: float = 1, **fields: FieldValue) -> None:
        """Count `n` more units as done; `fields` replace what is shown beside the count."""


@contextlib.contextmanager
def progress(description: str, total: float | None, unit: str) -> Iterator[Progress]:
    """Show how far a loop of `total` units (None: unknown) has come; yields a `Progress`.

    `unit` is the plural noun shown after the count ("images", "kimg", "steps"). Of several
    processes of a run only the first one shows anything.
    """
    if not ranks().is_first:
        yield _NoProgress()
        return
    if not sys.stderr.isatty():
        plain = _PlainProgress(description, total, unit)
        try:
            yield plain
        finally:
            plain.close()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TextColumn("<"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", style="dim"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        bar = _BarProgress(bars, description, total, unit)
        try:
            yield bar
        finally:
            bar.draw()


class _NoProgress:
    """What is shown where another process shows it."""

    def advance(self, n: float = 1, **fields: FieldValue) -> None:
        pass


class _BarProgress:
    """A rich bar, redrawn at most every BAR_UPDATE_SECONDS."""

    def __init__(
        self, bars: RichProgress, description: str, total: float | None, unit: str
    ) -> None:
        self._bars = bars
        self._total, self._unit = total, unit
        self._done = 0.0
        self._fields: dict[str, FieldValue] = {}
        self._drawn = 0.0
        self._task = bars.add_task(description, total=total, count=_count(0, total, unit), text="")

    def advance(self, n: float = 1, **fields: FieldValue) -> None:
        self._done += n
        self._fields.update(fields)
        if time.monotonic() - self._drawn >= BAR_UPDATE_SECONDS:
            self.draw()

    def draw(self) -> None:
        self._drawn = time.monotonic()
        self._bars.update(
            self._task,
            completed=self._done,
            count=_count(self._done, self._total, self._unit),
            text=_fields_text(self._fields),
        )


class _PlainProgress:
    """A line of text about every PLAIN_LINE_SECONDS, and one at the end."""

    def __init__(self, description: str, total: float | None, unit: str) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._done = 0.0
        self._fields: dict[str, FieldValue] = {}
        self._began = self._printed = time.monotonic()

    def advance(self, n: float = 1, **fields: FieldValue) -> None:
        self._done += n
        self._fields.update(fields)
        now = time.monotonic()
        if now - self._printed >= PLAIN_LINE_SECONDS:
            self._printed = now
            self._line(now)

    def close(self) -> None:
        if self._done:
            self._line(time.monotonic())

    def _line(self, now: float) -> None:
        spent = now - self._began
        parts = [f"{self._description}: {_count(self._done, self._total, self._unit)}"]
        parts.append(f"{duration(spent)} spent")
        if self._total and 0 < self._done < self._total:
            parts.append(f"{duration(spent * (self._total / self._done - 1))} left")
        if self._fields:
            parts.append(_fields_text(self._fields))
        complain(", ".join(parts))


def _count(done: float, total: float | None, unit: str) -> str:
    share = _number(done) if total is None else f"{_number(done)}/{_number(total)}"
    return f"{share} {unit}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.1f}"


def _fields_text(fields: dict[str, FieldValue]) -> str:
    shown = (
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in fields.items()
    )
    return ", ".join(shown)


def duration(seconds: float) -> str:
    """Seconds as a person would say them: "8s", "3m 05s", "2h 07m"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


@contextlib.contextmanager
def catch_stop() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM and Ctrl-C into a question the loop asks: `if stop(): save and leave`.

    The first signal only sets the flag, so that the step at hand is finished and saved; a second
    one raises KeyboardInterrupt at once. Earlier handlers come back when the block ends. Outside
    the main thread signals cannot be caught; there only `stop_when` can ask.

        with catch_stop() as stop:
            for step in range(steps):
                ...
                if stop():
                    save(...)
                    raise Interrupted("Stopped at ...; run the same command again to continue.")
    """
    asked = False
    owner = os.getpid()
    first = ranks().is_first

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if os.getpid() != owner:
            _in_worker(number)
            return
        if asked:
            raise KeyboardInterrupt
        asked = True
        if not first:
            return
        # os.write, because print is not safe when the signal arrives in the middle of a print.
        os.write(2, b"\nStopping after this step (again to stop at once) ...\n")

    with _handling(handle, signal.SIGINT, signal.SIGTERM):
        also = _also_asked.get()
        yield lambda: asked or also()


@contextlib.contextmanager
def stop_when(asked: Callable[[], bool]) -> Iterator[None]:
    """Within, `catch_stop` answers True also when `asked` does: for work in a thread."""
    before = _also_asked.set(asked)
    try:
        yield
    finally:
        _also_asked.reset(before)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt, as Ctrl-C does, so that both are cleaned up after."""
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            _in_worker(number)
            return
        raise KeyboardInterrupt

    with _handling(handle, signal.SIGTERM):
        yield


def disregard_stops() -> None:
    """From here on Ctrl-C and SIGTERM do nothing: the process is ending, and says why."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _in_worker(number: int) -> None:
    """What a forked worker does, which inherits our handlers: die of SIGTERM, as its pool expects,
    and leave Ctrl-C, which the terminal sends to everybody, to the parent."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


@contextlib.contextmanager
def _handling(
    handle: Callable[[int, FrameType | None], None], *numbers: signal.Signals
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)

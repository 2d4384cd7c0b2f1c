"""What the user reads, and how signals are asked about."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pipeline import console
from pipeline.console import catch_stop, duration, progress, sigterm_interrupts


def test_progress_off_a_terminal_is_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    with progress("training", 8, "images") as bar:
        for step in range(8):
            bar.advance(1, loss=step / 8)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0] == "training: 3/8 images, 12s spent, 20s left, loss 0.25"
    assert lines[-1].startswith("training: 8/8 images, ")


def test_progress_on_a_terminal_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    with progress("inverting", None, "steps") as bar:
        bar.advance(2.5, distance=0.125)
    shown = capsys.readouterr().err
    assert "inverting" in shown
    assert "2.5 steps" in shown
    assert "distance 0.125" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0s"), (59.6, "1m 00s"), (185, "3m 05s"), (7620, "2h 07m")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_the_second_insists(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with catch_stop() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_sigterm_interrupts() -> None:
    with sigterm_interrupts(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_forked_workers_die_of_sigterm_and_leave_ctrl_c_to_the_parent() -> None:
    with catch_stop() as stop:
        worker = os.fork()
        if worker == 0:
            time.sleep(20)
            os._exit(0)
        os.kill(worker, signal.SIGINT)
        time.sleep(0.1)
        assert os.waitpid(worker, os.WNOHANG) == (0, 0)
        os.kill(worker, signal.SIGTERM)
        _, status = os.waitpid(worker, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
        assert not stop()

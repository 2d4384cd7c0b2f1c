"""A studio as a user starts it: a real process on a free port, for the tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from pipeline.edit.client import Client

ROOT = Path(__file__).resolve().parent.parent


class StudioProcess:
    """`python -m scripts.studio` with its artifacts and sessions below `folder`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        self.process: subprocess.Popen[str] | None = None
        self.address = ""
        self.start()

    def start(self) -> None:
        """Start it, and wait until it says where it is open."""
        # To a file: a pipe nobody reads would fill, and workers outlive a killed server a moment.
        log: IO[str] = (self.folder / "log").open("a")
        model = ROOT / "assets" / "start-64"
        port = str(self.port) if self.address else "0"  # started again: where its pages look for it
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "scripts.studio", "--port", port, "--model", str(model)),
                *("--store", str(self.folder / "artifacts"), "--invert-steps", "3"),
                *("--sessions", str(self.folder / "sessions"), "--device", "cpu", *self.options),
            ],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        log.close()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + (self.folder / "log").read_text()
        self.address = found.group()

    def warm(self, seconds: float) -> None:
        """Wait until a worker has answered: the first one starts slowly on a busy machine."""
        with Client(self.address) as client:
            client.wait("state", seconds=seconds)
            client.request("DELETE", f"/api/sessions/{client.session}")

    @property
    def port(self) -> int:
        """Where it listens."""
        found = re.search(r":(\d+)/", self.address)
        assert found
        return int(found.group(1))

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, kindly or not."""
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(how)
        self.process.wait(30)
        self.process.stdout.close()

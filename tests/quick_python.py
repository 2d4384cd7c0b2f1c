"""Python processes that begin with the libraries loaded: subprocess's `Popen` and `run`, sooner.

To import torch takes a fresh interpreter three seconds, and the tests start more than a hundred. So
one process, a nursery, imports the libraries and nothing of ours, and each new one is forked from
it: with a process id, signals, a working folder and an environment of its own, and with our modules
still to be imported. What depends on how an interpreter begins (what it imports at all, variables
that a library reads at its import) is for `subprocess`, and every verb has a test there.

As a program: the nursery. python -m tests.quick_python SOCKET
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
# What our modules import of others, as far as it takes long.
LIBRARIES = (
    "torch", "torch._dynamo", "torch.distributed.run", "torch.utils.tensorboard", "hydra",
    "hydra.core.plugins", "scipy.interpolate", "scipy.optimize", "scipy.linalg", "cv2", "skia",
    "av", "PIL.Image", "safetensors.torch", "jinja2", "click", "rich.progress", "fastapi",
)  # fmt: skip
NUMBER = struct.Struct("<i")


class Popen:
    """As subprocess.Popen with text=True, of [sys.executable, "-m" or "-c", ...].

    What goes to PIPE is there once the process has ended, from `communicate`.
    """

    def __init__(
        self,
        args: Sequence[object],
        *,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        stdout: int | IO[str] | None = None,
        stderr: int | IO[str] | None = None,
        text: bool = True,
    ) -> None:
        assert text
        assert args[0] == sys.executable, args
        self.args = [str(word) for word in args]
        self.returncode: int | None = None
        with contextlib.ExitStack() as mine:
            self._told = [_file(stdout), _file(stderr)]
            fds = [1, 2]
            for number, (told, wanted) in enumerate(zip(self._told, (stdout, stderr), strict=True)):
                if wanted == subprocess.STDOUT:
                    fds[1] = fds[0]
                elif wanted is not None:
                    fds[number] = (told or wanted).fileno()  # type: ignore[union-attr]
            nothing = mine.enter_context(open(os.devnull))  # noqa: PTH123
            self._door, theirs = socket.socketpair()
            mine.enter_context(theirs)
            order = {
                "args": self.args[1:],
                "cwd": str(cwd or Path.cwd()),
                "env": dict(env or os.environ),
            }
            message = json.dumps(order).encode()
            nursery = _nursery()
            socket.send_fds(
                nursery, [NUMBER.pack(len(message))], [nothing.fileno(), *fds, theirs.fileno()]
            )
            nursery.sendall(message)
        self.pid = self._number()

    def _number(self) -> int:
        data = self._door.recv(NUMBER.size, socket.MSG_WAITALL)
        assert len(data) == NUMBER.size, "the nursery is gone"
        return int(NUMBER.unpack(data)[0])

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended."""
        if self.returncode is None:
            if not select.select([self._door], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self._number()
            self._door.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Wait; what it told on PIPE: stdout, stderr."""
        self.wait(timeout)
        told: list[str | None] = [None, None]
        for number, file in enumerate(self._told):
            if file is not None:
                file.seek(0)
                told[number] = file.read()
        return told[0], told[1]

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)


def run(
    args: Sequence[object],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    check: bool = False,
    timeout: float | None = None,
    capture_output: bool = True,
    text: bool = True,
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run with text=True and, unless told otherwise, capture_output=True."""
    wanted = subprocess.PIPE if capture_output else None
    process = Popen(args, cwd=cwd, env=env, stdout=wanted, stderr=wanted, text=text)
    try:
        out, err = process.communicate(timeout)
    except BaseException:
        process.kill()
        raise
    done = subprocess.CompletedProcess(process.args, process.wait(), out, err)
    if check:
        done.check_returncode()
    return done


def _file(wanted: int | IO[str] | None) -> IO[str] | None:
    if wanted == subprocess.PIPE:
        return tempfile.TemporaryFile("w+", encoding="utf-8")
    if wanted == subprocess.DEVNULL:
        return open(os.devnull, "w+")  # noqa: PTH123
    return None


@functools.cache
def _nursery() -> socket.socket:
    """The door of this test process's nursery, which ends when the door is closed."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.quick_python", str(theirs.fileno())],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, pass_fds=[theirs.fileno()],
            start_new_session=True,
        )  # fmt: skip
    # Waited for, so that what all its processes cost counts as the tests' (time, os.times).
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


# ---- in the nursery ----------------------------------------------------------------------------


def serve(door: socket.socket) -> dict[str, Any] | None:
    """Fork a process for every order; returns in each of them what it is to do, else None."""
    while True:
        head, fds, *_ = socket.recv_fds(door, NUMBER.size, 4)
        if not head:
            return None
        (size,) = NUMBER.unpack(head)
        order = json.loads(door.recv(size, socket.MSG_WAITALL))
        # The first child only waits for its own one, which is the process.
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            door.close()
            with socket.socket(fileno=fds.pop()) as teller:
                pid = os.fork()
                if pid:
                    teller.sendall(NUMBER.pack(pid))
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with contextlib.suppress(BrokenPipeError):
                        teller.sendall(NUMBER.pack(code))
                    os._exit(0)
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
                os.close(fd)
            return dict(order)
        for fd in fds:
            os.close(fd)


def reap(number: int, frame: object) -> None:
    """Take leave of the children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def become(order: dict[str, Any]) -> None:
    """Be the interpreter that was asked for."""
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    kind, what, *arguments = order["args"]
    paths = order["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = ["" if kind == "-c" else order["cwd"], *filter(None, paths), *sys.path[2:]]
    sys.argv = [what if kind == "-m" else "-c", *arguments]
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            assert kind == "-c", kind
            module = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), module.__dict__)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def main() -> None:
    """Load the libraries, then serve."""
    with socket.socket(fileno=int(sys.argv[1])) as door:
        for name in LIBRARIES:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        signal.signal(signal.SIGCHLD, reap)
        order = serve(door)
    if order is not None:
        become(order)


if __name__ == "__main__":
    main()

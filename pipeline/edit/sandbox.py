"""Reads what was uploaded in a process of its own, bounded in memory, time and what it may write.

Whatever a file does to a decoder it does to that process, which is ended when it takes too much.
Here is how such a process is started and how it binds itself; what pictures become there, too. What
session files become is in `session_archive`.
"""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.edit.sentences import Told
from pipeline.errors import DataError

MAX_MEGAPIXELS = 40.0
# Address space: the interpreter and the libraries reserve about 1 GB, 40 megapixels decode in less
# than the rest.
MEMORY_BYTES = 3 * 2**30
SECONDS = 20
# Kinds of `Rejected` that have sentences of their own.
_KINDS = {"unknown_format": "no_picture_file", "many_pixels": "many_pixels"}
# How such a process says that it was the file's fault; its last line is the reason.
REFUSED = 3


class TooSlow(Exception):
    """It took longer than it may."""


def run(
    module: str, *arguments: str, stdin: IO[bytes] | None = None, seconds: float = SECONDS
) -> bytes:
    """What `python -m module arguments` printed.

    DataError with the reason where the process refused the file or could not cope with it; TooSlow.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            stdin=stdin if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
            env={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    except subprocess.TimeoutExpired:
        raise TooSlow from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise DataError(lines[-1] if done.returncode == REFUSED and lines else "it cannot be read")
    return done.stdout


def bind(seconds: int = SECONDS, memory: int = MEMORY_BYTES, written: int = 0) -> None:
    """Called in such a process, after its imports: from here on no more than that.

    Args:
        seconds: of processor time.
        memory: bytes of address space.
        written: bytes of the largest file that it may write.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))


def decode_upload(path: Path) -> np.ndarray:
    """H x W x 3 uint8, upright; DataError with the reason where the file is no usable picture."""
    try:
        with path.open("rb") as stream:
            data = run("pipeline.edit.sandbox", stdin=stream)
    except TooSlow:
        raise Told("slow_picture") from None
    except DataError as error:
        if str(error) in _KINDS:
            raise Told(_KINDS[str(error)], most=f"{MAX_MEGAPIXELS:g}") from None
        raise Told("bad_picture", why=error) from None
    height, width = struct.unpack_from(">II", data)
    pixels = np.frombuffer(data, np.uint8, offset=8)
    if pixels.size != height * width * 3:
        raise Told("bad_picture", why="it was cut short")
    return pixels.reshape(height, width, 3).copy()


def _main() -> None:
    data = sys.stdin.buffer.read()
    from pipeline.data.pictures import PictureLimits, Rejected, decode

    bind()
    try:
        pixels = decode(data, PictureLimits(max_megapixels=MAX_MEGAPIXELS))
    except Rejected as reason:
        print(reason.kind or reason, file=sys.stderr)
        sys.exit(REFUSED)
    sys.stdout.buffer.write(struct.pack(">II", *pixels.shape[:2]) + pixels.tobytes())


if __name__ == "__main__":
    _main()

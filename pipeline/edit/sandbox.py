"""Decodes an uploaded picture in a process of its own, bounded in memory and time.

Whatever a file does to a decoder it does to that process: it has no other file open, may open none
for writing, and is ended when it takes too much. What comes back are plain pixels.
"""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np

from pipeline.errors import DataError

MAX_MEGAPIXELS = 40.0
# Address space: the interpreter and the libraries reserve about 1 GB, 40 megapixels decode in less
# than the rest.
MEMORY_BYTES = 3 * 2**30
SECONDS = 20


def decode_upload(path: Path) -> np.ndarray:
    """H x W x 3 uint8, upright; DataError with the reason where the file is no usable picture."""
    try:
        with path.open("rb") as stream:
            done = subprocess.run(
                [sys.executable, "-m", "pipeline.edit.sandbox"],
                stdin=stream,
                capture_output=True,
                timeout=SECONDS,
                check=False,
                env={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
            )
    except subprocess.TimeoutExpired:
        raise DataError("The picture takes too long to read; save it as a plain PNG.") from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        told = lines[-1] if done.returncode == 3 and lines else "its file cannot be read"
        raise DataError(f"This picture cannot be used: {told}. Give a PNG, JPEG or WebP file.")
    height, width = struct.unpack_from(">II", done.stdout)
    pixels = np.frombuffer(done.stdout, np.uint8, offset=8)
    if pixels.size != height * width * 3:
        raise DataError("This picture cannot be used: it was cut short. Give it again.")
    return pixels.reshape(height, width, 3).copy()


def _main() -> None:
    data = sys.stdin.buffer.read()
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    from pipeline.data.pictures import PictureLimits, Rejected, decode

    # After the imports, which need files and threads.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        pixels = decode(data, PictureLimits(max_megapixels=MAX_MEGAPIXELS))
    except Rejected as reason:
        print(reason, file=sys.stderr)
        sys.exit(3)
    sys.stdout.buffer.write(struct.pack(">II", *pixels.shape[:2]) + pixels.tobytes())


if __name__ == "__main__":
    _main()

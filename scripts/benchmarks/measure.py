"""How time, memory and the machine's ceilings are taken. Knows nothing of what is measured.

Times are medians of interleaved repeats, so that what else the machine does meets both sides alike.
Peak memory is that of one call in a process of its own, above what the process held before.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

Call = Callable[[], object]
Clock = Callable[[], float]

MIB = 1 << 20
# The side of the matrix product and the bytes of the copy that the ceilings are taken from: larger
# than any cache, and on a GPU enough to keep all of its processors busy for a while.
CEILING_SIZES = {"cpu": (1536, 256 * MIB), "cuda": (8192, 1024 * MIB)}
# A call shorter than this is repeated within a sample, else the clock and the caches decide.
SHORTEST_SAMPLE = 0.05
# A call longer than this needs no second one to see how long it takes.
LONG_CALL = 0.5
# A side whose sample is shorter than this share of the slowest side's calls more often within it:
# what a reference that needs gigabytes leaves behind (caches, memory given back) would otherwise be
# charged to every call of ours, which in use follow each other.
LEAST_SHARE = 0.2


@dataclass(frozen=True)
class Times:
    """Seconds a call, one sample a repeat, in the order taken."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Ceilings:
    """What the machine reaches at best, measured here."""

    gflops: float  # of a float32 matrix product
    gigabytes: float  # a second, read and written together, of a copy


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    sides: Sequence[Call], repeats: int, device: torch.device, clock: Clock = time.perf_counter
) -> list[Times]:
    """Time each side `repeats` times, in turns, after one call of each that does not count.

    A sample of a side that is much quicker than the slowest one is the mean of several calls.
    """
    loops = _loops([_first_calls(side, device, clock) for side in sides])
    samples: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, count, taken in zip(sides, loops, samples, strict=True):
            started = clock()
            for _ in range(count):
                side()
            wait_for(device)
            taken.append((clock() - started) / count)
    return [Times(tuple(taken)) for taken in samples]


def _first_calls(side: Call, device: torch.device, clock: Clock) -> float:
    """Seconds of a call: of the first one, with all that is done once, only where it is long."""
    for _ in range(2):
        started = clock()
        side()
        wait_for(device)
        seconds = clock() - started
        if seconds > LONG_CALL:
            break
    return max(seconds, 1e-6)


def _loops(seconds: Sequence[float]) -> list[int]:
    """Calls a sample of each side."""
    least = max(SHORTEST_SAMPLE, LEAST_SHARE * max(seconds))
    return [max(1, round(least / one)) for one in seconds]


def ceilings(device: torch.device, repeats: int = 5, clock: Clock = time.perf_counter) -> Ceilings:
    """The machine's copy and float32 matrix product (no tf32), the best of some repeats."""
    side, copy_bytes = CEILING_SIZES[device.type]
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    source = torch.empty(copy_bytes // 4, device=device)
    target = torch.empty_like(source)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        (product, copied) = interleaved(
            [lambda: torch.mm(a, b), lambda: target.copy_(source)], repeats, device, clock
        )
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return Ceilings(
        gflops=2 * side**3 / min(product.samples) / 1e9,
        gigabytes=2 * copy_bytes / min(copied.samples) / 1e9,
    )


def peak_bytes(call: Call, device: torch.device) -> int:
    """What one call needs at most, above what is held before it.

    On the CPU to be used once in a process, for memory that an allocator has kept does not show.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    _give_back()
    before = _reset_peak()
    call()
    return max(_peak() - before, 0)


def free_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    values = {line.split(":")[0]: line.split()[1] for line in lines}
    return int(values["MemAvailable"]) * 1024


def load() -> float | None:
    """Processes that wanted a core in the last minute, on average."""
    try:
        return float(Path("/proc/loadavg").read_text(encoding="ascii").split()[0])
    except OSError:
        return None


def _give_back() -> None:
    """Ask the C library to return memory that was freed, so that its reuse counts."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _reset_peak() -> int:
    """Set the peak back to what is resident now, where the system can; returns the start."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return _peak()
    return _status("VmRSS")


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024

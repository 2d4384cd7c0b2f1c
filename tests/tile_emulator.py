"""The CUDA kernels' tile code, compiled by the C++ compiler and run thread by thread on the CPU.

Built once for each state of the sources, under build/; two test processes at once are safe.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lines_reference import Activation
from torch import Tensor

from torch_utils import native

TILES = native.SOURCES / "tiles"
FOLDER = native.BUILD_ROOT.parent / "emulator"
FLAGS = ("-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")

ELEMENTS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
NONE, LRELU, FROM_MASK = 0, 1, 2
# Shared memory of a block and of a multiprocessor, in bytes, and multiprocessors: what every card
# has, an Ada, and a Hopper.
DEVICES = {
    "48 KB": (48 << 10, 64 << 10, 20),
    "99 KB": (99 << 10, 100 << 10, 128),
    "227 KB": (227 << 10, 228 << 10, 132),
}


@functools.cache
def library() -> ctypes.CDLL:
    """The emulator; skips the test where there is no C++ compiler."""
    cxx = native.compiler()
    if cxx is None:
        pytest.skip("no C++ compiler to build the tile emulator with")
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in sorted(TILES.iterdir()):
        digest.update(path.read_bytes())
    FOLDER.mkdir(parents=True, exist_ok=True)
    target = FOLDER / f"{digest.hexdigest()[:16]}.so"
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_file():
            with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
                made = Path(scratch) / "emulator.so"
                command = [cxx, *FLAGS, str(TILES / "emulate.cpp"), "-o", str(made)]
                subprocess.run(command, check=True)
                made.replace(target)
    return ctypes.CDLL(str(target))


@dataclass(frozen=True)
class Call:
    """One call of two filters, as the operators' schema has it. Pairs are (x, y)."""

    samples: int
    channels: int
    size: tuple[int, int]
    mid: tuple[int, int]
    out: tuple[int, int]
    up: tuple[int, int]
    down: tuple[int, int]
    up_start: tuple[int, int]
    down_start: tuple[int, int]
    up_taps: Tensor  # float64, 1-D or 2-D
    down_taps: Tensor
    activation: int = NONE
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    device: tuple[int, int, int] = DEVICES["99 KB"]
    general: bool = False
    backwards: bool = False

    def numbers(self) -> ctypes.Array[ctypes.c_int]:
        """As emulate.cpp reads them."""
        counts = [[t.shape[-1], t.shape[0]] for t in (self.up_taps, self.down_taps)]
        values = [
            self.samples, self.channels, *self.size, *self.mid, *self.out, *self.up, *self.down,
            *self.up_start, *self.down_start, *counts[0], *counts[1],
            self.up_taps.ndim == 2, self.down_taps.ndim == 2, ELEMENTS[self.dtype],
            self.activation, self.channels_last, *self.device, self.general, self.backwards,
        ]  # fmt: skip
        return (ctypes.c_int * len(values))(*[int(value) for value in values])


@dataclass(frozen=True)
class Plan:
    """What the planner chose. `kernel`: place in kCases, -1 for the general one."""

    fits: bool
    kernel: int
    tile: tuple[int, int]
    planes: int
    shared_bytes: int


def plan(call: Call) -> Plan:
    """The kernel and the tile that a call gets."""
    out = (ctypes.c_int * 6)()
    library().animedrag_plan(call.numbers(), out)
    fits, kernel, tile_x, tile_y, planes, shared = out
    return Plan(bool(fits), kernel, (tile_x, tile_y), planes, shared)


def guarded(x: Tensor, channels_last: bool) -> Tensor:
    """x in that layout with NaN before and after: a read outside shows in the result."""
    line = x.permute(0, 2, 3, 1) if channels_last else x
    around = torch.full([x.numel() + 512], float("nan"), dtype=x.dtype)
    around[256:-256] = line.reshape(-1)
    inner = around[256:-256].view(line.shape)
    return inner.permute(0, 3, 1, 2) if channels_last else inner


def run(
    call: Call, x: Tensor, bias: Tensor | None, mask: Tensor | None,
    gain: float = 1.0, slope_gain: float = 1.0, limit: float = float("inf"),
) -> Tensor:  # fmt: skip
    """The kernel's output for x of the call's dtype; `mask` is read or written in place."""
    shape = [call.samples, call.channels, call.out[1], call.out[0]]
    y = guarded(torch.full(shape, float("nan"), dtype=call.dtype), call.channels_last)
    x = guarded(x.to(call.dtype), call.channels_last)
    bias = None if bias is None else bias.to(call.dtype).contiguous()
    message = ctypes.create_string_buffer(300)
    constants = (ctypes.c_double * 3)(gain, slope_gain, limit)

    def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
        return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())

    up_taps, down_taps = call.up_taps.contiguous(), call.down_taps.contiguous()
    failed = library().animedrag_fir(
        call.numbers(), constants, pointer(x), pointer(bias), pointer(mask), pointer(y),
        pointer(up_taps), pointer(down_taps), message, len(message),
    )  # fmt: skip
    assert not failed, message.value.decode()
    return y


def run_stream(call: Call, x: Tensor) -> Tensor:
    """The output of the kernel for short filters."""
    shape = [call.samples, call.channels, call.out[1], call.out[0]]
    y = guarded(torch.full(shape, float("nan"), dtype=call.dtype), call.channels_last)
    x = guarded(x.to(call.dtype), call.channels_last)
    up_taps, down_taps = call.up_taps.contiguous(), call.down_taps.contiguous()
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, y, up_taps, down_taps)]
    assert library().animedrag_stream(call.numbers(), *pointers) == 0, "no kernel for this filter"
    return y


def run_pointwise(
    x: Tensor, y: Tensor | None, bias: Tensor | None, levels: Activation, side_by_side: bool,
    packed: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The output (or, with the forward's y, the gradient for x = dy), and the sums of channels."""
    x = guarded(x, side_by_side)
    y = None if y is None else guarded(y, side_by_side)
    out = guarded(torch.full_like(x, float("nan")), side_by_side)
    channels, run = x.shape[1], x.shape[2] * x.shape[3]
    numbers = [x.shape[0], channels, 1 if side_by_side else run, channels * run]
    numbers += [ELEMENTS[x.dtype], int(packed), int(y is not None)]
    sums = torch.zeros([channels], dtype=torch.float64)
    library().animedrag_pointwise(
        (ctypes.c_int * len(numbers))(*numbers),
        (ctypes.c_double * 3)(levels.gain, levels.slope_gain, levels.limit),
        *[ctypes.c_void_p(None if t is None else t.data_ptr()) for t in (x, y, bias, out, sums)],
    )
    return out, sums


def divide(n: int, d: int) -> int:
    """n // d as a kernel computes it."""
    function = library().animedrag_divide
    function.restype = ctypes.c_uint
    return int(function(ctypes.c_uint(n), ctypes.c_uint(d)))


def to_half(value: float) -> int:
    """The bits of a float rounded to a half."""
    return int(library().animedrag_to_half(ctypes.c_float(value)))


def to_bfloat(value: float) -> int:
    """The bits of a float rounded to a bfloat."""
    return int(library().animedrag_to_bfloat(ctypes.c_float(value)))


def from_half(bits: int) -> float:
    """The value of a half's bits."""
    function = library().animedrag_from_half
    function.restype = ctypes.c_float
    return float(function(ctypes.c_uint(bits)))

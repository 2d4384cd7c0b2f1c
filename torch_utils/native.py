"""Compiled operators: build them ahead of time, load them, say which implementation runs and why.

`build` is for the command line (`make kernels`); nothing is ever compiled in the middle of a run.
The library lies under build/kernels/, named by a stamp of everything that went into it, so another
torch, compiler or source never meets an old build. Without it, or with ANIMEDRAG_KERNELS=off, every
operator runs in plain torch. Knows nothing about what the operators compute.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

SOURCES = Path(__file__).resolve().parent / "csrc"
BUILD_ROOT = Path(__file__).resolve().parent.parent / "build" / "kernels"
SWITCH = "ANIMEDRAG_KERNELS"

COMMON_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fno-math-errno", "-ffp-contract=fast", "-w")

# Object, the C++ table it exports, its scalar, and the instruction sets its compiler may use.
X86_TABLES = (
    ("baseline", "float", ("-msse2",)),
    ("avx2", "float", ("-mavx2", "-mfma")),
    ("avx512", "float", ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma")),
    ("double", "double", ("-msse2",)),
)
# Elsewhere (AArch64) the compiler's default already has the vectors of the architecture.
OTHER_TABLES = (("baseline", "float", ()), ("double", "double", ()))


class BuildError(Exception):
    """The kernels cannot be built here; the message is one sentence with the remedy."""


@dataclass(frozen=True)
class Status:
    """Whether compiled operators run, and why (not), as the end of a sentence."""

    loaded: bool
    reason: str


def compiler() -> str | None:
    """The C++ compiler that would be used: $CXX, else the first one found."""
    chosen = os.environ.get("CXX")
    names = [chosen] if chosen else ["c++", "g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


def stamp() -> str:
    """Sixteen hex digits that change with the sources, torch, the machine's kind or the flags."""
    digest = hashlib.sha256()
    parts = [torch.__version__, platform.machine(), sys.platform, *COMMON_FLAGS, str(_tables())]
    digest.update("\0".join(parts).encode())
    for path in [SOURCES / "ops.cpp", *sorted((SOURCES / "cpu").iterdir())]:
        if path.suffix in (".cpp", ".h"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def library_path() -> Path:
    """Where the library of the present sources and torch lies, built or not."""
    return BUILD_ROOT / stamp() / "animedrag_ops.so"


@functools.cache
def status() -> Status:
    """Load the compiled operators if they are there (once a process); say which run and why."""
    if os.environ.get(SWITCH, "on").lower() in ("off", "0", "no"):
        return Status(False, f"switched off by {SWITCH}")
    path = library_path()
    if not path.is_file():
        return Status(False, "not built (run: make kernels)")
    try:
        torch.ops.load_library(str(path))
        built = torch.ops.animedrag.build_stamp()
    except (OSError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:200]
        return Status(False, f"cannot be loaded: {reason} (run: make kernels)")
    if built != stamp():
        return Status(False, "made from other sources (run: make kernels)")
    return Status(True, f"C++, {torch.ops.animedrag.instruction_set()}")


def runs_on(x: torch.Tensor) -> bool:
    """Whether the compiled operators take this tensor: on the CPU, float32 or float64."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > 0
        and status().loaded
    )


def build(verbose: bool = False) -> Path:
    """Compile the operators (ninja shows its progress); returns the library.

    Two builds at once are safe: the second waits, then finds the first one's result.
    Raises BuildError where there is no compiler, or where it fails.
    """
    target = library_path()
    cxx = compiler()
    if cxx is None:
        raise BuildError(
            "No C++ compiler was found, so every operator runs in plain torch (several times "
            "slower); to have the compiled ones, install g++ or clang++ and run: make kernels."
        )
    if os.name == "nt":
        raise BuildError("The compiled operators are made for Linux and macOS; torch's run here.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_file():
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                made = _run_ninja(Path(scratch), cxx, verbose)
                made.replace(target)
    return target


def _tables() -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    return X86_TABLES if platform.machine() in ("x86_64", "AMD64") else OTHER_TABLES


def _run_ninja(folder: Path, cxx: str, verbose: bool) -> Path:
    import ninja

    (folder / "build.ninja").write_text(_ninja_file(cxx), encoding="utf-8")
    command = [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(folder)]
    result = subprocess.run(
        command, stdout=None if verbose else subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if result.returncode != 0:
        log = BUILD_ROOT / "failed.log"
        log.write_bytes(result.stdout or b"")
        raise BuildError(
            f"{Path(cxx).name} could not compile the operators (its output: {log}); every operator "
            "runs in plain torch instead, several times slower."
        )
    return folder / "animedrag_ops.so"


def _ninja_file(cxx: str) -> str:
    """The build as ninja reads it: planes.cpp once for each instruction set, then the rest."""
    from torch.utils.cpp_extension import include_paths, library_paths

    openmp = "-fopenmp" if sys.platform == "linux" else ""
    includes = " ".join(f"-isystem {path}" for path in include_paths())
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    libraries = " ".join(f"-L{path} -Wl,-rpath,{path}" for path in library_paths())
    lines = [
        f"cxx = {cxx}",
        f"flags = {' '.join(COMMON_FLAGS)} {openmp} {abi}",
        f"includes = {includes}",
        f"libraries = {libraries} -ltorch_cpu -lc10 {openmp}",
        "rule compile",
        "  command = $cxx $flags $more -c $in -o $out",
        "  description = compiling $out",
        "rule link",
        "  command = $cxx -shared $in -o $out $libraries",
        "  description = linking $out",
    ]
    objects = []
    for name, scalar, sets in _tables():
        objects.append(f"planes_{name}.o")
        lines += [
            f"build planes_{name}.o: compile {SOURCES / 'cpu' / 'planes.cpp'}",
            f"  more = {' '.join(sets)} -DANIMEDRAG_SCALAR={scalar} "
            f"-DANIMEDRAG_KERNELS=kernels_{name} '-DANIMEDRAG_NAME=\"{name}\"'",
        ]
    for source in (SOURCES / "ops.cpp", SOURCES / "cpu" / "ops_cpu.cpp"):
        objects.append(f"{source.stem}.o")
        lines += [
            f"build {source.stem}.o: compile {source}",
            f"  more = $includes '-DANIMEDRAG_STAMP=\"{stamp()}\"'",
        ]
    lines += [f"build animedrag_ops.so: link {' '.join(objects)}", "default animedrag_ops.so", ""]
    return "\n".join(lines)

"""The CPU arithmetic, compiled for each instruction set, against plain loops, without torch.

What this processor lacks runs in an emulator where one is installed (NEON: Debian's
g++-aarch64-linux-gnu and qemu-user), and is only compiled where it is not.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from torch_utils import native


@dataclass(frozen=True)
class Target:
    """One compilation: its table, flags, and how to run what comes out ([]: as it is)."""

    table: str
    compiler: str
    flags: tuple[str, ...]
    run: tuple[str, ...] | None  # None: compile only


def own_targets() -> list[Target]:
    """The tables of this processor's architecture but the one that every other test runs.

    Those it lacks are compiled only.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return [Target("baseline", native.compiler() or "c++", (), ())]
    best = {"DEFAULT": 0, "AVX2": 1, "AVX512": 2}.get(torch.backends.cpu.get_cpu_capability(), 0)
    return [
        Target(name, native.compiler() or "c++", flags, () if level <= best else None)
        for level, (name, scalar, flags) in enumerate(native.X86_TABLES)
        if scalar == "float" and level != best
    ]


NEON = Target("neon", "aarch64-linux-gnu-g++", ("-static",), ("qemu-aarch64",))


def shared_definitions(made: str) -> list[str]:
    """Functions that the linker may take from this object file for all the others.

    It keeps one definition of an inline function or template. From an object that was compiled for
    AVX-512, it would stop a processor that has none.
    """
    if shutil.which("nm") is None:
        return []
    listed = subprocess.run(["nm", "-C", made], capture_output=True, text=True, check=True)
    return re.findall(r"^[0-9a-f]+ [WVu] (.*)$", listed.stdout, re.MULTILINE)


@pytest.mark.parametrize("target", [*own_targets(), NEON], ids=lambda target: target.table)
def test_every_instruction_set(target: Target, tmp_path: Path, root: Path) -> None:
    if shutil.which(target.compiler) is None:
        pytest.skip(f"no {target.compiler} here")
    cpu = root / "torch_utils" / "csrc" / "cpu"
    program = tmp_path / "check"
    table = f"kernels_{'baseline' if target.table == 'neon' else target.table}"
    command = [target.compiler, *native.COMMON_FLAGS, *target.flags, f"-I{cpu}"]
    command += ["-DANIMEDRAG_SCALAR=float", f"-DANIMEDRAG_KERNELS={table}"]
    command += [f'-DANIMEDRAG_NAME="{target.table}"']
    made = str(tmp_path / "planes.o")
    subprocess.run([*command, "-c", str(cpu / "planes.cpp"), "-o", made], check=True)
    assert shared_definitions(made) == []
    check = str(root / "tests" / "planes_check.cpp")
    subprocess.run([*command, check, made, "-o", str(program)], check=True)
    if target.run is None:
        pytest.skip(f"this processor has no {target.table}; it compiles")
    if target.run and shutil.which(target.run[0]) is None:
        pytest.skip(f"it compiles; to run it here, install {target.run[0]}")
    result = subprocess.run([*target.run, str(program)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith(target.table)

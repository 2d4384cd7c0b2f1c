"""The CUDA sources compile for sm_89 and sm_90, keep all in registers, and fit their binding.

Needs nvcc, not a GPU. What ptxas said is kept under build/ for each state of the sources.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import ninja
import pytest

from torch_utils import native, toolkit
from torch_utils.toolkit import Toolkit

CUDA = native.SOURCES / "cuda"
FOLDER = native.BUILD_ROOT.parent / "cuda-check"
ARCHITECTURES = (89, 90)
# Where the machine has no nvcc: NVIDIA's packages, which hold all of it that a .cu file needs.
PACKAGES = ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-cuda-runtime", "nvidia-nvvm",
            "nvidia-cuda-cccl")  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of one kernel; sizes in bytes."""

    name: str
    architecture: int
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    constant_tables: int  # __constant__ memory: cmem[3]


def parse(said: str) -> list[Kernel]:
    """ptxas -v's report as one record a kernel."""
    kernels = []
    for part in re.split(r"Compiling entry function '", said)[1:]:

        def number(pattern: str, text: str = part) -> int:
            found = re.search(pattern, text)
            return int(found[1]) if found else 0

        registers = number(r"Used (\d+) registers")
        assert registers > 0, part
        kernels.append(
            Kernel(
                name=part.split("'")[0],
                architecture=number(r"' for 'sm_(\d+)'"),
                registers=registers,
                stack=number(r"(\d+) bytes stack frame"),
                spill_stores=number(r"(\d+) bytes spill stores"),
                spill_loads=number(r"(\d+) bytes spill loads"),
                constant_tables=number(r"(\d+) bytes cmem\[3\]"),
            )
        )
    return kernels


@pytest.fixture(scope="module")
def kit() -> Toolkit:
    """nvcc of the machine, else of the packages; skips where neither can be had."""
    found = toolkit.find_toolkit()
    if found is not None:
        return found
    folder = FOLDER / "nvcc"
    if not list(folder.glob("nvidia/*/bin/nvcc")):
        bounded = [f"{name}>=13,<14" for name in PACKAGES]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        result = subprocess.run([*command, str(folder), *bounded], check=False)
        if result.returncode != 0:
            pytest.skip("no nvcc on this machine, and NVIDIA's packages cannot be installed")
    nvcc = next(iter(folder.glob("nvidia/*/bin/nvcc")), None)
    version = nvcc and toolkit.nvcc_version(nvcc)
    if nvcc is None or version is None:
        pytest.skip("no nvcc on this machine, and that of NVIDIA's packages does not run here")
    return Toolkit(nvcc, version, nvcc.parent.parent)


@pytest.fixture(scope="module")
def built(kit: Toolkit) -> Path:
    """The folder with every object of the real build's commands, and ptxas's report: said.txt."""
    cxx = native.compiler()
    if cxx is None:
        pytest.skip("no C++ compiler")
    flags = [*toolkit.gencode_flags(list(ARCHITECTURES), None), "-Xptxas", "-v"]
    text = native._cuda_ninja_file(cxx, kit, flags, "library.so")
    # The binding's own speed is not looked at, and its headers take long enough.
    text = text.replace(f"'{cxx}' -std=c++20 -O3", f"'{cxx}' -std=c++20 -O0")
    assert "-O0" in text
    digest = hashlib.sha256(f"{kit.version} {text}".encode())
    for path in sorted([*CUDA.iterdir(), *(native.SOURCES / "tiles").iterdir()]):
        digest.update(path.read_bytes())
    folder = FOLDER / digest.hexdigest()[:16]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "said.txt").is_file():
            # Of other sources, or of a build that was cut off.
            for old in FOLDER.glob("*/build.ninja"):
                shutil.rmtree(old.parent)
            folder.mkdir()
            (folder / "build.ninja").write_text(text)
            targets = [f"{path.stem}.cu.o" for path in CUDA.glob("*.cu")]
            ninja_program = str(Path(ninja.BIN_DIR) / "ninja")
            command = [ninja_program, "-C", str(folder), *targets, "ops_cuda.o"]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stdout[-4000:]
            aside = folder / "said.tmp"
            aside.write_text(result.stdout)
            aside.replace(folder / "said.txt")
    return folder


@pytest.fixture(scope="module")
def kernels(built: Path) -> list[Kernel]:
    """Every kernel of every source and architecture."""
    return parse((built / "said.txt").read_text())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_kernel_spills_or_uses_local_memory(arch: int, kernels: list[Kernel]) -> None:
    kernels = [kernel for kernel in kernels if kernel.architecture == arch]
    assert len(kernels) >= 50
    names = " ".join(kernel.name for kernel in kernels)
    for kind in ("fir_kernel", "general_kernel", "stream_kernel", "forward_kernel"):
        assert kind in names
    spilling = [k for k in kernels if k.stack or k.spill_stores or k.spill_loads]
    assert not spilling
    # Filters are arguments: a table in constant memory would be shared by all streams and graphs.
    assert not [kernel for kernel in kernels if kernel.constant_tables]
    # Two blocks of 256 threads share a multiprocessor's 65536 registers.
    assert max(kernel.registers for kernel in kernels) <= 128


SPILLING = """
__global__ void spills(const float* in, float* out, int n) {
  float kept[300];
  for (int i = 0; i < 300; ++i) kept[i] = in[i * n + threadIdx.x];
  for (int i = 0; i < 300; ++i) out[i * n] = kept[(i * n) % 300] * kept[i];
}
"""


def test_the_test_sees_local_memory(kit: Toolkit, tmp_path: Path) -> None:
    source = tmp_path / "spills.cu"
    source.write_text(SPILLING)
    command = [str(kit.nvcc), "-arch=sm_90", "-Xptxas", "-v", f"-I{kit.include}", "-cubin",
               str(source), "-o", str(tmp_path / "spills.cubin")]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    (kernel,) = parse(said)
    assert kernel.stack > 1000


def test_the_binding_finds_its_kernels(built: Path) -> None:
    """Every launch that the binding calls is in some kernel's object file."""

    def symbols(path: Path, kind: str) -> set[str]:
        listed = subprocess.run(["nm", str(path)], capture_output=True, text=True, check=True)
        return set(re.findall(rf" {kind} (_ZN9animedrag\S*launch\S*)", listed.stdout))

    defined = set().union(*(symbols(path, "T") for path in built.glob("*.cu.o")))
    called = symbols(built / "ops_cuda.o", "U")
    assert len(called) >= 5
    assert called <= defined

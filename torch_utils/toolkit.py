"""Compilers: which there are, what they can make, and whether they fit torch and each other.

Pure functions of versions, and look-ups on this machine; imports no torch. Knows nothing about the
operators that are compiled.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

Version = tuple[int, int]

# The first CUDA version whose nvcc makes code for an architecture (NVIDIA's release notes).
ARCHITECTURES: dict[int, Version] = {
    80: (11, 0),
    86: (11, 1),
    89: (11, 8),
    90: (11, 8),
    100: (12, 8),
    120: (12, 8),
}
OLDEST_NVCC: Version = (11, 8)
OLDEST_CAPABILITY: Version = (8, 0)

# The newest host compiler that nvcc of this version and later takes (crt/host_config.h).
NEWEST_GCC: tuple[tuple[Version, int], ...] = (
    ((11, 8), 11),
    ((12, 0), 12),
    ((12, 4), 13),
    ((12, 8), 14),
    ((13, 0), 15),
)
NEWEST_CLANG: tuple[tuple[Version, int], ...] = (
    ((11, 8), 14),
    ((12, 1), 15),
    ((12, 2), 16),
    ((12, 4), 17),
    ((12, 6), 18),
    ((12, 8), 19),
    ((13, 0), 20),
)
# torch's own headers are C++20.
OLDEST_GCC, OLDEST_CLANG = 11, 14

# The oldest driver for a CUDA major version (NVIDIA's release notes, Linux).
OLDEST_DRIVER: dict[int, str] = {11: "450.80", 12: "525.60", 13: "580.65"}


def text(version: Version) -> str:
    """(12, 8) => "12.8"."""
    return f"{version[0]}.{version[1]}"


def parse_version(value: str) -> Version | None:
    """The first "major.minor" (or lone major) in a text."""
    found = re.search(r"(\d+)(?:\.(\d+))?", value)
    return (int(found[1]), int(found[2] or 0)) if found else None


# ---- C++ ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler. `version` is its major number, None where it does not say."""

    path: str
    family: str  # gcc or clang
    version: int | None
    said: str  # the first line of --version


def compiler() -> str | None:
    """The C++ compiler that would be used: $CXX, else the first one found."""
    chosen = os.environ.get("CXX")
    names = [chosen] if chosen else ["c++", "g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


def examine_compiler(path: str) -> Compiler | None:
    """What a compiler says of itself; None where it does not run."""
    said = _said([path, "--version"])
    if said is None:
        return None
    line = said.splitlines()[0] if said else path
    family = "clang" if "clang" in line.lower() else "gcc"
    number = _said([path, "-dumpversion"])
    version = parse_version(number) if number else None
    return Compiler(path, family, version[0] if version else None, line)


def compiler_problem(found: Compiler) -> str | None:
    """Why this compiler cannot make the operators, with the remedy; None where it can."""
    oldest = OLDEST_CLANG if found.family == "clang" else OLDEST_GCC
    if found.version is not None and found.version < oldest:
        return (
            f"{Path(found.path).name} {found.version} is too old for torch's headers; install "
            f"g++ {OLDEST_GCC} or clang++ {OLDEST_CLANG} or later, and name it in CXX"
        )
    return None


def torch_compile_problem(device_type: str) -> str | None:
    """What torch.compile lacks on this machine for a device ("cpu" or "cuda"), with the remedy."""
    if device_type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "the package triton is not installed; pip install triton"
        return None
    path = compiler()
    if path is None:
        return "there is no C++ compiler; install g++ or clang++"
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not headers.is_file():
        return f"{headers} is missing; install Python's headers (python3-dev)"
    found = examine_compiler(path)
    return f"{path} does not run" if found is None else compiler_problem(found)


# ---- CUDA --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toolkit:
    """nvcc and the folder with its include/ and libraries."""

    nvcc: Path
    version: Version
    root: Path

    @property
    def include(self) -> Path:
        return self.root / "include"

    def library(self) -> Path | None:
        """The CUDA runtime to link with: the static one, else the shared one."""
        folders = [self.root / "lib64", self.root / "lib", self.root / "targets/x86_64-linux/lib"]
        for pattern in ("libcudart_static.a", "libcudart.so", "libcudart.so.*"):
            for folder in folders:
                if found := sorted(folder.glob(pattern)):
                    return found[0]
        return None


def nvcc_candidates() -> list[Path]:
    """Where nvcc may be, best first: what the user names, PATH, the usual places, packages."""
    named = [os.environ.get("CUDACXX")]
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    named += [str(Path(home) / "bin" / "nvcc") for home in homes if home]
    named.append(shutil.which("nvcc"))
    named.append("/usr/local/cuda/bin/nvcc")
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    found = [Path(path) for path in named if path]
    found += sorted(packages.glob("cu*/bin/nvcc"), reverse=True)
    return [path for path in found if path.is_file() and os.access(path, os.X_OK)]


def find_toolkit() -> Toolkit | None:
    """The first nvcc that runs and has its headers beside it."""
    for nvcc in nvcc_candidates():
        version = nvcc_version(nvcc)
        root = _toolkit_root(nvcc)
        if version and root:
            return Toolkit(nvcc, version, root)
    return None


def nvcc_version(nvcc: Path) -> Version | None:
    """The version an nvcc reports; None where it does not run."""
    said = _said([str(nvcc), "--version"])
    found = re.search(r"release (\d+)\.(\d+)", said or "")
    return (int(found[1]), int(found[2])) if found else None


def _toolkit_root(nvcc: Path) -> Path | None:
    """The folder that holds include/cuda_runtime_api.h: nvcc may be a link or a small script."""
    guesses = [nvcc.resolve().parent.parent, nvcc.parent.parent]
    script = nvcc.read_bytes()[:400]
    if script.startswith(b"#!"):
        paths = re.findall(rb"(/\S+)/bin/nvcc", script)
        guesses += [Path(path.decode(errors="replace")) for path in paths]
    guesses.append(Path("/usr/local/cuda"))
    for root in guesses:
        if (root / "include" / "cuda_runtime_api.h").is_file():
            return root
    return None


def architectures(nvcc: Version) -> list[int]:
    """The architectures of the support matrix that this nvcc makes code for."""
    return [arch for arch, since in ARCHITECTURES.items() if since <= nvcc]


def targets(
    nvcc: Version, devices: list[Version] | None = None, wanted: str = ""
) -> tuple[list[int], int | None]:
    """What to compile for: architectures, and the one whose PTX goes along (None: none).

    `wanted` ("all", or "8.9;9.0", "89 90") decides where given; else the capabilities of the
    `devices` at hand do; without any of them, everything. A device runs the code of its own major
    number's newest architecture that is no newer than it; else the PTX of an earlier one. Raises
    ValueError, in one sentence, for what this nvcc or this program cannot serve.
    """
    able = architectures(nvcc)
    if not able:
        raise ValueError(
            f"nvcc {text(nvcc)} is older than {text(OLDEST_NVCC)}; install a newer CUDA toolkit"
        )
    if wanted and wanted != "all":
        chosen = [_architecture(word) for word in re.split(r"[;,\s]+", wanted.strip()) if word]
        for arch in chosen:
            if arch not in able:
                raise ValueError(
                    f"nvcc {text(nvcc)} makes no code for sm_{arch}; it can: "
                    + ", ".join(f"sm_{one}" for one in able)
                )
        return sorted(set(chosen)), None
    if wanted == "all" or not devices:
        return able, able[-1]
    found: set[int] = set()
    ptx: int | None = None
    for major, minor in sorted(devices):
        if (major, minor) < OLDEST_CAPABILITY:
            continue
        same = [arch for arch in able if arch // 10 == major and arch % 10 <= minor]
        if same:
            found.add(same[-1])
            continue
        earlier = [arch for arch in able if arch <= major * 10 + minor]
        ptx = earlier[-1] if ptx is None else min(ptx, earlier[-1])
    if not found and ptx is None:
        newest = max(devices)
        raise ValueError(
            f"the GPU (sm_{newest[0]}{newest[1]}) is older than sm_80, for which the kernels are "
            "written; it runs plain torch"
        )
    return sorted(found), ptx


def tag_of(chosen: list[int], ptx: int | None) -> str:
    """([80, 89], 90) => "sm_80-sm_89-ptx_90": what a library is for, in its name."""
    return "-".join([*(f"sm_{arch}" for arch in chosen), *([f"ptx_{ptx}"] if ptx else [])])


def tag_serves(tag: str, devices: list[Version]) -> bool:
    """Whether a library with this tag in its name runs on all these devices."""
    code = [int(arch) for arch in re.findall(r"sm_(\d+)", tag)]
    later = [int(arch) for arch in re.findall(r"ptx_(\d+)", tag)]
    return all(
        any(arch // 10 == major and arch % 10 <= minor for arch in code)
        or any(arch <= major * 10 + minor for arch in later)
        for major, minor in devices
    )


def _architecture(word: str) -> int:
    found = re.fullmatch(r"(?:sm_)?(\d+)\.?(\d)", word)
    if not found:
        raise ValueError(f'"{word}" is no architecture; write for example "8.9;9.0"')
    return int(found[1] + found[2])


def gencode_flags(chosen: list[int], ptx: int | None) -> list[str]:
    """nvcc's options for code of these architectures, and PTX."""
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in chosen]
    if ptx is not None:
        flags.append(f"-gencode=arch=compute_{ptx},code=compute_{ptx}")
    return flags


def host_compiler_problem(nvcc: Version, family: str, version: int | None) -> str | None:
    """Why nvcc refuses this host compiler, with the remedy; None where it takes it."""
    table = NEWEST_CLANG if family == "clang" else NEWEST_GCC
    newest = max((most for since, most in table if since <= nvcc), default=None)
    if newest is None or version is None or version <= newest:
        return None
    name = "clang++" if family == "clang" else "g++"
    return (
        f"nvcc {text(nvcc)} takes {name} up to {newest}, and this one is {version}; install "
        f"{name}-{newest} and run: CXX={name}-{newest} make kernels"
    )


def torch_mismatch(nvcc: Version, torch_cuda: str | None) -> str | None:
    """Why kernels of this nvcc do not go with torch, with the remedy; None where they do.

    Within one major version CUDA's runtimes are compatible.
    """
    if torch_cuda is None:
        return (
            "this torch is built for the CPU only; on a machine with an NVIDIA GPU install the "
            "CUDA build of the same version (pytorch.org/get-started)"
        )
    version = parse_version(torch_cuda)
    if version is None or version[0] == nvcc[0]:
        return None
    return (
        f"torch is built for CUDA {torch_cuda} and nvcc is {text(nvcc)}; install the CUDA toolkit "
        f"{version[0]}.x, or point CUDA_HOME at it"
    )


def driver_version() -> str | None:
    """The NVIDIA driver's version as nvidia-smi says it; None without one."""
    said = _said(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return said.splitlines()[0].strip() if said and said.strip() else None


def driver_problem(driver: str | None, torch_cuda: str | None) -> str | None:
    """Why this driver does not run torch's CUDA, with the remedy; None where it does."""
    wanted = parse_version(torch_cuda) if torch_cuda else None
    have = parse_version(driver) if driver else None
    oldest = OLDEST_DRIVER.get(wanted[0]) if wanted else None
    if have is None or oldest is None or have >= (parse_version(oldest) or (0, 0)):
        return None
    return (
        f"the NVIDIA driver {driver} is too old for torch's CUDA {torch_cuda}: update it to "
        f"{oldest} or later, or install a torch for an older CUDA"
    )


def _said(command: list[str]) -> str | None:
    """What a program prints; None where it is missing or fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None

"""Compiled operators: build them ahead of time, load them, say which implementation runs and why.

`build` and `build_cuda` are for the command line (`make kernels`); nothing is ever compiled in the
middle of a run. Libraries lie under build/kernels/, each named by a stamp of everything that went
into it, so another torch, source or GPU never meets an old build. Without one, or with
ANIMEDRAG_KERNELS=off, every operator runs in plain torch. Knows nothing about what the operators
compute.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from torch_utils import toolkit
from torch_utils.toolkit import Toolkit, compiler

SOURCES = Path(__file__).resolve().parent / "csrc"
BUILD_ROOT = Path(__file__).resolve().parent.parent / "build" / "kernels"
SWITCH = "ANIMEDRAG_KERNELS"
# Architectures to compile CUDA kernels for, "8.9;9.0" or "all"; by default those of the GPUs here.
ARCHITECTURES = "ANIMEDRAG_CUDA_ARCHS"

COMMON_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fno-math-errno", "-ffp-contract=fast", "-w")
NVCC_FLAGS = ("-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC,-w")
# The binding compiles against any torch's headers with this: it uses none of that file's settings.
BINDING_FLAGS = ("-DC10_USING_CUSTOM_GENERATED_MACROS",)

# What plain torch costs, from docs/bench.md's measurements on a CPU.
PLAIN_COST = "several times slower"

# Object, the C++ table it exports, its scalar, and the instruction sets its compiler may use.
X86_TABLES = (
    ("baseline", "float", ("-msse2",)),
    ("avx2", "float", ("-mavx2", "-mfma")),
    ("avx512", "float", ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma")),
    ("double", "double", ("-msse2",)),
)
# Elsewhere (AArch64) the compiler's default already has the vectors of the architecture.
OTHER_TABLES = (("baseline", "float", ()), ("double", "double", ()))

# Called with steps done, steps in all, and what is being made; with 0 of 0, what is waited for.
Report = Callable[[int, int, str], None]


class BuildError(Exception):
    """The kernels cannot be built here; the message is one sentence with the remedy."""


@dataclass(frozen=True)
class Status:
    """Whether compiled operators run, and why (not), as the end of a sentence."""

    loaded: bool
    reason: str


# ---- which runs --------------------------------------------------------------------------------


@functools.cache
def status() -> Status:
    """Load the CPU's compiled operators if they are there (once a process); say which, why."""
    if _switched_off():
        return Status(False, f"switched off by {SWITCH}")
    return _load(
        library_path(), "build_stamp", stamp, lambda: torch.ops.animedrag.instruction_set()
    )


@functools.cache
def cuda_status() -> Status:
    """The same for the GPU's; they need the CPU library too, which holds the schemas."""
    if _switched_off():
        return Status(False, f"switched off by {SWITCH}")
    if torch.version.cuda is None:
        return Status(False, "this torch is built for the CPU only")
    if not torch.cuda.is_available():
        return Status(False, "torch sees no GPU")
    if not status().loaded:
        return status()
    oldest = min(device_capabilities())
    if oldest < toolkit.OLDEST_CAPABILITY:
        return Status(
            False, f"written for sm_80 and later, and a GPU here is sm_{oldest[0]}{oldest[1]}"
        )
    return _load(
        cuda_library_path(), "cuda_build_stamp", cuda_stamp,
        lambda: f"for {', '.join(f'sm_{a}{b}' for a, b in device_capabilities())}",
    )  # fmt: skip


def status_on(device: torch.device) -> Status:
    """The status of the operators on a device."""
    return cuda_status() if device.type == "cuda" else status()


def runs_on(x: torch.Tensor) -> bool:
    """Whether the compiled operators take this tensor: float32 and float64, on a GPU halves too."""
    if x.numel() == 0:
        return False
    if x.device.type == "cpu":
        return x.dtype in (torch.float32, torch.float64) and loaded_on("cpu")
    if x.device.type == "cuda":
        return x.is_floating_point() and x.element_size() > 1 and loaded_on("cuda")
    return False


def loaded_on(device_type: str) -> bool:
    """Whether the operators of "cpu" or "cuda" are compiled ones.

    torch.compile takes the answer as it is: it could not follow how a library is loaded.
    """
    return status_on(torch.device(device_type)).loaded


# As torch.compiler.assume_constant_result does, which imports torch's compiler for it: more than a
# second of every program's start. tests/test_opcheck.py compiles whole graphs, and so would tell.
loaded_on._dynamo_marked_constant = True  # type: ignore[attr-defined]


def device_capabilities() -> list[toolkit.Version]:
    """The capabilities of the GPUs that torch sees, each once."""
    if not torch.cuda.is_available():
        return []
    return sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})


def _switched_off() -> bool:
    return os.environ.get(SWITCH, "on").lower() in ("off", "0", "no")


def _load(
    path: Path | None, stamp_name: str, wanted: Callable[[], str], name: Callable[[], str]
) -> Status:
    if path is None or not path.is_file():
        return Status(False, "not built (run: make kernels)")
    try:
        torch.ops.load_library(str(path))
        built = getattr(torch.ops.animedrag, stamp_name)()
    except (OSError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:200]
        return Status(False, f"cannot be loaded: {reason} (run: make kernels)")
    if built != wanted():
        return Status(False, "made from other sources (run: make kernels)")
    return Status(True, f"C++, {name()}")


# ---- what a library is made of -----------------------------------------------------------------


def stamp() -> str:
    """Sixteen hex digits that change with the CPU sources, torch, the machine or the flags."""
    parts = [torch.__version__, platform.machine(), sys.platform, *COMMON_FLAGS, str(_tables())]
    return _digest(parts, [SOURCES / "ops.cpp", *sorted((SOURCES / "cpu").iterdir())])


def cuda_stamp() -> str:
    """The same for the CUDA library; the architectures it is for are in its file's name."""
    parts = [torch.__version__, str(torch.version.cuda), platform.machine(), *COMMON_FLAGS]
    parts += [*NVCC_FLAGS, *BINDING_FLAGS]
    folders = [SOURCES / "tiles", SOURCES / "cuda"]
    return _digest(parts, [path for folder in folders for path in sorted(folder.iterdir())])


def library_path() -> Path:
    """Where the CPU library of the present sources and torch lies, built or not."""
    return BUILD_ROOT / stamp() / "animedrag_ops.so"


def cuda_library_path() -> Path | None:
    """The CUDA library of the present sources and torch that serves the GPUs here, if built."""
    found = sorted((BUILD_ROOT / cuda_stamp()).glob("animedrag_cuda-*.so"))
    devices = device_capabilities()
    return next((path for path in found if toolkit.tag_serves(path.stem, devices)), None)


def _digest(parts: Iterable[str], paths: Iterable[Path]) -> str:
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in paths:
        if path.suffix in (".cpp", ".h", ".cu", ".cuh"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _tables() -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    return X86_TABLES if platform.machine() in ("x86_64", "AMD64") else OTHER_TABLES


# ---- building ----------------------------------------------------------------------------------


def build(report: Report | None = None) -> Path:
    """Compile the operators for this processor; returns the library.

    Two builds at once are safe: the second waits, then finds the first one's result. A library that
    is there is made anew only where it cannot be loaded. Raises BuildError where one must be made
    and there is no compiler, or where it fails.
    """
    if os.name == "nt":
        raise BuildError("The compiled operators are made for Linux and macOS; torch's run here.")
    library = library_path()
    if library.is_file() and _load(library, "build_stamp", stamp, lambda: "").loaded:
        return library
    cxx = _usable_compiler()
    library.unlink(missing_ok=True)
    return _build(library, lambda: _cpu_ninja_file(cxx), cxx, report)


def build_cuda(report: Report | None = None) -> Path | None:
    """Compile the kernels for the GPUs here; returns the library, None where nothing asks for it.

    Nothing does without a GPU, unless ANIMEDRAG_CUDA_ARCHS names architectures. Raises BuildError
    where something is missing or does not fit.
    """
    wanted = os.environ.get(ARCHITECTURES, "")
    if not wanted and not torch.cuda.is_available():
        return None
    if not wanted and (built := cuda_library_path()):
        return built
    cxx = _usable_compiler()
    found = _usable_toolkit(cxx)
    try:
        chosen, ptx = toolkit.targets(found.version, device_capabilities(), wanted)
    except ValueError as error:
        raise BuildError(_plain(f"No CUDA kernels: {error}")) from error
    name = f"animedrag_cuda-{toolkit.tag_of(chosen, ptx)}.so"
    flags = toolkit.gencode_flags(chosen, ptx)
    target = BUILD_ROOT / cuda_stamp() / name
    return _build(
        target, lambda: _cuda_ninja_file(cxx, found, flags, name), str(found.nvcc), report
    )


def _plain(reason: str) -> str:
    # Without kernels for a GPU, a CPU's may still be there.
    where = " on a GPU" if reason.startswith("No CUDA kernels") else ""
    return f"{reason}; until then the operators run in plain torch{where}, {PLAIN_COST}."


def _usable_compiler() -> str:
    path = compiler()
    if path is None:
        named = os.environ.get("CXX")
        missing = f"CXX={named} is not there" if named else "No C++ compiler was found"
        raise BuildError(_plain(f"{missing}; install g++ or clang++ and run: make kernels"))
    found = toolkit.examine_compiler(path)
    if found is None:
        raise BuildError(_plain(f"{path} does not run; name a C++ compiler that does in CXX"))
    problem = toolkit.compiler_problem(found)
    if problem:
        raise BuildError(_plain(problem[0].upper() + problem[1:]))
    return path


def _usable_toolkit(cxx: str) -> Toolkit:
    found = toolkit.find_toolkit()
    if found is None:
        torch_cuda = toolkit.parse_version(torch.version.cuda or "13.0")
        major = torch_cuda[0] if torch_cuda else 13
        raise BuildError(
            _plain(
                "No CUDA kernels: no nvcc with its headers was found; install the CUDA toolkit "
                f"{major}.x (developer.nvidia.com/cuda-downloads), set CUDA_HOME, run: make kernels"
            )
        )
    problems = [toolkit.torch_mismatch(found.version, torch.version.cuda)]
    examined = toolkit.examine_compiler(cxx)
    if examined is not None:
        problems.append(
            toolkit.host_compiler_problem(found.version, examined.family, examined.version)
        )
    if found.library() is None:
        problems.append(
            f"{found.root} holds no CUDA runtime (libcudart); install the whole toolkit"
        )
    for problem in problems:
        if problem:
            raise BuildError(_plain(f"No CUDA kernels: {problem}"))
    return found


def _build(
    target: Path, ninja_file: Callable[[], str], made_by: str, report: Report | None
) -> Path:
    import fcntl  # Windows has none, and builds nothing

    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if report:
                report(0, 0, "waiting for another process that compiles them")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_file():
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                folder = Path(scratch)
                (folder / "build.ninja").write_text(ninja_file(), encoding="utf-8")
                _run_ninja(folder, target.name, made_by, report)
                (folder / target.name).replace(target)
    return target


def _run_ninja(folder: Path, name: str, made_by: str, report: Report | None) -> None:
    try:
        import ninja
    except ImportError as error:
        raise BuildError(
            _plain(
                f"ninja is not installed; run: {sys.executable} -m pip install ninja; make kernels"
            )
        ) from error
    command = [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(folder)]
    environment = {**os.environ, "NINJA_STATUS": "[%f/%t] "}
    said: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            step = re.match(r"\[(\d+)/(\d+)\] (.*)", line)
            if step and report:
                report(int(step[1]), int(step[2]), step[3])
    if process.returncode != 0 or not (folder / name).is_file():
        log = BUILD_ROOT / "failed.log"
        log.write_text("".join(said), encoding="utf-8")
        raise BuildError(
            f"{Path(made_by).name} could not compile the operators (its output: {log}); they run "
            f"in plain torch instead, {PLAIN_COST}."
        )


class _Ninja:
    """A build file under construction: commands, their objects, one library."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.objects: list[str] = []

    def rule(self, name: str, command: str, verb: str) -> None:
        self.lines += [f"rule {name}", f"  command = {command}", f"  description = {verb} $out"]

    def compile(self, rule: str, source: Path, name: str, more: str = "") -> None:
        self.objects.append(name)
        escaped = re.sub(r"([ :$])", r"$\1", str(source))
        self.lines += [f"build {name}: {rule} {escaped}", f"  more = {more}"]

    def link(self, name: str) -> str:
        self.lines += [f"build {name}: link {' '.join(self.objects)}", f"default {name}", ""]
        return "\n".join(self.lines)


def _cpp_extension() -> ModuleType:
    """torch's module of its headers and libraries.

    As it is loaded it warns of a CUDA toolkit where no GPU is, which is nobody's fault.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils import cpp_extension

    return cpp_extension


def _torch_includes() -> str:
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    return " ".join([*(f"-isystem '{path}'" for path in _cpp_extension().include_paths()), abi])


def _torch_libraries() -> str:
    paths = _cpp_extension().library_paths()
    return " ".join(f"'-L{path}' '-Wl,-rpath,{path}'" for path in paths)


def _stamped(value: str) -> str:
    return f"'-DANIMEDRAG_STAMP=\"{value}\"'"


def _cpu_ninja_file(cxx: str) -> str:
    """planes.cpp once for each instruction set, then the rest."""
    openmp = "-fopenmp" if sys.platform == "linux" else ""
    made = _Ninja()
    flags = f"{' '.join(COMMON_FLAGS)} {openmp}"
    made.rule("compile", f"'{cxx}' {flags} $more -c $in -o $out", "compiling")
    made.rule(
        "link",
        f"'{cxx}' -shared $in -o $out {_torch_libraries()} -ltorch_cpu -lc10 {openmp}",
        "linking",
    )
    for name, scalar, sets in _tables():
        table = f"-DANIMEDRAG_SCALAR={scalar} -DANIMEDRAG_KERNELS=kernels_{name}"
        more = f"{' '.join(sets)} {table} '-DANIMEDRAG_NAME=\"{name}\"'"
        made.compile("compile", SOURCES / "cpu" / "planes.cpp", f"planes_{name}.o", more)
    for source in (SOURCES / "ops.cpp", SOURCES / "cpu" / "ops_cpu.cpp"):
        made.compile(
            "compile", source, f"{source.stem}.o", f"{_torch_includes()} {_stamped(stamp())}"
        )
    return made.link("animedrag_ops.so")


def _cuda_ninja_file(cxx: str, found: Toolkit, gencode: list[str], name: str) -> str:
    """Every .cu by nvcc, the binding by the C++ compiler."""
    made = _Ninja()
    nvcc = f"'{found.nvcc}' {' '.join(NVCC_FLAGS)} -ccbin '{cxx}' {' '.join(gencode)}"
    made.rule("kernel", f"{nvcc} -c $in -o $out", "compiling")
    flags = f"{' '.join(COMMON_FLAGS)} {' '.join(BINDING_FLAGS)} -isystem '{found.include}'"
    made.rule("compile", f"'{cxx}' {flags} $more -c $in -o $out", "compiling")
    libraries = f"{_torch_libraries()} -ltorch_cpu -ltorch_cuda -lc10_cuda -lc10"
    runtime = f"'{found.library()}' -ldl -lrt -lpthread"
    made.rule("link", f"'{cxx}' -shared $in -o $out {libraries} {runtime}", "linking")
    for source in sorted((SOURCES / "cuda").glob("*.cu")):
        made.compile("kernel", source, f"{source.stem}.cu.o")
    binding = SOURCES / "cuda" / "ops_cuda.cpp"
    made.compile("compile", binding, "ops_cuda.o", f"{_torch_includes()} {_stamped(cuda_stamp())}")
    return made.link(name)

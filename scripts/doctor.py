"""Say what this machine has, what works with it, and what to do for more.

Knows the packages and model files that the stages need; changes nothing. `--quiet` prints only
what is wrong, and exits non-zero when a stage would fail.
"""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import click

# Import name, distribution name, what it serves.
REQUIRED_PACKAGES = (
    ("torch", "torch", "networks"),
    ("cv2", "opencv-contrib-python", "pictures and cascades"),
    ("skia", "skia-python", "the painter"),
    ("mediapipe", "mediapipe", "the second face detector"),
    ("av", "av", "video"),
    ("hydra", "hydra-core", "configuration"),
    ("safetensors", "safetensors", "model files"),
    ("tensorboard", "tensorboard", "training logs"),
)

# Shared library that a wheel loads, and the Debian package that holds it.
SYSTEM_LIBRARIES = (("GL", "libgl1"), ("EGL", "libegl1"), ("glib-2.0", "libglib2.0-0"))


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis. `remedy` is empty where nothing needs doing."""

    name: str
    state: str
    remedy: str = ""
    fatal: bool = False


def check_package(module: str, distribution: str, purpose: str) -> Finding:
    """Import a package the way a stage would; say which version, or why it fails."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        missing = [
            debian for name, debian in SYSTEM_LIBRARIES if not ctypes.util.find_library(name)
        ]
        if platform.system() == "Linux" and missing:
            remedy = f"install the system libraries: apt-get install {' '.join(missing)}"
        else:
            remedy = "run: make setup"
        return Finding(distribution, f"cannot be loaded ({error})", f"{purpose}: {remedy}", True)
    return Finding(distribution, importlib.metadata.version(distribution))


def check_device() -> list[Finding]:
    """Name the device that `device=auto` takes, and why it is no GPU where one is there."""
    import torch

    from torch_utils import toolkit

    cpu = f"cpu, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        found = [Finding("device", f"{torch.cuda.get_device_name()} (sm_{major}{minor})")]
        if f"sm_{major}{minor}" not in torch.cuda.get_arch_list() and not _torch_serves(major):
            found.append(
                Finding(
                    "torch on this GPU",
                    f"torch {torch.__version__} holds no code for sm_{major}{minor} "
                    '("no kernel image is available")',
                    "install a torch whose CUDA build is for this GPU (pytorch.org/get-started)",
                )
            )
        return found
    driver = toolkit.driver_version()
    if driver is None:
        return [Finding("device", cpu)]
    if torch.version.cuda is None:
        remedy = toolkit.torch_mismatch((0, 0), None)
    else:
        remedy = toolkit.driver_problem(driver, torch.version.cuda) or (
            "torch cannot use the GPU: check that `nvidia-smi` works, that the container was "
            "started with its GPUs, and that CUDA_VISIBLE_DEVICES is not empty"
        )
    return [Finding("device", f"{cpu}, though an NVIDIA driver ({driver}) is here", remedy or "")]


def _torch_serves(major: int) -> bool:
    """Whether this torch has code of that major number, or PTX, from which the driver makes it."""
    import torch

    built = torch.cuda.get_arch_list()
    return any(a.startswith("compute_") or a[3:].startswith(str(major)) for a in built)


def check_weights() -> list[Finding]:
    """Say which model files of other packages are in the cache."""
    from pipeline import weights

    findings = []
    for name, file in weights.FILES.items():
        path = weights.find(name)
        if path is not None:
            findings.append(Finding(name, str(path)))
        else:
            findings.append(
                Finding(
                    name,
                    f"not fetched; without it, {file.fallback}",
                    f"{sys.executable} -m scripts.fetch_weights",
                )
            )
    return findings


def check_animeface() -> Finding:
    """The drawn-face detector exists only where its wheel does."""
    try:
        version = importlib.metadata.version("animeface")
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "animeface",
            f"not available for {platform.system()} {platform.machine()}; "
            "faces are found by mediapipe and OpenCV's cascade instead",
        )
    return Finding("animeface", version)


def check_compiler() -> Finding:
    """A C++ compiler is optional."""
    from torch_utils import native, toolkit

    path = native.compiler()
    remedy = (
        "install g++ (Debian: apt-get install g++; macOS: xcode-select --install), "
        "then: make kernels"
    )
    if path is None:
        named = os.environ.get("CXX")
        state = f"CXX={named} is not there" if named else "none"
        return Finding("C++ compiler", f"{state}; operators run in plain torch, slower", remedy)
    found = toolkit.examine_compiler(path)
    if found is None:
        return Finding("C++ compiler", f"{path} does not run", remedy)
    return Finding("C++ compiler", found.said, toolkit.compiler_problem(found) or "")


def check_ninja() -> Finding:
    """The build program is a Python package; the system's is not needed."""
    try:
        return Finding("ninja", importlib.metadata.version("ninja"))
    except importlib.metadata.PackageNotFoundError:
        return Finding("ninja", "not installed", "run: make setup")


def check_nvcc() -> list[Finding]:
    """The CUDA toolkit matters only where torch has a GPU; what does not fit is said anyway."""
    import torch

    from torch_utils import native, toolkit

    gpu = torch.cuda.is_available()
    found = toolkit.find_toolkit()
    if found is None:
        broken = [str(path) for path in toolkit.nvcc_candidates()]
        state = f"{broken[0]} does not run, or lacks its headers" if broken else "none"
        if not gpu:
            return [Finding("CUDA toolkit", f"{state} (without a GPU none is needed)")]
        major = (toolkit.parse_version(torch.version.cuda or "") or (13, 0))[0]
        return [
            Finding(
                "CUDA toolkit",
                state,
                f"install the CUDA toolkit {major}.x (developer.nvidia.com/cuda-downloads; the "
                "driver's package does not hold it), or set CUDA_HOME; then: make kernels",
            )
        ]
    state = f"nvcc {toolkit.text(found.version)} ({found.nvcc})"
    if not gpu:
        return [Finding("CUDA toolkit", f"{state}; without a GPU it is not used")]
    findings = [Finding("CUDA toolkit", state)]
    problems = [toolkit.torch_mismatch(found.version, torch.version.cuda)]
    path = native.compiler()
    examined = toolkit.examine_compiler(path) if path else None
    if examined is not None:
        problems.append(
            toolkit.host_compiler_problem(found.version, examined.family, examined.version)
        )
    try:
        toolkit.targets(found.version, native.device_capabilities())
    except ValueError as error:
        problems.append(str(error))
    findings += [Finding("CUDA kernels", "cannot be made", text) for text in problems if text]
    return findings


def check_operators() -> list[Finding]:
    """Which implementation each operator uses on each device, and why."""
    from torch_utils import native

    devices = [("CPU", native.status())]
    if native.device_capabilities():
        devices.append(("GPU", native.cuda_status()))
    findings = []
    for device, status in devices:
        for operator in ("bias_act", "upfirdn2d", "filtered_lrelu"):
            state = status.reason if status.loaded else f"plain torch: {status.reason}"
            remedy = "" if status.loaded or "switched off" in status.reason else "make kernels"
            if operator == "bias_act" and status.loaded:
                state += " (leaky ReLU, ReLU and linear; other activations in plain torch)"
            findings.append(Finding(f"{operator} ({device})", state, remedy))
    return [*findings, check_bfloat16()]


def check_bfloat16() -> Finding:
    """Whether `precision=bf16` is worth asking for on this processor."""
    from torch_utils.ops import mixed_conv2d

    if not mixed_conv2d.has_instructions():
        return Finding("bf16 (CPU)", "this processor has no instructions for it; fp32 it is")
    return Finding(
        "bf16 (CPU)", "has instructions: train.precision=bf16 trains faster (docs/bench.md)"
    )


def check_questions() -> list[Finding]:
    """What people ask most where the plugins of the public implementations do not build."""
    findings = [
        Finding(
            "Python headers", "not needed: the operators link with torch alone (no python3xx.lib)"
        )
    ]
    if platform.system() == "Windows":
        findings.append(
            Finding(
                "Windows",
                "operators run in plain torch: the compiled ones are for Linux and macOS",
                "use WSL 2 (wsl --install), where everything works as on Linux",
            )
        )
    stale = Path.home() / ".cache" / "torch_extensions"
    if stale.is_dir():
        findings.append(
            Finding("torch_extensions", f"{stale} is other programs'; nothing here reads it")
        )
    return findings


def diagnose() -> list[Finding]:
    """Every check, in reading order."""
    findings = [
        Finding(
            "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
        )
    ]
    findings += [check_package(*package) for package in REQUIRED_PACKAGES]
    if not any(finding.fatal for finding in findings):
        findings += [*check_device(), check_animeface(), *check_weights()]
        findings += [check_compiler(), check_ninja(), *check_nvcc(), *check_operators()]
        findings += check_questions()
    return findings


@click.command()
@click.option("--quiet", is_flag=True, help="Print only what is wrong.")
def main(quiet: bool) -> None:
    """Print what is installed, what works with it, and what to do for more."""
    findings = diagnose()
    for finding in findings:
        if quiet and not finding.remedy:
            continue
        click.echo(f"{finding.name:22} {finding.state}")
        if finding.remedy:
            click.echo(f"{'':22} -> {finding.remedy}")
    if any(finding.fatal for finding in findings):
        raise SystemExit(2)


if __name__ == "__main__":
    main()

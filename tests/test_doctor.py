"""`make doctor` on this machine and on false ones: programs that only say who they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_toolkit import false_toolkit, program

from scripts import doctor
from tests import quick_python
from torch_utils import native
from torch_utils.ops import mixed_conv2d


def doctor_in(environment: dict[str, str], root: Path) -> str:
    result = quick_python.run(
        [sys.executable, "-m", "scripts.doctor"], cwd=root, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


def line(said: str, name: str) -> str:
    """What is said under a name, its remedy included."""
    lines = said.splitlines()
    start = next(i for i, text in enumerate(lines) if text.startswith(name))
    more = lines[start + 1 : start + 2]
    return " ".join([lines[start], *[text for text in more if text.startswith(" ")]])


def test_every_operator_says_what_runs_and_why(root: Path) -> None:
    said = doctor_in({native.SWITCH: "off"}, root)
    for operator in ("bias_act", "upfirdn2d", "filtered_lrelu"):
        assert f"plain torch: switched off by {native.SWITCH}" in line(said, f"{operator} (CPU)")
    assert "python3xx.lib" in line(said, "Python headers")
    assert line(said, "ninja")
    assert line(said, "CUDA toolkit")


def test_it_says_whether_bf16_is_worth_asking_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_conv2d, "has_instructions", lambda: True)
    assert "train.precision=bf16" in doctor.check_bfloat16().state
    monkeypatch.setattr(mixed_conv2d, "has_instructions", lambda: False)
    assert "no instructions" in doctor.check_bfloat16().state


def test_a_machine_without_compilers(root: Path, tmp_path: Path) -> None:
    said = doctor_in({"PATH": str(tmp_path), "CXX": "", "CUDA_HOME": str(tmp_path)}, root)
    assert "none" in line(said, "C++ compiler")
    assert "install g++" in line(said, "C++ compiler")


def test_a_compiler_that_is_too_old(root: Path, tmp_path: Path) -> None:
    old = program(tmp_path, "g++-8", "8")
    assert "too old" in line(doctor_in({"CXX": str(old)}, root), "C++ compiler")


def test_a_driver_without_a_torch_for_it(root: Path, tmp_path: Path) -> None:
    """The commonest of all: a GPU, its driver, and the CPU build of torch."""
    import torch

    if torch.version.cuda is not None:
        pytest.skip("this torch is a CUDA build")
    program(tmp_path, "nvidia-smi", "550.54.14")
    said = doctor_in({"PATH": f"{tmp_path}:{os.environ['PATH']}"}, root)
    assert "550.54.14" in line(said, "device")
    assert "CPU only" in line(said, "device")


def test_without_what_windows_lacks(root: Path, tmp_path: Path) -> None:
    """The doctor tells a user of Windows about WSL: nothing on its way may ask for fcntl."""
    (tmp_path / "fcntl.py").write_text("raise ModuleNotFoundError('No module named fcntl')")
    driver = (
        "import platform; platform.system = lambda: 'Windows';"
        "from scripts.doctor import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", driver],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"},
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "WSL 2" in line(result.stdout, "Windows"), result.stderr


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch as it answers beside an Ada card, built for CUDA 12.4."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_86", "sm_90"])
    monkeypatch.setattr(torch.version, "cuda", "12.4")


@pytest.mark.usefixtures("with_gpu")
@pytest.mark.parametrize(
    ("nvcc", "gcc", "expected"),
    [
        ("13.0", 13, "torch is built for CUDA 12.4 and nvcc is 13.0"),
        ("12.4", 14, "takes g++ up to 13"),
        ("11.6", 11, "makes"),
        ("12.4", 13, None),
    ],
)
def test_toolkits_beside_a_gpu(
    nvcc: str, gcc: int, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(false_toolkit(tmp_path / "cuda", nvcc)))
    monkeypatch.setenv("CXX", str(program(tmp_path, "g++", str(gcc))))
    findings = doctor.check_nvcc()
    remedies = " ".join(finding.remedy for finding in findings)
    if expected is None:
        assert remedies == ""
    elif nvcc == "11.6":
        assert "torch is built for CUDA 12.4" in remedies
    else:
        assert expected in remedies


@pytest.mark.usefixtures("with_gpu")
def test_no_toolkit_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch_utils.toolkit.nvcc_candidates", lambda: [])
    (finding,) = doctor.check_nvcc()
    assert "CUDA toolkit 12.x" in finding.remedy


@pytest.mark.usefixtures("with_gpu")
def test_a_torch_that_holds_no_code_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert len(doctor.check_device()) == 1  # sm_86 serves an sm_89 card
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_50", "sm_90"])
    assert "no kernel image" in doctor.check_device()[1].state


def test_old_drivers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    program(tmp_path, "nvidia-smi", "470.82.01")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (finding,) = doctor.check_device()
    assert "update it to 525.60" in finding.remedy

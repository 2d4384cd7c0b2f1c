"""Which compilers and architectures fit: tables, and look-ups with false programs on the PATH."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch_utils import toolkit

NVCC = [(11, 8), (12, 0), (12, 4), (12, 8), (12, 9), (13, 0)]


def program(folder: Path, name: str, said: str, status: int = 0) -> Path:
    """A program that prints a text and exits with a status."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    # Only what the shell itself can do: tests take the PATH away.
    path.write_text(f"#!/bin/sh\nprintf '%s\\n' '{said}'\nexit {status}\n")
    path.chmod(0o755)
    return path


def false_toolkit(root: Path, version: str) -> Path:
    """A folder that looks like a CUDA toolkit of that version."""
    program(root / "bin", "nvcc", f"Cuda compilation tools, release {version}, V{version}.88")
    (root / "include").mkdir()
    (root / "include" / "cuda_runtime_api.h").touch()
    (root / "lib64").mkdir()
    (root / "lib64" / "libcudart_static.a").touch()
    return root


@pytest.mark.parametrize(
    ("nvcc", "able"),
    [
        ((11, 4), [80, 86]),
        ((11, 8), [80, 86, 89, 90]),
        ((12, 6), [80, 86, 89, 90]),
        ((12, 8), [80, 86, 89, 90, 100, 120]),
        ((13, 0), [80, 86, 89, 90, 100, 120]),
    ],
)
def test_the_support_matrix(nvcc: tuple[int, int], able: list[int]) -> None:
    assert toolkit.architectures(nvcc) == able
    assert toolkit.targets(nvcc, wanted="all") == (able, able[-1])
    assert toolkit.targets(nvcc) == (able, able[-1])


@pytest.mark.parametrize(
    ("nvcc", "devices", "expected"),
    [
        ((12, 4), [(8, 9)], ([89], None)),
        ((12, 4), [(8, 7)], ([86], None)),  # Orin runs its major number's older code
        ((12, 4), [(8, 9), (8, 9), (9, 0)], ([89, 90], None)),
        ((12, 4), [(12, 0)], ([], 90)),  # newer than this nvcc: PTX
        ((13, 0), [(10, 3)], ([100], None)),
        ((13, 0), [(11, 0)], ([], 100)),  # between two of the matrix: the earlier one's PTX
        ((13, 0), [(7, 5), (8, 0)], ([80], None)),
    ],
)
def test_code_for_the_gpus_at_hand(
    nvcc: tuple[int, int], devices: list[tuple[int, int]], expected: tuple[list[int], int | None]
) -> None:
    assert toolkit.targets(nvcc, devices) == expected


@given(
    nvcc=st.sampled_from(NVCC),
    devices=st.lists(st.tuples(st.integers(8, 13), st.integers(0, 9)), min_size=1, max_size=4),
)
def test_what_is_built_serves_the_gpus(
    nvcc: tuple[int, int], devices: list[tuple[int, int]]
) -> None:
    chosen, ptx = toolkit.targets(nvcc, devices)
    tag = toolkit.tag_of(chosen, ptx)
    assert toolkit.tag_serves(tag, devices)
    assert len(toolkit.gencode_flags(chosen, ptx)) == len(chosen) + (ptx is not None)
    assert set(chosen) <= set(toolkit.architectures(nvcc))


def test_a_tag_does_not_promise_too_much() -> None:
    assert not toolkit.tag_serves("sm_89", [(8, 6)])
    assert not toolkit.tag_serves("sm_89-ptx_90", [(8, 0)])
    assert toolkit.tag_serves("sm_89-ptx_90", [(8, 9), (12, 0)])
    assert not toolkit.tag_serves("sm_90", [(9, 0), (12, 0)])


@pytest.mark.parametrize(
    ("nvcc", "devices", "wanted", "said"),
    [
        ((12, 4), None, "12.0", "makes no code for sm_120"),
        ((12, 4), None, "fast", "no architecture"),
        ((12, 4), [(7, 5)], "", "sm_75.*older than sm_80"),
        ((10, 2), None, "", "older than 11.8"),
    ],
)
def test_what_cannot_be_built_says_why(
    nvcc: tuple[int, int], devices: list[tuple[int, int]] | None, wanted: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        toolkit.targets(nvcc, devices, wanted)


def test_named_architectures_in_any_spelling() -> None:
    for wanted in ("8.9;9.0", "89 90", "sm_90, sm_89"):
        assert toolkit.targets((12, 4), [(8, 0)], wanted) == ([89, 90], None)
    flags = toolkit.gencode_flags([89], 90)
    assert flags == [
        "-gencode=arch=compute_89,code=sm_89",
        "-gencode=arch=compute_90,code=compute_90",
    ]


@pytest.mark.parametrize(
    ("nvcc", "family", "version", "fits"),
    [
        ((11, 8), "gcc", 11, True),
        ((11, 8), "gcc", 12, False),
        ((12, 3), "gcc", 13, False),
        ((12, 4), "gcc", 13, True),
        ((12, 9), "gcc", 15, False),
        ((13, 0), "gcc", 15, True),
        ((12, 4), "clang", 18, False),
        ((13, 0), "clang", 20, True),
        ((13, 0), "gcc", None, True),
    ],
)
def test_host_compilers_that_nvcc_takes(
    nvcc: tuple[int, int], family: str, version: int | None, fits: bool
) -> None:
    problem = toolkit.host_compiler_problem(nvcc, family, version)
    assert (problem is None) is fits
    if problem:
        assert "install" in problem
        assert "CXX=" in problem


def test_torch_and_nvcc_of_one_major_version_go_together() -> None:
    assert toolkit.torch_mismatch((12, 8), "12.4") is None
    assert "12.x" in (toolkit.torch_mismatch((13, 0), "12.4") or "")
    assert "CPU only" in (toolkit.torch_mismatch((13, 0), None) or "")


def test_old_drivers() -> None:
    assert "525.60" in (toolkit.driver_problem("470.82.01", "12.4") or "")
    assert toolkit.driver_problem("560.35.03", "12.4") is None
    assert toolkit.driver_problem(None, "12.4") is None


def test_toolkits_are_found_where_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("CUDACXX", raising=False)
    root = false_toolkit(tmp_path / "cuda 12", "12.4")
    monkeypatch.setenv("CUDA_HOME", str(root))
    found = toolkit.find_toolkit()
    assert found is not None
    assert found.version == (12, 4)
    assert found.include == root / "include"
    assert found.library() == root / "lib64" / "libcudart_static.a"


def test_a_script_that_calls_nvcc_leads_to_its_toolkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = false_toolkit(tmp_path / "cuda-12.4", "12.4")
    script = tmp_path / "bin" / "nvcc"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {root}/bin/nvcc "$@"\n')
    script.chmod(0o755)
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{script.parent}:/bin:/usr/bin")
    found = toolkit.find_toolkit()
    assert found is not None
    assert found.root == root


def test_compilers_by_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = program(tmp_path, "g++-8", "8\ng++ (GCC) 8.3.0")
    found = toolkit.examine_compiler(str(old))
    assert found is not None
    assert found.family == "gcc"
    assert "too old" in (toolkit.compiler_problem(found) or "")
    broken = program(tmp_path, "broken", "", status=1)
    assert toolkit.examine_compiler(str(broken)) is None
    assert toolkit.examine_compiler(str(tmp_path / "missing")) is None
    monkeypatch.setenv("CXX", str(tmp_path / "missing"))
    assert toolkit.compiler() is None
    monkeypatch.setenv("CXX", str(old))
    assert toolkit.compiler() == str(old)

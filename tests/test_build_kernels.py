"""`make kernels` where something is missing, and two builds at once, by real processes."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_toolkit import false_toolkit, program

from scripts import build_kernels
from tests import quick_python
from torch_utils import native

PLAIN = "plain torch"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Builds go to an empty folder, and no variable of the user's decides."""
    for name in ("CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH", native.ARCHITECTURES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(native, "BUILD_ROOT", tmp_path / "kernels")
    return tmp_path


def one_sentence(error: native.BuildError) -> str:
    said = str(error)
    assert "\n" not in said
    assert said.endswith(".")
    assert PLAIN in said
    return said


def test_without_a_compiler(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(elsewhere / "empty"))
    with pytest.raises(native.BuildError) as caught:
        native.build()
    assert "install g++" in one_sentence(caught.value)


@pytest.mark.parametrize(
    ("said", "status", "expected"),
    [("", 1, "does not run"), ("8\ng++ (GCC) 8.3.0", 0, "too old"), ("14", 0, "failed.log")],
)
def test_with_a_false_compiler(
    said: str, status: int, expected: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fails, one that is too old, and one that claims to work and makes nothing."""
    monkeypatch.setenv("CXX", str(program(elsewhere / "bin", "g++", said, status)))
    with pytest.raises(native.BuildError) as caught:
        native.build()
    assert expected in one_sentence(caught.value)
    assert not native.library_path().exists()


@pytest.mark.parametrize(
    ("nvcc", "torch_cuda", "archs", "expected"),
    [
        (None, "12.4", "all", "CUDA toolkit 12.x"),
        ("13.0", "12.4", "all", "torch is built for CUDA 12.4 and nvcc is 13.0"),
        ("12.4", "12.4", "12.0", "makes no code for sm_120"),
        ("11.8", "11.8", "all", "takes g++ up to 11"),
        ("12.4", None, "all", "CPU only"),
    ],
)
def test_cuda_that_does_not_fit(
    nvcc: str | None, torch_cuda: str | None, archs: str, expected: str, elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Toolkits and compilers that only say who they are."""
    cxx = program(elsewhere / "bin", "g++", "13\ng++ (GCC) 13.2.0")
    monkeypatch.setenv("CXX", str(cxx))
    monkeypatch.setenv(native.ARCHITECTURES, archs)
    monkeypatch.setattr("torch.version.cuda", torch_cuda)
    if nvcc is None:
        monkeypatch.setattr(native.toolkit, "nvcc_candidates", lambda: [])
    else:
        monkeypatch.setenv("CUDA_HOME", str(false_toolkit(elsewhere / "cuda", nvcc)))
    with pytest.raises(native.BuildError) as caught:
        native.build_cuda()
    assert expected in one_sentence(caught.value)


def test_without_a_gpu_nothing_asks_for_cuda_kernels(elsewhere: Path) -> None:
    if native.device_capabilities():
        pytest.skip("this machine has a GPU")
    assert native.build_cuda() is None
    status = native.cuda_status()
    assert not status.loaded
    assert status.reason


def test_the_command_goes_on_without_a_compiler(root: Path, tmp_path: Path) -> None:
    """`make setup` must not fail for it; --strict must."""
    environment = {**os.environ, "PATH": str(tmp_path), "CXX": "", "PYTHONPATH": str(root)}
    driver = (
        "import sys, pathlib; from torch_utils import native;"
        f"native.BUILD_ROOT = pathlib.Path({str(tmp_path / 'kernels')!r});"
        "from scripts.build_kernels import main; main()"
    )
    for options, status in (([], 0), (["--strict"], 1)):
        result = quick_python.run(
            [sys.executable, "-c", driver, *options],
            env=environment, cwd=root,
        )  # fmt: skip
        assert result.returncode == status, result.stderr
        assert "No C++ compiler" in result.stdout
        assert f"{PLAIN}, several times slower: not built" in result.stdout
        assert "Traceback" not in result.stderr


def test_kernels_for_another_machine_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.device_capabilities():
        pytest.skip("this machine has a GPU")
    made = Path("kernels") / "animedrag_cuda-sm_90.so"
    monkeypatch.setattr(native, "build", lambda report: native.library_path())
    monkeypatch.setattr(native, "build_cuda", lambda report: made)
    result = CliRunner().invoke(build_kernels.main, ["--strict"])
    assert result.exit_code == 0
    said = f"CUDA kernels: compiled ({made.name}); no GPU is here to run them."
    assert result.output.splitlines()[-1] == said
    monkeypatch.setattr(native, "build_cuda", lambda report: None)
    assert "CUDA" not in CliRunner().invoke(build_kernels.main).output


def build_elsewhere(root: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """`python -m scripts.build_kernels --strict` with that folder for what it builds."""
    driver = (
        "import pathlib, sys; from torch_utils import native;"
        "native.BUILD_ROOT = pathlib.Path(sys.argv.pop(1));"
        "from scripts.build_kernels import main; main()"
    )
    return quick_python.run(
        [sys.executable, "-c", driver, str(folder), "--strict"],
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        cwd=root,
    )  # fmt: skip


def test_what_is_built_needs_no_compiler(root: Path, tmp_path: Path) -> None:
    if not native.status().loaded:
        pytest.skip(f"compiled operators: {native.status().reason}")
    there = tmp_path / "kernels" / native.stamp() / native.library_path().name
    there.parent.mkdir(parents=True)
    shutil.copy(native.library_path(), there)
    result = build_elsewhere(root, tmp_path / "kernels", PATH=str(tmp_path), CXX="")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("Operators on the CPU: compiled")


def test_a_library_that_cannot_be_loaded_is_made_anew(root: Path, tmp_path: Path) -> None:
    """As its message promises: "(run: make kernels)"."""
    there = tmp_path / "kernels" / native.stamp() / native.library_path().name
    there.parent.mkdir(parents=True)
    there.write_text("no library")
    false = program(tmp_path / "bin", "g++", "14")  # says who it is, and makes nothing
    result = build_elsewhere(root, tmp_path / "kernels", CXX=str(false))
    assert result.returncode == 1
    assert "could not compile" in result.stdout
    assert not there.exists()


TWO_BUILDS = """
import pathlib, sys
from scripts.build_kernels import progress_line
from torch_utils import native
native.BUILD_ROOT = pathlib.Path(sys.argv[1])
log = pathlib.Path(sys.argv[2])
text = '''
rule make
  command = echo made >> {log} && sleep 1 && echo library > $out
  description = making $out
build library.so: make
default library.so
'''.format(log=log)
steps = []
say = progress_line("operators")
target = native.BUILD_ROOT / "stamp" / "library.so"
print(native._build(target, lambda: text, "cxx", lambda *step: say(*step) or steps.append(step)))
print(steps)
"""


def test_two_builds_at_once_make_one_library(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", TWO_BUILDS, str(tmp_path / "kernels"), str(log)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    (tmp_path / "kernels" / "stamp").mkdir(parents=True)
    with (tmp_path / "kernels" / "stamp" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a third one would
        both = [subprocess.Popen(command, env=environment, text=True, **pipes) for _ in range(2)]
        # Whoever waits says what for.
        waiting = "Compiling the operators: waiting for another process that compiles them ...\n"
        assert [process.stderr.readline() for process in both] == [waiting] * 2
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert log.read_text().split() == ["made"]
    library = tmp_path / "kernels" / "stamp" / "library.so"
    assert library.read_text() == "library\n"
    assert all(str(library) in text for text in said)
    # The one that built said how far it was.
    assert sorted("(1, 1, 'making library.so')" in text for text in said) == [False, True]
    assert sorted(path.name for path in library.parent.iterdir()) == [".lock", "library.so"]


def test_a_library_of_other_sources_is_refused(elsewhere: Path) -> None:
    """A file under the right name that is no library, or another's, never gets used."""
    path = native.library_path()
    path.parent.mkdir(parents=True)
    path.write_text("no library")
    status = native._load(path, "build_stamp", native.stamp, lambda: "")
    assert not status.loaded
    assert "cannot be loaded" in status.reason
    assert "make kernels" in status.reason

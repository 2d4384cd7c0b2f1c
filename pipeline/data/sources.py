"""Where pictures come from: folder, zip, Kaggle, painter; as one sorted list of items.

Listing is cheap and reads no pixels; each item can be sent to another process and read there.
Hostile archives are no danger: nothing is ever unpacked to disk, and no item is read beyond a
limit. Knows nothing about faces.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from pipeline.console import say
from pipeline.data.config import PreprocessConfig, SourceConfig
from pipeline.data.pictures import PictureLimits, Rejected, bare_png, decode
from pipeline.errors import DataError

# Files that systems leave among pictures; not worth a line in rejects.jsonl.
CLUTTER = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir"})
# A zip's member may not shrink further than this: real pictures hardly shrink at all.
MAX_COMPRESSION = 200.0
# The stream of random numbers that chooses whom the painter paints; the painter has others.
_SITTER = 3

HOW_TO_GET = (
    "download it by hand from https://www.kaggle.com/datasets/{dataset} and give the folder or "
    "zip: source=folder source.path=PATH (make: DATA=PATH)"
)


@dataclass(frozen=True)
class KnownFace:
    """A face whose place the source itself knows."""

    landmarks: np.ndarray  # 28 x 2


@dataclass(frozen=True)
class Picture:
    """A picture, decoded."""

    image: np.ndarray  # H x W x 3 uint8
    sha256: str  # of the file's bytes, or of the pixels where there is no file
    known_faces: tuple[KnownFace, ...] | None = None  # main one first; None: nothing is known
    png: bytes | None = None  # PNG bytes of these very pixels, where the file had them


class Item(Protocol):
    """One picture of a source, not read yet."""

    @property
    def name(self) -> str:
        """Unique in its source; pictures are ordered by it."""

    def read(self, limits: PictureLimits, max_bytes: int) -> Picture:
        """Read and decode. Raises Rejected with the reason for anything unusable."""


@dataclass(frozen=True)
class FileItem:
    """A file in a folder."""

    root: Path
    name: str  # path below the root, with forward slashes

    def read(self, limits: PictureLimits, max_bytes: int) -> Picture:
        path = self.root / self.name
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise Rejected("not a regular file")
            if status.st_size > max_bytes:
                raise Rejected(_too_many_bytes(status.st_size, max_bytes))
            data = path.read_bytes()
        except OSError as error:
            raise Rejected(f"the file cannot be read ({error.strerror or error})") from None
        return _decoded(data, limits)


@dataclass(frozen=True)
class ZipItem:
    """A member of a zip."""

    archive: Path
    index: int  # position in the zip's directory: names need not be unique
    name: str

    def read(self, limits: PictureLimits, max_bytes: int) -> Picture:
        try:
            archive = _opened(self.archive, self.archive.stat().st_mtime_ns, os.getpid())
            data = _read_member(archive, archive.infolist()[self.index], max_bytes)
        except Rejected:
            raise
        # zipfile raises many kinds of errors on damaged members, zlib and lzma their own.
        except Exception as error:
            raise Rejected(
                f"the zip's member is damaged ({' '.join(str(error).split())})"
            ) from None
        return _decoded(data, limits)


@dataclass(frozen=True)
class PaintedItem:
    """A picture that the painter paints when it is read."""

    index: int
    mode: str
    seed: int
    character: int | None
    size: int
    # Share of the pictures that show somebody else than the character.
    others: float = 0.0

    @property
    def name(self) -> str:
        return f"painted{self.index:08d}"

    @property
    def sitter(self) -> int | None:
        """Number of the character in this picture; None: somebody whom only the seed knows."""
        if self.others == 0:
            return self.character
        lot = np.random.default_rng([_SITTER, self.seed, self.index]).random()
        return None if lot < self.others else self.character

    def read(self, limits: PictureLimits, max_bytes: int) -> Picture:
        from pipeline.data.painter import paint_scene, sample_face

        if self.mode == "scenes":
            scene = paint_scene(self.seed, self.index, character_number=self.sitter)
            # The first is the character's, if one was asked for; else the largest counts most.
            key = (lambda face: -face.face_width) if self.sitter is None else (lambda face: 0)
            image = scene.image
            points = [face.landmarks for face in sorted(scene.faces, key=key)]
        else:
            painting = sample_face(
                self.seed, self.index, character_number=self.sitter, size=self.size
            )
            image, points = painting.image, [painting.landmarks]
        image = np.ascontiguousarray(image)
        digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        return Picture(image, digest, tuple(KnownFace(landmarks) for landmarks in points))


def open_source(config: SourceConfig, limit: int | None = None) -> list[Item]:
    """The items of a source, ordered by name; at most the first `limit`.

    Raises DataError where the source is missing, is of no known kind, or is empty.
    """
    if config.kind == "painter":
        count = config.count if limit is None else min(limit, config.count)
        items: list[Item] = [
            PaintedItem(
                index, config.mode, config.seed, config.character, config.size, config.others
            )
            for index in range(count)
        ]
        if not items:
            raise DataError("source.count is 0, so there is nothing to paint; set it above 0.")
        return items
    if config.kind == "kaggle" and config.path is None:
        path = download_kaggle(config.dataset)
    elif config.path is None:
        raise DataError(
            "source.path is not set; give the folder or zip with your pictures: "
            "source.path=PATH (make: DATA=PATH)."
        )
    else:
        path = Path(config.path).expanduser()
    items = sorted(_list(path), key=lambda item: item.name)
    if not items:
        raise DataError(f"{path} holds no files; give a folder or zip with pictures in it.")
    return items if limit is None else items[:limit]


def fetch(config: PreprocessConfig) -> dict[str, tuple[Path, str]]:
    """What the runner is to take for `source.path`: the Kaggle set, and how to call it on record.

    So the files that were downloaded count for the run's identity and stand in its lineage, and a
    new version of the set makes a new dataset. Empty for other sources.
    """
    if config.source.kind != "kaggle":
        return {}
    folder = download_kaggle(config.source.dataset)
    version = folder.name if folder.parent.name == "versions" else "unknown"
    return {"source.path": (folder, f"kaggle:{config.source.dataset}, version {version}")}


def download_kaggle(dataset: str) -> Path:
    """Folder of a Kaggle data set, downloaded (or found in kagglehub's cache).

    Where Kaggle cannot be reached, the newest version that was downloaded whole is taken, with a
    word.

    Raises DataError, saying how to get the set otherwise, when kagglehub is not installed, when
    there are no credentials, or when the download fails.
    """
    by_hand = HOW_TO_GET.format(dataset=dataset)
    try:
        import kagglehub
    except ImportError:
        raise DataError(
            f"The Kaggle set {dataset} needs the package kagglehub "
            f"(.venv/bin/pip install kagglehub) and a Kaggle account; or {by_hand}."
        ) from None
    if not has_kaggle_credentials():
        raise DataError(
            f"The Kaggle set {dataset} needs credentials (KAGGLE_USERNAME and KAGGLE_KEY, or "
            f"~/.kaggle/kaggle.json from your Kaggle account's settings); or {by_hand}."
        )
    try:
        return Path(kagglehub.dataset_download(dataset))
    # Network, permission and quota problems come as errors of several libraries.
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        if (cached := _cached_kaggle(dataset)) is not None:
            say(f"Kaggle cannot be reached ({text}); taking {cached}, downloaded earlier.")
            return cached
        raise DataError(
            f"The Kaggle set {dataset} could not be downloaded ({text}); check the network and "
            f"that your account has accepted the set's terms, or {by_hand}."
        ) from error


def _cached_kaggle(dataset: str) -> Path | None:
    """The newest whole version of the set in kagglehub's cache, if there is one."""
    cache = os.environ.get("KAGGLEHUB_CACHE") or "~/.cache/kagglehub"
    home = Path(cache).expanduser() / "datasets" / dataset
    whole = [
        folder
        for folder in (home / "versions").glob("[0-9]*")
        if folder.name.isdigit() and (home / f"{folder.name}.complete").exists()
    ]
    return max(whole, key=lambda folder: int(folder.name), default=None)


def has_kaggle_credentials() -> bool:
    """Whether the user has set up access to Kaggle (its presence only; nothing is read)."""
    if os.environ.get("KAGGLE_API_TOKEN"):
        return True
    if os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY"):
        return True
    folder = Path(os.environ.get("KAGGLE_CONFIG_DIR", "~/.kaggle")).expanduser()
    return any((folder / name).is_file() for name in ("kaggle.json", "access_token"))


def _list(path: Path) -> Iterator[Item]:
    if path.is_dir():
        yield from _list_folder(path)
    elif not path.exists():
        raise DataError(f"There is nothing at {path}; give a folder or zip with pictures in it.")
    elif zipfile.is_zipfile(path):
        yield from _list_zip(path)
    elif path.suffix.lower() == ".zip":
        raise DataError(f"{path} is no zip, or a damaged one; download or copy it again.")
    else:
        yield FileItem(path.parent, path.name)


def _list_folder(root: Path) -> Iterator[Item]:
    # Links to folders are not followed (they may form circles); links to files are.
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not _is_clutter(name)]
        for name in files:
            if not _is_clutter(name):
                yield FileItem(root, (Path(folder) / name).relative_to(root).as_posix())


def _list_zip(path: Path) -> Iterator[Item]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read as a zip ({error}); copy it again.") from error
    seen: set[str] = set()
    for index, member in enumerate(members):
        name = member.filename.replace("\\", "/")
        if member.is_dir() or any(_is_clutter(part) for part in PurePosixPath(name).parts):
            continue
        unique = name if name not in seen else f"{name}#{index}"
        seen.add(unique)
        yield ZipItem(path, index, unique)


@functools.lru_cache(maxsize=1)
def _opened(path: Path, written_ns: int, process: int) -> zipfile.ZipFile:
    """The zip, kept open for the next member: reading a long directory takes longer than a picture.

    A zip that was written anew, or another process, opens it again.
    """
    return zipfile.ZipFile(path)


def _is_clutter(name: str) -> bool:
    hidden = name.startswith(".") and name.strip(".") != ""
    return hidden or name in CLUTTER


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, max_bytes: int) -> bytes:
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    if ".." in parts:
        raise Rejected("the member's name leads out of the zip")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise Rejected("the member is a link, not a file")
    if member.flag_bits & 0x1:
        raise Rejected("the member is encrypted; unpack the zip with its password first")
    if member.file_size > max_bytes:
        raise Rejected(_too_many_bytes(member.file_size, max_bytes))
    if member.file_size > MAX_COMPRESSION * max(member.compress_size, 4096):
        raise Rejected("the member unpacks to a suspicious size (a zip bomb)")
    with archive.open(member) as stream:
        # The directory may lie about the size.
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise Rejected(_too_many_bytes(len(data), max_bytes))
    return data


def _too_many_bytes(size: int, max_bytes: int) -> str:
    return f"{size / 1e6:.0f} MB is above max_file_mb={max_bytes / 1e6:g}"


def _decoded(data: bytes, limits: PictureLimits) -> Picture:
    image = decode(data, limits)
    return Picture(image, hashlib.sha256(data).hexdigest(), png=bare_png(data))

"""The manifest: what an artifact consists of, what it was made from, how and by what.

`manifest.json` is written last, so its presence means the artifact is complete. Two hashes stand
in it. `digest` names the content: the same files, made by the same stage from the same parents and
settings, have the same digest whenever and wherever they were made; children refer to it. `seal`
covers everything else as well (times, metrics, environment), so that no byte of the manifest can
change unnoticed. Knows nothing about where artifacts lie.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError, DataError

MANIFEST_NAME = "manifest.json"
FORMAT = 1
# hashlib releases the GIL on large buffers and the rest is waiting for the disk.
HASH_THREADS = 8

Json = None | bool | int | float | str | list[Any] | dict[str, Any]


@dataclass(frozen=True, order=True)
class FileEntry:
    """One file: POSIX path relative to its folder, SHA-256 in hex, size in bytes."""

    path: str
    sha256: str
    size: int


# Of a parent that does not lie in its child's store.
OUTSIDE = "outside"


@dataclass(frozen=True)
class Parent:
    """The artifact an input came from.

    `location`: None if it lies in the store, else `OUTSIDE`; manifests of before 29 November 2026
    name its folder. `folder`: where an outside one lies on this machine, while that is known; it
    is not recorded, for a manifest travels.
    """

    kind: str
    name: str
    version: int
    digest: str
    location: str | None = None
    folder: Path | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: what is recorded."""
        return {key: value for key, value in asdict(self).items() if key != "folder"}

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}:v{self.version}"


@dataclass(frozen=True)
class Source:
    """Raw file or folder an input came from: where it lay, its digest, and every file in it."""

    path: str
    digest: str
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be made, known before it is: the part of the manifest that gives the identity."""

    kind: str
    name: str
    stage: str
    stage_version: int
    # The whole resolved config, as plain JSON values.
    config: dict[str, Any]
    # Top-level or dotted config keys that are left out of the identity: those that cannot change
    # the result, and those whose value `parents` and `sources` stand for.
    ignored: tuple[str, ...]
    parents: dict[str, Parent]
    sources: dict[str, Source]

    @property
    def identity(self) -> str:
        """SHA-256 of everything that decides what comes out."""
        return sha256_of(
            {
                "kind": self.kind,
                "name": self.name,
                "stage": self.stage,
                "stage_version": self.stage_version,
                "config": without(self.config, self.ignored),
                "parents": {key: parent.digest for key, parent in self.parents.items()},
                "sources": {key: source.digest for key, source in self.sources.items()},
            }
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "stage": self.stage,
            "stage_version": self.stage_version,
            "config": self.config,
            "ignored": list(self.ignored),
            "parents": {key: parent.to_json() for key, parent in self.parents.items()},
            "sources": {
                key: {
                    "path": source.path,
                    "digest": source.digest,
                    "files": [asdict(entry) for entry in source.files],
                }
                for key, source in self.sources.items()
            },
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Plan:
        """Inverse of `to_json`; KeyError or TypeError if `data` is not a plan."""
        return Plan(
            kind=data["kind"],
            name=data["name"],
            stage=data["stage"],
            stage_version=data["stage_version"],
            config=data["config"],
            ignored=tuple(data["ignored"]),
            parents={key: Parent(**value) for key, value in data["parents"].items()},
            sources={
                key: Source(
                    path=value["path"],
                    digest=value["digest"],
                    files=tuple(FileEntry(**entry) for entry in value["files"]),
                )
                for key, value in data["sources"].items()
            },
        )


@dataclass(frozen=True)
class Manifest:
    """Everything recorded about one finished artifact."""

    version: int
    plan: Plan
    files: tuple[FileEntry, ...]
    # What the stage returned.
    metrics: dict[str, float | int | str]
    # Seconds of work, summed over all pieces of a run that was interrupted and resumed.
    wall_seconds: float
    # UTC, ISO 8601.
    created: str
    # {"commit": hex or None, "dirty": bool or None}: None where there is no git.
    code: dict[str, Any]
    # Versions of python, torch and the operating system.
    environment: dict[str, Any]

    @property
    def reference(self) -> str:
        """`kind/name:vN`."""
        return f"{self.plan.kind}/{self.plan.name}:v{self.version}"

    @property
    def seed(self) -> int | None:
        """The run's seed, None for a stage without randomness."""
        return self.plan.config.get("seed")

    @property
    def digest(self) -> str:
        """Name of the content; see the module's docstring."""
        plan = self.plan
        return sha256_of(
            {
                "identity": plan.identity,
                "parents": {key: parent.digest for key, parent in plan.parents.items()},
                "sources": {key: source.digest for key, source in plan.sources.items()},
                "files": [asdict(entry) for entry in sorted(self.files)],
            }
        )

    def to_text(self) -> str:
        """The file's text: one spelling for each manifest, so that any changed byte shows."""
        plan = self.plan.to_json()
        body = {
            "format": FORMAT,
            "kind": plan.pop("kind"),
            "name": plan.pop("name"),
            "version": self.version,
            "digest": self.digest,
            "identity": self.plan.identity,
            "created": self.created,
            "wall_seconds": self.wall_seconds,
            "seed": self.seed,
            "metrics": self.metrics,
            **plan,
            "files": [asdict(entry) for entry in self.files],
            "code": self.code,
            "environment": self.environment,
        }
        return render({**body, "seal": sha256_of(body)})

    @staticmethod
    def from_text(text: str) -> Manifest:
        """Read `to_text`'s text; ArtifactError if a single byte of it is not as it was written."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ArtifactError(
                    f"its format is {data['format']!r}, this program reads {FORMAT}"
                )
            manifest = Manifest(
                version=data["version"],
                plan=Plan.from_json(data),
                files=tuple(FileEntry(**entry) for entry in data["files"]),
                metrics=data["metrics"],
                wall_seconds=data["wall_seconds"],
                created=data["created"],
                code=data["code"],
                environment=data["environment"],
            )
            intact = manifest.to_text() == text
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtifactError(f"it cannot be read ({type(error).__name__}: {error})") from error
        if not intact:
            raise ArtifactError("it was changed after it was written")
        return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in `folder`; ArtifactError if missing or damaged."""
    path = folder / MANIFEST_NAME
    try:
        return Manifest.from_text(path.read_bytes().decode("utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder} is no artifact: it holds no {MANIFEST_NAME}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}.") from error
    except ArtifactError as error:
        message = str(error).removesuffix(".")
        raise ArtifactError(
            f"{path} is damaged: {message}; bring the folder back from a copy, or delete it."
        ) from error


def render(value: Json) -> str:
    """JSON for people: indented, plain ASCII, a newline at the end. ValueError on NaN."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def sha256_of(value: Json) -> str:
    """SHA-256 of a JSON value's canonical form: sorted keys, no spaces, plain ASCII."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def without(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """A copy of the nested mapping less the dotted `keys`."""
    kept: dict[str, Any] = dict(config)
    nested: dict[str, list[str]] = {}
    for key in keys:
        head, _, rest = key.partition(".")
        if rest:
            nested.setdefault(head, []).append(rest)
        else:
            kept.pop(head, None)
    for head, rests in nested.items():
        if isinstance(kept.get(head), Mapping):
            kept[head] = without(kept[head], rests)
    return kept


def hash_files(folder: Path, names: Iterable[str]) -> tuple[FileEntry, ...]:
    """Entries of the files `names` (POSIX, relative) of `folder`, in that order."""
    with ThreadPoolExecutor(HASH_THREADS) as threads:
        return tuple(threads.map(lambda name: _hash_file(folder / name, name), names))


def _hash_file(path: Path, name: str) -> FileEntry:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileEntry(name, digest, os.fstat(stream.fileno()).st_size)


def read_source(path: Path) -> Source:
    """Digest a raw file or folder. DataError if it is not there or cannot be read.

    A file's digest is that of its bytes, whatever it is called; a folder's covers the relative
    path, size and bytes of every file below it (links are followed).
    """
    try:
        if path.is_file():
            (entry,) = hash_files(path.parent, [path.name])
            return Source(str(path), entry.sha256, (entry,))
        if not path.is_dir():
            raise DataError(f"{path} does not exist; give the path of a file or folder.")
        files = hash_files(path, sorted(_files_below(path)))
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror}.") from error
    digest = sha256_of([[entry.path, entry.size, entry.sha256] for entry in files])
    return Source(str(path), digest, files)


def _files_below(folder: Path) -> Iterator[str]:
    seen: set[str] = set()  # real paths, because links to folders may form loops
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in files:
            path = Path(parent, name)
            if path.is_file():  # not sockets, pipes or dangling links
                yield path.relative_to(folder).as_posix()


def _raise(error: OSError) -> None:
    raise error

"""The store: finds artifacts, checks them, tells their lineage, removes what nobody needs.

    <root>/<kind>/<name>/v<N>/      payload and manifest.json, immutable
    <root>/.drafts/                 runs that are not finished, see `draft`
    <root>/.trash/                  what prune is removing
    <root>/.places/<digest>         where on this machine a parent from outside lies

Knows nothing about stages.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline.artifacts.draft import (
    Draft,
    drafts_folder,
    lock_of,
    read_record,
    store_lock,
)
from pipeline.artifacts.locks import locked_if_free
from pipeline.artifacts.manifest import (
    MANIFEST_NAME,
    OUTSIDE,
    FileEntry,
    Manifest,
    Parent,
    Plan,
    Source,
    hash_files,
    read_manifest,
)
from pipeline.artifacts.reference import KINDS, Reference, parse, version_of
from pipeline.errors import ArtifactError, nearest
from pipeline.files import put_text


@dataclass(frozen=True)
class Artifact:
    """One version of one artifact: its folder, and its manifest when asked for."""

    folder: Path

    @cached_property
    def manifest(self) -> Manifest:
        """Read from the folder; ArtifactError if missing or damaged."""
        return read_manifest(self.folder)

    @property
    def reference(self) -> str:
        """`kind/name:vN`, from the manifest."""
        return self.manifest.reference

    def __str__(self) -> str:
        # From the folder, so that a damaged artifact can be named too.
        return f"{self.folder.parent.parent.name}/{self.folder.parent.name}:{self.folder.name}"


@dataclass(frozen=True)
class Ancestry:
    """One artifact in a lineage: where it cannot be had, a `problem` instead, or a `note` where
    that is as it should be."""

    label: str
    artifact: Artifact | None = None
    problem: str = ""
    note: str = ""
    # Config key of the child -> what was put in there.
    parents: dict[str, Ancestry] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)


@dataclass(frozen=True)
class Pruning:
    """What prune removes and what it keeps."""

    removed: list[Artifact]
    kept: list[Artifact]
    drafts: list[Path]


class Store:
    """Artifacts below the folder `root` (made when the first one is)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def artifacts(self, kind: str | None = None, name: str | None = None) -> list[Artifact]:
        """Every version, ordered by kind, name, version; damaged ones included."""
        found = []
        for a_kind in sorted(KINDS) if kind is None else [kind]:
            for home in _folders(self.root / a_kind):
                if name is None or home.name == name:
                    found += [Artifact(folder) for folder in _versions(home)]
        return found

    def names(self, kind: str) -> list[str]:
        """Names of the artifacts of `kind`, sorted."""
        return [home.name for home in _folders(self.root / kind) if _versions(home)]

    def find(self, text: str) -> Artifact:
        """The artifact a reference or path names; ArtifactError names the nearest if missing."""
        as_path = Path(text).expanduser()
        if text.startswith(("/", ".", "~")) or (as_path / MANIFEST_NAME).is_file():
            read_manifest(as_path)
            return Artifact(as_path)
        reference = parse(text)
        versions = _versions(self.root / reference.kind / reference.name)
        if not versions:
            raise ArtifactError(f"There is no {reference}{self._hint(reference)}.")
        if reference.version is None:
            return Artifact(versions[-1])
        folder = self.root / reference.kind / reference.name / f"v{reference.version}"
        if folder not in versions:
            there = ", ".join(version.name for version in versions[-5:])
            raise ArtifactError(f"There is no {reference}; {reference.name} has {there}.")
        return Artifact(folder)

    def _hint(self, reference: Reference) -> str:
        names = self.names(reference.kind)
        if names:
            return f"; the nearest is {reference.kind}/{nearest(reference.name, names)}"
        return f", nor any other {reference.kind} in {self.root}"

    def find_finished(self, plan: Plan) -> Artifact | None:
        """The newest intact artifact that was made by exactly this plan, if there is one."""
        identity = plan.identity
        for artifact in reversed(self.artifacts(plan.kind, plan.name)):
            try:
                same = artifact.manifest.plan.identity == identity
            except ArtifactError:
                continue
            if same and not quick_check(artifact):
                return artifact
        return None

    def draft(self, plan: Plan, on_wait: Callable[[str], None]) -> Draft:
        """Open the draft of `plan`; waits, after one call of `on_wait`, if it is in use."""
        return Draft(self.root, plan, on_wait)

    def parent_of(self, artifact: Artifact) -> Parent:
        """How a child's manifest refers to `artifact`."""
        manifest = artifact.manifest
        plan = manifest.plan
        home = self.root / plan.kind / plan.name / f"v{manifest.version}"
        inside = home.resolve() == artifact.folder.resolve()
        place = (None, None) if inside else (OUTSIDE, artifact.folder.resolve())
        return Parent(plan.kind, plan.name, manifest.version, manifest.digest, *place)

    def folder_of(self, parent: Parent) -> Path:
        """Where `parent` lies or should lie; of one from outside that this store has not seen, a
        folder that is not there."""
        if parent.location is None:
            return self.root / parent.kind / parent.name / f"v{parent.version}"
        if parent.folder is not None:
            return parent.folder
        place = self._place_file(parent)
        with contextlib.suppress(OSError):
            return Path(place.read_text(encoding="utf-8"))
        return place if parent.location == OUTSIDE else Path(parent.location)

    def _place_file(self, parent: Parent) -> Path:
        return self.root / ".places" / parent.digest

    def hold_parents(self, plan: Plan) -> None:
        """Make sure the parents are still there once the plan's draft is open.

        From then on prune sees the draft and keeps them; before, it may have removed one. Where
        those from outside lie is noted down beside the artifacts, which do not say so.
        """
        with store_lock(self.root):
            for key, parent in plan.parents.items():
                if not self.folder_of(parent).is_dir():
                    raise ArtifactError(f"{plan.stage}.{key}: {parent} was removed just now.")
                if parent.folder is not None:
                    place = self._place_file(parent)
                    place.parent.mkdir(exist_ok=True)
                    put_text(place, str(parent.folder))

    def verify(self, artifact: Artifact) -> list[str]:
        """Every problem of `artifact`, each one sentence; an empty list means not a byte changed.

        Reads every byte of it, and the manifests of its parents.
        """
        try:
            manifest = artifact.manifest
        except ArtifactError as error:
            return [str(error)]
        problems = list(self._place_problems(artifact, manifest))
        problems += _file_problems(artifact.folder, manifest)
        problems += (
            f"{artifact}: its parent {key} {problem}."
            for key, parent in manifest.plan.parents.items()
            if not self._stayed_behind(artifact, parent)
            and (problem := self._parent_problem(artifact, parent))
        )
        return problems

    def _place_problems(self, artifact: Artifact, manifest: Manifest) -> Iterator[str]:
        if self._is_inside(artifact) and manifest.reference != str(artifact):
            yield f"{artifact}: its manifest is that of {manifest.reference}."

    def _place_of(self, child: Artifact, parent: Parent) -> Path:
        """Where the parent of `child` lies or should lie: an artifact of another store, or one that
        was copied here, has its parents beside it."""
        if parent.location is not None or self._is_inside(child):
            return self.folder_of(parent)
        other = child.folder.resolve().parent.parent.parent
        return other / parent.kind / parent.name / f"v{parent.version}"

    def _is_inside(self, artifact: Artifact) -> bool:
        return artifact.folder.resolve().is_relative_to(self.root.resolve())

    def _stayed_behind(self, child: Artifact, parent: Parent) -> bool:
        """Whether `child` was copied here, or shipped, without this parent."""
        if parent.location == OUTSIDE:
            return not self._place_file(parent).exists()
        elsewhere = parent.location is None and not self._is_inside(child)
        return elsewhere and not self._place_of(child, parent).is_dir()

    def _parent_problem(self, child: Artifact, parent: Parent) -> str:
        folder = self._place_of(child, parent)
        if not folder.is_dir():
            return f"{parent} is missing ({folder})"
        try:
            manifest = read_manifest(folder)
        except ArtifactError as error:
            return f"{parent} cannot be trusted: {str(error).rstrip('.')}"
        if manifest.digest != parent.digest:
            return f"{parent} is another one now than it was made from"
        return ""

    def lineage(self, artifact: Artifact) -> Ancestry:
        """Where `artifact` came from: its parents, theirs, and the raw files at the ends."""
        manifest = artifact.manifest
        parents = {}
        for key, parent in manifest.plan.parents.items():
            if self._stayed_behind(artifact, parent):
                note = "was not shipped along; this digest is all that is recorded of it here"
                parents[key] = Ancestry(f"{parent}  [{parent.digest[:12]}]", note=note)
            elif problem := self._parent_problem(artifact, parent):
                parents[key] = Ancestry(str(parent), problem=problem)
            else:
                parents[key] = self.lineage(Artifact(self._place_of(artifact, parent)))
        return Ancestry(
            manifest.reference, artifact, parents=parents, sources=manifest.plan.sources
        )

    def prune(self, keep: int, drafts: bool = False, delete: bool = False) -> Pruning:
        """Find all but the latest `keep` (at least 1) versions of each name, and what they need.

        An ancestor of anything kept is kept, and so is what an unfinished run was begun from,
        unless `drafts` is set: then drafts nobody works on go too. Nothing is removed before
        `delete` is set. ArtifactError if a kept artifact is damaged, because what it needs is
        then unknown.
        """
        if keep < 1:
            raise ArtifactError(f"prune cannot keep {keep} versions; use 1 or more.")
        if not self.root.is_dir():
            return Pruning([], [], [])
        # Drafts are held until they are gone, so that no run goes on in one that is being removed.
        with store_lock(self.root), contextlib.ExitStack() as held:
            # Drafts before artifacts: a run that is committed between the two is seen in either.
            doomed_drafts = [
                path
                for path in (self._drafts() if drafts else [])
                if held.enter_context(locked_if_free(lock_of(path)))
            ]
            pruning = self._plan_pruning(keep, doomed_drafts)
            if delete:
                self._delete([artifact.folder for artifact in pruning.removed])
                self._delete(doomed_drafts)
                for path in doomed_drafts:
                    lock_of(path).unlink(missing_ok=True)
                shutil.rmtree(self.root / ".trash", ignore_errors=True)
        return pruning

    def _plan_pruning(self, keep: int, doomed_drafts: list[Path]) -> Pruning:
        roots: list[Path] = []
        for draft in self._drafts():
            record = None if draft in doomed_drafts else read_record(draft)
            if record is not None:
                roots += map(self.folder_of, record["plan"].parents.values())
        everything = self.artifacts()
        for home in {artifact.folder.parent for artifact in everything}:
            roots += [artifact.folder for artifact in everything if artifact.folder.parent == home][
                -keep:
            ]
        needed = self._with_ancestors(roots)
        return Pruning(
            removed=[artifact for artifact in everything if artifact.folder not in needed],
            kept=[artifact for artifact in everything if artifact.folder in needed],
            drafts=doomed_drafts,
        )

    def _with_ancestors(self, folders: Iterable[Path]) -> set[Path]:
        needed: set[Path] = set()
        waiting = list(folders)
        while waiting:
            folder = waiting.pop()
            if folder in needed or not folder.is_dir():
                continue
            needed.add(folder)
            waiting += map(self.folder_of, read_manifest(folder).plan.parents.values())
        return needed

    def _drafts(self) -> list[Path]:
        return _folders(drafts_folder(self.root))

    def _delete(self, folders: list[Path]) -> None:
        for folder in folders:
            # One rename makes it invisible; what follows may be cut short without harm.
            trash = self.root / ".trash"
            trash.mkdir(exist_ok=True)
            folder.rename(trash / uuid.uuid4().hex)


def quick_check(artifact: Artifact) -> str:
    """The first file that is missing or has another size than recorded, "" if none is.

    Reads no file, so it is for every use; `Store.verify` reads every byte.
    """
    for entry in artifact.manifest.files:
        path = artifact.folder / entry.path
        try:
            status = path.lstat()
        except FileNotFoundError:
            return f"{entry.path} is missing"
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
            return f"{entry.path} was changed"
    return ""


def _file_problems(folder: Path, manifest: Manifest) -> list[str]:
    recorded = {entry.path: entry for entry in manifest.files}
    artifact = Artifact(folder)
    present, problems = set(), []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            problems.append(f"{artifact}: {name} is neither a file nor a folder.")
        elif path.is_dir():
            if not any(entry.startswith(f"{name}/") for entry in recorded):
                problems.append(f"{artifact}: the folder {name} does not belong to it.")
        elif name in recorded:
            present.add(name)
        elif name != MANIFEST_NAME:
            problems.append(f"{artifact}: {name} does not belong to it.")
    problems += (f"{artifact}: {name} is missing." for name in recorded if name not in present)
    return problems + _changed(artifact, recorded, sorted(present))


def changed_files(artifact: Artifact) -> list[str]:
    """One sentence a recorded file whose bytes are not those that were written.

    Reads every byte (about a second a gigabyte and thread).
    """
    recorded = {entry.path: entry for entry in artifact.manifest.files}
    return _changed(artifact, recorded, list(recorded))


def _changed(artifact: Artifact, recorded: Mapping[str, FileEntry], names: list[str]) -> list[str]:
    try:
        entries = hash_files(artifact.folder, names)
    except OSError as error:
        return [f"{artifact}: {error.filename} cannot be read: {error.strerror}."]
    return [
        f"{artifact}: {entry.path} was changed after it was written."
        for entry in entries
        if entry != recorded[entry.path]
    ]


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _versions(home: Path) -> list[Path]:
    """Version folders of one name, oldest first."""
    numbered = [(version_of(path.name), path) for path in _folders(home)]
    return [path for number, path in sorted((n, p) for n, p in numbered if n is not None)]

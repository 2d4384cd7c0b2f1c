"""What the manifests tell: timings, versions, settings, and the tree from result to raw files.

Reads manifests of the folders it is given; knows nothing of the store (parents that are no input
of the report are named from their children's manifests) nor of payloads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.artifacts.manifest import Manifest, Parent, Source, read_manifest
from pipeline.console import duration
from pipeline.errors import ArtifactError
from pipeline.evaluate.payload import flatten, text
from pipeline.evaluate.sections.shared import Table, count_text

# Raw files named one by one in the tree; the manifest names all.
MAX_FILES = 60


@dataclass(frozen=True)
class File:
    """A raw file: name and SHA-256 (empty where it is not known)."""

    name: str
    digest: str


@dataclass(frozen=True)
class Node:
    """A place in the lineage: an artifact, or the raw files that one was made from."""

    kind: str
    title: str
    digest: str = ""
    detail: str = ""
    files_summary: str = ""
    files: list[File] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)


def read_manifests(inputs: Mapping[str, Path]) -> tuple[dict[str, Manifest], list[str]]:
    """The manifests of the inputs by key, and a sentence for each that cannot be trusted."""
    manifests, warnings = {}, []
    for key, folder in inputs.items():
        try:
            manifests[key] = read_manifest(folder)
        except ArtifactError as error:
            warnings.append(f"The {key}'s manifest is missing or damaged: {error}")
    return manifests, warnings


def mismatches(manifests: Mapping[str, Manifest]) -> list[str]:
    """Sentences on inputs that were not made from the inputs of this report but from others."""
    sentences = []
    for key, manifest in manifests.items():
        for role, parent in manifest.plan.parents.items():
            # Another role is another thing: a dataset is framed `like` some model or other.
            shown = manifests.get(role)
            if shown and shown.digest != parent.digest:
                sentences.append(
                    f"The {key} shown here was made from {parent}, "
                    f"but this report shows {shown.reference}."
                )
    return sentences


# --- tables ---


def timings(manifests: Mapping[str, Manifest]) -> Table | None:
    """How long each stage worked, when it finished, with which code."""
    rows = [
        [
            manifest.plan.stage,
            manifest.reference,
            duration(manifest.wall_seconds),
            manifest.created.replace("T", " ")[:19],
            _code(manifest.code),
        ]
        for manifest in manifests.values()
    ]
    head = ["stage", "made", "worked for", "finished (UTC)", "code"]
    return Table("Timings", head, rows, frozenset({2}), wide=True) if rows else None


def versions(manifests: Mapping[str, Manifest]) -> Table | None:
    """Versions of Python, torch and the system, one column a stage where they differ."""
    if not manifests:
        return None
    columns = {m.plan.stage: dict(flatten(m.environment)) for m in manifests.values()}
    names = list(dict.fromkeys(name for facts in columns.values() for name in facts))
    if len({text(facts) for facts in columns.values()}) == 1:
        columns = {"all stages": next(iter(columns.values()))}
    rows = [[name, *(text(facts.get(name)) for facts in columns.values())] for name in names]
    return Table("Versions", ["what", *columns], rows) if rows else None


def settings(manifests: Mapping[str, Manifest]) -> list[Table]:
    """The resolved configuration of each stage."""
    tables = []
    for manifest in manifests.values():
        rows = [[key, text(value)] for key, value in flatten(manifest.plan.config)]
        title = f"{manifest.plan.stage} ({manifest.reference})"
        tables.append(Table(title, ["key", "value"], rows))
    return tables


def _code(code: Mapping[str, object]) -> str:
    commit = code.get("commit")
    if not commit:
        return "–"
    return text(commit)[:10] + (" with changes" if code.get("dirty") else "")


# --- lineage ---


def lineage(manifests: Mapping[str, Manifest]) -> list[Node]:
    """Trees whose roots are the inputs that no other input was made from."""
    known = {manifest.digest: manifest for manifest in manifests.values()}
    used = {p.digest for manifest in manifests.values() for p in manifest.plan.parents.values()}
    shown: set[str] = set()
    # From the road's end to its beginning: the longest tree comes first.
    order = list(reversed(list(manifests.values())))
    return [_node(manifest, known, shown) for manifest in order if manifest.digest not in used]


def _node(manifest: Manifest, known: Mapping[str, Manifest], shown: set[str]) -> Node:
    title = f"{manifest.plan.name}, version {manifest.version}"
    if manifest.digest in shown:
        return Node(manifest.plan.kind, title, manifest.digest, "shown above")
    shown.add(manifest.digest)
    children = [_source_node(key, source) for key, source in manifest.plan.sources.items()]
    for parent in manifest.plan.parents.values():
        found = known.get(parent.digest)
        children.append(_node(found, known, shown) if found else _absent(parent))
    if not children:
        # Such as a dataset painted by the program.
        seed = "" if manifest.seed is None else f" and seed {manifest.seed}"
        children.append(Node("no raw files", f"made from its settings{seed} alone"))
    detail = (
        f"{manifest.plan.stage}, {manifest.created[:10]}, {duration(manifest.wall_seconds)}, "
        f"{count_text(len(manifest.files), 'file')}"
    )
    return Node(manifest.plan.kind, title, manifest.digest, detail, children=children)


def _absent(parent: Parent) -> Node:
    title = f"{parent.name}, version {parent.version}"
    return Node(parent.kind, title, parent.digest, "not part of this report")


def _source_node(key: str, source: Source) -> Node:
    # The file's own name only: a report is made to be shown, where folders lay is nobody's matter.
    name = Path(source.path).name or "/"
    files = [File(entry.path, entry.sha256) for entry in source.files[:MAX_FILES]]
    total = len(source.files)
    if total == 1 and files[0].name == name:
        return Node("raw file", name, source.digest, f"given as {key}")
    more = f" (the first {MAX_FILES})" if total > MAX_FILES else ""
    summary = f"{count_text(total, 'file')}{more}"
    return Node("raw files", name, source.digest, f"given as {key}", summary, files)

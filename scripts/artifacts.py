"""Look after artifacts: python -m scripts.artifacts ls|show|path|verify|lineage|prune

Imports no torch; knows the store only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipeline.artifacts.manifest import MANIFEST_NAME, Source
from pipeline.artifacts.reference import KINDS
from pipeline.artifacts.store import Ancestry, Artifact, Store
from pipeline.console import duration
from pipeline.errors import ArtifactError, check_choice
from scripts.one_sentence import one_sentence


@click.group(help=__doc__)
@click.option(
    "--store",
    "root",
    default="artifacts",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the artifacts.",
)
@click.pass_context
def main(context: click.Context, root: Path) -> None:
    context.obj = Store(root)


@main.command("ls")
@click.argument("selection", required=False)
@click.pass_obj
@one_sentence
def list_artifacts(store: Store, selection: str | None) -> None:
    """List every version, of a kind (model) or of a name (model/ganyu) if given."""
    kind, _, name = (selection or "").partition("/")
    if kind:
        check_choice("kind", kind, KINDS)
    found = store.artifacts(kind or None, name or None)
    if not found:
        click.echo(f"There is no artifact{f' {selection}' if selection else ''} in {store.root}.")
    for artifact in found:
        click.echo(_line(artifact))


def _line(artifact: Artifact) -> str:
    try:
        manifest = artifact.manifest
    except ArtifactError:
        return f"{artifact!s:<32} damaged; see python -m scripts.artifacts verify {artifact}"
    size = sum(entry.size for entry in manifest.files)
    return (
        f"{artifact!s:<32} {manifest.created[:19]}  {manifest.plan.stage:<10} "
        f"{duration(manifest.wall_seconds):>8}  {_bytes(size):>9}  {manifest.digest[:12]}"
    )


@main.command()
@click.argument("reference")
@click.pass_obj
@one_sentence
def show(store: Store, reference: str) -> None:
    """Print the manifest of REFERENCE (kind/name, kind/name:v3, or a folder)."""
    artifact = store.find(reference)
    click.echo((artifact.folder / MANIFEST_NAME).read_text(encoding="utf-8"), nl=False)


@main.command()
@click.argument("reference")
@click.pass_obj
@one_sentence
def path(store: Store, reference: str) -> None:
    """Print the folder of REFERENCE, for use in a shell: $(... path model/ganyu)."""
    click.echo(store.find(reference).folder)


@main.command()
@click.argument("references", nargs=-1)
@click.pass_obj
@one_sentence
def verify(store: Store, references: tuple[str, ...]) -> None:
    """Read every byte of REFERENCES (default: everything) and say what is not as it was written."""
    chosen = [_found_for_verify(store, text) for text in references] or store.artifacts()
    problems = []
    for artifact in chosen:
        found = store.verify(artifact)
        problems += found
        for problem in found:
            click.echo(problem, err=True)
    click.echo(
        f"{len(chosen)} artifact{'' if len(chosen) == 1 else 's'} checked, "
        f"{len(problems)} problem{'' if len(problems) == 1 else 's'}."
    )
    if problems:
        sys.exit(1)


def _found_for_verify(store: Store, text: str) -> Artifact:
    """Like `find`, but a folder without a readable manifest is verified (and fails) too."""
    folder = Path(text).expanduser()
    if folder.is_dir() and "/" in text and text.startswith(("/", ".", "~")):
        return Artifact(folder)
    return store.find(text)


@main.command()
@click.argument("reference")
@click.option("--files", is_flag=True, help="Name every raw file.")
@click.pass_obj
@one_sentence
def lineage(store: Store, reference: str, files: bool) -> None:
    """Draw the tree of what REFERENCE was made from, down to the raw files."""
    for line in lineage_lines(store.lineage(store.find(reference)), files):
        click.echo(line)


def lineage_lines(ancestry: Ancestry, files: bool = False) -> list[str]:
    """The tree as lines of text."""
    lines = [_ancestry_line(ancestry)]
    branches = [
        *((key, lineage_lines(parent, files)) for key, parent in ancestry.parents.items()),
        *((key, _source_lines(source, files)) for key, source in ancestry.sources.items()),
    ]
    for index, (key, (first, *rest)) in enumerate(branches):
        last = index == len(branches) - 1
        lines.append(f"{'└─' if last else '├─'} {key}: {first}")
        lines += [f"{'   ' if last else '│  '}{line}" for line in rest]
    return lines


def _ancestry_line(ancestry: Ancestry) -> str:
    if ancestry.artifact is None:
        return f"{ancestry.label} {ancestry.note}" if ancestry.note else f"{ancestry.problem}!"
    manifest = ancestry.artifact.manifest
    commit = manifest.code["commit"]
    code = "" if commit is None else f", code {commit[:10]}{'+' if manifest.code['dirty'] else ''}"
    return (
        f"{ancestry.label}  [{manifest.digest[:12]}] made by {manifest.plan.stage} "
        f"on {manifest.created[:10]}{code}"
    )


def _source_lines(source: Source, files: bool) -> list[str]:
    size = _bytes(sum(entry.size for entry in source.files))
    count = "1 file" if len(source.files) == 1 else f"{len(source.files)} files"
    lines = [f"{source.path}  [{source.digest[:12]}] {count}, {size}"]
    if files:
        lines += [f"   {entry.path}  [{entry.sha256[:12]}]" for entry in source.files]
    return lines


@main.command()
@click.option("--keep", default=1, show_default=True, help="Latest versions kept of each name.")
@click.option("--drafts", is_flag=True, help="Also remove unfinished runs nobody works on.")
@click.option("--delete", is_flag=True, help="Really remove; without it only say what would go.")
@click.pass_obj
@one_sentence
def prune(store: Store, keep: int, drafts: bool, delete: bool) -> None:
    """Remove old versions that nothing kept was made from."""
    pruning = store.prune(keep, drafts=drafts, delete=delete)
    verb = "removed" if delete else "would remove"
    for artifact in pruning.removed:
        click.echo(f"{verb} {artifact}")
    for draft in pruning.drafts:
        click.echo(f"{verb} the unfinished run {draft.name}")
    count = len(pruning.removed) + len(pruning.drafts)
    hint = "" if delete or not count else "; add --delete to do it"
    click.echo(f"{verb} {count}, kept {len(pruning.kept)}{hint}.")


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


if __name__ == "__main__":
    main()

"""Compare evaluations: python -m scripts.compare evaluation/a evaluation/b [--out table.html]

Prints one table of their figures in Markdown, or writes it to a file (.md or .html).
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipeline.console import say
from pipeline.errors import AnimedragError, ConfigError


@click.command(help=__doc__)
@click.argument("evaluations", nargs=-1, required=True)
@click.option(
    "--store",
    default="artifacts",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the artifacts.",
)
@click.option("--out", type=click.Path(path_type=Path), help="File to write, .md or .html.")
def main(evaluations: tuple[str, ...], store: Path, out: Path | None) -> None:
    try:
        text = compared(evaluations, store.expanduser(), as_html=_is_html(out))
        if out is None:
            say(text.rstrip())
            return
        out.write_text(text, encoding="utf-8")
    except AnimedragError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"Could not write {error.filename}: {error.strerror}.", err=True)
        sys.exit(2)
    say(f"wrote {out}")


def _is_html(out: Path | None) -> bool:
    if out is None or out.suffix == ".md":
        return False
    if out.suffix in (".html", ".htm"):
        return True
    raise ConfigError(f"--out={out} is not possible; use a name that ends in .md or .html.")


def compared(references: tuple[str, ...], store: Path, as_html: bool) -> str:
    """The table of the evaluations that the references (or folders) name."""
    # Here, for they take seconds, and --help needs none of them.
    from pipeline.artifacts.store import Store
    from pipeline.evaluate import comparison, evaluation_file

    artifacts = [Store(store).find(reference) for reference in references]
    found = {
        artifact.reference.removeprefix("evaluation/"): evaluation_file.read(artifact.folder)
        for artifact in artifacts
    }
    datasets = {
        artifact.reference.removeprefix("evaluation/"): str(parents["dataset"])
        for artifact in artifacts
        if "dataset" in (parents := artifact.manifest.plan.parents)
    }
    made = comparison.compare(found, datasets)
    return comparison.to_html(made) if as_html else comparison.to_markdown(made)


if __name__ == "__main__":
    main()

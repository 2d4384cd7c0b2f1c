"""Compare emotion benchmarks: python -m scripts.compare_emotions emotion_bench/a emotion_bench/b

Prints the tables of several models together in Markdown, or writes them to a file (.md or .html).
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.console import say
from pipeline.errors import ConfigError
from scripts.one_sentence import one_sentence


@click.command(help=__doc__)
@click.argument("benches", nargs=-1, required=True)
@click.option(
    "--store", default=Path("artifacts"), show_default=True, type=click.Path(path_type=Path),
    help="Folder of the artifacts.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="File to write, .md or .html.")
@one_sentence
def main(benches: tuple[str, ...], store: Path, out: Path | None) -> None:
    from pipeline.artifacts.store import Store
    from pipeline.evaluate import emotion_table

    if out is not None and out.suffix not in (".md", ".html"):
        raise ConfigError(f"--out={out} is not possible; use a name that ends in .md or .html.")
    artifacts = [Store(store.expanduser()).find(reference) for reference in benches]
    summaries = [emotion_table.read(artifact.folder) for artifact in artifacts]
    names = [artifact.reference.removeprefix("emotion_bench/") for artifact in artifacts]
    named = [{**one, "model": name} for one, name in zip(summaries, names, strict=True)]
    if out is None:
        say(emotion_table.markdown(named))
        return
    if out.suffix == ".html":
        examples = [artifact.folder / "examples.png" for artifact in artifacts]
        text = emotion_table.to_html(named, examples)
    else:
        text = emotion_table.markdown(named)
    out.write_text(text, encoding="utf-8")
    say(f"wrote {out}")


if __name__ == "__main__":
    main()

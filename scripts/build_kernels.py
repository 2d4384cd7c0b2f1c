"""Compile the operators ahead of time: `make kernels`.

Without a compiler, or where compilation fails, says so in one sentence and succeeds: every operator
also runs in plain torch. With `--strict` that is an error.
"""

from __future__ import annotations

import click


@click.command()
@click.option("--strict", is_flag=True, help="Exit with an error if they cannot be compiled.")
def main(strict: bool) -> None:
    """Compile the operators for this machine's processor (about half a minute, once)."""
    from torch_utils import native

    if not native.library_path().is_file():
        click.echo("Compiling the operators (once, about half a minute) ...")
    try:
        native.build()
    except native.BuildError as error:
        click.echo(str(error))
        raise SystemExit(1 if strict else 0) from error
    status = native.status()
    click.echo(f"Operators: {'compiled, ' if status.loaded else 'plain torch, '}{status.reason}")


if __name__ == "__main__":
    main()

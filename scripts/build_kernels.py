"""Compile the operators ahead of time: `make kernels`.

Without a compiler, or where compilation fails, says so in one sentence and succeeds: every operator
also runs in plain torch. With `--strict` that is an error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import click


@click.command()
@click.option("--strict", is_flag=True, help="Exit with an error if they cannot be compiled.")
def main(strict: bool) -> None:
    """Compile the operators for this machine's processor and GPUs (once, some minutes)."""
    from torch_utils import native

    problems, for_gpus = [], None
    for what, build in (("operators", native.build), ("CUDA kernels", native.build_cuda)):
        try:
            for_gpus = build(progress_line(what))
        except native.BuildError as error:
            click.echo(str(error))
            problems.append(error)
    click.echo(f"Operators on the CPU: {_sentence(native.status())}")
    if native.device_capabilities():
        click.echo(f"Operators on the GPU: {_sentence(native.cuda_status())}")
    elif for_gpus is not None and not problems:
        # Asked for by ANIMEDRAG_CUDA_ARCHS, for a machine that has a GPU.
        click.echo(f"CUDA kernels: compiled ({for_gpus.name}); no GPU is here to run them.")
    if strict and problems:
        raise SystemExit(1)


def _sentence(status: object) -> str:
    from torch_utils.native import PLAIN_COST, Status

    assert isinstance(status, Status)
    if status.loaded:
        return f"compiled, {status.reason}"
    return f"plain torch, {PLAIN_COST}: {status.reason}"


def progress_line(what: str) -> Callable[[int, int, str], None]:
    """One line that renews itself on a terminal; elsewhere one line at the first step. A line of
    its own where another process compiles them already."""

    def report(done: int, total: int, step: str) -> None:
        if total == 0:
            click.echo(f"Compiling the {what}: {step} ...", err=True)
        elif sys.stderr.isatty():
            end = "\n" if done == total else ""
            click.echo(
                f"\r\033[KCompiling the {what} [{done}/{total}] {step}{end}", err=True, nl=False
            )
        elif done == 1:
            click.echo(f"Compiling the {what} (once; {total} steps) ...", err=True)

    return report


if __name__ == "__main__":
    main()

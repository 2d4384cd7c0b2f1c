"""For the tools that are no stages: what is wrong in one sentence on stderr, and the exit code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import click

from pipeline.errors import AnimedragError


def one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """Turn our errors, and files that cannot be read or written, into a sentence."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except AnimedragError as error:
            click.echo(str(error), err=True)
            sys.exit(error.exit_code)
        except BrokenPipeError:
            raise  # click knows what to do when nobody reads any more
        except OSError as error:
            click.echo(f"{error.filename} cannot be used: {error.strerror}.", err=True)
            sys.exit(2)

    return wrapped

"""Makes a model of an uploaded network pickle, bounded in memory and time, for the studio:
python -m scripts.studio_import FILE --name NAME --store FOLDER
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from pipeline.errors import Interrupted, ModelError
from scripts.one_sentence import one_sentence

SECONDS = 600
# Address space: the interpreter with torch, and some copies of the file's tensors.
BASE_BYTES = 6 * 2**30
TIMES_FILE = 8
WRITTEN_BYTES = 8 * 2**30
POLL_SECONDS = 0.1


def import_bounded(path: Path, name: str, store: Path, stop: Callable[[], bool]) -> str:
    """The reference of the model that a process of its own made of the file.

    ModelError with that process's sentence; Interrupted where `stop` said so.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.studio_import", str(path), "--name", name,
         "--store", str(store)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + SECONDS
    while True:
        # Read while it runs: a pipe that nobody reads fills up, and the process stands still.
        with contextlib.suppress(subprocess.TimeoutExpired):
            said, complained = process.communicate(timeout=POLL_SECONDS)
            break
        stopped = stop()
        if stopped or time.monotonic() > end:
            process.kill()
            process.communicate()
            if stopped:
                raise Interrupted("The import was stopped.")
            raise ModelError(f"The model took longer than {SECONDS // 60} minutes to read.")
    if process.returncode != 0:
        lines = complained.strip().splitlines()
        known = process.returncode == 2 and lines
        raise ModelError(lines[-1] if known else "This file cannot be read as a network pickle.")
    return str(said.strip().splitlines()[-1])


@click.command(help=__doc__)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", required=True)
@click.option("--store", required=True, type=click.Path(path_type=Path))
@one_sentence
def main(file: Path, name: str, store: Path) -> None:
    from pipeline.artifacts.store import Store
    from pipeline.models import checkpoint  # noqa: F401 (what needs memory of its own, before)
    from pipeline.models.config import ImportConfig
    from pipeline.runner import run_stage
    from pipeline.stages import find_stage

    memory = BASE_BYTES + TIMES_FILE * file.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (WRITTEN_BYTES, WRITTEN_BYTES))
    done = run_stage(find_stage("import"), ImportConfig(name=name, pkl=str(file)), Store(store))
    click.echo(done.artifact.reference)


if __name__ == "__main__":
    main()

"""Run one command in several processes: python -m scripts.launch --processes 2 stage=train ...

torchrun's own machinery (rendezvous, restarts) without its tracebacks: the processes say what is
wrong themselves. Ctrl-C and SIGTERM reach all of them, which save and end. torchrun can be used in
its place. Imports torch only to launch.
"""

from __future__ import annotations

import logging
import os
import sys

import click

from pipeline import launch
from pipeline.console import complain
from pipeline.errors import AnimedragError, ConfigError, Interrupted

# A process gets so long to save and end once it is told to.
SHUTDOWN_SECONDS = 120


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--processes", default="gpu", help="Processes a machine: a number, or gpu: one each.")
@click.option("--restarts", default=0, help="How often all start again when one has died.")
@click.option("--machines", default=1, help="Machines; run the same command on each of them.")
@click.option("--meet", default="", help="HOST:PORT of one of the machines, with --machines.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(
    processes: str, restarts: int, machines: int, meet: str, arguments: tuple[str, ...]
) -> None:
    """Run `python -m scripts.run ARGUMENTS` in several processes that share the work."""
    try:
        code = run(processes, restarts, machines, meet, arguments)
    except AnimedragError as error:
        complain(str(error))
        code = error.exit_code
    launch.end(code)


def run(processes: str, restarts: int, machines: int, meet: str, arguments: tuple[str, ...]) -> int:
    """Launch, wait, and return the exit code. ConfigError for settings that cannot be."""
    if machines > 1 and ":" not in meet:
        raise ConfigError(
            f"--machines {machines} needs --meet HOST:PORT, an address on one of them that all "
            "can reach."
        )
    count = _count(processes)
    # Else torchrun gives each process one thread, however many cores there are.
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    # Its reports would repeat, in many lines, what the processes say in one.
    logging.disable(logging.ERROR)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=machines,
        max_nodes=machines,
        nproc_per_node=count,
        run_id="animedrag",
        rdzv_backend="c10d",
        rdzv_endpoint=meet or "localhost:0",
        max_restarts=restarts,
        monitor_interval=0.1,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    command = [sys.executable, "-m", "scripts.run", *arguments]
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        if all(code < 0 for code in codes):
            complain("All processes were killed; run the same command again to continue.")
        return max(codes) if max(codes) > 0 else 1
    except SignalException:
        return Interrupted.exit_code
    return 0


def _count(processes: str) -> int:
    if processes != "gpu":
        if not processes.isdecimal() or not 1 <= int(processes) <= 1024:
            raise ConfigError(
                f"--processes {processes} is not possible; give a number from 1, or gpu."
            )
        return int(processes)
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("--processes gpu: torch sees no GPU here; give a number.")
    return torch.cuda.device_count()


if __name__ == "__main__":
    main()

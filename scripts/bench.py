"""Measure the program against the public formulation on this machine: python -m scripts.bench

Writes a table, bench.md and bench.json. A full run takes a quarter of an hour on two quiet cores,
for the public formulation is slow; --only picks rows, --quick tries everything on small shapes.
"""

from __future__ import annotations

import datetime
import json
import platform
import sys
import time
from pathlib import Path

import click

from pipeline.console import say
from pipeline.errors import AnimedragError, MachineError, check_choice

SIDES = ("ours", "reference")


@click.command(help=__doc__)
@click.option("--only", "keys", multiple=True, help="A row's key; may be repeated. See --list.")
@click.option("--list", "list_rows", is_flag=True, help="List the rows and their targets.")
@click.option("--quick", is_flag=True, help="Small shapes; the figures answer to no target.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1, 1000))
@click.option("--threads", default=None, type=click.IntRange(1, 4096), help="Default: one a core.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option(
    "--clock", default="wall", show_default=True, type=click.Choice(["wall", "cpu"]),
    help="cpu: processor seconds of all threads, for a machine that is busy with other things.",
)  # fmt: skip
@click.option(
    "--out", default=Path("bench"), show_default=True, type=click.Path(path_type=Path),
    help="Folder of the table.",
)  # fmt: skip
@click.option("--peak-of", type=click.Choice(SIDES), hidden=True)
def main(
    keys: tuple[str, ...],
    list_rows: bool,
    quick: bool,
    repeats: int,
    threads: int | None,
    device: str,
    clock: str,
    out: Path,
    peak_of: str | None,
) -> None:
    try:
        _run(keys, list_rows, quick, repeats, threads, device, clock, out, peak_of)
    except AnimedragError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"Could not write {error.filename}: {error.strerror}.", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("Stopped; no table was written.", err=True)
        sys.exit(130)


def _run(
    keys: tuple[str, ...],
    list_rows: bool,
    quick: bool,
    repeats: int,
    threads: int | None,
    device: str,
    clock: str,
    out: Path,
    peak_of: str | None,
) -> None:
    import torch

    from scripts.benchmarks import measure, table
    from scripts.benchmarks.all_rows import ROWS
    from scripts.benchmarks.rows import Setting
    from scripts.benchmarks.run import peak_of as measure_peak
    from scripts.benchmarks.run import run_row
    from torch_utils.device import choose_device, describe

    for key in keys:
        check_choice("--only", key, [row.key for row in ROWS])
    if list_rows:
        widest = max(len(row.key) for row in ROWS)
        for row in ROWS:
            say(f"{row.key:{widest}} {row.title}: {row.target}")
        return
    if threads is not None:
        torch.set_num_threads(threads)
    ticks = time.process_time if clock == "cpu" else time.perf_counter
    setting = Setting(choose_device(device), repeats, quick, ticks)
    chosen = [row for row in ROWS if not keys or row.key in keys]
    if peak_of is not None:
        say(json.dumps(measure_peak(chosen[0], peak_of, setting)))
        return
    say(f"bench: {describe(setting.device)}, {torch.get_num_threads()} threads")
    load = measure.load()
    ceilings = measure.ceilings(setting.device, repeats=1 if quick else 5, clock=ticks)
    results = []
    for row in chosen:
        result = run_row(row, setting)
        results.append(result)
        say(table.summary(result))
    if all(result.outcome is None for result in results):
        raise MachineError(
            "bench: none of the chosen rows can be measured here, for the reasons above; no table "
            "was written."
        )
    machine = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "computes on": describe(setting.device),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "clock": "processor seconds of all threads" if clock == "cpu" else "wall",
        "load before the run": "unknown" if load is None else load,
    }
    if quick:
        machine["shapes"] = "small ones (--quick): these figures answer to no target"
    table.write(out, results, ceilings, machine)
    say(f"The table is in {out / table.MARKDOWN}.")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()

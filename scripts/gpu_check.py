"""Check and measure the program on a GPU: `make gpucheck`, or `python -m scripts.gpu_check`.

Builds the kernels, runs every operator against plain torch in float64 (types, layouts, derivatives,
streams, graphs), the recorded training and drag steps against the plain ones, NVIDIA's memory and
race checkers, and measures operators, training, dragging and inversion beside the device's
ceilings and the public formulation. Each part is written into the GPU part of docs/measurements.md
as soon as it is through; called again, the command goes on with what is missing. With --device cpu
small shapes of the same run on the CPU.
"""

from __future__ import annotations

import datetime
import hashlib
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scripts.one_sentence import one_sentence

if TYPE_CHECKING:
    from scripts.gpu_checks.parts import Part
    from scripts.gpu_checks.report import Place, Record

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "measurements.md"
# Folders whose sources could change a figure.
SOURCES = ("pipeline", "torch_utils", "scripts")
BUILD = "build"


@click.command(help=__doc__)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--only", "keys", multiple=True, help="A part's key; may be repeated. See --list.")
@click.option("--list", "list_parts", is_flag=True, help="List the parts.")
@click.option("--again", is_flag=True, help="Also measure what has been measured.")
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True),
    help="Begin no further part after so many.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="Small shapes, one layout a type; nothing is written.")
@click.option("--repeats", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option(
    "--page", type=click.Path(path_type=Path),
    help="Page to write into (default: docs/measurements.md on a GPU, none on the CPU).",
)  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), help="JSON to write; default: beside it.")
@one_sentence
def main(
    device: str, keys: tuple[str, ...], list_parts: bool, again: bool, minutes: float | None,
    quick: bool, repeats: int, page: Path | None, data: Path | None,
) -> None:  # fmt: skip
    import torch

    from pipeline.errors import check_choice
    from scripts.benchmarks.rows import Setting
    from scripts.gpu_checks.parts import PARTS, chosen
    from scripts.gpu_checks.report import Place

    for key in keys:
        check_choice("--only", key, [part.key for part in PARTS])
    if list_parts:
        for part in PARTS:
            click.echo(f"{part.key:10} {part.title}")
        return
    if device == "cuda" and not torch.cuda.is_available():
        click.echo(
            "No GPU that torch can use is here, so there is nothing to check; `make doctor` says "
            "why, and --device cpu runs the same on the CPU in small shapes."
        )
        raise SystemExit(2)
    if page is None and device == "cuda" and not quick:
        page = PAGE
    place = None
    if page is not None and not quick:
        place = Place(page, data or page.with_suffix(".gpu.json"))
        place.read()
    small = quick or device == "cpu"
    setting = Setting(torch.device(device), repeats, quick=small)
    until = None if minutes is None else time.monotonic() + 60 * minutes
    bad = _run(chosen(keys, quick, device), setting, place, again, until)
    if place is not None:
        click.echo(f"Written: {place.page}")
    if bad:
        raise SystemExit(1)


def _run(
    parts: list[Part], setting: object, place: Place | None, again: bool, until: float | None
) -> bool:
    """Build, then every part that is wanted; whether any failed."""
    from scripts.benchmarks.rows import Setting, Skipped
    from scripts.gpu_checks.finding import Finding
    from scripts.gpu_checks.report import Record, markdown

    assert isinstance(setting, Setting)
    machine, sources = _machine(setting.device), _sources()
    records = {} if place is None else place.read()
    built = _build(machine, sources)
    if built is not None:
        records[BUILD] = built
    if place is not None and records:
        # What an earlier run kept may not have reached the page.
        place.write(records)
    bad = False
    for part in parts:
        known = records.get(part.key)
        same = known is not None and (known.machine, known.sources) == (machine, sources)
        if known and same and known.finding.measured and not again:
            click.echo(f"{part.key}: measured {known.date}; --again measures it again.")
            bad = bad or bool(known.finding.failures)
            continue
        if until is not None and time.monotonic() > until:
            click.echo(f"{part.key}: not begun, the minutes are over; the same command goes on.")
            continue
        began = time.monotonic()
        try:
            finding = part.run(setting)
        except Skipped as reason:
            finding = Finding([f"Not measured: {reason}."], measured=False)
        except Exception as error:
            # A fault of one part costs none of the others; after a GPU's the process is of no use,
            # and the next one goes on behind this part.
            finding = Finding(
                ["Broke off."],
                [{"traceback": traceback.format_exc()}],
                [f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"],
            )
        record = Record(
            part.title, _now(), machine, sources, round(time.monotonic() - began, 1), finding
        )
        # Measured anew, it takes its old place on the page.
        records[part.key] = record
        bad = bad or bool(finding.failures)
        if place is not None:
            place.write(records)
        click.echo(markdown([record]))
    return bad


def _build(machine: str, sources: str) -> Record | None:
    """Compile what is not there yet; a record where something was."""
    from scripts.build_kernels import progress_line
    from scripts.gpu_checks.finding import Finding
    from scripts.gpu_checks.report import Record
    from torch_utils import native

    there = native.library_path().is_file(), native.cuda_library_path() is not None
    lines, began = [], time.monotonic()
    for what, build, before in zip(
        ("operators", "CUDA kernels"), (native.build, native.build_cuda), there, strict=True
    ):
        started = time.monotonic()
        try:
            made = build(progress_line(what))
        except native.BuildError as error:
            raise click.ClickException(str(error)) from error
        if made is not None and not before:
            lines.append(f"- {what}: {time.monotonic() - started:.0f} s")
    if not lines:
        return None
    seconds = round(time.monotonic() - began, 1)
    return Record("Building", _now(), machine, sources, seconds, Finding(lines))


def _machine(device: object) -> str:
    import torch

    name = platform.processor() or platform.machine()
    if str(device) == "cuda":
        major, minor = torch.cuda.get_device_capability()
        name = f"{torch.cuda.get_device_name()} (sm_{major}{minor})"
    python = ".".join(map(str, sys.version_info[:2]))
    cuda = f", CUDA {torch.version.cuda}" if torch.version.cuda else ""
    return f"{name}, torch {torch.__version__}{cuda}, Python {python}"


def _sources() -> str:
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".cpp", ".h", ".cu", ".cuh"):
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


if __name__ == "__main__":
    main()

"""Check and measure the operators on a GPU: `make gpucheck`, or `python -m scripts.gpu_check`.

Builds the kernels, runs every operator against plain torch in float64 (types, layouts, derivatives,
streams, graphs, the memory checker) and the recorded training and drag steps against the plain
ones, measures their time beside the device's ceilings, and writes the GPU part of
docs/measurements.md. With --device cpu the same tables run on the CPU's operators.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--quick", is_flag=True, help="One layout a type, no timing, no memory checker.")
@click.option("--repeats", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option(
    "--page", type=click.Path(path_type=Path),
    help="Page to write into (default: docs/measurements.md on a GPU, none on the CPU).",
)  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), help="JSON to write; default: beside it.")
@click.option("--compile", "compiled", is_flag=True, help="Also measure torch.compile; minutes.")
def main(
    device: str, quick: bool, repeats: int, page: Path | None, data: Path | None, compiled: bool
) -> None:
    """Check the operators on a device and measure them beside its ceilings."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        click.echo(
            "No GPU that torch can use is here, so there is nothing to check; `make doctor` says "
            "why, and --device cpu runs the same tables on the CPU's operators."
        )
        raise SystemExit(2)
    from scripts.gpu_checks import report as reports

    target = torch.device(device)
    built = _build(target)
    found = reports.Report(
        machine=_machine(target) | built,
        outcomes=_check(target, quick),
        sanitizer="not run" if quick or device == "cpu" else _sanitize(),
        **_measure(target, quick, repeats, compiled),
    )
    click.echo(reports.markdown(found))
    if page is None and device == "cuda" and not quick:
        page = ROOT / "docs" / "measurements.md"
    if page is not None:
        try:
            reports.write(found, page, data or page.with_suffix(".gpu.json"))
        except (OSError, ValueError) as error:
            raise click.ClickException(str(error)) from error
        click.echo(f"Written: {page}")
    if found.failures or found.sanitizer.startswith("found"):
        raise SystemExit(1)


def _build(device: object) -> dict[str, str]:
    from scripts.build_kernels import progress_line
    from torch_utils import native

    began = time.monotonic()
    try:
        native.build(progress_line("operators"))
        native.build_cuda(progress_line("CUDA kernels"))
    except native.BuildError as error:
        raise click.ClickException(str(error)) from error
    return {"kernels": f"built or found in {time.monotonic() - began:.0f} s"}


def _machine(device: object) -> dict[str, str]:
    import torch

    name = platform.processor() or platform.machine()
    if str(device) == "cuda":
        major, minor = torch.cuda.get_device_capability()
        name = f"{torch.cuda.get_device_name()} (sm_{major}{minor})"
    return {"device": name, "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"}


def _check(device: object, quick: bool) -> list:
    import torch

    from pipeline.console import progress
    from scripts.gpu_checks import correctness, steps

    assert isinstance(device, torch.device)
    layouts = correctness.LAYOUTS[:1] if quick else correctness.LAYOUTS
    jobs = [
        (case, dtype, layout)
        for case in correctness.cases()
        for dtype in correctness.dtypes(device)
        for layout in layouts
    ]
    # The memory checker runs the quick table; a recorded step takes it very long.
    whole_steps = [] if quick else steps.checks(device)
    outcomes = []
    with progress("Checking", len(jobs) + len(whole_steps), "combinations") as bar:
        for case, dtype, layout in jobs:
            outcomes.append(correctness.run(device, case, dtype, layout))
            bar.advance()
        for check in whole_steps:
            outcomes.append(check())
            bar.advance()
    return outcomes


def _measure(device: object, quick: bool, repeats: int, compiled: bool) -> dict:
    if quick:
        return {"ceilings": None, "timings": []}
    import torch

    from pipeline.console import progress
    from scripts.benchmarks.measure import ceilings
    from scripts.gpu_checks import speed, steps

    assert isinstance(device, torch.device)
    on_gpu = device.type == "cuda"
    works = speed.works(1.0 if on_gpu else 1 / 16)
    dtypes = [torch.float32, torch.float16, torch.bfloat16] if on_gpu else [torch.float32]
    top = ceilings(device, repeats)
    timings = []
    with progress("Measuring", len(works) * len(dtypes), "rows") as bar:
        for work in works:
            for dtype in dtypes:
                timings.append(speed.measure(device, work, dtype, top, repeats))
                bar.advance()
    jobs = steps.timings(device, compiled, repeats)
    taken = []
    with progress("Measuring", len(jobs), "steps") as bar:
        for job in jobs:
            taken.append(job())
            bar.advance()
    return {"ceilings": top, "timings": timings, "steps": taken}


def _sanitize() -> str:
    """NVIDIA's memory and race checkers over the quick table, where they are installed."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return "not run: compute-sanitizer is not installed (it is part of the CUDA toolkit)"
    for tool in ("memcheck", "racecheck"):
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m",
                   "scripts.gpu_check", "--quick"]  # fmt: skip
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            return f"found errors ({tool}): {(result.stdout + result.stderr)[-300:]}"
    return "compute-sanitizer's memcheck and racecheck are clean"


if __name__ == "__main__":
    main()

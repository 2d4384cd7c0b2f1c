"""The report stage: artifacts in, one HTML page out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline import console
from pipeline.errors import ConfigError
from pipeline.evaluate.config import ReportConfig
from pipeline.evaluate.report import build_page, render

REPORT = "report.html"


def run(
    config: ReportConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Write `out`/report.html about the given artifacts; ConfigError if none is given."""
    if not inputs:
        raise ConfigError(
            "A report needs at least one of dataset, model, evaluation, inversion, edit, "
            "drag_bench; give one, for example report.model=model/ganyu."
        )
    html = render(build_page(config, inputs)).encode("utf-8")
    # One write into the runner's draft: an interrupted run simply starts again.
    (out / REPORT).write_bytes(html)
    console.say(f"The report is one page of {len(html) / 2**20:.1f} MiB: {REPORT}")
    return {"report_bytes": len(html)}

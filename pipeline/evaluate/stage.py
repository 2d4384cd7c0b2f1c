"""The report stage: artifacts in, one HTML page out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline import console
from pipeline.errors import ConfigError
from pipeline.evaluate.config import ReportConfig
from pipeline.evaluate.report import build_page, render

REPORT = "report.html"


def check(config: ReportConfig, inputs: Mapping[str, Path]) -> None:
    """ConfigError if there is nothing to report about."""
    if not inputs:
        raise ConfigError(
            f"There is nothing called {config.name} to report about: neither dataset, model, "
            "evaluation, inversion, edit nor drag_bench; name at least one that is there, for "
            "example report.edit=edit/ganyu."
        )


def run(
    config: ReportConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Write `out`/report.html about the given artifacts; ConfigError if none is given."""
    check(config, inputs)
    html = render(build_page(config, inputs)).encode("utf-8")
    # One write into the runner's draft: an interrupted run simply starts again.
    (out / REPORT).write_bytes(html)
    console.say(f"The report is one page of {len(html) / 2**20:.1f} MiB: {REPORT}")
    return {"report_bytes": len(html)}

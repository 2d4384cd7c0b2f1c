"""The report in a real browser, where one is installed: it fits, it shows, it fetches nothing."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path

import pytest
import report_artifacts

from pipeline.evaluate.config import ReportConfig
from pipeline.evaluate.stage import REPORT, run
from scripts.install_browser import installed

BROWSER = installed()

WIDTHS = (360, 1280)

# A page around the report: it measures what is inside frames of given widths. The report's own
# policy forbids scripts, so the measuring stands outside.
FRAME = """<iframe style="width:{width}px;height:800px;border:0" srcdoc="{page}"></iframe>"""
MEASURE = """<!DOCTYPE html><title>measure</title><pre id="out">nothing</pre>{frames}
<script>
function measure(frame) {{
  const page = frame.contentDocument, root = page.documentElement;
  const pictures = [...page.querySelectorAll("img")], video = page.querySelector("video");
  return {{
    inner: root.clientWidth, content: root.scrollWidth,
    pictures: pictures.length,
    broken: pictures.filter(p => !(p.complete && p.naturalWidth)).length,
    video: [video.videoWidth, video.error?.message ?? null],
    fetched: frame.contentWindow.performance.getEntriesByType("resource")
      .map(e => e.name).filter(n => !n.startsWith("data:")),
  }};
}}
window.onload = () => setTimeout(() => {{
  const frames = [...document.querySelectorAll("iframe")];
  document.getElementById("out").textContent = JSON.stringify(frames.map(measure));
}}, 1500);
</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on every kind of artifact, with long and hostile names."""
    folder = tmp_path_factory.mktemp("report")
    hostile = "<script src=http://127.0.0.1:9/x.js></script>" + "long" * 30
    run(ReportConfig(name="ganyu"), report_artifacts.road(folder, hostile=hostile), folder)
    return folder / REPORT


def browse(url: str, folder: Path, *options: str) -> tuple[str, str]:
    """The page after it has loaded, as HTML, and what the browser logged."""
    assert BROWSER is not None
    quiet = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"),
    ]
    done = subprocess.run(
        [BROWSER, *quiet, *options, "--virtual-time-budget=6000", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout, done.stderr


@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed here")
def test_fits_phone_and_desktop_and_shows_everything(report: Path, tmp_path: Path) -> None:
    page = html.escape(report.read_text(encoding="utf-8"), quote=True)
    frames = "".join(FRAME.format(width=width, page=page) for width in WIDTHS)
    outer = tmp_path / "measure.html"
    outer.write_text(MEASURE.format(frames=frames), encoding="utf-8")
    dom, log = browse(outer.as_uri(), tmp_path, "--window-size=1400,900")
    found = re.search(r'<pre id="out">(\[.*?\])</pre>', dom)
    assert found, log[-2000:]
    for width, measured in zip(WIDTHS, json.loads(html.unescape(found.group(1))), strict=True):
        assert measured["content"] <= measured["inner"] <= width
        assert measured["pictures"] >= 12
        assert measured["broken"] == 0
        assert measured["fetched"] == []
        assert measured["video"] == [report_artifacts.SIZE, None]


@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed here")
def test_the_browser_has_nothing_to_complain_about(report: Path, tmp_path: Path) -> None:
    dom, log = browse(report.as_uri(), tmp_path)
    assert 'id="lineage"' in dom
    assert [line for line in log.splitlines() if "CONSOLE" in line] == []

"""See that a Chromium is here for the tests of pages: python -m scripts.install_browser

Takes the one that is installed; else Debian's, by apt-get, where that is possible; else the one
that Playwright brings. Where neither works it says so in a sentence and is content: those tests are
then skipped. What failed is not tried again for a day (--again does).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click

from pipeline.console import complain, say

NAMES = ("chromium", "chromium-browser", "google-chrome")
TRIED = Path("build/browser-tried")
TRIED_SECONDS = 86_400.0
# A machine without a network must not wait for it.
APT = ("apt-get", "-qq", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=15")
SECONDS = 240.0


def installed() -> str | None:
    """Path of a Chromium: one on the PATH, or Playwright's own."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    home = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache/ms-playwright"))
    patterns = ("chromium-*/chrome-linux*/chrome", "chromium_headless_shell-*/chrome-*/*shell")
    return next((str(path) for pattern in patterns for path in sorted(home.glob(pattern))), None)


@click.command(help=__doc__)
@click.option("--again", is_flag=True, help="Try although it failed within the last day.")
def main(again: bool) -> None:
    if installed():
        return
    if not again and TRIED.is_file() and time.time() - TRIED.stat().st_mtime < TRIED_SECONDS:
        return
    say("Installing Chromium, which the tests of pages need (1 to 3 minutes) ...")
    reasons = []
    for install in (_debian, _playwright):
        reason = install()
        if installed():
            return
        reasons.append(reason)
    TRIED.parent.mkdir(exist_ok=True)
    TRIED.touch()
    complain(
        f"No Chromium could be installed ({'; '.join(reasons)}): the tests of pages will be "
        "skipped. Install one by hand (Debian: apt-get install chromium) and run this again."
    )


def _debian() -> str:
    if not shutil.which("apt-get"):
        return "no apt-get here"
    if os.geteuid() != 0:
        return "apt-get needs root"
    reason = _run([*APT, "update"])
    return _run([*APT, "install", "-y", "--no-install-recommends", "chromium"]) or reason


def _playwright() -> str:
    return _run([sys.executable, "-m", "playwright", "install", "chromium-headless-shell"])


def _run(command: list[str]) -> str:
    """Why it failed; "" where it did not."""
    name = Path(command[0]).name if command[0] != sys.executable else "playwright"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"{name} took longer than {SECONDS / 60:g} minutes"
    except OSError as error:
        return f"{name}: {error.strerror}"
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"^E:|error|fail", line, re.IGNORECASE)]
    return f"{name}: {(telling or lines)[0][:120]}" if lines else f"{name} failed"


if __name__ == "__main__":
    main()

"""Where no Chromium is, one is installed or a sentence says why not; a failure costs time once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from studio_process import ROOT

from scripts.install_browser import installed


def tool(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """The program on a machine whose only programs lie in `folder`/bin, with no network."""
    return subprocess.run(
        [sys.executable, "-m", "scripts.install_browser"],
        cwd=folder, capture_output=True, text=True, check=False,
        env={"PATH": str(folder / "bin"), "PLAYWRIGHT_BROWSERS_PATH": str(folder / "browsers"),
             "PLAYWRIGHT_DOWNLOAD_HOST": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_what_cannot_be_installed_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    tool(tmp_path / "bin", "apt-get", 'echo "E: Unable to locate package chromium" >&2; exit 100')
    first = run(tmp_path)
    assert first.returncode == 0
    assert first.stderr.startswith("No Chromium could be installed (apt-get")
    assert first.stderr.count("\n") == 1
    again = run(tmp_path)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may use apt-get")
def test_debians_is_installed_where_root_may(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    made = tmp_path / "bin" / "chromium"
    work = f'case "$*" in *install*chromium) echo > {made}; /bin/chmod +x {made};; esac'
    tool(tmp_path / "bin", "apt-get", work)
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert made.is_file()


def test_the_browser_that_is_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "browsers"))
    assert installed() is None
    shell = tmp_path / "browsers/chromium_headless_shell-1200/chrome-headless-shell-linux64"
    shell.mkdir(parents=True)
    tool(shell, "chrome-headless-shell", "")
    assert installed() == str(shell / "chrome-headless-shell")
    tool(tmp_path, "chromium", "")
    assert installed() == str(tmp_path / "chromium")

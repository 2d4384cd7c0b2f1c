"""NVIDIA's memory and race checkers over the operators, where they are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.benchmarks.rows import Setting, Skipped
from scripts.gpu_checks.finding import Finding

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = "compute-sanitizer"
TOOLS = ("memcheck", "racecheck")
# The exit status that the checkers are to give where they found something: no other one's.
FOUND = 9


def sanitize(setting: Setting) -> Finding:
    """Run the operators' quick table under each checker. Skipped where there is none."""
    if setting.device.type != "cuda":
        raise Skipped("they watch a GPU, and this is the CPU")
    program = shutil.which(PROGRAM)
    if program is None:
        raise Skipped(f"{PROGRAM} is not installed (it is part of the CUDA toolkit)")
    lines, failures = [], []
    for tool in TOOLS:
        command = [program, "--tool", tool, "--error-exitcode", str(FOUND), sys.executable, "-m",
                   "scripts.gpu_check", "--quick", "--only", "operators"]  # fmt: skip
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        said = result.stdout + result.stderr
        summary = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY: .*)", said)
        lines.append(f"- {tool}: {summary[-1] if summary else 'said nothing that can be read'}")
        if result.returncode == FOUND:
            failures.append(f"{tool} found errors: {_first_report(said)}")
        elif result.returncode != 0 or not summary:
            failures.append(f"{tool} did not get through (exit {result.returncode}): {said[-300:]}")
    return Finding(lines, failures=failures)


def _first_report(said: str) -> str:
    """The checker's own first lines: which kernel, what it did."""
    reports = [line for line in said.splitlines() if line.startswith("=========")]
    return " ".join(line.lstrip("= ").strip() for line in reports[1:7])

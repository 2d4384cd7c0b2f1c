"""The GPU check on the CPU's operators, what it keeps, and its refusal where no GPU is."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from pipeline.train.loss import Latents
from pipeline.train.recorded import RecordedObjective
from scripts import gpu_check
from scripts.benchmarks.rows import Setting, Skipped
from scripts.gpu_checks import correctness, operators, parts, report, sanitizer, speed, steps
from scripts.gpu_checks.finding import Finding
from scripts.gpu_checks.parts import PARTS
from tests import quick_python
from torch_utils import native
from torch_utils.recording import CannotRecordError, Rerun

CPU = torch.device("cpu")


def checked(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return quick_python.run([sys.executable, "-m", "scripts.gpu_check", *options], cwd=root)


def test_without_a_gpu_one_sentence(root: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = checked(root)
    assert result.returncode == 2
    assert "No GPU" in result.stdout
    assert len(result.stdout.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


PAGE = f"# Before\n{report.BEGIN}\nold\n{report.END}\nafter\n"


def kept(page: Path) -> dict[str, dict[str, Any]]:
    """The parts in the JSON beside a page."""
    data = page.with_suffix(".gpu.json")
    if not data.exists():
        return {}
    found: dict[str, dict[str, Any]] = json.loads(data.read_text())["parts"]
    return found


def test_killed_it_goes_on_with_what_is_missing(root: Path, tmp_path: Path) -> None:
    if not native.status().loaded:
        pytest.skip(f"compiled operators: {native.status().reason}")
    page = tmp_path / "measurements.md"
    page.write_text(PAGE)
    options = ["--device", "cpu", "--repeats", "1", "--page", str(page)]
    command = [sys.executable, "-m", "scripts.gpu_check", *options]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL) as process:
        while "### Operators against plain torch in float64" not in page.read_text():
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    before = kept(page)
    assert "recorded" not in before

    result = checked(root, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"operators: measured {before['operators']['date']}; --again" in result.stdout
    parts = kept(page)
    assert parts["operators"] == before["operators"]
    assert [*parts] == [part.key for part in PARTS if part.on_cpu]
    assert not any(part["finding"]["failures"] for part in parts.values())
    figures = {key: part["finding"]["figures"] for key, part in parts.items()}
    combinations = len(correctness.cases()) * 2 * len(correctness.LAYOUTS)
    assert len(figures["operators"]) == combinations
    assert len(figures["recorded"]) == len(steps.checks(CPU))
    assert all(outcome["passed"] for outcome in figures["operators"] + figures["recorded"])
    works = {work.name for work in speed.works(1 / 16)}
    assert {timing["work"] for timing in figures["speed"][1:]} == works
    assert all(timing["share"] > 0 for timing in figures["speed"][1:])
    assert [step["way"] for step in figures["training"]] == ["recorded", "plain", "reference"]
    assert all(step["s_per_kimg"] > 0 for step in figures["training"])
    assert all(drag["steps_a_second"] > 0 for drag in figures["drag"])
    text = page.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text
    assert "| training step stylegan3-t | float32 |" in text
    assert "Not measured: they watch a GPU" in text


def quick_part(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[Setting], Finding]
) -> Callable[..., Result]:
    """The command with one part instead of its own."""
    monkeypatch.setattr(parts, "PARTS", (parts.Part("one", "One", run),))
    monkeypatch.setattr(gpu_check, "_build", lambda machine, sources: None)

    def call(*options: str) -> Result:
        return CliRunner().invoke(gpu_check.main, ["--device", "cpu", *options])

    return call


def test_what_is_measured_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page, calls = tmp_path / "page.md", []
    page.write_text(PAGE)

    def run(setting: Setting) -> Finding:
        calls.append(setting)
        return Finding([f"call {len(calls)}"])

    call = quick_part(monkeypatch, run)
    given = ("--page", str(page))
    assert call(*given).exit_code == 0
    assert call(*given).exit_code == 0
    assert len(calls) == 1
    assert call(*given, "--again").exit_code == 0
    assert "call 2" in page.read_text()
    assert "call 1" not in page.read_text()
    monkeypatch.setattr(gpu_check, "_sources", lambda: "others")
    assert call(*given).exit_code == 0
    assert "call 3" in page.read_text()
    page.write_text(PAGE)  # as a kill between the two files leaves it
    assert call(*given).exit_code == 0
    assert "call 3" in page.read_text()
    late = call(*given, "--again", "--minutes", "1e-9")
    assert "one: not begun, the minutes are over" in late.output
    assert len(calls) == 3


def test_what_could_not_be_measured_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page, calls = tmp_path / "page.md", []
    page.write_text(PAGE)

    def run(setting: Setting) -> Finding:
        calls.append(setting)
        if len(calls) == 1:
            raise Skipped("its weights are not here")
        return Finding(["measured now"])

    call = quick_part(monkeypatch, run)
    assert call("--page", str(page)).exit_code == 0
    assert "Not measured: its weights are not here." in page.read_text()
    for _ in range(2):
        assert call("--page", str(page)).exit_code == 0
    assert "measured now" in page.read_text()
    assert len(calls) == 2


def test_a_part_that_breaks_off_is_a_failure_that_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)

    def run(setting: Setting) -> Finding:
        raise RuntimeError("an illegal memory access\nand more")

    call = quick_part(monkeypatch, run)
    for _ in range(2):
        assert call("--page", str(page)).exit_code == 1
    assert "**Failed**: RuntimeError: an illegal memory access\n" in page.read_text()
    assert "Traceback" not in page.read_text()
    assert "in run" in kept(page)["one"]["finding"]["figures"][0]["traceback"]


@pytest.mark.parametrize(
    ("text", "data", "expected"),
    [
        ("nothing here\n", None, "lacks the lines"),
        (PAGE, "{", "is not what this check wrote"),
        (PAGE, '{"format": 1, "parts": {}}', "is not what this check wrote (format 1)"),
        (None, None, "cannot be read"),
    ],
)
def test_what_cannot_be_added_to_is_left_alone(
    text: str | None, data: str | None, expected: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    if data is not None:
        page.with_suffix(".gpu.json").write_text(data)
    calls: list[Setting] = []

    def run(setting: Setting) -> Finding:
        calls.append(setting)
        return Finding([])

    result = quick_part(monkeypatch, run)("--page", str(page))
    assert result.exit_code == 2
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not calls
    assert (page.read_text() if page.exists() else None) == text


def test_the_page_that_ships_can_be_written_into(root: Path) -> None:
    page = root / "docs" / "measurements.md"
    report.Place(page, page.with_suffix(".gpu.json")).read()


def test_a_misspelt_part_is_one_sentence() -> None:
    result = CliRunner().invoke(gpu_check.main, ["--device", "cpu", "--only", "operator"])
    assert result.exit_code == 2
    assert "operators" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def sanitizer_at(folder: Path, script: str) -> None:
    program = folder / sanitizer.PROGRAM
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


GPU = Setting(torch.device("cuda"))


def test_what_the_checkers_say_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in for the checker prints what the real one does."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    clean = 'echo "========= ERROR SUMMARY: 0 errors"'
    sanitizer_at(tmp_path, clean)
    found = sanitizer.sanitize(GPU)
    assert not found.failures
    assert found.lines[0] == "- memcheck: ERROR SUMMARY: 0 errors"
    bad = (
        'echo "========= COMPUTE-SANITIZER"; echo "========= Invalid __global__ write of size 4"; '
        'echo "========= ERROR SUMMARY: 1 error"; exit 9'
    )
    sanitizer_at(tmp_path, bad)
    assert "Invalid __global__ write" in sanitizer.sanitize(GPU).failures[0]
    sanitizer_at(tmp_path, 'echo "no device"; exit 1')
    assert "did not get through (exit 1): no device" in sanitizer.sanitize(GPU).failures[0]
    sanitizer_at(tmp_path, "exit 0")
    assert "did not get through" in sanitizer.sanitize(GPU).failures[0]
    (tmp_path / sanitizer.PROGRAM).unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Skipped, match="not installed"):
        sanitizer.sanitize(GPU)


def test_a_wrong_operator_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that is right but for its gradient, or for one value, does not pass."""
    case = correctness.cases()[0]

    def wrong(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        y = case.operator(x, b)
        if x.dtype == torch.float64:  # the reference
            return y
        return y + 0.01 * (x - x.detach())  # the value is right, the gradient is not

    broken = correctness.Case("bias_act", case.shape, wrong)
    monkeypatch.setattr(native, "runs_on", lambda x: True)
    outcome = correctness.run(CPU, broken, torch.float32, "contiguous")
    assert outcome.errors["y"] < 1e-6
    assert outcome.errors["dx"] > 1e-3
    assert not outcome.passed
    assert correctness.error(torch.tensor([math.nan]), torch.ones([1])) == math.inf


def test_plain_torch_in_place_of_a_kernel_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "runs_on", lambda x: False)
    outcome = correctness.run(CPU, correctness.cases()[0], torch.float32, "contiguous")
    assert "plain torch" in outcome.remark
    assert not outcome.passed
    failed = operators.operators(Setting(CPU, quick=True), layouts=("contiguous",))
    assert len(failed.failures) == 2 * len(correctness.cases())
    record = report.Record("Title", "today", "machine", "sources", 1.0, failed)
    assert "**Failed**: bias_act, float32, contiguous: ran in plain" in report.markdown([record])
    assert "0 of 30 combinations" in report.markdown([record])


def test_layouts_are_what_they_say() -> None:
    x = torch.randn([2, 3, 4, 5])
    for layout in correctness.LAYOUTS:
        assert torch.equal(correctness.laid_out(x, layout), x)
    last = correctness.laid_out(x, "channels-last")
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert correctness.laid_out(x, "strided").stride(3) == 2


def test_floors_by_hand() -> None:
    """Rates 2/2 with 12 taps: 72 products a pixel; a radial second filter 36 + 144."""
    assert speed.filter_products(10, 2, 12, 2, 12, radial=False) == 72 * 100
    assert speed.filter_products(10, 2, 12, 2, 12, radial=True) == 180 * 100
    timing = speed.Timing("x", "float32", ours=2.0, plain=4.0, floor_bytes=1.0, floor_flops=0.5)
    assert timing.share == 0.5


def test_a_step_that_was_not_recorded_or_differs_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, function: object) -> None:
        raise CannotRecordError("no")

    with monkeypatch.context() as patched:
        patched.setattr(Rerun, "record", refuse)
        outcome = steps.check_training(CPU, "stylegan2", half=False)
    assert not outcome.passed
    assert "not recorded" in outcome.remark

    right = RecordedObjective.generator_main

    def wrong(self: RecordedObjective, latents: Latents, gain: float) -> object:
        other = Latents(latents.z.flip(1), *latents.tensors()[1:])
        return right(self, other, gain)

    monkeypatch.setattr(RecordedObjective, "generator_main", wrong)
    outcome = steps.check_training(CPU, "stylegan2", half=False)
    assert outcome.errors["Gmain"] > outcome.allowed > outcome.errors["Dmain"]
    assert not outcome.passed

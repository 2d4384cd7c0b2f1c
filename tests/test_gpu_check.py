"""The GPU check's tables on the CPU's operators, its report, and its refusal where no GPU is."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.train.loss import Latents
from pipeline.train.recorded import RecordedObjective
from scripts.gpu_checks import correctness, report, speed, steps
from scripts.gpu_checks.correctness import Outcome
from torch_utils import native
from torch_utils.recording import CannotRecordError, Rerun

CPU = torch.device("cpu")


def checked(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.gpu_check", *options],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_without_a_gpu_one_sentence(root: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = checked(root)
    assert result.returncode == 2
    assert "No GPU" in result.stdout
    assert len(result.stdout.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_the_whole_check_on_the_cpu(root: Path, tmp_path: Path) -> None:
    if not native.status().loaded:
        pytest.skip(f"compiled operators: {native.status().reason}")
    page = tmp_path / "measurements.md"
    page.write_text(f"# Before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    result = checked(root, "--device", "cpu", "--repeats", "1", "--page", str(page))
    assert result.returncode == 0, result.stdout + result.stderr
    text = page.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text
    data = json.loads((tmp_path / "measurements.gpu.json").read_text())
    operators = len(correctness.cases()) * 2 * len(correctness.LAYOUTS)
    assert len(data["correctness"]) == operators + len(steps.checks(CPU))
    assert "| training step stylegan3-t | float32 |" in text
    assert "| main phases, stylegan2 at 16 px, batch 4 |" in text
    assert all(step["recorded"] > 0 for step in data["steps"])
    assert all(entry["passed"] for entry in data["correctness"])
    assert {timing["work"] for timing in data["speed"]} == {w.name for w in speed.works(1 / 16)}
    assert all(timing["share"] > 0 for timing in data["speed"])


def test_a_page_without_markers_is_left_alone(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    found = report.Report({}, [], None, [], "not run")
    with pytest.raises(ValueError, match="lacks the lines"):
        report.write(found, page, tmp_path / "data.json")
    assert page.read_text() == "nothing here\n"
    assert report.BEGIN in (root / "docs" / "measurements.md").read_text()


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
    failed = report.Report({}, [outcome], None, [], "not run")
    assert "**Failed**: bias_act, float32" in report.markdown(failed)


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


def test_the_table_counts_what_failed() -> None:
    good = Outcome("a", "float32", "contiguous", {"y": 1e-7}, 1e-5)
    bad = Outcome("b", "float32", "contiguous", {"y": 1e-3}, 1e-5)
    found = report.Report({"device": "x"}, [good, bad], None, [], "not run")
    assert found.failures == [bad]
    assert "1 of 2" in report.markdown(found)


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

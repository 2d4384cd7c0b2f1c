"""The benchmark of inversion, as its user runs it, on a tiny random model and its encoder."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.artifacts.manifest import Plan
from pipeline.artifacts.store import Store
from pipeline.invert import benchmark
from tests import quick_python
from tests.test_invert import save_model


def store_with_model(root: Path) -> Path:
    """A store that holds model/tiny."""
    plan = Plan(kind="model", name="tiny", stage="train", stage_version=1, config={},
                ignored=(), parents={}, sources={})  # fmt: skip
    with_model = Store(root)
    draft = with_model.draft(plan, lambda holder: None)
    save_model(draft.out / "made")
    for path in (draft.out / "made").iterdir():
        path.rename(draft.out / path.name)
    (draft.out / "made").rmdir()
    draft.commit({})
    draft.close()
    return root


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return quick_python.run([sys.executable, "-m", *arguments], cwd=root, timeout=300)


def test_methods_are_compared_on_the_same_painted_faces(tmp_path: Path, root: Path) -> None:
    store, out = store_with_model(tmp_path / "store"), tmp_path / "bench"
    made = run(
        root, "scripts.run", "stage=encoder", "character=tiny", f"store={store}", "device=cpu",
        "encoder.images=16", "encoder.batch=4", "encoder.breadth=8", "encoder.validation=2",
        "encoder.perceptual=discriminator", "encoder.w_samples=50",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    command = [
        "scripts.bench_invert", "model/tiny", "--store", str(store), "--out", str(out), "--count",
        "2", "--methods", "w_avg,encoder", "--set", "align=none", "--set", "tune.steps=4", "--set",
        "project.w_samples=50", "--set", "perceptual=discriminator", "--set", "device=cpu",
    ]  # fmt: skip
    done = run(root, *command, "--set", "project.steps=3")
    assert done.returncode == 0, done.stderr
    assert len(list((out / "pictures").glob("*.png"))) == 2
    content = json.loads((out / "bench.json").read_text())
    lines = {line["method"]: line for line in content["summary"]}
    assert set(lines) == {"w_avg", "encoder"}
    with (out / "bench.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["w_avg", "w_avg", "encoder", "encoder"]
    for method, line in lines.items():
        values = [float(row["tuned.psnr_db"]) for row in rows if row["method"] == method]
        assert line["tuned.psnr_db"]["value"] == pytest.approx(sum(values) / 2)
        assert line["worst tuned.psnr_db"] == min(values)
        assert line["tuned.psnr_db"]["low"] <= line["tuned.psnr_db"]["value"]
    steps = {row["method"]: row["project_steps"] for row in rows}
    assert steps == {"w_avg": "3", "encoder": "20"}
    assert "pivot.psnr_db - w_avg" in lines["encoder"]
    assert (out / "bench.md").read_text() in done.stdout
    again = run(root, *command, "--set", "project.steps=3")  # all is there already
    assert again.returncode == 0
    assert json.loads((out / "bench.json").read_text())["pictures"] == content["pictures"]
    other = run(root, *command, "--set", "project.steps=4")
    assert other.returncode == 2
    assert "name a new folder with --out" in other.stderr


def test_what_is_wrong_is_one_sentence(tmp_path: Path, root: Path) -> None:
    store = str(store_with_model(tmp_path / "store"))
    for arguments, says in (
        (["model/tiny", "--methods", "encoder"], "make encoder"),
        (["model/tiny", "--methods", "encodr"], "nearest valid value is encoder"),
        (["model/tiny", "--methods", "w_avg", "--set", "tune.stepz=1"], "tune.stepz"),
        (["model/other"], "model/other"),
    ):
        out = str(tmp_path / "out")
        done = run(root, "scripts.bench_invert", *arguments, "--store", store, "--out", out,
                   "--count", "1")  # fmt: skip
        assert done.returncode == 2, done.stdout
        assert says in done.stderr
        assert (
            len(done.stderr.strip().splitlines()) <= 2
        )  # painting's line of progress, the sentence
    assert "Traceback" not in done.stderr


def test_a_summary_tells_the_worst_and_the_paired_difference() -> None:
    rows = [
        {"method": method, "picture": f"{number}.png", "pivot.psnr_db": 10.0 * number + gain,
         "tuned.psnr_db": 30.0 + number, "tuned.lpips-alex": 0.01 * number, "seconds": 1.0}
        for method, gain in (("a", 0.0), ("b", 2.0))
        for number in (1, 2, 3)
    ]  # fmt: skip
    rows.append({"method": "b", "picture": "bad.png", "reason": "no picture"})
    one, other = benchmark.summary(rows)
    assert (one["pictures"], other["pictures"]) == (3, 3)
    difference = other["pivot.psnr_db - a"]
    assert (difference.value, difference.low, difference.high) == (2, 2, 2)
    assert one["worst tuned.psnr_db"] == 31
    assert one["worst tuned.lpips-alex"] == 0.03
    assert math.isclose(one["tuned.psnr_db"].value, 32)
    assert "| b |" in benchmark.table([one, other])

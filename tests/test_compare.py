"""Evaluations side by side: what shares a row, what is best, what is warned of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from pipeline.evaluate import comparison, evaluation_file
from pipeline.evaluate.evaluation_file import Evaluation
from pipeline.metrics.estimate import Estimate
from pipeline.metrics.suite import Result
from scripts.compare import main
from tests.report_artifacts import finish, new_folder


def figures(fid: float, precision: float | None, *, samples: int = 100) -> list[Result]:
    return [
        Result("fid", Estimate(fid, fid - 1, fid + 1), samples, "A", "", "", "train", 50),
        Result(
            "precision",
            None if precision is None else Estimate(precision),
            samples, "A", "", "" if precision is not None else "too few", "train", 50,
        ),
    ]  # fmt: skip


def test_the_best_is_marked_by_what_better_means() -> None:
    made = comparison.compare(
        {"a": Evaluation(0, 1, figures(20, 0.5)), "b": Evaluation(0, 1, figures(10, 0.25))}
    )
    assert made.table.head == ["figure", "a", "b"]
    assert made.table.rows == [
        ["FID ↓, against train; A", "20 (19 to 21)", "10* (9 to 11)"],
        ["Precision ↑, against train; A", "0.5*", "0.25"],
    ]
    assert made.cautions == []


def test_different_datasets_are_said() -> None:
    found = {name: Evaluation(0, 1, figures(20, 0.5)) for name in ("a", "b")}
    same = {"a": "dataset/x:v1", "b": "dataset/x:v1"}
    assert comparison.compare(found, same).cautions == []
    (caution,) = comparison.compare(found, {**same, "b": "dataset/y:v1"}).cautions
    assert "(a with dataset/x:v1, b with dataset/y:v1)" in caution


def test_what_cannot_be_compared_is_kept_apart_or_said() -> None:
    other = [Result("fid", Estimate(3.0), 100, "B", "", "", "train", 50)]
    made = comparison.compare(
        {
            "a": Evaluation(0, 1, figures(20, None)),
            "b": Evaluation(0, 0.7, figures(10, 0.25, samples=7)),
            "c": Evaluation(0, 1, other),
        }
    )
    assert [row[1:] for row in made.table.rows] == [
        ["20 (19 to 21)", "10* (9 to 11)", "–"],
        ["–", "–", "3"],
        ["–", "0.25", "–"],
    ]
    assert made.cautions == [
        "The models were truncated differently (psi 0.7, 1).",
        "FID rest on different numbers of generated images.",
        "Figures of different feature networks cannot be compared: A, B.",
    ]


def make_store(root: Path) -> None:
    for name, fid in (("a", 20.0), ("b", 10.0)):
        folder = new_folder(root, "evaluation", name)
        evaluation_file.write(folder, Evaluation(0, 1.0, figures(fid, 0.5)))
        finish(folder, "evaluate")


def test_the_command_prints_and_writes(tmp_path: Path, root: Path) -> None:
    make_store(tmp_path)
    store = ["--store", str(tmp_path)]
    shown = CliRunner().invoke(main, ["evaluation/a", "evaluation/b:v1", *store])
    assert shown.exit_code == 0, shown.output
    assert shown.output.splitlines()[0] == "| figure | a:v1 | b:v1 |"
    assert "| 20 (19 to 21) | 10* (9 to 11) |" in shown.output
    for name in ("table.md", "table.html"):
        done = CliRunner().invoke(
            main, [str(tmp_path / "evaluation/a/v1"), *store, "--out", str(tmp_path / name)]
        )
        assert done.exit_code == 0, done.output
    page = (tmp_path / "table.html").read_text()
    assert '<th scope="col" class="num">a:v1</th>' in page
    assert "20 (19 to 21)" in page
    process = subprocess.run(
        [sys.executable, "-m", "scripts.compare", "evaluation/none", *store],
        cwd=root, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert process.returncode == 2
    assert "There is no evaluation/none" in process.stderr
    assert "Traceback" not in process.stderr


def test_refusals(tmp_path: Path) -> None:
    make_store(tmp_path)
    store = ["--store", str(tmp_path)]
    wrong = CliRunner().invoke(main, ["evaluation/a", *store, "--out", "table.pdf"])
    assert (wrong.exit_code, "ends in .md or .html" in wrong.output) == (2, True)
    (tmp_path / "evaluation" / "a" / "v1" / "metrics.json").chmod(0o644)
    (tmp_path / "evaluation" / "a" / "v1" / "metrics.json").write_text("{}")
    wrong = CliRunner().invoke(main, ["evaluation/a", *store])
    assert (wrong.exit_code, "is no file of figures" in wrong.output) == (2, True)


def test_help_needs_no_torch(root: Path) -> None:
    code = (
        "import sys\nfrom scripts.compare import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"

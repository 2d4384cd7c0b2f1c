"""The emotion benchmark on the shipped model: what it writes, its page, several models together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.artifacts.manifest import Plan
from pipeline.artifacts.store import Store
from pipeline.errors import ConfigError, DataError
from pipeline.evaluate import emotion_bench, emotion_table
from pipeline.evaluate.config import EmotionBenchConfig
from pipeline.evaluate.results_file import RESULTS, read_rows
from scripts.compare_emotions import main


def rows() -> list[dict[str, Any]]:
    return [
        {"character": 1, "method": method, "emotion": emotion, "reads_right": right,
         "truth_widths": off, "identity_share": 0.9}
        for method, emotion, right, off in [
            ("drawn", "laugh", 1, 0.010), ("drawn", "sad", 1, 0.020),
            ("search", "laugh", 0, 0.040), ("search", "sad", 1, 0.030),
        ]
    ]  # fmt: skip


def test_figures_are_means_and_pages_show_them(tmp_path: Path) -> None:
    summary = emotion_table.summarise(rows(), "a")
    drawn, search = (summary["methods"][name] for name in ("drawn", "search"))
    assert drawn["figures"]["reads_right"]["mean"] == 1
    assert search["figures"]["truth_widths"]["mean"] == pytest.approx(0.035)
    assert search["emotions"]["laugh"]["reads_right"]["mean"] == 0
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    again = emotion_table.read(tmp_path)
    text = emotion_table.markdown([again, {**again, "model": "b"}])
    assert "| a: drawn | 100" in text
    assert "| b: search | 50" in text
    page = emotion_table.to_html([again])
    assert "Emotions, by every way" in page
    cells = {cell.text: cell.good for _, row in emotion_table.heat(again, "truth_widths").rows
             for cell in row}  # fmt: skip
    assert cells == {"1.00": 1, "2.00": pytest.approx(0.667, abs=1e-3), "4.00": 0,
                     "3.00": pytest.approx(0.333, abs=1e-3)}  # fmt: skip
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(DataError, match="no emotion benchmark"):
        emotion_table.read(tmp_path)


def test_impossible_settings_are_refused() -> None:
    for values, words in [({"methods": ["magic"]}, "methods"), ({"emotions": ["joy"]}, "emotions"),
                          ({"characters": []}, "characters")]:  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            EmotionBenchConfig(**values)


def test_the_stage_measures_and_compares(root: Path, tmp_path: Path) -> None:
    config = EmotionBenchConfig(
        name="tiny", characters=[23], emotions=["laugh"], methods=["drawn", "search", "auto"],
        project_steps=2, tune_steps=2, device="cpu",
    )  # fmt: skip
    out = tmp_path / "store" / "tiny"
    out.mkdir(parents=True)
    metrics = emotion_bench.run(config, {"model": root / "assets" / "start-64"}, out)
    assert metrics["reads_right_drawn"] == 1
    assert float(metrics["truth_widths_drawn"]) < 0.03
    found = read_rows(out / RESULTS)
    assert [(r["method"], r["emotion"]) for r in found] == [
        ("drawn", "laugh"), ("search", "laugh"), ("auto", "laugh"),
    ]  # fmt: skip
    scores = found[2]["tried"]
    assert set(scores) == {"drawn", "search"}
    assert found[2]["taken"] == min(scores, key=lambda name: scores[name])
    assert [row["by_model"] for row in found[:2]] == [0, 1]
    assert 0 < found[0]["identity_share"] < 1.3
    assert found[0]["outside_levels"] == 0
    assert {path.name for path in out.iterdir()} == {
        "results.jsonl", "summary.json", "table.md", "report.html", "examples.png",
    }  # fmt: skip
    assert "data:image/png" in (out / "report.html").read_text()


def test_models_are_compared_on_one_page(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for name in ("a", "b"):
        plan = Plan(kind="emotion_bench", name=name, stage="emotion_bench", stage_version=1,
                    config={}, ignored=(), parents={}, sources={})  # fmt: skip
        draft = store.draft(plan, lambda holder: None)
        summary = json.dumps(emotion_table.summarise(rows(), name))
        (draft.out / "summary.json").write_text(summary)
        draft.commit({})
        draft.close()
    arguments = ["emotion_bench/a", "emotion_bench/b:v1", "--store", str(store.root)]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    assert "| b:v1: search | 50" in shown.output
    page = tmp_path / "page.html"
    assert CliRunner().invoke(main, [*arguments, "--out", str(page)]).exit_code == 0
    assert "a:v1: drawn" in page.read_text()
    for wrong, words in [
        ([*arguments, "--out", "x.pdf"], ".html"),
        (["emotion_bench/c", *arguments[2:]], "emotion_bench/c"),
    ]:
        refused = CliRunner().invoke(main, wrong)
        assert refused.exit_code == 2
        assert words in refused.output

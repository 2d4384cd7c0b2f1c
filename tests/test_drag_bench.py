"""The drag benchmark's stage, driven for real on the small model that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.evaluate import drag_bench, drag_table
from pipeline.evaluate.config import DragBenchConfig, ReportConfig
from pipeline.evaluate.drag_plots import COLOURS, draw_plots
from pipeline.evaluate.report import build_page, render
from pipeline.evaluate.results_file import RESULTS, read_rows


def config(**values: Any) -> DragBenchConfig:
    defaults: dict[str, Any] = {
        "model": "m", "pairs": 2, "painted": 0, "points": [1, 5], "max_steps": 3,
        "strategies": ["draggan", "auto"], "device": "auto", "truncation": 1.0,
    }  # fmt: skip
    return DragBenchConfig(**{**defaults, **values})


def test_every_strategy_is_measured_on_the_same_pairs_and_a_run_goes_on(
    root: Path, tmp_path: Path
) -> None:
    inputs = {"model": root / "assets/start-64", "judge": root / "assets/face-reader"}
    metrics = drag_bench.run(config(), inputs, tmp_path)
    rows = read_rows(tmp_path / RESULTS)
    assert [(r["pair"], r["points"], r["strategy"]) for r in rows] == [
        (pair, points, name)
        for pair in dict.fromkeys(row["pair"] for row in rows)
        for points in (1, 5)
        for name in ("draggan", "auto")
    ]
    # Both are given the same points, and are judged by the picture.
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert one["landmarks"] == other["landmarks"]
        assert one["begun_px"] == other["begun_px"]
    assert all(row["steps"] <= 3 and row["back_px"] >= 0 for row in rows)
    summary = drag_table.read(tmp_path)
    assert {line["strategy"] for line in summary["lines"]} == {"draggan", "auto"}
    first = summary["lines"][0]["mean_distance_px"]
    assert first["low"] <= first["value"] <= first["high"]
    assert metrics["own_5_auto_px"] > 0
    assert (tmp_path / "table.md").read_text().count("\n") == 2 + 4
    assert (tmp_path / "examples.png").exists()
    # The second judge is the first here, and finds what that finds.
    for one in rows:
        assert one["second_px"] == pytest.approx(one["mean_distance_px"], abs=1e-6)
        assert one["second_begun_px"] == pytest.approx(one["begun_px"], abs=1e-6)
    # The report shows all of it.
    page = render(build_page(ReportConfig(), {"drag_bench": tmp_path}))
    assert "Ways of dragging" in page
    assert "The figures as bars with their 95 % intervals" in page
    shown = f"{summary['lines'][0]['mean_distance_px']['value']:.2f} ("
    assert shown in page

    # Cut off after three drags and in the middle of a line: it goes on to the same figures.
    text = (tmp_path / RESULTS).read_text()
    again = tmp_path / "again"
    again.mkdir()
    kept = text.splitlines(keepends=True)[:3]
    (again / RESULTS).write_text("".join(kept) + text.splitlines()[3][:40])
    pictures = again / drag_bench.WORK / "pictures"
    pictures.mkdir(parents=True)
    for row in rows[:3]:
        name = f"{row['pair']}.{row['points']}.{row['strategy']}.npy"
        np.save(pictures / name, np.zeros((64, 64, 3), np.uint8))
    drag_bench.run(config(), inputs, again)
    for one, two in zip(rows, read_rows(again / RESULTS), strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def row(strategy: str, pair: int, distance: float, **values: Any) -> dict[str, Any]:
    return {
        "pair": f"own-{pair}", "kind": "own", "strategy": strategy, "points": 5, "begun_px": 9.0,
        "mean_distance_px": distance, "second_px": None, "tracked_px": 0.5,
        "outside_levels": 1.0, "identity": None,
        "steps": 10, "seconds": 2.0, "status": "arrived", **values,
    }  # fmt: skip


def test_a_strategy_is_compared_pair_by_pair() -> None:
    rows = [row("draggan", i, 2.0 + i) for i in range(8)]
    rows += [row("auto", i, (2.0 + i) / 2, seconds=1.0) for i in range(8)]
    summary = drag_table.summarise(rows, 128)
    auto = next(line for line in summary["lines"] if line["strategy"] == "auto")
    # Half of the baseline on every pair: half for certain, whatever the pairs.
    ratio = auto["ratio"]["mean_distance_px"]
    assert ratio["value"] == ratio["low"] == ratio["high"] == pytest.approx(0.5)
    assert auto["mean_distance_512_px"] == pytest.approx(4 * auto["mean_distance_px"]["value"])
    assert auto["identity"] is None
    assert json.loads(json.dumps(summary)) == summary


def test_a_bar_is_as_high_as_its_figure() -> None:
    rows = [row("draggan", i, 2.0) for i in range(3)] + [row("auto", i, 1.0) for i in range(3)]
    drawn = np.asarray(draw_plots(drag_table.summarise(rows, 128)))
    first_panel = drawn[94:, :360]
    heights = [
        int((first_panel == np.array(colour, np.uint8)).all(2).any(1).sum())
        for colour in COLOURS[:2]
    ]
    assert heights[0] > 60
    assert heights[1] == pytest.approx(heights[0] / 2, abs=3)
    # Another kind of pairs stands below.
    more = [*rows, *(row("auto", i, 1.0, kind="painted") for i in range(3))]
    assert draw_plots(drag_table.summarise(more, 128)).height > len(drawn)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"strategies": ["dragan"]}, "draggan"),
        ({"points": [0]}, "points"),
        ({"points": [5, 5]}, "twice"),
        ({"pairs": 0}, "pairs"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config(**values)

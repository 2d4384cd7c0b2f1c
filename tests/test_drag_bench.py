"""The drag benchmark's stage, driven for real on the small model that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.evaluate import drag_bench, drag_table
from pipeline.evaluate.config import DragBenchConfig


def config(**values: Any) -> DragBenchConfig:
    defaults: dict[str, Any] = {
        "model": "m", "pairs": 2, "painted": 0, "points": [1, 5], "max_steps": 3,
        "strategies": ["draggan", "auto"], "device": "cpu", "truncation": 1.0,
    }  # fmt: skip
    return DragBenchConfig(**{**defaults, **values})


def test_every_strategy_is_measured_on_the_same_pairs_and_a_run_goes_on(
    root: Path, tmp_path: Path
) -> None:
    inputs = {"model": root / "assets/start-64"}
    metrics = drag_bench.run(config(), inputs, tmp_path)
    rows = drag_table.read_rows(tmp_path / drag_bench.RESULTS)
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

    # Cut off after three drags and in the middle of a line: it goes on to the same figures.
    text = (tmp_path / drag_bench.RESULTS).read_text()
    again = tmp_path / "again"
    again.mkdir()
    kept = text.splitlines(keepends=True)[:3]
    (again / drag_bench.RESULTS).write_text("".join(kept) + text.splitlines()[3][:40])
    pictures = again / drag_bench.WORK / "pictures"
    pictures.mkdir(parents=True)
    for row in rows[:3]:
        name = f"{row['pair']}.{row['points']}.{row['strategy']}.npy"
        np.save(pictures / name, np.zeros((64, 64, 3), np.uint8))
    drag_bench.run(config(), inputs, again)
    for one, two in zip(rows, drag_table.read_rows(again / drag_bench.RESULTS), strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def row(strategy: str, pair: int, distance: float, **values: Any) -> dict[str, Any]:
    return {
        "pair": f"own-{pair}", "kind": "own", "strategy": strategy, "points": 5, "begun_px": 9.0,
        "mean_distance_px": distance, "second_px": None, "tracked_px": 0.5, "outside_levels": 1.0, "identity": None,
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

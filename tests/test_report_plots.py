"""Plots as plain values: ticks, ranges, gaps, averaging."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluate.plots import (
    BOTTOM,
    HEIGHT,
    HUGE,
    LEFT,
    MAX_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    format_number,
    make_plot,
    nice_ticks,
    spread,
)

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)


def coordinates(path: str) -> list[tuple[float, float]]:
    """All points of a path that consists of M, L and Z."""
    numbers = [float(text) for text in re.findall(r"[-+]?[0-9.]+(?:e[-+]?[0-9]+)?", path)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (3.0, "3"),
        (0.12345, "0.123"),
        (-41.26, "-41.3"),
        (9999, "9999"),
        (12345, "12.3k"),
        (999_999, "1M"),
        (1_234_567, "1.23M"),
        (2.5e9, "2.5G"),
        (1.24e-5, "1.2e-05"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert format_number(value) == shown


@given(
    st.floats(-1e12, 1e12),
    st.floats(1e-6, 1e12),
    st.integers(2, 8),
)
def test_ticks_are_round_and_inside(low: float, width: float, count: int) -> None:
    high = low + width
    if high - low < 1e-9 * abs(low):
        return  # the axis is widened before ticks are asked for
    ticks = nice_ticks(low, high, count)
    slack = 1e-6 * (high - low)
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    assert len(ticks) <= count + 1
    steps = {round((b - a) / (ticks[1] - ticks[0]), 3) for a, b in pairwise(ticks)}
    assert steps <= {1.0}


@given(
    st.lists(st.lists(ANY_FLOAT, min_size=0, max_size=400), min_size=1, max_size=3),
    st.booleans(),
)
def test_any_numbers_stay_inside_the_frame(columns: list[list[float]], zero: bool) -> None:
    series = [Series(f"s{i}", list(range(len(column))), column) for i, column in enumerate(columns)]
    plot = make_plot("t", series, x_label="x", y_label="y", zero=zero)
    if not any(abs(value) < HUGE for column in columns for value in column):
        assert plot is None
        return
    assert plot is not None
    for line in plot.lines:
        for x, y in coordinates(line.path) + coordinates(line.band):
            assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
            assert TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1


def test_long_series_are_averaged_and_the_spread_is_kept() -> None:
    count = 40 * MAX_POINTS
    values = [float(index % 2) for index in range(count)]
    plot = make_plot("t", [Series("s", range(count), values)], x_label="x", y_label="y")
    assert plot is not None
    (line,) = plot.lines
    assert len(coordinates(line.path)) == MAX_POINTS
    # The mean is a flat line in the middle, the band reaches both extremes.
    middle = (TOP + HEIGHT - BOTTOM) / 2
    assert {y for _, y in coordinates(line.path)} == {middle}
    assert {y for _, y in coordinates(line.band)} == {TOP, HEIGHT - BOTTOM}


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_the_vertical_axis_ends_at_ticks(low: float, width: float) -> None:
    plot = make_plot("t", [Series("s", [0, 1], [low, low + width])], x_label="x", y_label="y")
    assert plot is not None
    places = [tick.at for tick in plot.y_ticks]
    assert (places[0], places[-1]) == (HEIGHT - BOTTOM, TOP)
    # Enough lines to read a value by, not so many that they are all one sees.
    assert 3 <= len(places) <= 8


def test_a_gap_interrupts_the_line() -> None:
    values = [1.0, 2.0, math.nan, 3.0, 4.0]
    plot = make_plot("t", [Series("s", range(5), values)], x_label="x", y_label="y")
    assert plot is not None
    assert plot.lines[0].path.count("M") == 2


def test_a_guide_is_inside_the_range() -> None:
    plot = make_plot(
        "t", [Series("s", [0, 1], [0.1, 0.2])], x_label="x", y_label="y", references=[(0.9, "aim")]
    )
    assert plot is not None
    assert TOP <= plot.references[0].at < HEIGHT / 2


@given(st.integers(-2, 500), st.integers(-2, 50))
def test_spread_keeps_both_ends(total: int, count: int) -> None:
    picks = spread(total, count)
    assert len(picks) == max(0, min(total, count))
    assert picks == sorted(set(picks))
    if len(picks) > 1:
        assert (picks[0], picks[-1]) == (0, total - 1)

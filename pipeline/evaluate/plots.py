"""Geometry of small line plots: from numbers to paths, ticks and labels, all in plain values.

The template draws them as inline SVG. Own code instead of a plotting library because the plots
take their colours from the page's style sheet (light, dark, print), keep their text as text, and
every label goes through the template's escaping; nothing here writes markup. Knows nothing of
training or of files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# One plot in the units of its viewBox; a plot is shown at about one screen pixel a unit.
WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 66, 20, 12, 40
# More points than about one per two screen pixels cannot be seen; they are averaged.
MAX_POINTS = 180
TABLE_ROWS = 10
# Values beyond it (a diverged loss) are gaps, and as much below 1 they are 0: no axis shows them.
HUGE = 1e100

_UNITS = {"G": 1e9, "M": 1e6, "k": 1e3}


@dataclass(frozen=True)
class Series:
    """One line: `x` and `y` of equal length, in the plot's units; gaps are NaN."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where (viewBox units) and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A series ready to draw: path data of the line and of the band between minimum and maximum."""

    label: str
    path: str
    band: str
    end: tuple[float, float] | None
    last: str


@dataclass(frozen=True)
class Reference:
    """A horizontal guide, such as a target value: where (viewBox units) and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """A finished plot. `table` repeats some of its values for readers who cannot see it."""

    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    references: list[Reference]
    summary: str
    table_head: list[str]
    table: list[list[str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def format_number(value: float, digits: int = 3) -> str:
    """`value` as short text: 1234567 -> "1.23M", 0.000012 -> "1.2e-05", 3.0 -> "3"."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    # A hair below a million already rounds up to it; below 10,000 numbers are written out.
    hair = 1 - 0.5 * 10.0**-digits
    for limit, suffix in ((1e9 * hair, "G"), (1e6 * hair, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return _significant(value / _UNITS[suffix], digits) + suffix
    return _significant(value, digits)


def _significant(value: float, digits: int) -> str:
    """`digits` significant digits, no exponent unless the value is tiny, no trailing zeros."""
    magnitude = abs(value)
    if magnitude < 1e-4:
        return f"{value:.{digits - 1}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(magnitude)))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def nice_step(low: float, high: float, count: int = 4) -> float:
    """1, 2 or 5 times a power of ten, such that about `count` steps fit into low < high."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """The multiples of `nice_step` inside [low, high], low < high."""
    step = nice_step(low, high, count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    # The index times the step, not a running sum: no 0.30000000000000004.
    return [index * step for index in range(first, last + 1)]


def _tick_text(value: float, step: float) -> str:
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    if abs(value) >= 1e4 or decimals > 4:
        return format_number(value)
    return f"{value:.{decimals}f}"


@dataclass(frozen=True)
class _Bucket:
    x: float
    mean: float
    low: float
    high: float


def _shown(value: float) -> float:
    return value if abs(value) > 1 / HUGE else 0.0


def _buckets(series: Series) -> list[list[_Bucket]]:
    """The series as runs of points that can be shown, averaged to at most MAX_POINTS in all."""
    per_bucket = max(1, math.ceil(len(series.x) / MAX_POINTS))
    runs: list[list[_Bucket]] = [[]]
    for start in range(0, len(series.x), per_bucket):
        chunk = range(start, min(start + per_bucket, len(series.x)))
        points = [
            (_shown(series.x[i]), _shown(series.y[i]))
            for i in chunk
            if abs(series.x[i]) < HUGE and abs(series.y[i]) < HUGE
        ]
        if not points:
            if runs[-1]:
                runs.append([])
            continue
        values = [y for _, y in points]
        x = sum(x for x, _ in points) / len(points)
        runs[-1].append(_Bucket(x, sum(values) / len(values), min(values), max(values)))
    return [run for run in runs if run]


@dataclass
class _Scale:
    """An axis: maps [low, high] to viewBox units [start, end]; where its ticks are."""

    low: float
    high: float
    start: float
    end: float
    ticks: list[float]

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def _range(values: Sequence[float], *, zero: bool = False) -> tuple[float, float]:
    """Smallest and largest value (and 0), widened where they are equal."""
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = abs(low) * 0.1 or 0.5
        return low - half, high + half
    return low, high


def _round_scale(low: float, high: float) -> _Scale:
    """The vertical axis, widened to whole ticks: its uppermost and lowest line carry a label."""
    step = nice_step(low, high)
    # The tolerance keeps a value that is a tick but for rounding from opening another step.
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    ticks = [index * step for index in range(first, last + 1)]
    return _Scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP, ticks)


def make_plot(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    zero: bool = False,
    references: Sequence[tuple[float, str]] = (),
) -> Plot | None:
    """Lay out a line plot; None if no series has a point that can be shown.

    zero: the vertical axis includes 0. references: horizontal guides (value, text).
    """
    runs = [(item, _buckets(item)) for item in series]
    runs = [(item, parts) for item, parts in runs if parts]
    if not runs:
        return None
    every = [bucket for _, parts in runs for part in parts for bucket in part]
    guides = [(value, text) for value, text in references if abs(value) < HUGE]
    xs = [bucket.x for bucket in every]
    ys = [bucket.low for bucket in every] + [bucket.high for bucket in every]
    ys += [value for value, _ in guides]
    x_low, x_high = _range(xs)
    x_scale = _Scale(x_low, x_high, LEFT, WIDTH - RIGHT, nice_ticks(x_low, x_high))
    y_scale = _round_scale(*_range(ys, zero=zero))
    lines = [_line(item, parts, x_scale, y_scale) for item, parts in runs]
    table_head, table = _table(x_label, runs)
    return Plot(
        title=title,
        x_label=x_label,
        y_label=y_label,
        lines=lines,
        x_ticks=_ticks(x_scale),
        y_ticks=_ticks(y_scale),
        references=[Reference(y_scale(value), text) for value, text in guides],
        summary=_summary(title, runs),
        table_head=table_head,
        table=table,
    )


def _ticks(scale: _Scale) -> list[Tick]:
    values = scale.ticks
    step = values[1] - values[0] if len(values) > 1 else (scale.high - scale.low)
    return [Tick(scale(value), _tick_text(value, step)) for value in values]


def _line(item: Series, parts: list[list[_Bucket]], x_scale: _Scale, y_scale: _Scale) -> Line:
    path, band = [], []
    for part in parts:
        points = [f"{x_scale(b.x):g} {y_scale(b.mean):g}" for b in part]
        # A run of one point would be an invisible line: draw it to itself (round caps show a dot).
        path.append("M" + "L".join(points if len(points) > 1 else points * 2))
        if any(b.high > b.low for b in part):
            upper = [f"{x_scale(b.x):g} {y_scale(b.high):g}" for b in part]
            lower = [f"{x_scale(b.x):g} {y_scale(b.low):g}" for b in reversed(part)]
            band.append("M" + "L".join(upper + lower) + "Z")
    final = parts[-1][-1]
    return Line(
        label=item.label,
        path="".join(path),
        band="".join(band),
        end=(x_scale(final.x), y_scale(final.mean)),
        last=format_number(final.mean),
    )


def _summary(title: str, runs: list[tuple[Series, list[list[_Bucket]]]]) -> str:
    parts = []
    for item, run in runs:
        first, last = run[0][0], run[-1][-1]
        parts.append(f"{item.label} from {format_number(first.mean)} to {format_number(last.mean)}")
    return f"Line plot, {title}: " + "; ".join(parts) + "."


def _table(
    x_label: str, runs: list[tuple[Series, list[list[_Bucket]]]]
) -> tuple[list[str], list[list[str]]]:
    """A few rows, evenly spread along the first series, values of the others at the nearest x."""
    flat = [[b for part in parts for b in part] for _, parts in runs]
    base = flat[0]
    picks = spread(len(base), TABLE_ROWS)
    rows = []
    for index in picks:
        at = base[index].x
        near = [min(points, key=lambda b: abs(b.x - at)) for points in flat]
        rows.append([format_number(at, 4)] + [format_number(b.mean) for b in near])
    return [x_label] + [item.label for item, _ in runs], rows


def spread(total: int, count: int) -> list[int]:
    """At most `count` indices spread evenly over range(total), the first and the last included."""
    if total <= 0 or count <= 0:
        return []
    if total <= count:
        return list(range(total))
    if count == 1:
        return [total - 1]
    return sorted({round(i * (total - 1) / (count - 1)) for i in range(count)})

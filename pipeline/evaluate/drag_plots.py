"""The drag benchmark's figures as bars with their intervals, one PNG.

A row of panels a kind of pairs, a panel a figure; in it a group a number of points, a bar a
strategy. Knows the summary of `drag_table`; nothing of networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pipeline.evaluate.plots import format_number, nice_ticks
from pipeline.evaluate.sheet import FAINT, INK, PAPER

# Figure -> (title, whether the axis counts in powers of ten).
PANELS: dict[str, tuple[str, bool]] = {
    "mean_distance_px": ("mean distance to the targets, px", False),
    "second_px": ("the same by the second reader, px", False),
    "back_px": ("there and back, px", False),
    "outside_levels": ("change outside, levels of 255", False),
    "identity": ("identity kept (1: all)", False),
    "seconds": ("seconds", True),
}
# Told apart by those who see few colours, too (Okabe & Ito 2008), and by their order.
COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233))
WIDTH, HEIGHT = 360, 250
LEFT, TOP, BOTTOM = 46, 34, 30
_HEAD = 64


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    powers: bool

    def share(self, value: float) -> float:
        """Where a value lies between the axis' ends, 0 to 1."""
        if self.powers:
            low, high, value = (_log10(v) for v in (self.low, self.high, max(value, self.low)))
            return (value - low) / (high - low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        if not self.powers:
            return nice_ticks(self.low, self.high)
        first, last = round(_log10(self.low)), round(_log10(self.high))
        return [10.0**power for power in range(first, last + 1)]


def draw_plots(summary: Mapping[str, Any]) -> Image.Image:
    """The picture; panels whose figure was not measured are left out."""
    lines = summary["lines"]
    kinds = list(dict.fromkeys(line["kind"] for line in lines))
    names = list(dict.fromkeys(line["strategy"] for line in lines))
    figures = [figure for figure in PANELS if any(line.get(figure) for line in lines)]
    columns = min(3, len(figures))
    rows_each = -(-len(figures) // columns)
    size = (columns * WIDTH + 24, _HEAD + len(kinds) * (rows_each * HEIGHT + 30))
    image = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((16, 10), "Ways of dragging, measured on the same pairs", INK, _font(20))
    x = 16
    for name, colour in zip(names, COLOURS, strict=False):
        pen.rectangle((x, 42, x + 12, 54), colour)
        pen.text((x + 18, 40), name, INK, _font(14))
        x += 44 + round(pen.textlength(name, _font(14)))
    pen.text((x, 40), "whiskers: 95 % intervals", FAINT, _font(13))
    top = _HEAD
    for kind in kinds:
        ours = [line for line in lines if line["kind"] == kind]
        about = f"{max(line['pairs'] for line in ours)} {kind} pairs"
        pen.text((16, top + 6), about, INK, _font(16))
        top += 30
        for index, figure in enumerate(figures):
            row, column = divmod(index, columns)
            corner = (column * WIDTH + 8, top + row * HEIGHT)
            _panel(pen, corner, figure, ours, names)
        top += rows_each * HEIGHT
    return image


def _panel(
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    figure: str,
    lines: Sequence[Mapping[str, Any]],
    names: Sequence[str],
) -> None:
    title, powers = PANELS[figure]
    left, top = corner[0] + LEFT, corner[1] + TOP
    right, bottom = corner[0] + WIDTH - 8, corner[1] + HEIGHT - BOTTOM
    pen.text((left, corner[1] + 8), title, INK, _font(14))
    measured = [line for line in lines if line.get(figure)]
    if not measured:
        pen.text((left, top + 8), "not measured", FAINT, _font(13))
        return
    axis = _axis([line[figure] for line in measured], powers)
    for tick in axis.ticks():
        y = bottom - axis.share(tick) * (bottom - top)
        pen.line((left, y, right, y), (226, 223, 216))
        pen.text((left - 6, y), format_number(tick), FAINT, _font(12), anchor="rm")
    points = list(dict.fromkeys(line["points"] for line in measured))
    group = (right - left) / len(points)
    bar = min(24.0, group * 0.8 / len(names))
    for place, count in enumerate(points):
        middle = left + (place + 0.5) * group
        text = f"{count} point" + ("s" if count > 1 else "")
        pen.text((middle, bottom + 6), text, FAINT, _font(12), anchor="ma")
        for index, name in enumerate(names):
            line = _find(measured, count, name)
            if line is None:
                continue
            x = middle + (index - len(names) / 2) * bar
            _bar(pen, (x, x + bar - 3), (top, bottom), line[figure], axis, COLOURS[index])


def _bar(
    pen: ImageDraw.ImageDraw,
    span: tuple[float, float],
    between: tuple[int, int],
    numbers: Mapping[str, float | None],
    axis: _Axis,
    colour: tuple[int, int, int],
) -> None:
    top, bottom = between

    def height(value: float) -> float:
        return bottom - min(max(axis.share(value), 0.0), 1.0) * (bottom - top)

    value = numbers["value"]
    if value is None:
        return
    pen.rectangle((span[0], height(value), span[1], bottom), colour)
    low, high = numbers["low"], numbers["high"]
    if low is not None and high is not None:
        middle = (span[0] + span[1]) / 2
        pen.line((middle, height(low), middle, height(high)), INK, 2)


def _axis(values: Sequence[Mapping[str, float | None]], powers: bool) -> _Axis:
    every = [v for numbers in values for v in numbers.values() if v is not None]
    high = max(every)
    if powers:
        low = min(v for v in every if v > 0) if high > 0 else 0.1
        first, last = _floor(_log10(low)), -_floor(-_log10(max(high, 2 * low)))
        return _Axis(10.0**first, 10.0 ** max(last, first + 1), True)
    return _Axis(0.0, high * 1.05 if high > 0 else 1.0, False)


def _find(lines: Sequence[Mapping[str, Any]], points: int, name: str) -> Mapping[str, Any] | None:
    for line in lines:
        if line["points"] == points and line["strategy"] == name:
            return line
    return None


def _log10(value: float) -> float:
    return math.log10(max(value, 1e-12))


def _floor(value: float) -> int:
    return math.floor(value + 1e-9)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

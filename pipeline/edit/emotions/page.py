"""The emotion sheet's page: a large portrait, a grid of labelled cells. Knows pictures and words.

Everything is laid out from the cell's side, so that a sheet looks alike at any size. The accent is
the portrait's own strongest colour.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = (251, 250, 247), (44, 41, 51), (137, 132, 143)
# Drawn so many times larger and reduced: rounded corners without steps.
_FINE = 3


@dataclass(frozen=True, eq=False)
class Cell:
    """A picture (square or nearly, H × W × 3 uint8) and what is written under it."""

    picture: np.ndarray
    label: str


@dataclass(frozen=True)
class _Layout:
    """Lengths in px. Rows of cells stand right of the portrait, which spans them."""

    cell: int
    height: int
    gap: int
    margin: int
    label: int
    head: int
    rows: int
    columns: int

    @property
    def block(self) -> int:
        """Height of the grid."""
        return self.rows * (self.height + self.label) + (self.rows - 1) * self.gap

    @property
    def portrait(self) -> tuple[int, int]:
        """Width and height of the portrait."""
        tall = self.block - self.label
        return round(tall * self.cell / self.height), tall

    @property
    def page(self) -> tuple[int, int]:
        across = self.columns * self.cell + (self.columns - 1) * self.gap
        wide = 2 * self.margin + self.portrait[0] + 2 * self.gap + across
        return wide, self.head + self.block + self.margin


def draw_page(
    portrait: np.ndarray,
    portrait_label: str,
    cells: Sequence[Cell],
    title: str,
    subtitle: str,
    columns: int,
    cell_px: int,
) -> Image.Image:
    """The page as a picture."""
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    height = round(cell_px * portrait.shape[0] / portrait.shape[1])
    layout = _Layout(
        cell=cell_px,
        height=height,
        gap=round(0.075 * cell_px),
        margin=round(0.24 * cell_px),
        label=round(0.19 * cell_px),
        head=round((0.70 if subtitle else 0.58) * cell_px),
        rows=rows,
        columns=columns,
    )
    page = Image.new("RGB", layout.page, PAPER)
    accent = accent_of(portrait)
    _head(page, layout, title, subtitle, accent)
    left, top = layout.margin, layout.head
    wide, tall = layout.portrait
    _place(page, portrait, (left, top, wide, tall), round(0.06 * cell_px), accent)
    _label(page, layout, left + wide / 2, top + tall, portrait_label, INK)
    grid = left + wide + 2 * layout.gap
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        x = grid + column * (cell_px + layout.gap)
        y = top + row * (layout.height + layout.label + layout.gap)
        _place(page, cell.picture, (x, y, cell_px, layout.height), round(0.06 * cell_px), None)
        _label(page, layout, x + cell_px / 2, y + layout.height, cell.label, INK)
    return page


def accent_of(picture: np.ndarray) -> tuple[int, int, int]:
    """The strongest colour that covers a good part of a picture, dark enough to be read."""
    small = Image.fromarray(picture).resize((64, 64), Image.Resampling.BOX)
    palette = small.quantize(8, Image.Quantize.MEDIANCUT)
    counts = np.bincount(np.asarray(palette).ravel(), minlength=8)
    raw = palette.getpalette() or []
    best, most = (0.6, 0.5, 0.6), -1.0
    for index, count in enumerate(counts[: len(raw) // 3]):
        red, green, blue = (value / 255 for value in raw[3 * index : 3 * index + 3])
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        weight = saturation * value**0.5 * float(count) ** 0.5
        if weight > most:
            best, most = (hue, saturation, value), weight
    hue, saturation, value = best
    red, green, blue = colorsys.hsv_to_rgb(hue, min(max(saturation, 0.25), 0.75), min(value, 0.72))
    return round(255 * red), round(255 * green), round(255 * blue)


def _head(
    page: Image.Image,
    layout: _Layout,
    title: str,
    subtitle: str,
    accent: tuple[int, int, int],
) -> None:
    draw = ImageDraw.Draw(page)
    x, unit = layout.margin, layout.cell
    font = ImageFont.load_default(round(0.185 * unit))
    baseline = round(0.40 * unit)
    draw.text((x, baseline), title, fill=INK, font=font, anchor="ls")
    bar = round(0.012 * unit)
    y = baseline + round(0.075 * unit)
    draw.rectangle((x, y, x + round(0.34 * unit), y + bar), fill=accent)
    if subtitle:
        small = ImageFont.load_default(round(0.068 * unit))
        draw.text((page.width - x, baseline), subtitle, fill=FAINT, font=small, anchor="rs")


def _label(
    page: Image.Image,
    layout: _Layout,
    x: float,
    y: float,
    text: str,
    colour: tuple[int, int, int],
) -> None:
    """Centred under a picture, with a little air between the letters."""
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(round(0.075 * layout.cell))
    air = 0.010 * layout.cell
    widths = [font.getlength(letter) + air for letter in text]
    at = x - (sum(widths) - air) / 2
    for letter, width in zip(text, widths, strict=True):
        draw.text((at, y + 0.108 * layout.cell), letter, fill=colour, font=font, anchor="ls")
        at += width


def _place(
    page: Image.Image,
    picture: np.ndarray,
    box: tuple[int, int, int, int],
    radius: int,
    frame: tuple[int, int, int] | None,
) -> None:
    """The picture in the box (left, top, width, height) with round corners; a thin frame."""
    left, top, width, height = box
    image = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
    mask = Image.new("L", (width * _FINE, height * _FINE), 0)
    corners = (0, 0, width * _FINE - 1, height * _FINE - 1)
    ImageDraw.Draw(mask).rounded_rectangle(corners, radius * _FINE, fill=255)
    small = mask.resize((width, height), Image.Resampling.LANCZOS)
    page.paste(image, (left, top), small)
    if frame is not None:
        line = Image.new("L", mask.size, 0)
        stroke = max(1, round(0.010 * width)) * _FINE
        ImageDraw.Draw(line).rounded_rectangle(corners, radius * _FINE, outline=255, width=stroke)
        solid = Image.new("RGB", (width, height), frame)
        page.paste(solid, (left, top), line.resize((width, height), Image.Resampling.LANCZOS))


def draw_pairs(
    pairs: Sequence[tuple[np.ndarray, np.ndarray, str]], columns: int, cell_px: int
) -> Image.Image:
    """A contact sheet: before and after side by side, a name beneath, `columns` pairs a row."""
    columns = min(columns, len(pairs))
    rows = -(-len(pairs) // columns)
    gap, margin, label = round(0.12 * cell_px), round(0.25 * cell_px), round(0.20 * cell_px)
    seam = max(1, round(0.015 * cell_px))
    wide = 2 * cell_px + seam
    size = (
        2 * margin + columns * wide + (columns - 1) * gap,
        2 * margin + rows * (cell_px + label) + (rows - 1) * gap - label // 2,
    )
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(max(9, round(0.085 * cell_px)))
    for index, (before, after, name) in enumerate(pairs):
        row, column = divmod(index, columns)
        x, y = margin + column * (wide + gap), margin + row * (cell_px + label + gap)
        radius = round(0.05 * cell_px)
        _place(page, before, (x, y, cell_px, cell_px), radius, None)
        _place(page, after, (x + cell_px + seam, y, cell_px, cell_px), radius, None)
        text = name
        while len(text) > 4 and font.getlength(text) > wide:
            text = text[:-2].rstrip("…") + "…"
        draw.text((x + wide / 2, y + cell_px + 0.11 * cell_px), text, INK, font, anchor="ms")
    return page

"""Labelled grids of pictures, as one PNG to look at. Knows nothing of what the pictures show."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = (250, 249, 246), (40, 38, 46), (118, 114, 126)
MARGIN = 28
GAP = 6
# A cell's shorter side lies between these: smaller faces are enlarged by a whole factor, larger
# ones reduced.
SMALLEST_CELL, LARGEST_CELL = 112, 256
TITLE_PX, TEXT_PX, LABEL_PX = 26, 15, 14
LINE_PX = TEXT_PX + 5
# Between a row's label and what it stands beside.
LABEL_GAP = 14
# Narrower pages would break the subtitle into a column.
SMALLEST_PAGE = 640

Picture = np.ndarray  # H x W x 3 uint8
Item = TypeVar("Item")


@dataclass(frozen=True)
class Sheet:
    """A grid of pictures with its words.

    cells: rows of pictures of one size; None leaves a place empty.
    row_labels, column_labels: one a row or column, or none at all. Neighbouring rows of one label
        make a block: the label is written once, and a gap divides the blocks.
    captions: beneath each picture, rows as `cells`, or none at all.
    heads: pictures above the columns and left of the rows, set apart from the grid (for tables that
        combine one with the other), or none at all.
    """

    title: str
    subtitle: str
    cells: Sequence[Sequence[Picture | None]]
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()
    captions: Sequence[Sequence[str]] = ()
    column_heads: Sequence[Picture] = ()
    row_heads: Sequence[Picture] = ()


def cell_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) at which pictures of that size are shown."""
    side = min(height, width)
    if side < SMALLEST_CELL:
        factor: float = -(-SMALLEST_CELL // side)
    else:
        factor = min(1.0, LARGEST_CELL / side)
    return round(height * factor), round(width * factor)


@dataclass(frozen=True)
class _Layout:
    """Where everything on a sheet goes, in pixels.

    height, width: of a picture. heads_left, heads_top: of the heads beside and above the grid,
    where rows and columns are labelled, too. lefts, tops: of the columns and rows. words: the
    subtitle's lines.
    """

    height: int
    width: int
    heads_left: int
    heads_top: int
    lefts: list[int]
    tops: list[int]
    page: tuple[int, int]
    words: list[str]

    @classmethod
    def of(cls, sheet: Sheet) -> _Layout:
        some = next(cell for row in sheet.cells for cell in row if cell is not None)
        height, width = cell_size(*some.shape[:2])
        font = ImageFont.load_default(LABEL_PX)
        labels = max((round(font.getlength(label)) for label in sheet.row_labels), default=0)
        heads_left = MARGIN + (labels + LABEL_GAP if labels else 0)
        left = heads_left + (width + 3 * GAP if sheet.row_heads else 0)
        columns = max(len(row) for row in sheet.cells)
        lefts = [left + column * (width + GAP) for column in range(columns)]
        page_width = max(lefts[-1] + width + MARGIN, SMALLEST_PAGE)

        words = _wrapped(sheet.subtitle, page_width - 2 * MARGIN)
        heads_top = MARGIN + TITLE_PX + len(words) * LINE_PX + 24
        heads_top += LABEL_PX + 8 if sheet.column_labels else 0
        top = heads_top + (height + 3 * GAP if sheet.column_heads else 0)
        caption = LABEL_PX + 6 if sheet.captions else 0
        blocks = _blocks(sheet.row_labels)
        between = 2 * GAP if len(blocks) < len(sheet.row_labels) else 0
        tops = [
            top + row * (height + caption + GAP) + between * sum(row >= end for _, _, end in blocks)
            for row in range(len(sheet.cells))
        ]
        page_height = tops[-1] + height + caption + MARGIN
        return cls(
            height, width, heads_left, heads_top, lefts, tops, (page_width, page_height), words
        )


def draw_sheet(sheet: Sheet) -> Image.Image:
    """The sheet as a picture."""
    layout = _Layout.of(sheet)
    page = Image.new("RGB", layout.page, PAPER)
    _write_words(ImageDraw.Draw(page), sheet, layout)

    def paste(picture: Picture, left: int, top: int) -> None:
        page.paste(_scaled(picture, layout.height, layout.width), (left, top))

    for head, left in zip(sheet.column_heads, layout.lefts, strict=False):
        paste(head, left, layout.heads_top)
    for head, top in zip(sheet.row_heads, layout.tops, strict=False):
        paste(head, layout.heads_left, top)
    for cells, top in zip(sheet.cells, layout.tops, strict=True):
        for cell, left in zip(cells, layout.lefts, strict=False):
            if cell is not None:
                paste(cell, left, top)
    return page


def _write_words(draw: ImageDraw.ImageDraw, sheet: Sheet, layout: _Layout) -> None:
    """Title, subtitle, labels and captions."""
    draw.text((MARGIN, MARGIN - 4), sheet.title, fill=INK, font=ImageFont.load_default(TITLE_PX))
    for line, text in enumerate(layout.words):
        at = (MARGIN, MARGIN + TITLE_PX + 10 + line * LINE_PX)
        draw.text(at, text, fill=FAINT, font=ImageFont.load_default(TEXT_PX))
    font = ImageFont.load_default(LABEL_PX)
    middles = [left + layout.width / 2 for left in layout.lefts]
    for label, x in zip(sheet.column_labels, middles, strict=False):
        draw.text((x, layout.heads_top - 8), label, fill=INK, font=font, anchor="ms")
    for label, first, end in _blocks(sheet.row_labels):
        y = (layout.tops[first] + layout.tops[end - 1] + layout.height) / 2
        place = (layout.heads_left - LABEL_GAP, y)
        draw.text(place, label, fill=INK, font=font, anchor="rm")
    for captions, top in zip(sheet.captions, layout.tops, strict=False):
        for caption, x in zip(captions, middles, strict=False):
            beneath = (x, top + layout.height + LABEL_PX + 1)
            draw.text(beneath, caption, fill=FAINT, font=font, anchor="ms")


def _blocks(labels: Sequence[str]) -> list[tuple[str, int, int]]:
    """(label, first row, row after the last) of each run of equal labels."""
    starts = [row for row, label in enumerate(labels) if row == 0 or labels[row - 1] != label]
    ends = [*starts[1:], len(labels)] if labels else []
    return [(labels[start], start, end) for start, end in zip(starts, ends, strict=True)]


def rows_of(items: Sequence[Item], columns: int) -> list[list[Item]]:
    """The items row by row, `columns` a row; the last row may be shorter."""
    return [list(items[i : i + columns]) for i in range(0, len(items), columns)]


def _scaled(picture: Picture, height: int, width: int) -> Image.Image:
    image = Image.fromarray(picture)
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _wrapped(text: str, width: int) -> list[str]:
    # The font's mean width; a line too long by a letter is still inside the margin.
    letters = max(20, int(width / (TEXT_PX * 0.5)))
    return textwrap.wrap(text, letters)

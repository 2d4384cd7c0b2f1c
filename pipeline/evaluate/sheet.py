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


def draw_sheet(sheet: Sheet) -> Image.Image:
    """The sheet as a picture."""
    some = next(cell for row in sheet.cells for cell in row if cell is not None)
    height, width = cell_size(*some.shape[:2])
    columns = max(len(row) for row in sheet.cells)
    font = ImageFont.load_default(LABEL_PX)
    label_width = max((round(font.getlength(label)) for label in sheet.row_labels), default=0)
    # Places before the first cell: labels of the rows, then their heads.
    left = MARGIN + (label_width + 14 if label_width else 0)
    heads_left, heads_top = left, 0
    left += width + 3 * GAP if sheet.row_heads else 0
    caption = LABEL_PX + 6 if sheet.captions else 0
    step_x, step_y = width + GAP, height + caption + GAP
    page_width = max(left + columns * step_x - GAP + MARGIN, 640)
    words = _wrapped(sheet.subtitle, page_width - 2 * MARGIN)
    top = MARGIN + TITLE_PX + 10 + len(words) * (TEXT_PX + 5) + 14
    if sheet.column_labels:
        top += LABEL_PX + 8
    heads_top = top
    top += height + 3 * GAP if sheet.column_heads else 0
    blocks = _blocks(sheet.row_labels)
    divided = len(blocks) < len(sheet.row_labels)
    between = 2 * GAP if divided and blocks else 0
    tops = [top + row * step_y + between * sum(row >= end for _, _, end in blocks)
            for row in range(len(sheet.cells))]  # fmt: skip
    page_height = tops[-1] + step_y - GAP + MARGIN

    page = Image.new("RGB", (page_width, page_height), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 4), sheet.title, fill=INK, font=ImageFont.load_default(TITLE_PX))
    for line, text in enumerate(words):
        at = (MARGIN, MARGIN + TITLE_PX + 10 + line * (TEXT_PX + 5))
        draw.text(at, text, fill=FAINT, font=ImageFont.load_default(TEXT_PX))
    for column, label in enumerate(sheet.column_labels):
        middle = (left + column * step_x + width / 2, heads_top - 8)
        draw.text(middle, label, fill=INK, font=font, anchor="ms")
    for column, head in enumerate(sheet.column_heads):
        page.paste(_scaled(head, height, width), (left + column * step_x, heads_top))
    for label, first, end in blocks:
        middle_y = (tops[first] + tops[end - 1] + height) / 2
        draw.text((heads_left - 14, middle_y), label, fill=INK, font=font, anchor="rm")
    for row, cells in enumerate(sheet.cells):
        y = tops[row]
        if row < len(sheet.row_heads):
            page.paste(_scaled(sheet.row_heads[row], height, width), (heads_left, y))
        for column, cell in enumerate(cells):
            x = left + column * step_x
            if cell is not None:
                page.paste(_scaled(cell, height, width), (x, y))
            if caption and row < len(sheet.captions) and column < len(sheet.captions[row]):
                beneath = (x + width / 2, y + height + LABEL_PX + 1)
                draw.text(beneath, sheet.captions[row][column], fill=FAINT, font=font, anchor="ms")
    return page


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

"""One picture that shows a dataset at a glance: many faces, their average, and guide lines.

The average tells more about the alignment than any single face: where eyes agree, it has eyes.
Knows nothing about files.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MAX_THUMBS = 240
THUMB = 128
GAP = 6
MARGIN = 24
HEADER = 64
RADIUS = 8
PAPER, INK, FAINT = (250, 249, 246), (40, 38, 46), (130, 126, 138)
HELDOUT = (232, 93, 117)
GUIDE = (64, 220, 160)


@dataclass(frozen=True)
class SheetStyle:
    """What is written and drawn on a sheet."""

    title: str
    subtitle: str
    eye_height: float  # of the guide line, as a share of a face's height
    guides: bool = False


def contact_sheet(
    read: Callable[[int], np.ndarray], count: int, heldout: Sequence[int], style: SheetStyle
) -> Image.Image:
    """The sheet of a dataset.

    Args:
        read: image `index`, H x W x 3 uint8.
        count: how many images there are; beyond `MAX_THUMBS` an even choice of them is shown.
        heldout: indices that get the held-out mark.
        style: texts and lines.
    """
    shown = _spread(count, MAX_THUMBS)
    marked = set(heldout)
    columns = _columns(len(shown))
    # The average takes the place of 2 x 2 thumbs at the top left.
    cells = [cell for cell in _cells(columns) if cell[0] >= 2 or cell[1] >= 2]
    needed = _rows(len(shown), columns)
    first = read(0) if count else np.zeros((THUMB, THUMB, 3), np.uint8)
    thumb_size = _thumb_size(first)
    step, step_down = THUMB + GAP, thumb_size[1] + GAP
    size = (
        2 * MARGIN + columns * step - GAP,
        MARGIN + HEADER + needed * step_down - GAP + MARGIN,
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 16), style.title, fill=INK, font=ImageFont.load_default(26))
    draw.text((MARGIN, 52), style.subtitle, fill=FAINT, font=ImageFont.load_default(15))
    total = np.zeros((2 * thumb_size[1] + GAP, 2 * THUMB + GAP, 3), np.float64)
    for cell, index in zip(cells, shown, strict=False):
        image = Image.fromarray(read(index) if index else first)
        total += np.asarray(image.resize(total.shape[1::-1], Image.Resampling.BOX))
        thumb = image.resize(thumb_size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        left, top = MARGIN + cell[0] * step, MARGIN + HEADER + cell[1] * step_down
        _place(sheet, thumb, left, top, style)
        if index in marked:
            corner = [(left + THUMB - 16, top), (left + THUMB, top), (left + THUMB, top + 16)]
            draw.polygon(corner, fill=HELDOUT)
    average = Image.fromarray(np.rint(total / max(1, len(shown))).astype(np.uint8))
    _place(sheet, average, MARGIN, MARGIN + HEADER, style)
    return sheet


def _place(sheet: Image.Image, image: Image.Image, left: int, top: int, style: SheetStyle) -> None:
    if style.guides:
        image = image.copy()
        draw = ImageDraw.Draw(image)
        eyes, middle = round(style.eye_height * image.height), image.width // 2
        draw.line([(0, eyes), (image.width, eyes)], fill=GUIDE)
        draw.line([(middle, 0), (middle, image.height)], fill=GUIDE)
    sheet.paste(image, (left, top), _rounded(image.width, image.height))


@functools.lru_cache(maxsize=8)
def _rounded(width: int, height: int) -> Image.Image:
    """A mask with round corners, drawn larger and reduced: Pillow's own corners are jagged."""
    mask = Image.new("L", (width * 4, height * 4))
    shape = (0, 0, mask.width - 1, mask.height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(shape, RADIUS * 4, fill=255)
    return mask.resize((width, height), Image.Resampling.BOX)


def _thumb_size(image: np.ndarray) -> tuple[int, int]:
    """(width, height): as wide as all thumbs, in the image's proportions."""
    return THUMB, round(THUMB * image.shape[0] / image.shape[1])


def _spread(count: int, limit: int) -> list[int]:
    """At most `limit` of the numbers below `count`, evenly."""
    shown = min(count, limit)
    return [index * count // shown for index in range(shown)]


def _columns(thumbs: int) -> int:
    return min(20, max(6, math.ceil(math.sqrt((thumbs + 4) * 1.6))))


def _rows(thumbs: int, columns: int) -> int:
    return max(2, math.ceil((thumbs + 4) / columns))


def _cells(columns: int) -> list[tuple[int, int]]:
    return [(column, row) for row in range(MAX_THUMBS + 4) for column in range(columns)]

"""A contact sheet of inversions: each picture as it was aligned, found and tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pipeline.invert.inversion import PICTURES

THUMB_PX = 128
GAP_PX, MARGIN_PX, CAPTION_PX = 4, 24, 30
# Pictures beside each other, each three thumbs wide.
ACROSS = 3
PAPER, INK, FAINT = (250, 249, 246), (40, 38, 46), (130, 126, 138)
SHOWN = ("aligned.png", "pivot.png", "tuned.png")


def sheet(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Image.Image:
    """The sheet of the inversions in `folder`/pictures; `rows`: their names and figures."""
    cell = (len(SHOWN) * (THUMB_PX + GAP_PX) + 2 * MARGIN_PX - GAP_PX, 0)
    height = _thumb_height(folder, rows) + CAPTION_PX + GAP_PX
    across = min(ACROSS, len(rows))
    down = -(-len(rows) // across)
    header = MARGIN_PX + CAPTION_PX
    size = (across * cell[0], header + down * height + MARGIN_PX)
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    title = f"{len(rows)} inversions: the picture, the model's nearest, and the tuned model's"
    draw.text((MARGIN_PX, 14), title, fill=INK, font=ImageFont.load_default(15))
    for number, row in enumerate(rows):
        left = (number % across) * cell[0] + MARGIN_PX
        top = header + (number // across) * height
        for place, name in enumerate(SHOWN):
            with Image.open(folder / PICTURES / row["name"] / name) as shown:
                thumb = _thumb(shown.convert("RGB"))
            image.paste(thumb, (left + place * (THUMB_PX + GAP_PX), top))
        caption = (
            f"{row['name'][:24]}   {row['psnr_pivot_db']:.1f} to {row['psnr_tuned_db']:.1f} dB   "
            f"{row['perceptual_tuned']:.3f}"
        )
        draw.text(
            (left, top + height - CAPTION_PX), caption, fill=FAINT, font=ImageFont.load_default(12)
        )
    return image


def _thumb_height(folder: Path, rows: Sequence[Mapping[str, Any]]) -> int:
    with Image.open(folder / PICTURES / rows[0]["name"] / SHOWN[0]) as image:
        return round(THUMB_PX * image.height / image.width)


def _thumb(image: Image.Image) -> Image.Image:
    size = (THUMB_PX, round(THUMB_PX * image.height / image.width))
    # Small pictures are shown by their pixels.
    enlarging = image.width * 2 <= THUMB_PX
    how = Image.Resampling.NEAREST if enlarging else Image.Resampling.LANCZOS
    return image.resize(size, how)

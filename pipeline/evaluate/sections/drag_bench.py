"""The drag benchmark's section: the ways of dragging compared, in figures and pictures.

Knows the summary by its reader, and the names of the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError
from pipeline.evaluate import drag_table
from pipeline.evaluate.payload import nested, text
from pipeline.evaluate.pictures import Picture, embed_picture
from pipeline.evaluate.sections.shared import Table, count_text

PICTURES = (
    ("plots.png", "The figures as bars with their 95 % intervals"),
    ("examples.png", "Sources, targets and what each way of dragging made of them"),
)


@dataclass(frozen=True)
class DragBenchSection:
    """How well each way of dragging does."""

    lead: str
    tables: list[Table]
    pictures: list[Picture]


def drag_bench_section(folder: Path, picture_px: int) -> DragBenchSection:
    """The table with its intervals, the plots, the examples."""
    pictures = [embed_picture(folder / name, about, picture_px, about) for name, about in PICTURES]
    shown = [picture for picture in pictures if picture]
    try:
        summary = drag_table.read(folder)
    except DataError:
        return DragBenchSection("The benchmark's figures cannot be read.", [], shown)
    head = drag_table.head()
    rows = drag_table.cells(summary)
    about = nested(summary, "about")
    pairs = count_text(max((line["pairs"] for line in summary["lines"]), default=0), "pair")
    lead = (
        f"Source landmarks dragged to a target's, all ways of dragging on the same {pairs} or "
        f"less, in pictures of {text(summary.get('resolution'))} pixels; where the points ended is "
        f"read from the picture by {text(about.get('landmarks'))}. Brackets hold 95 % intervals."
    )
    numeric = frozenset(range(3, len(head) - 1))
    return DragBenchSection(
        lead, [Table("Ways of dragging", head, rows, numeric, wide=True)], shown
    )

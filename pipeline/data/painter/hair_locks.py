"""What hair is made of: locks and masses in head coordinates.

A lock is a centre line with a width that closes to a point; a mass is a plain outline. No
hairstyles, no colours, no pixels here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.data.painter.curves import Array, normals, spline
from pipeline.data.painter.pose import Frame

HAIR_FLAT = 0.12  # a head of hair is round: it hardly narrows when turned


@dataclass(frozen=True)
class Lock:
    """A strand of hair: centre line (n×2), full width at each point, depth at each point."""

    line: Array
    width: Array
    depth: Array
    flatness: float = 0.6

    def edges(self, frame: Frame) -> tuple[Array, Array]:
        """Both long edges from root to tip (px); they meet at the tip of a pointed lock."""
        side = normals(self.line) * (0.5 * self.width)[:, None]
        return (
            frame.head(self.line + side, self.depth, self.flatness),
            frame.head(self.line - side, self.depth, self.flatness),
        )


@dataclass(frozen=True)
class Mass:
    """A closed outline (n×2) with each point's depth: the skull's cap, the hair behind the head."""

    outline: Array
    depth: Array
    silhouette: int  # how many points, from the first, are its outer edge


@dataclass
class BackHair:
    """What hangs behind and beside the head, collected by one style's function."""

    masses: list[Mass] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    tails: list[Lock] = field(default_factory=list)  # bound hair behind the shoulders
    drapes: list[Lock] = field(default_factory=list)  # bound hair over the chest
    buns: list[tuple[float, float]] = field(default_factory=list)
    ties: list[tuple[float, float]] = field(default_factory=list)  # where hair is bound


@dataclass(frozen=True)
class HairShapes:
    """All hair of an identity, back to front."""

    back: BackHair
    cap: Mass
    cap_strands: tuple[Array, ...]
    cap_wedges: tuple[tuple[Array, float], ...]  # shadows between strands: line, breadth at its end
    sides: tuple[Lock, ...]  # before the ears
    fringe: tuple[Lock, ...]
    ahoge: tuple[Lock, ...]


def make_lock(
    knots: list[tuple[float, float]],
    width: float,
    depth: tuple[float, float],
    *,
    blunt: bool = False,
    curl: float = 0.0,
    flatness: float = 0.6,
    samples: int = 5,
    swell: float = 0.35,
    slim_root: bool = False,
) -> Lock:
    """A lock along a spline through `knots`, `width` at its fullest (head units), from `depth[0]`
    at its root to `depth[1]` at its tip. `blunt` cuts its end, `curl` waves it, `slim_root` lets it
    slip out from under other hair."""
    line = spline(np.array(knots), samples)
    t = np.linspace(0, 1, len(line))
    if curl:
        wave = curl * 0.07 * np.sin(2 * np.pi * (1.6 * t + 0.1)) * t
        line = line + normals(line) * wave[:, None]
    if blunt:
        shape = 0.92 + 0.08 * np.sin(np.pi * t)
    else:
        # Full to its middle, then closing nearly straight to a fine point.
        body = 0.8 + swell * np.sin(np.pi * np.minimum(1.0, t * 1.15))
        shape = body * (1 - np.clip((t - 0.30) / 0.70, 0.0, 1.0) ** 1.45)
    if slim_root:  # slips out from under other hair without a corner
        shape = shape * np.minimum(1.0, 0.15 + 3.2 * t)
    return Lock(line, width * shape, np.interp(t, [0, 1], depth), flatness)

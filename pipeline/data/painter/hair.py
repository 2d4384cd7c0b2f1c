"""Paints hair: back, tails, cap, side locks, fringe, with lines, shadows and highlights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from pipeline.data.painter.canvas import Drawing
from pipeline.data.painter.colours import Colour, from_hex, lighten, mix, shade
from pipeline.data.painter.curves import Array, brush, ellipse, moved, ramp, section, spline
from pipeline.data.painter.hair_locks import HAIR_FLAT, HairShapes, Lock, Mass
from pipeline.data.painter.hair_shapes import build_hair
from pipeline.data.painter.identity import Hair
from pipeline.data.painter.light import Light
from pipeline.data.painter.pose import Frame

LINE = 0.020


@lru_cache(maxsize=256)
def _edge_weight(count: int, fades_in: bool) -> Array:
    """Relative line width along a lock's edge: swelling towards the tip, ending fine."""
    return np.interp(ramp(count), [0, 0.35, 0.85, 1], [0.12 if fades_in else 0.7, 0.8, 1.0, 0.5])


class _Tone(NamedTuple):
    """How a group of locks is painted."""

    dark: float  # shade of the ground; 0 the hair's own colour
    shadow: float  # shade of the half away from the light
    part: str
    line_from: float  # where along a lock its lines begin, 0 root .. 1 tip


_FRONT = _Tone(0.0, 0.29, "hair_front", 0.42)
_SIDE = _Tone(0.0, 0.29, "hair_front", 0.20)
_DRAPE = _Tone(0.0, 0.29, "hair_front", 0.0)
_TAIL = _Tone(0.0, 0.29, "hair_back", 0.0)
_BEHIND = _Tone(0.33, 0.46, "hair_back", 0.2)


class HairPainter:
    """Paints one identity's hair in one frame, in the layers that other things go between."""

    def __init__(self, hair: Hair, frame: Frame, light: Light, stretch: float = 0.0) -> None:
        self.hair = hair
        self.frame = frame
        self.light = light
        self.shapes: HairShapes = build_hair(hair, stretch)
        self.line = mix(shade(hair.colour, 0.62), (0.14, 0.08, 0.12), 0.30)
        self.fringe_edges = [lock.edges(frame) for lock in self.shapes.fringe]
        self.cap = self._outline(self.shapes.cap)

    def fringe_outlines(self) -> list[Array]:
        """The fringe's locks as polygons (px)."""
        return [np.concatenate([left, right[::-1]]) for left, right in self.fringe_edges]

    def paint_back(self, drawing: Drawing) -> None:
        """Hair behind neck and shoulders, in shadow."""
        for mass in self.shapes.back.masses:
            outline = self._outline(mass)
            self._fill(drawing, outline, _BEHIND.dark, _BEHIND.part)
            drawing.fill(brush(outline, self.frame.line(LINE), "even"), self.line, _BEHIND.part)
        self._paint_locks(drawing, self.shapes.back.locks, _BEHIND)

    def paint_tails(self, drawing: Drawing) -> None:
        """Bound hair beside the head."""
        self._paint_locks(drawing, self.shapes.back.tails, _TAIL)

    def paint_drapes(self, drawing: Drawing) -> None:
        """Bound hair that hangs over the chest."""
        self._paint_locks(drawing, self.shapes.back.drapes, _DRAPE)

    def paint_buns(self, drawing: Drawing) -> None:
        """Round buns on the crown, coiled."""
        for x, y in self.shapes.back.buns:
            self._paint_bun(drawing, x, y)

    def _paint_bun(self, drawing: Drawing, x: float, y: float) -> None:
        def place(points: Array) -> Array:
            return self.frame.head(points, -0.02, HAIR_FLAT)

        shape = place(ellipse((x, y), (0.36, 0.34), 28))
        self._fill(drawing, shape, 0.0, "hair_front")
        with drawing.clipped([shape]):
            lit = place(ellipse((x + 0.13 * self.light.side, y - 0.07), (0.36, 0.34), 28))
            drawing.fill_outside(lit, shade(self.hair.colour, _FRONT.shadow))
            gleam = place(ellipse((x + 0.10 * self.light.side, y - 0.19), (0.16, 0.05), 14))
            drawing.fill(gleam, lighten(self.hair.colour, 0.55), None, 0.85)
        side = 1.0 if x > 0 else -1.0
        angle = np.linspace(0.3, 5.0, 26)
        radius = 0.06 + 0.05 * angle
        coil = np.stack([x + side * radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)
        width = self.frame.line(LINE)
        drawing.fill(brush(place(coil), width * 0.8), self.line, "hair_front")
        rim = np.concatenate([shape, shape[:1]])
        drawing.fill(brush(rim, width, "even"), self.line, "hair_front")

    def paint_cap(self, drawing: Drawing) -> None:
        """The crown: ground, the side away from the light, strands, silhouette line."""
        self._fill(drawing, self.cap, 0.0, "hair_front")
        toward = self.frame.px(0.22) * self.light.side, -self.frame.px(0.06)
        with drawing.clipped([self.cap]):
            lit = moved(self.cap[: self.shapes.cap.silhouette], *toward)
            dark = shade(self.hair.colour, _FRONT.shadow)
            drawing.fill_outside(np.concatenate([lit, self._below(lit)]), dark)
        strands = [
            brush(self.frame.head(line, 0.22, 0.35), self.frame.line(0.016))
            for line in self.shapes.cap_strands
        ]
        drawing.fill_all(strands, self.line, None, 0.65)
        wedges = [
            brush(self.frame.head(line, 0.30, 0.35), self.frame.px(width), "start")
            for line, width in self.shapes.cap_wedges
        ]
        with drawing.clipped([self.cap]):
            drawing.fill_all(wedges, shade(self.hair.colour, _FRONT.shadow))
        silhouette = self.cap[: self.shapes.cap.silhouette]
        stroke = brush(silhouette, self.frame.line(LINE * 1.15), "soft")
        drawing.fill(stroke, self.line, "hair_front")

    def _below(self, line: Array) -> Array:
        """Two points far below the ends of a silhouette (px) that close it downwards."""
        down = self.frame.head(np.array([(0.0, 0.0), (0.0, 1.2)]), 0.0, HAIR_FLAT)
        closed: Array = np.stack([line[-1], line[0]]) + (down[1] - down[0])
        return closed

    def paint_sides(self, drawing: Drawing) -> None:
        """Locks before the ears."""
        self._paint_locks(drawing, self.shapes.sides, _SIDE)

    def paint_fringe(self, drawing: Drawing) -> None:
        """The fringe, its strands' lines, then the gloss over cap and fringe."""
        for edges, lock in zip(self.fringe_edges, self.shapes.fringe, strict=True):
            self._paint_edges(drawing, *edges, _FRONT)
            self._strand_line(drawing, lock)
        self._paint_gloss(drawing)
        self._paint_locks(drawing, self.shapes.ahoge, _SIDE)

    def _outline(self, mass: Mass) -> Array:
        return self.frame.head(mass.outline, mass.depth, HAIR_FLAT)

    def _fill(
        self, drawing: Drawing, shape: Array, dark: float, part: str | None, alpha: float = 1.0
    ) -> None:
        """Fill with a shade of the hair's colour, running into the tips' colour further down."""
        colour = shade(self.hair.colour, dark)
        tip = self.hair.tip_colour
        if tip is None:
            drawing.fill(shape, colour, part, alpha)
            return
        top, bottom = self.frame.body(np.array([(0.0, -0.35), (0.0, 1.5)]))
        stops = [(0.0, colour, alpha), (1.0, shade(tip, dark), alpha)]
        drawing.gradient(shape, top, bottom, stops, part)

    def _paint_locks(self, drawing: Drawing, locks: Sequence[Lock], tone: _Tone) -> None:
        for lock in locks:
            self._paint_edges(drawing, *lock.edges(self.frame), tone)

    def _paint_edges(self, drawing: Drawing, left: Array, right: Array, tone: _Tone) -> None:
        """One lock from its two edges (px): ground, shadow half, lines to the tip."""
        self._fill(drawing, np.concatenate([left, right[::-1]]), tone.dark, tone.part)
        # A wedge on the side away from the light, from a slim start to the tip.
        away = left if (left[:, 0].mean() > right[:, 0].mean()) == (self.light.side < 0) else right
        middle = (left + right) / 2
        along = ramp(len(left))
        reach = np.clip(1.5 * (along - 0.28), 0.0, 0.80)[:, None]
        inner = away + (middle - away) * reach
        first = int(0.25 * len(left))
        half = np.concatenate([away[first:], inner[first:][::-1]])
        self._fill(drawing, half, tone.shadow, None)
        width = self.frame.line(LINE)
        lines = []
        for edge in (left, right):
            drawn = section(edge, tone.line_from, 1.0)
            lines.append(brush(drawn, width * _edge_weight(len(drawn), tone.line_from > 0), "even"))
        if np.hypot(*(left[-1] - right[-1])) > 2.0:  # a blunt end needs its line too
            lines.append(brush(np.stack([left[-1], right[-1]]), width, "even"))
        drawing.fill_all(lines, self.line, tone.part)

    def _strand_line(self, drawing: Drawing, lock: Lock) -> None:
        """One thin line inside a lock that suggests strands."""
        inner = section(lock.line, 0.45, 0.85)
        near, far = lock.depth[0], lock.depth[-1]
        depth = near + (far - near) * (0.45 + 0.40 * ramp(len(inner)))
        points = self.frame.head(moved(inner, 0.03, 0.0), depth, lock.flatness)
        drawing.fill(brush(points, self.frame.line(0.014)), self.line, None, 0.55)

    def _paint_gloss(self, drawing: Drawing) -> None:
        """The highlight: a toothed ring round the crown, streaks along the strands, or a sheen."""
        pale = sum(self.hair.colour) / 3
        light = lighten(self.hair.colour, 0.26 + 0.22 * pale)
        lean = 0.30 * self.light.side
        with drawing.clipped([self.cap]):
            if self.hair.gloss == "soft":
                at_head = np.array([[1.4 * lean, -1.00]])
                centre = self.frame.head(at_head, 0.4, 0.5)[0]
                stops = [(0.0, light, 0.75), (0.5, light, 0.3), (1.0, light, 0.0)]
                drawing.glow(centre, self.frame.px(0.80), stops, 0.42)
            elif self.hair.gloss == "ring":
                drawing.fill_all(self._ring(lean), light, None, 0.9)
            elif self.hair.gloss == "streaks":
                drawing.fill_all(self._streaks(lean), light, None, 0.9)

    def _gloss_px(self, x: Array, y: Array) -> Array:
        """Points on the front of the crown → px."""
        return self.frame.head(np.stack([x, y], axis=1), 0.44 - 0.25 * x * x, 0.5)

    def _ring(self, lean: float) -> list[Array]:
        """A band over the crown, broken where strands part, with long teeth below, short above."""
        rng = np.random.default_rng([self.hair.seed, 5])
        height = float(rng.uniform(-1.12, -0.98))
        pieces, x = [], -0.92
        while x < 0.86:
            end = x + float(rng.uniform(0.22, 0.62))
            count = 2 * max(2, round((end - x) * 9)) + 1
            u = np.linspace(x, min(end, 0.95), count)
            arc = height + 0.34 * u * u
            swell = np.sin(np.pi * ramp(count)) ** 0.6
            # Thickest where the light falls.
            weight = swell * np.exp(-(((u - lean) / 0.75) ** 2))
            odd = np.arange(count) % 2 == 1
            below = np.where(odd, 0.17, 0.03) * rng.uniform(0.6, 1.5, count) * weight
            above = np.where(odd, 0.03, 0.08) * rng.uniform(0.6, 1.4, count) * weight
            pieces.append(
                np.concatenate(
                    [self._gloss_px(u, arc - above), self._gloss_px(u, arc + below)[::-1]]
                )
            )
            x = end + float(rng.uniform(0.03, 0.14))
        return pieces

    def _streaks(self, lean: float) -> list[Array]:
        """Slim spindles of light that follow the strands, gathered where the light falls."""
        rng = np.random.default_rng([self.hair.seed, 6])
        pieces = []
        for u in rng.normal(lean, 0.30, 7).clip(-0.85, 0.85).tolist():
            height = -1.06 + 0.30 * u * u + float(rng.uniform(-0.06, 0.06))
            length = float(rng.uniform(0.12, 0.34))
            x = u + np.array([-0.10, 0.0, 0.08]) * np.sign(u) * length * 2
            y = height + np.array([-0.5, 0.0, 0.5]) * length
            line = self._gloss_px(x, y)
            pieces.append(brush(spline(line, 4), self.frame.px(float(rng.uniform(0.02, 0.055)))))
        return pieces

    def paint_ties(self, drawing: Drawing, colour: Colour) -> None:
        """The bindings of tails: small knots with bows."""
        for x, y in self.shapes.back.ties:
            paint_bow(drawing, self.frame, (x, y), colour, 0.20, depth=0.0, part="accessories")

    def paint_rim(self, drawing: Drawing, colour: Colour) -> None:
        """A bright edge inside the silhouette, on the side away from the main light."""
        outline = self.cap[: self.shapes.cap.silhouette]
        tone = mix(colour, lighten(self.hair.colour, 0.7), 0.35)
        with drawing.clipped([self.cap]):
            shift = self.frame.px(0.06) * (1.0 if self.light.side > 0 else -1.0)
            inside = moved(outline, shift, 0.0)
            drawing.fill_outside(np.concatenate([inside, self._below(inside)]), tone, 0.6)


def paint_bow(
    drawing: Drawing,
    frame: Frame,
    centre: tuple[float, float],
    colour: Colour,
    size: float,
    *,
    depth: float,
    part: str,
    on_body: bool = False,
) -> None:
    """A ribbon's bow: two loops, two ends, a knot; `size` is half its width in head units."""

    def place(points: Array) -> Array:
        head = points * size + centre
        return frame.body(head) if on_body else frame.head(head, depth, HAIR_FLAT)

    ink = mix(shade(colour, 0.6), from_hex("#2a1420"), 0.3)
    for side in (-1, 1):
        end = place(_BOW_END * (side, 1))
        drawing.piece(end, shade(colour, 0.18), ink, frame.line(0.016), part)
        drawing.piece(place(_BOW_LOOP * (side, 1)), colour, ink, frame.line(0.018), part)
        drawing.fill(place(_BOW_FOLD * (side, 1)), shade(colour, 0.3))
    drawing.piece(place(_BOW_KNOT), lighten(colour, 0.15), ink, frame.line(0.017), part)


_BOW_END = np.array([(0.05, 0.1), (0.55, 1.0), (0.25, 1.05), (0.1, 0.9), (-0.05, 0.3)])
_BOW_LOOP = spline(
    [(0.05, 0), (0.55, -0.55), (1.0, -0.5), (0.98, 0.3), (0.6, 0.42)], 4, closed=True
)
_BOW_FOLD = spline([(0.12, 0.0), (0.5, -0.12), (0.72, 0.02), (0.5, 0.12)], 3, closed=True)
_BOW_KNOT = spline([(-0.2, -0.2), (0.2, -0.2), (0.22, 0.22), (-0.22, 0.22)], 3, closed=True)

"""Paints hair: back, tails, cap, side locks, fringe, with lines, shadows and highlights."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pipeline.data.painter.canvas import Drawing
from pipeline.data.painter.colours import Colour, from_hex, lighten, mix, shade
from pipeline.data.painter.curves import Array, brush, ellipse, moved, ramp, section, spline
from pipeline.data.painter.hair_shapes import HAIR_FLAT, HairShapes, Lock, Mass, build_hair
from pipeline.data.painter.identity import Hair
from pipeline.data.painter.light import Light
from pipeline.data.painter.pose import Frame

LINE = 0.030


@lru_cache(maxsize=256)
def _edge_weight(count: int, fades_in: bool) -> Array:
    """Relative line width along a lock's edge: swelling towards the tip, ending fine."""
    return np.interp(ramp(count), [0, 0.35, 0.85, 1], [0.12 if fades_in else 0.7, 0.8, 1.0, 0.5])


class HairPainter:
    """Paints one identity's hair in one frame, in the layers that other things go between."""

    def __init__(self, hair: Hair, frame: Frame, light: Light) -> None:
        self.hair = hair
        self.frame = frame
        self.light = light
        self.shapes: HairShapes = build_hair(hair)
        self.base = hair.colour
        self.shadow = shade(hair.colour, 0.26)
        self.line = mix(shade(hair.colour, 0.66), (0.16, 0.10, 0.14), 0.35)
        self.fringe_edges = [lock.edges(frame) for lock in self.shapes.fringe]
        self.cap = self._outline(self.shapes.cap)

    def fringe_outlines(self) -> list[Array]:
        """The fringe's locks as polygons (px)."""
        return [np.concatenate([left, right[::-1]]) for left, right in self.fringe_edges]

    def paint_back(self, drawing: Drawing) -> None:
        """Hair behind neck and shoulders, in shadow."""
        dark = shade(self.hair.colour, 0.34)
        for mass in self.shapes.back.masses:
            outline = self._outline(mass)
            self._fill(drawing, outline, dark, "hair_back")
            drawing.fill(brush(outline, self.frame.line(LINE), "even"), self.line, "hair_back")
        for lock in self.shapes.back.locks:
            self._paint_lock(drawing, lock, dark, shade(self.hair.colour, 0.48), "hair_back", 0.2)

    def paint_tails(self, drawing: Drawing) -> None:
        """Bound hair beside the head."""
        for lock in self.shapes.back.tails:
            self._paint_lock(drawing, lock, self.base, self.shadow, "hair_back", 0.0)

    def paint_drapes(self, drawing: Drawing) -> None:
        """Bound hair that hangs over the chest."""
        for lock in self.shapes.back.drapes:
            self._paint_lock(drawing, lock, self.base, self.shadow, "hair_front", 0.0)

    def paint_buns(self, drawing: Drawing) -> None:
        """Round buns on the crown, coiled."""
        for x, y in self.shapes.back.buns:
            self._paint_bun(drawing, x, y)

    def _paint_bun(self, drawing: Drawing, x: float, y: float) -> None:
        def place(points: Array) -> Array:
            return self.frame.head(points, -0.02, HAIR_FLAT)

        shape = place(ellipse((x, y), (0.36, 0.34), 28))
        self._fill(drawing, shape, self.base, "hair_front")
        with drawing.clipped([shape]):
            lit = place(ellipse((x + 0.13 * self.light.side, y - 0.07), (0.36, 0.34), 28))
            drawing.fill_outside(lit, self.shadow)
            gleam = place(ellipse((x + 0.10 * self.light.side, y - 0.19), (0.16, 0.05), 14))
            drawing.fill(gleam, lighten(self.hair.colour, 0.55), None, 0.85)
        side = 1.0 if x > 0 else -1.0
        angle = np.linspace(0.3, 5.0, 26)
        radius = 0.06 + 0.05 * angle
        coil = np.stack([x + side * radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)
        width = self.frame.line(LINE)
        drawing.fill(brush(place(coil), width * 0.8), self.line, "hair_front")
        drawing.fill(
            brush(np.concatenate([shape, shape[:1]]), width, "even"), self.line, "hair_front"
        )

    def paint_cap(self, drawing: Drawing) -> None:
        """The crown: ground, the side away from the light, silhouette line."""
        self._fill(drawing, self.cap, self.base, "hair_front")
        with drawing.clipped([self.cap]):
            toward = self.frame.px(0.26) * self.light.side, -self.frame.px(0.10)
            drawing.fill_outside(moved(self.cap, *toward), self.shadow)
        strands = [
            brush(self.frame.head(line, 0.22, 0.35), self.frame.line(0.020))
            for line in self.shapes.cap_strands
        ]
        drawing.fill_all(strands, self.line, None, 0.6)
        silhouette = self.cap[: self.shapes.cap.silhouette]
        drawing.fill(
            brush(silhouette, self.frame.line(LINE * 1.15), "soft"), self.line, "hair_front"
        )

    def paint_sides(self, drawing: Drawing) -> None:
        """Locks before the ears."""
        for lock in self.shapes.sides:
            self._paint_lock(drawing, lock, self.base, self.shadow, "hair_front", 0.15)

    def paint_fringe(self, drawing: Drawing) -> None:
        """The fringe, its strands' lines, then the gloss over cap and fringe."""
        for (left, right), lock in zip(self.fringe_edges, self.shapes.fringe, strict=True):
            self._paint_edges(drawing, left, right, self.base, self.shadow, "hair_front", 0.34)
            self._strand_line(drawing, lock)
        self._paint_gloss(drawing)
        for lock in self.shapes.ahoge:
            self._paint_lock(drawing, lock, self.base, self.shadow, "hair_front", 0.25)

    def _outline(self, mass: Mass) -> Array:
        return self.frame.head(mass.outline, mass.depth, HAIR_FLAT)

    def _fill(self, drawing: Drawing, shape: Array, colour: Colour, part: str) -> None:
        """Fill with the hair's colour, blended into the tip colour further down."""
        tip = self.hair.tip_colour
        if tip is None:
            drawing.fill(shape, colour, part)
            return
        darker = mix(colour, self.hair.colour, 0.0)
        ratio = sum(darker) / max(sum(self.hair.colour), 1e-6)
        end = (tip[0] * ratio, tip[1] * ratio, tip[2] * ratio)
        top, bottom = self.frame.body(np.array([(0.0, -0.35), (0.0, 1.5)]))
        drawing.gradient(shape, top, bottom, [(0, colour, 1), (1, end, 1)], part)

    def _paint_lock(
        self, drawing: Drawing, lock: Lock, colour: Colour, shadow: Colour, part: str, start: float
    ) -> None:
        left, right = lock.edges(self.frame)
        self._paint_edges(drawing, left, right, colour, shadow, part, start)

    def _paint_edges(
        self,
        drawing: Drawing,
        left: Array,
        right: Array,
        colour: Colour,
        shadow: Colour,
        part: str,
        start: float,
    ) -> None:
        """One lock from its two edges (px): ground, shadow half, lines from `start` to the tip."""
        shape = np.concatenate([left, right[::-1]])
        self._fill(drawing, shape, colour, part)
        # The half away from the light, from a slim start to the tip.
        away = left if (left[:, 0].mean() > right[:, 0].mean()) == (self.light.side < 0) else right
        t = ramp(len(left))[:, None]
        middle = (left + right) / 2
        inner = away + (middle - away) * np.clip(1.3 * t - 0.25, 0.0, 0.85)
        first = int(0.2 * len(left))
        drawing.fill(np.concatenate([away[first:], inner[first:][::-1]]), shadow, None, 0.85)
        width = self.frame.line(LINE)
        lines = []
        for edge in (left, right):
            part_line = section(edge, start, 1.0)
            weight = _edge_weight(len(part_line), start > 0)
            lines.append(brush(part_line, width * weight, "even"))
        end_gap = float(np.hypot(*(left[-1] - right[-1])))
        if end_gap > 2.0:  # a blunt end needs its line too
            lines.append(brush(np.stack([left[-1], right[-1]]), width, "even"))
        drawing.fill_all(lines, self.line, part)

    def _strand_line(self, drawing: Drawing, lock: Lock) -> None:
        """One thin line inside a lock that suggests strands."""
        inner = section(lock.line, 0.30, 0.78)
        depth = section(np.stack([lock.depth, lock.depth], axis=1), 0.30, 0.78)[:, 0]
        points = self.frame.head(moved(inner, 0.02, 0.0), depth, lock.flatness)
        drawing.fill(brush(points, self.frame.line(0.018)), self.line, None, 0.55)

    def _paint_gloss(self, drawing: Drawing) -> None:
        """The highlight: a toothed ring round the crown, broken streaks, or a soft sheen."""
        light = lighten(self.hair.colour, 0.55)
        lean = 0.22 * self.light.side
        with drawing.clipped([self.cap]):
            if self.hair.gloss == "soft":
                centre = self.frame.head(np.array([[0.45 * self.light.side, -1.02]]), 0.4, 0.5)[0]
                drawing.glow(
                    centre,
                    self.frame.px(0.75),
                    [(0, light, 0.8), (0.5, light, 0.3), (1, light, 0)],
                    0.42,
                )
                return
            bands = (
                [(-0.80, 0.80)]
                if self.hair.gloss == "ring"
                else [(-0.85, -0.5), (-0.38, 0.30), (0.42, 0.62)]
            )
            for start, end in bands:
                drawing.fill(
                    self._ring(start + lean, end + lean, self.hair.gloss == "ring"),
                    light,
                    None,
                    0.9,
                )

    def _ring(self, start: float, end: float, long: bool) -> Array:
        """A band over the crown between two x, its lower edge toothed along the strands."""
        rng = np.random.default_rng(self.hair.seed + 7)
        x = np.linspace(start, end, 15 if long else 9)
        arc = -1.10 + 0.30 * x * x
        taper = np.sin(np.pi * np.linspace(0, 1, len(x))) ** 0.6
        teeth = np.where(np.arange(len(x)) % 2 == 0, 0.035, 0.125) * rng.uniform(0.7, 1.3, len(x))
        upper = np.stack([x * 0.97, arc - 0.055 * taper], axis=1)
        lower = np.stack([x, arc + teeth * taper], axis=1)
        depth_u, depth_l = 0.42 - 0.25 * upper[:, 0] ** 2, 0.46 - 0.25 * lower[:, 0] ** 2
        return np.concatenate(
            [
                spline(self.frame.head(upper, depth_u, 0.5), 2),
                self.frame.head(lower, depth_l, 0.5)[::-1],
            ]
        )

    def paint_ties(self, drawing: Drawing, colour: Colour) -> None:
        """The bindings of tails: small knots with bows."""
        for x, y in self.shapes.back.ties:
            self._bow(drawing, (x, y), colour, 0.20)

    def _bow(
        self, drawing: Drawing, centre: tuple[float, float], colour: Colour, size: float
    ) -> None:
        paint_bow(drawing, self.frame, centre, colour, size, depth=0.0, part="accessories")

    def paint_rim(self, drawing: Drawing, colour: Colour) -> None:
        """A thin bright edge inside the silhouette, on the side away from the main light."""
        outline = self.shapes.cap.outline[: self.shapes.cap.silhouette]
        edge = section(outline, 0.55, 0.97) if self.light.side < 0 else section(outline, 0.03, 0.45)
        inside = self.frame.head(edge * 0.955, 0.08, HAIR_FLAT)
        tone = mix(colour, lighten(self.hair.colour, 0.7), 0.4)
        drawing.fill(brush(inside, self.frame.line(0.05)), tone, None, 0.9)


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
        drawing.piece(end, shade(colour, 0.18), ink, frame.line(0.02), part)
        drawing.piece(place(_BOW_LOOP * (side, 1)), colour, ink, frame.line(0.024), part)
        drawing.fill(place(_BOW_FOLD * (side, 1)), shade(colour, 0.3))
    drawing.piece(place(_BOW_KNOT), lighten(colour, 0.15), ink, frame.line(0.022), part)


_BOW_END = np.array([(0.05, 0.1), (0.55, 1.0), (0.25, 1.05), (0.1, 0.9), (-0.05, 0.3)])
_BOW_LOOP = spline(
    [(0.05, 0), (0.55, -0.55), (1.0, -0.5), (0.98, 0.3), (0.6, 0.42)], 4, closed=True
)
_BOW_FOLD = spline([(0.12, 0.0), (0.5, -0.12), (0.72, 0.02), (0.5, 0.12)], 3, closed=True)
_BOW_KNOT = spline([(-0.2, -0.2), (0.2, -0.2), (0.22, 0.22), (-0.22, 0.22)], 3, closed=True)

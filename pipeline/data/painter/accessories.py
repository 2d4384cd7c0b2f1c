"""Paints what is worn on the head: behind the hair, over the face, and in front of the hair."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.data.painter.canvas import Drawing
from pipeline.data.painter.colours import WHITE, Colour, from_hex, lighten, mix, shade
from pipeline.data.painter.curves import Array, brush, ellipse, moved, spline
from pipeline.data.painter.features import Features
from pipeline.data.painter.hair import paint_bow
from pipeline.data.painter.hair_locks import HAIR_FLAT
from pipeline.data.painter.identity import Accessory, Identity
from pipeline.data.painter.pose import Frame

PART = "accessories"
LINE = 0.019


def _ink(colour: Colour) -> Colour:
    return mix(shade(colour, 0.65), from_hex("#20141c"), 0.35)


def _piece(drawing: Drawing, frame: Frame, shape: Array, colour: Colour) -> None:
    """A filled, outlined shape (px)."""
    drawing.piece(shape, colour, _ink(colour), frame.line(LINE), PART)


def _ears_of_cat(drawing: Drawing, frame: Frame, item: Accessory) -> None:
    for side in (-1, 1):
        ear = spline([(0.36, -1.46), (0.62, -1.92), (0.94, -2.04), (1.06, -1.62), (1.00, -1.05)], 5)
        _piece(drawing, frame, frame.head(ear * (side, 1), 0.0, HAIR_FLAT), item.colour)
        inner = spline(
            [(0.56, -1.45), (0.70, -1.76), (0.90, -1.88), (0.95, -1.58), (0.92, -1.2)], 5
        )
        drawing.fill(
            frame.head(inner * (side, 1), 0.02, HAIR_FLAT),
            mix(item.colour, from_hex("#f7c6c4"), 0.75),
        )


def _horns(drawing: Drawing, frame: Frame, item: Accessory) -> None:
    for side in (-1, 1):
        outer = spline(
            [(0.66, -1.22), (0.98, -1.62), (1.42, -1.70), (1.72, -1.38), (1.74, -1.06)], 6
        )
        inner = spline(
            [(1.74, -1.06), (1.56, -1.30), (1.34, -1.40), (1.12, -1.22), (0.98, -0.88)], 6
        )
        horn = np.concatenate([outer, inner[1:]]) * (side, 1)
        _piece(drawing, frame, frame.head(horn, -0.05, HAIR_FLAT), item.colour)
        band_outer, band_inner = outer[4:-5], inner[::-1][3 : 3 + len(outer[4:-5])]
        middle = 0.55 * band_outer + 0.45 * band_inner
        tone = lighten(item.colour, 0.25)
        drawing.fill(
            brush(frame.head(middle * (side, 1), -0.05, HAIR_FLAT), frame.px(0.12)), tone, None, 0.8
        )
        rings = []
        for index in (5, 9, 13):
            ends = np.stack([outer[index], inner[::-1][index]]) * (side, 1)
            rings.append(brush(frame.head(ends, -0.05, HAIR_FLAT), frame.line(0.02), "even"))
        drawing.fill_all(rings, _ink(item.colour))


def paint_behind_fringe(drawing: Drawing, identity: Identity, frame: Frame) -> None:
    """What sits on the skull behind the front hair: horns, animal ears."""
    for item in identity.accessories:
        if item.kind == "cat_ears":
            _ears_of_cat(drawing, frame, item)
        elif item.kind == "horns":
            _horns(drawing, frame, item)


def paint_on_face(drawing: Drawing, identity: Identity, features: Features, frame: Frame) -> None:
    """Glasses: over the eyes, under the fringe."""
    for item in identity.accessories:
        if item.kind == "glasses":
            _glasses(drawing, identity, frame, item)


def _glasses(drawing: Drawing, identity: Identity, frame: Frame, item: Accessory) -> None:
    ink = _ink(shade(item.colour, 0.35))
    spacing = identity.eyes.spacing
    for side in (-1, 1):
        knots = np.array(
            [(-0.37, -0.26), (0.0, -0.31), (0.37, -0.26), (0.36, 0.14), (0.0, 0.33), (-0.36, 0.14)]
        )
        rim = spline(moved(knots, side * spacing, 0.06), 5, closed=True)
        lens = frame.head(rim, 0.66 - 0.35 * rim[:, 0] ** 2)
        drawing.fill(lens, WHITE, None, 0.10)
        closed = np.concatenate([lens, lens[:2]])
        drawing.fill(brush(closed, frame.line(0.034), "even"), ink, PART)
        gleam = np.array([(-0.24, -0.14), (-0.12, -0.18), (-0.22, 0.08), (-0.29, 0.08)])
        drawing.fill(frame.face(moved(gleam, side * spacing, 0.06)), WHITE, None, 0.45)
        arm = np.array([(side * (spacing + 0.36), -0.02), (side * 1.04, -0.12)])
        drawing.fill(
            brush(frame.head(arm, np.array([0.3, -0.1]), 0.5), frame.line(0.036), "even"), ink, PART
        )
    bridge = spline([(-(spacing - 0.36), 0.0), (0.0, -0.07), (spacing - 0.36, 0.0)], 5)
    drawing.fill(brush(frame.head(bridge, 0.68), frame.line(0.040), "even"), ink, PART)


def _ribbon(drawing: Drawing, frame: Frame, item: Accessory) -> None:
    paint_bow(drawing, frame, (item.side * 0.78, -1.12), item.colour, 0.34, depth=0.25, part=PART)


def _hairpin(drawing: Drawing, frame: Frame, item: Accessory) -> None:
    for step in (0.0, 0.13):
        line = np.array([(0.52, -0.80 + step), (0.84, -0.62 + step)]) * (item.side, 1)
        points = frame.head(line, 0.58)
        drawing.fill(brush(points, frame.px(0.095), "even"), _ink(item.colour), PART)
        drawing.fill(brush(points, frame.px(0.055), "even"), lighten(item.colour, 0.15), PART)


def _headband(drawing: Drawing, frame: Frame, item: Accessory) -> None:
    x = np.linspace(-1.14, 1.14, 17)
    y = -1.36 + 0.86 * (np.abs(x) / 1.14) ** 2.6
    band = np.stack([x, y], axis=1)
    width = 0.17
    upper, lower = moved(band, 0, -width / 2), moved(band, 0, width / 2)
    depth = 0.35 - 0.3 * x**2
    shape = np.concatenate([frame.head(upper, depth, 0.3), frame.head(lower, depth, 0.3)[::-1]])
    _piece(drawing, frame, shape, item.colour)
    shine = frame.head(band[4:9] - (0, 0.02), depth[4:9], 0.3)
    drawing.fill(brush(shine, frame.px(0.05)), lighten(item.colour, 0.55))


def _flower(drawing: Drawing, frame: Frame, item: Accessory) -> None:
    centre = np.array([item.side * 0.88, -0.78])
    petal = np.array(
        [(0.0, 0.03), (0.10, 0.10), (0.085, 0.22), (0.0, 0.26), (-0.085, 0.22), (-0.10, 0.10)]
    )
    for index in range(5):
        angle = index * 2 * np.pi / 5
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        shape = frame.head(spline(petal @ turn + centre, 3, closed=True), 0.4, 0.4)
        _piece(drawing, frame, shape, item.colour if index % 2 else lighten(item.colour, 0.12))
    _piece(
        drawing,
        frame,
        frame.head(ellipse(centre, (0.07, 0.07), 12), 0.42, 0.4),
        from_hex("#f7d358"),
    )


def _beret(drawing: Drawing, frame: Frame, item: Accessory) -> None:
    lean = 0.18 * item.side
    top = spline(
        [
            (-1.10, -1.02),
            (-1.28 + lean, -1.44),
            (-0.75 + lean, -1.88),
            (lean, -1.98),
            (0.75 + lean, -1.88),
            (1.28 + lean, -1.44),
            (1.10, -1.02),
        ],
        5,
    )
    brim = spline([(1.10, -1.02), (0.6, -1.22), (0.0, -1.28), (-0.6, -1.22), (-1.10, -1.02)], 5)
    outline = np.concatenate([top, brim[1:-1]])
    depth = 0.12
    shape = frame.head(outline, depth, HAIR_FLAT)
    _piece(drawing, frame, shape, item.colour)
    with drawing.clipped([shape]):
        lower = frame.head(outline * (1.0, 0.85) + (0.0, 0.10), depth, HAIR_FLAT)
        drawing.fill(lower, shade(item.colour, 0.18))
    band = np.concatenate([brim, moved(brim, 0, 0.10)[::-1]])
    _piece(drawing, frame, frame.head(band, depth + 0.1, HAIR_FLAT), shade(item.colour, 0.30))


def _earrings(drawing: Drawing, frame: Frame, item: Accessory) -> None:
    for side in (-1, 1):
        drop = spline(
            moved([(0.0, 0.36), (0.07, 0.52), (0.0, 0.62), (-0.07, 0.52)], side * 1.02, 0.0),
            4,
            closed=True,
        )
        _piece(drawing, frame, frame.head(drop, -0.05, HAIR_FLAT), item.colour)


_IN_FRONT: dict[str, Callable[[Drawing, Frame, Accessory], None]] = {
    "ribbon": _ribbon,
    "hairpin": _hairpin,
    "headband": _headband,
    "flower": _flower,
    "beret": _beret,
}


def paint_in_front(drawing: Drawing, identity: Identity, frame: Frame) -> None:
    """What sits on the front hair."""
    for item in identity.accessories:
        if item.kind in _IN_FRONT:
            _IN_FRONT[item.kind](drawing, frame, item)


def paint_at_ears(drawing: Drawing, identity: Identity, frame: Frame) -> None:
    """Earrings, under the side locks."""
    for item in identity.accessories:
        if item.kind == "earrings":
            _earrings(drawing, frame, item)


def paint_at_neck(drawing: Drawing, identity: Identity, frame: Frame) -> None:
    """A choker, over the neck and under the hair."""
    for item in identity.accessories:
        if item.kind != "choker":
            continue
        band = spline([(-0.345, 1.10), (0.0, 1.20), (0.345, 1.10)], 5)
        shape = frame.body(np.concatenate([band, moved(band, 0, 0.10)[::-1]]))
        _piece(drawing, frame, shape, item.colour)
        bell = ellipse((0.0, 1.31), (0.065, 0.065), 14)
        _piece(drawing, frame, frame.body(bell), from_hex("#f0c24b"))

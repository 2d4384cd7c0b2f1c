"""Paints clothes on neck and shoulders."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.data.painter.canvas import Drawing
from pipeline.data.painter.colours import Colour, from_hex, lighten, mix, shade
from pipeline.data.painter.curves import Array, brush, ellipse, moved, spline
from pipeline.data.painter.hair import paint_bow
from pipeline.data.painter.identity import Outfit
from pipeline.data.painter.light import Light
from pipeline.data.painter.pose import Frame

LINE = 0.020
_BOTTOM = 9.0  # far below any picture


class _Tailor:
    """Helpers that know the drawing, the frame and the part name."""

    def __init__(self, drawing: Drawing, frame: Frame, light: Light) -> None:
        self.drawing = drawing
        self.frame = frame
        self.light = light

    def panel(
        self, points: Sequence[tuple[float, float]] | Array, colour: Colour, outline: bool = True
    ) -> Array:
        """A piece of cloth with its line; returns its polygon in px."""
        shape = self.frame.body(points)
        self.drawing.fill(shape, colour, "body")
        if outline:
            self.line(np.concatenate([np.asarray(points), np.asarray(points)[:1]]), colour)
        return shape

    def line(
        self, points: Sequence[tuple[float, float]] | Array, colour: Colour, width: float = LINE
    ) -> None:
        """A line in a darker tone of the cloth."""
        ink = mix(shade(colour, 0.62), from_hex("#241a2a"), 0.35)
        stroke = brush(self.frame.body(points), self.frame.line(width), "soft")
        self.drawing.fill(stroke, ink, "body")

    def both(
        self, points: Sequence[tuple[float, float]] | Array, colour: Colour, outline: bool = True
    ) -> None:
        """The same piece on both sides."""
        for side in (-1, 1):
            self.panel(np.asarray(points) * (side, 1), colour, outline)


def _shoulders(neck: float, neck_y: float) -> Array:
    """The torso's outline: shoulders and arms, open at a neckline of half width `neck`."""
    right = spline(
        [(neck, neck_y), (0.74, 1.44), (1.22, 1.57), (1.58, 1.80), (1.76, 2.30), (1.84, 3.2)], 5
    )
    right = np.concatenate([right, [(1.9, _BOTTOM)]])
    return np.concatenate([right, (right * (-1, 1))[::-1]])


def paint_outfit(drawing: Drawing, outfit: Outfit, frame: Frame, light: Light) -> None:
    """The clothes of `outfit` over the neck's ground."""
    tailor = _Tailor(drawing, frame, light)
    _STYLES[outfit.style](tailor, outfit)


def _torso(tailor: _Tailor, colour: Colour, neckline: Array, neck: float, neck_y: float) -> None:
    """The garment's body with a neckline, arm folds and the shaded side."""
    outline = np.concatenate([_shoulders(neck, neck_y), neckline])
    shape = tailor.panel(outline, colour)
    away = tailor.frame.px(0.32 * tailor.light.side)
    with tailor.drawing.clipped([shape]):
        tailor.drawing.fill_outside(moved(shape, away, -tailor.frame.px(0.08)), shade(colour, 0.22))
    for side in (-1, 1):
        tailor.line(
            spline(
                [(side * 1.26, 1.96), (side * 1.31, 2.4), (side * 1.28, 3.4), (side * 1.3, 5.0)], 5
            ),
            colour,
        )
        with tailor.drawing.clipped([shape]):
            for fold in _FOLDS:
                points = tailor.frame.body(spline(fold * (side, 1), 4))
                dark = shade(colour, 0.22)
                tailor.drawing.fill(brush(points, tailor.frame.px(0.07), "end"), dark)


# Creases that run from the armpit and the shoulder.
_FOLDS = (
    np.array([(1.28, 2.12), (1.10, 2.20), (0.92, 2.36)]),
    np.array([(1.34, 1.98), (1.46, 2.10), (1.54, 2.32)]),
    np.array([(0.80, 1.52), (0.92, 1.70), (0.96, 1.95)]),
)


def _v_neck(depth: float, width: float = 0.42) -> Array:
    return np.array([(-width, 1.32), (0.0, 1.32 + depth), (width, 1.32)])


def _sailor(t: _Tailor, outfit: Outfit) -> None:
    _torso(t, outfit.main, _v_neck(0.66), 0.42, 1.30)
    collar = [(0.36, 1.20), (0.66, 1.35), (1.16, 1.53), (1.08, 1.90), (0.10, 2.08), (0.02, 1.97)]
    t.both(collar, outfit.trim)
    stripe = outfit.main if sum(outfit.main) > sum(outfit.trim) else lighten(outfit.main, 0.3)
    for side in (-1, 1):
        line = np.array([(1.05, 1.58), (0.98, 1.82), (0.16, 1.99)]) * (side, 1)
        t.drawing.fill(brush(t.frame.body(line), t.frame.line(0.026), "even"), stripe, "body")
    paint_bow(
        t.drawing, t.frame, (0.0, 2.02), outfit.accent, 0.36, depth=0, part="body", on_body=True
    )


def _blazer(t: _Tailor, outfit: Outfit) -> None:
    shirt = lighten(outfit.trim, 0.8)
    t.panel([(-0.5, 1.3), (0.5, 1.3), (0.6, _BOTTOM), (-0.6, _BOTTOM)], shirt)
    _torso(t, outfit.main, np.array([(-0.44, 1.34), (0.0, 2.6), (0.44, 1.34)]), 0.44, 1.34)
    t.both([(0.46, 1.30), (0.70, 1.46), (0.66, 1.78), (0.04, 2.55)], shade(outfit.main, 0.12))
    t.both([(0.35, 1.10), (0.50, 1.32), (0.36, 1.66), (0.06, 1.44)], shirt)
    if sum(outfit.accent) > 1.5:
        paint_bow(
            t.drawing, t.frame, (0.0, 1.56), outfit.accent, 0.26, depth=0, part="body", on_body=True
        )
    else:
        t.panel(
            [
                (-0.09, 1.45),
                (0.09, 1.45),
                (0.06, 1.60),
                (0.16, 2.5),
                (0.0, 2.7),
                (-0.16, 2.5),
                (-0.06, 1.60),
            ],
            outfit.accent,
        )


def _hoodie(t: _Tailor, outfit: Outfit) -> None:
    _torso(t, outfit.main, np.array([(-0.5, 1.36), (0.0, 1.62), (0.5, 1.36)]), 0.5, 1.36)
    hood = spline(
        [(0.30, 1.12), (0.62, 1.10), (0.92, 1.36), (0.62, 1.66), (0.06, 1.78), (0.20, 1.50)],
        4,
        closed=True,
    )
    t.both(hood, lighten(outfit.main, 0.08))
    lining = spline([(0.30, 1.13), (0.46, 1.14), (0.40, 1.40), (0.08, 1.66), (0.20, 1.45)], 4,
                    closed=True)  # fmt: skip
    t.both(lining, shade(outfit.main, 0.28))
    for side in (-1, 1):
        t.line([(side * 0.2, 1.72), (side * 0.22, 2.35)], outfit.trim, 0.05)


def _turtleneck(t: _Tailor, outfit: Outfit) -> None:
    _torso(t, outfit.main, np.array([(-0.38, 1.4), (0.38, 1.4)]), 0.38, 1.36)
    neck = spline(
        [
            (-0.37, 1.06),
            (0.0, 1.14),
            (0.37, 1.06),
            (0.43, 1.28),
            (0.40, 1.46),
            (0.0, 1.56),
            (-0.40, 1.46),
            (-0.43, 1.28),
        ],
        3,
        closed=True,
    )
    t.panel(neck, shade(outfit.main, 0.10))
    for x in (-0.22, -0.08, 0.08, 0.22):
        t.line([(x, 1.16), (x * 1.1, 1.48)], outfit.main, 0.016)


def _dress(t: _Tailor, outfit: Outfit) -> None:
    neckline = spline([(-0.90, 1.56), (-0.50, 1.72), (0.0, 1.78), (0.50, 1.72), (0.90, 1.56)], 4)
    right = spline([(0.90, 1.56), (1.28, 1.60), (1.58, 1.84), (1.74, 2.4), (1.80, 3.2)], 5)
    right = np.concatenate([right, [(1.9, _BOTTOM)]])
    outline = np.concatenate([right, (right * (-1, 1))[::-1], neckline[1:-1]])
    t.panel(outline, outfit.main)
    # A band of trim along the neckline.
    band = np.concatenate([neckline, moved(neckline[::-1], 0.0, 0.13)])
    t.panel(band, mix(outfit.trim, outfit.main, 0.25))
    t.panel([(-0.34, 1.20), (0.34, 1.20), (0.36, 1.29), (0.0, 1.34), (-0.36, 1.29)], outfit.accent)
    gem = spline([(0.0, 1.28), (0.07, 1.37), (0.0, 1.48), (-0.07, 1.37)], 3, closed=True)
    t.panel(gem, lighten(outfit.accent, 0.4))


def _kimono(t: _Tailor, outfit: Outfit) -> None:
    _torso(t, outfit.main, _v_neck(0.9, 0.46), 0.46, 1.28)
    left = [(-0.48, 1.20), (-0.30, 1.26), (0.30, 2.4), (0.10, 2.7)]
    right = [(0.48, 1.20), (0.30, 1.26), (-0.42, 2.6), (-0.16, 2.8)]
    t.panel(left, outfit.trim)
    t.panel(right, lighten(outfit.trim, 0.25))
    for x, y in ((-1.0, 1.8), (1.05, 1.95), (-0.75, 2.1), (0.8, 2.05)):
        angles = np.arange(5) * 2 * np.pi / 5
        petals = [
            t.frame.body(ellipse((x + 0.08 * np.cos(a), y + 0.08 * np.sin(a)), (0.055, 0.055), 10))
            for a in angles
        ]
        t.drawing.fill_all(petals, lighten(outfit.accent, 0.35), "body")


def _tunic(t: _Tailor, outfit: Outfit) -> None:
    _torso(t, outfit.main, _v_neck(0.34, 0.44), 0.44, 1.30)
    t.both([(0.36, 1.14), (0.66, 1.18), (0.98, 1.44), (0.62, 1.62), (0.02, 1.72)], outfit.trim)
    band = [(-0.10, 1.72), (0.10, 1.72), (0.10, _BOTTOM), (-0.10, _BOTTOM)]
    t.panel(band, outfit.accent)
    gem = spline([(0.0, 1.56), (0.13, 1.69), (0.0, 1.82), (-0.13, 1.69)], 3, closed=True)
    t.panel(gem, lighten(outfit.accent, 0.25))
    shine = spline([(-0.03, 1.62), (0.02, 1.66), (-0.03, 1.72), (-0.07, 1.68)], 3, closed=True)
    t.drawing.fill(t.frame.body(shine), (1.0, 1.0, 1.0), None, 0.8)


_STYLES: dict[str, Callable[[_Tailor, Outfit], None]] = {
    "sailor": _sailor,
    "blazer": _blazer,
    "hoodie": _hoodie,
    "turtleneck": _turtleneck,
    "dress": _dress,
    "kimono": _kimono,
    "tunic": _tunic,
}

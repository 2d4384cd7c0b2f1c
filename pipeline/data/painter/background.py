"""Paints backgrounds: flat, gradient, bokeh, sky, hills, room, night, pattern, rays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.data.painter.canvas import Drawing
from pipeline.data.painter.colours import WHITE, Colour, from_hsv, lighten, mix, shade
from pipeline.data.painter.curves import Array, ellipse, spline


@dataclass(frozen=True)
class Background:
    """A background: its kind, two colours, and a seed for what is scattered on it."""

    kind: str = "gradient"
    first: Colour = (0.75, 0.86, 0.97)
    second: Colour = (0.97, 0.92, 0.95)
    seed: int = 0


def random_background(rng: np.random.Generator) -> Background:
    """A background drawn from `rng`: mostly pale, sometimes deep."""
    hue = float(rng.random())
    deep = bool(rng.random() < 0.25)
    value = float(rng.uniform(0.3, 0.6)) if deep else float(rng.uniform(0.78, 1.0))
    strength = float(rng.uniform(0.3, 0.6)) if deep else float(rng.uniform(0.06, 0.42))
    first = from_hsv(hue, strength, value)
    second = from_hsv(hue + float(rng.uniform(-0.15, 0.15)), strength * 0.7, min(1.0, value + 0.1))
    kind = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    return Background(kind, first, second, int(rng.integers(2**31)))


def paint_background(drawing: Drawing, background: Background) -> None:
    """Cover the whole canvas with `background`."""
    _KINDS[background.kind](drawing, background, np.random.default_rng(background.seed))


def _box(x0: float, y0: float, x1: float, y1: float) -> Array:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)


def _vertical(drawing: Drawing, top: Colour, bottom: Colour) -> None:
    w, h = drawing.width, drawing.height
    drawing.gradient(_box(0, 0, w, h), (0, 0), (0, h), [(0, top, 1), (1, bottom, 1)])


def _flat(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    drawing.fill(_box(0, 0, drawing.width, drawing.height), b.first)


def _gradient(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    w, h = drawing.width, drawing.height
    angle = float(rng.uniform(0, 2 * np.pi))
    middle, reach = (
        np.array([w / 2, h / 2]),
        np.array([np.cos(angle), np.sin(angle)]) * max(w, h) / 2,
    )
    drawing.gradient(
        _box(0, 0, w, h), middle - reach, middle + reach, [(0, b.first, 1), (1, b.second, 1)]
    )


def _bokeh(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    _vertical(drawing, b.first, b.second)
    size = min(drawing.width, drawing.height)
    for _ in range(16):
        centre = rng.uniform(0, 1, 2) * (drawing.width, drawing.height)
        radius = float(rng.uniform(0.03, 0.12)) * size
        tone = lighten(b.first if rng.random() < 0.5 else b.second, float(rng.uniform(0.2, 0.7)))
        alpha = float(rng.uniform(0.15, 0.5))
        drawing.glow(centre, radius, [(0, tone, alpha * 0.7), (0.85, tone, alpha), (1, tone, 0)])


def _cloud(drawing: Drawing, x: float, y: float, size: float, rng: np.random.Generator) -> None:
    puffs = [
        ellipse((x + dx * size, y - dy * size), (r * size, r * size * 0.8), 20)
        for dx, dy, r in zip(
            np.linspace(-0.8, 0.8, 6),
            rng.uniform(0.0, 0.22, 6),
            (0.2, 0.3, 0.38, 0.36, 0.28, 0.18),
            strict=True,
        )
    ]
    shift = np.array([0.0, 0.12 * size])
    tone = from_hsv(0.6, 0.12, 0.95)
    drawing.fill_all([puff + shift for puff in puffs], tone, None, 0.9)
    drawing.fill_all(puffs, WHITE, None, 0.95)


def _sky(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    w, h = drawing.width, drawing.height
    _vertical(drawing, from_hsv(0.58, 0.55, 0.93), from_hsv(0.55, 0.18, 1.0))
    for _ in range(4):
        _cloud(
            drawing,
            float(rng.uniform(0, w)),
            float(rng.uniform(0.1, 0.8) * h),
            float(rng.uniform(0.12, 0.3)) * w,
            rng,
        )


def _hills(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    w, h = drawing.width, drawing.height
    _sky(drawing, b, rng)
    for index, (level, value) in enumerate(((0.62, 0.85), (0.72, 0.72), (0.84, 0.6))):
        x = np.linspace(-0.05, 1.05, 7) * w
        y = (level + rng.uniform(-0.05, 0.05, 7)) * h
        ridge = spline(np.stack([x, y], axis=1), 6)
        green = from_hsv(0.33 - 0.03 * index, 0.3 + 0.08 * index, value)
        drawing.fill(np.concatenate([ridge, [(1.05 * w, h), (-0.05 * w, h)]]), green)


def _room(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    w, h = drawing.width, drawing.height
    wall = mix(b.second, WHITE, 0.3)
    drawing.fill(_box(0, 0, w, h), wall)
    drawing.fill(_box(0, 0.78 * h, w, h), shade(wall, 0.25))
    x = float(rng.uniform(-0.1, 0.6)) * w
    frame, glass = shade(wall, 0.35), from_hsv(0.56, 0.25, 0.98)
    drawing.fill(_box(x, 0.06 * h, x + 0.42 * w, 0.62 * h), frame)
    for column in range(2):
        left = x + (0.025 + 0.2 * column) * w
        pane = _box(left, 0.09 * h, left + 0.17 * w, 0.59 * h)
        drawing.gradient(pane, (0, 0.1 * h), (0, 0.6 * h), [(0, glass, 1), (1, WHITE, 1)])
    side = (x + 0.55 * w) % w
    drawing.fill(_box(side, 0.2 * h, side + 0.22 * w, h), shade(wall, 0.15))
    for row in range(4):
        drawing.fill(
            _box(
                side + 0.02 * w, (0.24 + 0.17 * row) * h, side + 0.20 * w, (0.37 + 0.17 * row) * h
            ),
            shade(b.first, 0.3),
        )


def _night(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    w, h = drawing.width, drawing.height
    _vertical(drawing, from_hsv(0.66, 0.65, 0.25), from_hsv(0.72, 0.45, 0.5))
    dots = [
        ellipse(rng.uniform(0, 1, 2) * (w, h), (r, r), 8) for r in rng.uniform(0.002, 0.006, 40) * w
    ]
    drawing.fill_all(dots, WHITE, None, 0.85)
    moon = rng.uniform(0.1, 0.9, 2) * (w, 0.5 * h)
    drawing.glow(
        moon,
        0.18 * w,
        [(0, from_hsv(0.15, 0.2, 1.0), 0.9), (0.4, from_hsv(0.15, 0.2, 1.0), 0.25), (1, WHITE, 0)],
    )


def _dots(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    w, h = drawing.width, drawing.height
    drawing.fill(_box(0, 0, w, h), b.first)
    step = max(w, h) / 10
    spots = [
        ellipse((x + (step / 2 if row % 2 else 0), y), (0.16 * step, 0.16 * step), 12)
        for row, y in enumerate(np.arange(0, h + step, step * 0.8))
        for x in np.arange(0, w + step, step)
    ]
    drawing.fill_all(spots, mix(b.first, WHITE, 0.55))


def _stripes(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    w, h = drawing.width, drawing.height
    drawing.fill(_box(0, 0, w, h), b.first)
    step, slope = w / 7, h * float(rng.uniform(-0.6, 0.6))
    bands = [
        np.array([(x, 0), (x + step / 2, 0), (x + step / 2 + slope, h), (x + slope, h)])
        for x in np.arange(-w, 2 * w, step)
    ]
    drawing.fill_all(bands, b.second)


def _rays(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    w, h = drawing.width, drawing.height
    drawing.fill(_box(0, 0, w, h), b.first)
    middle, reach = np.array([w / 2, h / 2]), 1.5 * max(w, h)
    wedges = []
    for angle in np.linspace(0, 2 * np.pi, 18, endpoint=False):
        tips = [middle + reach * np.array([np.cos(a), np.sin(a)]) for a in (angle, angle + 0.17)]
        wedges.append(np.stack([middle, *tips]))
    drawing.fill_all(wedges, lighten(b.first, 0.35))


_KINDS: dict[str, Callable[[Drawing, Background, np.random.Generator], None]] = {
    "flat": _flat,
    "gradient": _gradient,
    "bokeh": _bokeh,
    "sky": _sky,
    "hills": _hills,
    "room": _room,
    "night": _night,
    "dots": _dots,
    "stripes": _stripes,
    "rays": _rays,
}

BACKGROUNDS: tuple[str, ...] = tuple(_KINDS)

"""Paints backgrounds, in or out of focus: colours, patterns, sky, land, rooms, a street, night."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.data.painter.canvas import Drawing
from pipeline.data.painter.colours import WHITE, Colour, from_hsv, lighten, mix, shade
from pipeline.data.painter.curves import Array, ellipse, spline


@dataclass(frozen=True)
class Background:
    """A background: its kind, two colours, a seed for what is scattered on it, and how far it is
    out of focus (`blur`: a Gaussian's sigma as a fraction of the picture's shorter side)."""

    kind: str = "gradient"
    first: Colour = (0.75, 0.86, 0.97)
    second: Colour = (0.97, 0.92, 0.95)
    seed: int = 0
    blur: float = 0.0


# How often each kind is drawn: a series shows places, seldom patterns.
_WEIGHTS: dict[str, float] = {
    "flat": 1.0, "gradient": 1.6, "bokeh": 1.2, "sky": 1.5, "hills": 1.2, "room": 2.2,
    "classroom": 1.2, "street": 1.2, "trees": 1.6, "night": 0.7, "dots": 0.25, "stripes": 0.25,
    "rays": 0.25,
}  # fmt: skip


def random_background(rng: np.random.Generator) -> Background:
    """A background drawn from `rng`: places and plain colours, muted, mostly out of focus."""
    hue = float(rng.random())
    deep = bool(rng.random() < 0.35)
    value = float(rng.uniform(0.25, 0.55)) if deep else float(rng.uniform(0.68, 0.97))
    strength = float(rng.uniform(0.10, 0.45)) if deep else float(rng.uniform(0.03, 0.32))
    first = from_hsv(hue, strength, value)
    second = from_hsv(hue + float(rng.uniform(-0.15, 0.15)), strength * 0.7, min(1.0, value + 0.1))
    weights = np.array([_WEIGHTS[kind] for kind in BACKGROUNDS])
    kind = BACKGROUNDS[int(rng.choice(len(BACKGROUNDS), p=weights / weights.sum()))]
    blur = float(rng.uniform(0.004, 0.028)) if rng.random() < 0.75 else 0.0
    return Background(kind, first, second, int(rng.integers(2**31)), blur)


def paint_background(drawing: Drawing, background: Background) -> None:
    """Cover the whole canvas with `background`."""
    sigma = background.blur * min(drawing.width, drawing.height)
    with drawing.blurred(sigma if background.kind not in _SMOOTH else 0.0):
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
        ellipse((x + dx * size, y - dy * size), (r * size, r * size * 0.7), 20)
        for dx, dy, r in zip(
            np.linspace(-1.0, 1.0, 8),
            rng.uniform(0.0, 0.24, 8),
            rng.permutation((0.2, 0.26, 0.36, 0.42, 0.40, 0.3, 0.24, 0.18)),
            strict=True,
        )
    ]
    shift = np.array([0.0, 0.10 * size])
    drawing.fill_all([puff + shift for puff in puffs], (0.80, 0.86, 0.93), None, 0.9)
    drawing.fill_all(puffs, (0.97, 0.98, 1.0), None, 0.92)


def _sky(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    w, h = drawing.width, drawing.height
    if rng.random() < 0.25:  # evening
        _vertical(drawing, from_hsv(0.62, 0.30, 0.70), from_hsv(0.07, 0.40, 0.96))
    else:
        blue = float(rng.uniform(0.35, 0.62))
        _vertical(drawing, from_hsv(0.585, blue, 0.86), from_hsv(0.54, 0.16, 0.96))
    for _ in range(3):
        _cloud(
            drawing,
            float(rng.uniform(0, w)),
            float(rng.uniform(0.1, 0.9) * h),
            float(rng.uniform(0.15, 0.4)) * w,
            rng,
        )


def _hills(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    w, h = drawing.width, drawing.height
    _sky(drawing, b, rng)
    for index, (level, value) in enumerate(((0.55, 0.66), (0.66, 0.55), (0.80, 0.46))):
        x = np.linspace(-0.05, 1.05, 9) * w
        y = (level + rng.uniform(-0.06, 0.06, 9)) * h
        ridge = spline(np.stack([x, y], axis=1), 6)
        green = from_hsv(0.40 - 0.05 * index, 0.22 + 0.08 * index, value)
        drawing.fill(np.concatenate([ridge, [(1.05 * w, h), (-0.05 * w, h)]]), green)


def _foliage(
    drawing: Drawing, rng: np.random.Generator, tone: Colour, count: int, low: float
) -> None:
    """Rounded clumps of leaves down to height `low` (0..1), lit from above."""
    w, h = drawing.width, drawing.height
    places = rng.uniform(0, 1, (count, 2)) * (w, low * h)
    sizes = rng.uniform(0.05, 0.13, count) * max(w, h)
    for amount, lift in ((0.25, 0.0), (0.0, 0.30)):
        clumps = [
            ellipse((x, y - lift * s), (s * (1 - lift), 0.75 * s * (1 - lift)), 12)
            for (x, y), s in zip(places.tolist(), sizes.tolist(), strict=True)
        ]
        drawing.fill_all(clumps, shade(tone, amount), None, 0.85)


def _trees(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    w, h = drawing.width, drawing.height
    green = from_hsv(float(rng.uniform(0.22, 0.42)), float(rng.uniform(0.2, 0.5)),
                     float(rng.uniform(0.35, 0.7)))  # fmt: skip
    _vertical(drawing, lighten(green, 0.45), shade(green, 0.15))
    _foliage(drawing, rng, lighten(green, 0.2), 12, 0.9)
    for x in rng.uniform(0, 1, 3).tolist():
        trunk = float(rng.uniform(0.02, 0.05)) * w
        bark = mix(shade(green, 0.5), (0.30, 0.22, 0.18), 0.6)
        drawing.fill(_box(x * w, 0, x * w + trunk, h), bark)
    _foliage(drawing, rng, green, 12, 0.6)
    lights = [
        ellipse(place, (r, r), 12)
        for place, r in zip(
            rng.uniform(0, 1, (10, 2)) * (w, 0.7 * h), rng.uniform(0.01, 0.035, 10) * w, strict=True
        )
    ]
    drawing.fill_all(lights, lighten(green, 0.75), None, 0.45)


def _window(
    drawing: Drawing, box: tuple[float, float, float, float], frame: Colour, panes: int
) -> None:
    """A window (px box) full of daylight."""
    x0, y0, x1, y1 = box
    glass = from_hsv(0.56, 0.16, 0.96)
    drawing.fill(_box(x0, y0, x1, y1), frame)
    bar = 0.035 * (x1 - x0)
    step = (x1 - x0 - bar) / panes
    for column in range(panes):
        left = x0 + bar + column * step
        pane = _box(left, y0 + bar, left + step - bar, y1 - bar)
        drawing.gradient(pane, (0, y0), (0, y1), [(0, glass, 1), (1, (0.96, 0.97, 0.96), 1)])


def _room(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    """A wall with what stands before it: window, curtain, shelves, a picture, a sofa's back."""
    w, h = drawing.width, drawing.height
    wall = b.second
    _vertical(drawing, wall, shade(wall, 0.10))
    # A patch of light falls aslant across the wall.
    x = float(rng.uniform(-0.3, 0.8)) * w
    beam = np.array([(x, 0), (x + 0.35 * w, 0), (x + 0.1 * w, h), (x - 0.25 * w, h)])
    drawing.fill(beam, lighten(wall, 0.35), None, 0.5)
    wood = from_hsv(0.07, float(rng.uniform(0.15, 0.45)), float(rng.uniform(0.30, 0.65)))
    if rng.random() < 0.55:
        x = float(rng.uniform(-0.25, 0.75)) * w
        _window(drawing, (x, -0.05 * h, x + 0.5 * w, 0.60 * h), mix(wall, WHITE, 0.5), 2)
        cloth = mix(b.first, WHITE, 0.35)
        for edge, turn in ((x, -1), (x + 0.5 * w, 1)):
            drape = _box(edge - 0.07 * w, -1, edge + 0.07 * w, 0.75 * h)
            drawing.fill(drape, cloth)
            drawing.fill(drape[[0, 3]].repeat(2, 0) + np.array([(0, 0), (0.05 * w * turn, 0),
                         (0.03 * w * turn, 0), (0, 0)]), shade(cloth, 0.2))  # fmt: skip
    if rng.random() < 0.6:
        side = float(rng.choice([-0.08, 0.72])) * w
        drawing.fill(_box(side, 0.02 * h, side + 0.36 * w, h), wood)
        for row in range(5):
            top = (0.06 + 0.20 * row) * h
            drawing.fill(
                _box(side + 0.02 * w, top, side + 0.34 * w, top + 0.17 * h), shade(wood, 0.4)
            )
            left = side + 0.03 * w
            while left < side + 0.31 * w:
                thick = float(rng.uniform(0.012, 0.03)) * w
                tall = float(rng.uniform(0.09, 0.15)) * h
                tone = from_hsv(float(rng.random()), 0.3, float(rng.uniform(0.35, 0.75)))
                low = top + 0.17 * h
                drawing.fill(_box(left, low - tall, left + thick, low), tone)
                left += thick + (0.004 if rng.random() < 0.8 else 0.05) * w
    if rng.random() < 0.5:  # a rail and panels below
        level = float(rng.uniform(0.5, 0.75)) * h
        drawing.fill(_box(0, level, w, h), mix(wood, wall, 0.35))
        drawing.fill(_box(0, level, w, level + 0.02 * h), shade(wood, 0.15))


def _classroom(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    """A board or a row of windows over a panelled wall."""
    w, h = drawing.width, drawing.height
    wall = from_hsv(0.11, 0.12, float(rng.uniform(0.7, 0.92)))
    _vertical(drawing, shade(wall, 0.08), wall)
    if rng.random() < 0.5:
        board = from_hsv(0.42, 0.35, 0.32)
        drawing.fill(_box(-0.1 * w, 0.08 * h, 1.1 * w, 0.62 * h), from_hsv(0.08, 0.4, 0.5))
        drawing.fill(_box(-0.1 * w, 0.10 * h, 1.1 * w, 0.60 * h), board)
        x, y = float(rng.uniform(0, 0.7)) * w, float(rng.uniform(0.2, 0.4)) * h
        ends = [x + float(rng.uniform(0.1, 0.3)) * w for _ in range(3)]
        rows = [
            _box(x, y + k * 0.05 * h, end, y + (k * 0.05 + 0.008) * h) for k, end in enumerate(ends)
        ]
        drawing.fill_all(rows, lighten(board, 0.6), None, 0.6)
    else:
        shift = float(rng.uniform(-0.4, 0.0)) * w
        for k in range(3):
            x = shift + 0.55 * k * w
            _window(drawing, (x, -0.1 * h, x + 0.48 * w, 0.58 * h), from_hsv(0.6, 0.04, 0.85), 2)
    drawing.fill(_box(0, 0.70 * h, w, h), from_hsv(0.08, 0.30, 0.62))
    drawing.fill(_box(0, 0.69 * h, w, 0.715 * h), from_hsv(0.08, 0.35, 0.45))


def _street(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    """Houses before a pale sky, with rows of windows."""
    w, h = drawing.width, drawing.height
    _vertical(drawing, from_hsv(0.57, 0.28, 0.90), from_hsv(0.55, 0.08, 0.97))
    x = -0.1 * w
    while x < w:
        width = float(rng.uniform(0.18, 0.40)) * w
        top = float(rng.uniform(0.0, 0.55)) * h
        house = from_hsv(float(rng.uniform(0.02, 0.15)), float(rng.uniform(0.03, 0.22)),
                         float(rng.uniform(0.45, 0.85)))  # fmt: skip
        drawing.fill(_box(x, top, x + width, h), house)
        drawing.fill(_box(x + 0.8 * width, top, x + width, h), shade(house, 0.15))
        panes = [
            _box(x + c * width, top + y, x + (c + 0.09) * width, top + y + 0.09 * h)
            # Five narrow ones a row, pale: few dark ones side by side are taken for eyes.
            for c in (0.06, 0.21, 0.36, 0.51, 0.66)
            for y in np.arange(0.04, 0.9, 0.13) * h
        ]
        drawing.fill_all(panes, lighten(mix(house, (0.62, 0.72, 0.85), 0.6), 0.15))
        x += width + float(rng.uniform(0.0, 0.06)) * w


def _night(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    """A night sky over roofs with a few lit windows. No round moon: a detector takes a bright disc
    over a dark sky for a face."""
    w, h = drawing.width, drawing.height
    _vertical(drawing, from_hsv(0.64, 0.50, 0.20), from_hsv(0.66, 0.35, 0.42))
    stars = [
        ellipse(place, (r, r), 6)
        for place, r in zip(
            rng.uniform(0, 1, (26, 2)) * (w, 0.7 * h), rng.uniform(0.001, 0.0035, 26) * w,
            strict=True,
        )
    ]  # fmt: skip
    drawing.fill_all(stars, (0.85, 0.88, 0.97), None, 0.7)
    x = -0.1 * w
    while x < w:
        width, top = float(rng.uniform(0.12, 0.3)) * w, float(rng.uniform(0.5, 0.85)) * h
        drawing.fill(_box(x, top, x + width, h), from_hsv(0.66, 0.35, float(rng.uniform(0.1, 0.2))))
        lit = [
            _box(x + c * width, top + y * h, x + (c + 0.15) * width, top + (y + 0.045) * h)
            for c in (0.15, 0.42, 0.68)
            for y in (0.05, 0.15, 0.25)
            if rng.random() < 0.35
        ]
        drawing.fill_all(lit, (0.93, 0.78, 0.50), None, 0.75)
        x += width


def _dots(drawing: Drawing, b: Background, rng: np.random.Generator) -> None:
    w, h = drawing.width, drawing.height
    drawing.fill(_box(0, 0, w, h), b.first)
    step = max(w, h) / 10
    spots = [
        ellipse((x + (step / 2 if row % 2 else 0), y), (0.16 * step, 0.16 * step), 12)
        for row, y in enumerate(np.arange(0, h + step, step * 0.8))
        for x in np.arange(0, w + step, step)
    ]
    drawing.fill_all(spots, mix(b.first, WHITE, 0.3))


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
    drawing.fill_all(wedges, lighten(b.first, 0.18))


_KINDS: dict[str, Callable[[Drawing, Background, np.random.Generator], None]] = {
    "flat": _flat,
    "gradient": _gradient,
    "bokeh": _bokeh,
    "sky": _sky,
    "hills": _hills,
    "room": _room,
    "classroom": _classroom,
    "street": _street,
    "trees": _trees,
    "night": _night,
    "dots": _dots,
    "stripes": _stripes,
    "rays": _rays,
}

BACKGROUNDS: tuple[str, ...] = tuple(_KINDS)
# Nothing in these has an edge that could be out of focus.
_SMOOTH = ("flat", "gradient")

"""Paints ears, neck, the face's skin with its shadows, blush, nose, mouth, tears and sweat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.data.painter.canvas import Drawing
from pipeline.data.painter.colours import WHITE, Colour, from_hex, mix, shade
from pipeline.data.painter.curves import Array, at, brush, ellipse, moved, spline
from pipeline.data.painter.expression import Expression
from pipeline.data.painter.features import (
    CONTOUR_FLAT,
    LEFT,
    NOSE_DEPTH,
    RIGHT,
    Contour,
    EyeShape,
    Features,
    jaw_line,
)
from pipeline.data.painter.identity import Identity
from pipeline.data.painter.light import Light
from pipeline.data.painter.pose import Frame

LINE = 0.026  # an ordinary contour's width, head units


def skin_shadow(skin: Colour) -> Colour:
    """The cel shadow on skin: warmer and rosier than `shade` makes other surfaces."""
    return mix(shade(skin, 0.20), (skin[0] * 0.92, skin[1] * 0.66, skin[2] * 0.64), 0.5)


def skin_line(skin: Colour) -> Colour:
    """Line colour around skin: dark reddish brown, never black."""
    return mix(shade(skin, 0.62), from_hex("#4a1f22"), 0.55)


def face_outline(contour: Contour, frame: Frame) -> Array:
    """The whole face as a polygon (px): contour, closed over the brow under the hair."""
    forehead = spline([[0.97, -0.62], [0.7, -1.05], [0.0, -1.22], [-0.7, -1.05], [-0.97, -0.62]], 5)
    lower = frame.head(contour.points, contour.depth, CONTOUR_FLAT)
    upper = frame.head(forehead[1:-1], 0.1, CONTOUR_FLAT)
    return np.concatenate([lower, upper])


def paint_ears(drawing: Drawing, identity: Identity, frame: Frame) -> None:
    """Both ears, behind the face; pointed for elves."""
    skin = identity.face.skin
    for side in (LEFT, RIGHT):
        if identity.face.pointed_ears:
            knots = [(0.92, -0.16), (1.14, -0.24), (1.52, -0.36), (1.22, 0.06), (0.96, 0.30)]
        else:
            knots = [(0.92, -0.14), (1.06, -0.22), (1.15, -0.06), (1.09, 0.18), (0.95, 0.34)]
        points = spline(np.array(knots) * (side, 1), 5)
        shape = frame.head(points, -0.12, CONTOUR_FLAT)
        drawing.fill(shape, skin, "ears")
        inner = spline(np.array([(0.99, -0.08), (1.08, -0.04), (1.01, 0.12)]) * (side, 1), 5)
        inner_px = frame.head(inner, -0.12, CONTOUR_FLAT)
        drawing.fill(inner_px, skin_shadow(skin))
        drawing.fill(brush(shape, frame.line(LINE)), skin_line(skin))


def paint_neck(drawing: Drawing, identity: Identity, features: Features, frame: Frame) -> None:
    """Neck and collarbones' ground, with the chin's cast shadow."""
    skin = identity.face.skin
    top = frame.head(np.array([[-0.30, 0.62], [0.30, 0.62]]), 0.02)
    left = frame.body(spline([[-0.33, 1.08], [-0.37, 1.28], [-0.70, 1.46]], 5))
    right = frame.body(spline([[0.70, 1.46], [0.37, 1.28], [0.33, 1.08]], 5))
    low = frame.body(np.array([[-1.2, 1.7], [-0.9, 2.6], [0.9, 2.6], [1.2, 1.7]]))
    shape = np.concatenate([top[:1], left, low, right, top[1:]])
    drawing.fill(shape, skin, "neck")
    contour = features.contour
    chin = frame.head(contour.points, contour.depth, CONTOUR_FLAT)
    down = chin + _turned(frame, (0.02, 0.20))
    with drawing.clipped([shape]):
        drawing.fill(down, skin_shadow(skin))
    for line in (left, right[::-1]):
        drawing.fill(brush(line, frame.line(LINE)), skin_line(skin))


def _turned(frame: Frame, shift: tuple[float, float]) -> Array:
    """A shift in figure coordinates (head units) → px."""
    ends = frame.body(np.array([(0.0, 0.0), shift]))
    step: Array = ends[1] - ends[0]
    return step


def paint_skin(
    drawing: Drawing,
    identity: Identity,
    features: Features,
    frame: Frame,
    light: Light,
    fringe: Sequence[Array],
) -> None:
    """The face's ground: flat skin, the side away from the light, the fringe's cast shadow.

    `fringe`: outlines (px) of the locks that hang over the brow; their shadow falls below them.
    """
    skin = identity.face.skin
    outline = face_outline(features.contour, frame)
    drawing.fill(outline, skin, "face")
    shadow = skin_shadow(skin)
    with drawing.clipped([outline]):
        if abs(light.side) > 0.25:
            # The part left over when the face's shape moves towards the light.
            lit = outline + _turned(frame, (0.17 * light.side * light.contrast, -0.03))
            drawing.fill_outside(lit, shadow, 0.9)
        cast = _turned(frame, (-0.05 * light.side, 0.05 + 0.05 * light.height))
        drawing.fill_all([lock + cast for lock in fringe], shadow)


def paint_face_line(drawing: Drawing, identity: Identity, features: Features, frame: Frame) -> None:
    """The face's contour line, heaviest under the chin."""
    points, depth = jaw_line(features.contour)
    line = frame.head(points, depth, CONTOUR_FLAT)
    t = np.linspace(-1, 1, len(line))
    weight = 0.55 + 0.75 * (1 - t * t) ** 2
    drawing.fill(
        brush(line, frame.line(LINE * 1.05) * weight, "both"), skin_line(identity.face.skin)
    )


def paint_blush(drawing: Drawing, identity: Identity, expression: Expression, frame: Frame) -> None:
    """Soft cheeks, with hatching when the blush is strong; moles."""
    strength = min(1.0, max(0.0, expression.blush))
    rose = mix(identity.face.skin, from_hex("#ff5a5f"), 0.55)
    centres = frame.face(np.array([[-0.60, 0.42], [0.60, 0.42]]))
    for centre in centres:
        drawing.glow(
            centre,
            frame.px(0.29),
            [(0, rose, 0.75 * strength), (0.45, rose, 0.42 * strength), (1, rose, 0)],
            squash=0.55,
            angle=frame.pose.roll + frame.placement.turn,
        )
    if strength > 0.5:
        ink = mix(rose, from_hex("#c02030"), 0.4)
        for side in (LEFT, RIGHT):
            marks = [
                brush(
                    frame.face(np.array([[x + 0.03, 0.375], [x, 0.42], [x - 0.03, 0.465]])),
                    frame.line(0.02),
                )
                for x in side * 0.60 + np.array([-0.10, 0.0, 0.10])
            ]
            drawing.fill_all(marks, ink, None, alpha=min(1.0, 1.6 * (strength - 0.5) + 0.15))
    mole = identity.face.mole
    if mole:
        spot = {1: (-0.50, 0.40), 2: (0.50, 0.40), 3: (0.22, 0.78)}[mole]
        drawing.fill(frame.face(ellipse(spot, (0.016, 0.016), 10)), skin_line(identity.face.skin))


def paint_nose(
    drawing: Drawing, identity: Identity, features: Features, frame: Frame, light: Light
) -> None:
    """A small nose: a tick, a dot or a shadow; it leans with the yaw."""
    x, y = features.nose
    skin = identity.face.skin
    away = -1.0 if light.side > 0 else 1.0
    turn = frame.sin_yaw
    if abs(turn) > 0.2:
        away = 1.0 if turn > 0 else -1.0

    def place(points: Sequence[tuple[float, float]]) -> Array:
        return frame.head(moved(points, x, y), NOSE_DEPTH)

    shape = place([(0, -0.085), (0.05 * away, 0.018), (0.012 * away, 0.035), (-0.012 * away, 0.0)])
    style = identity.face.nose
    if style == "shade":
        drawing.fill(shape, skin_shadow(skin), "nose")
        edge = [(0.05 * away, 0.012), (0.01 * away, 0.032), (-0.02 * away, 0.01)]
        line = brush(spline(place(edge), 4), frame.line(0.024))
        drawing.fill(line, skin_line(skin), "nose", 0.9)
    elif style == "tick":
        line = spline(
            place([(0.006 * away, -0.06), (0.038 * away, 0.005), (-0.006 * away, 0.018)]), 4
        )
        drawing.fill(brush(line, frame.line(0.028)), skin_line(skin), "nose", 0.9)
    else:
        dot = place([tuple(p) for p in ellipse((0.01 * away, 0.0), (0.026, 0.015), 10)])
        drawing.fill(dot, skin_line(skin), "nose", 0.85)
    # A touch of light on the tip, on the other side.
    drawing.fill(
        place([tuple(p) for p in ellipse((-0.035 * away, -0.035), (0.016, 0.022), 8)]),
        WHITE,
        None,
        0.55,
    )


def paint_mouth(
    drawing: Drawing, identity: Identity, expression: Expression, features: Features, frame: Frame
) -> None:
    """Lips as lines; an open mouth with its inside, tongue and upper teeth."""
    mouth = features.mouth
    ink = mix(skin_line(identity.face.skin), from_hex("#5a1a20"), 0.4)
    upper, lower = frame.face(mouth.upper), frame.face(mouth.lower)
    width = float(np.ptp(mouth.upper[:, 0]))
    if mouth.gap > 0.015:
        inside = np.concatenate([upper, lower[::-1]])
        drawing.fill(inside, from_hex("#7d2a33"), "mouth")
        with drawing.clipped([inside]):
            middle = at(mouth.lower, 0.5)
            tongue = ellipse(moved(middle, 0, 0.02), (0.36 * width, 0.42 * mouth.gap + 0.02), 18)
            drawing.fill(frame.face(tongue), from_hex("#e0787c"))
            if expression.teeth > 0.05:
                drop = np.array([0.0, 0.30 * mouth.gap * expression.teeth])
                row = np.concatenate([mouth.upper, (mouth.upper + drop)[::-1]])
                drawing.fill(frame.face(row), from_hex("#fffaf4"))
            if identity.face.fang:
                root = at(mouth.upper, 0.78)
                tooth = root + np.array([(-0.035, -0.01), (0.035, -0.01), (0.004, 0.085)])
                drawing.fill(frame.face(tooth), from_hex("#fffaf4"))
        drawing.fill(brush(upper, frame.line(0.030), "soft"), ink, "mouth")
        drawing.fill(brush(lower, frame.line(0.022), "soft"), ink, "mouth")
    else:
        drawing.fill(brush(upper, frame.line(0.032), "soft"), ink, "mouth")
        if identity.face.fang and expression.mouth_smile > 0.3:
            root = at(mouth.upper, 0.76)
            tooth = root + np.array([(-0.026, 0.0), (0.026, 0.0), (0.004, 0.06)])
            drawing.fill(frame.face(tooth), from_hex("#fffaf4"), "mouth")
            edge = root + np.array([(-0.026, 0.0), (0.004, 0.06), (0.026, 0.0)])
            drawing.fill(brush(frame.face(edge), frame.line(0.016), "even"), ink, "mouth")
    # The lower lip's shadow; strong for a pout.
    low = at(mouth.lower, 0.5)
    reach = 0.16 * width + 0.025
    lip = spline(low + np.array([(-reach, 0.065), (0, 0.075), (reach, 0.065)]), 4)
    strength = 0.45 + 0.5 * expression.mouth_pout
    drawing.fill(
        brush(frame.face(lip), frame.line(0.024)), skin_shadow(identity.face.skin), None, strength
    )


def _drop(frame: Frame, top: Array, length: float, width: float) -> Array:
    knots = [(0, 0), (0.55, 0.45), (0.8, 0.8), (0, 1.08), (-0.8, 0.8), (-0.55, 0.45), (0, 0)]
    points = np.array(knots) * (width, length) + top
    return frame.face(spline(points, 4))


def paint_tears(drawing: Drawing, expression: Expression, features: Features, frame: Frame) -> None:
    """Tears at the lower lids and a sweat drop at the temple."""
    water, edge = from_hex("#dff2ff"), from_hex("#7fb2dc")
    amount = expression.tears
    if amount > 0.05:
        for eye in (features.left_eye, features.right_eye):
            _paint_tear(drawing, eye, amount, frame, water, edge)
    if expression.sweat > 0.05:
        size = 0.6 + 0.4 * expression.sweat
        shape = _drop(frame, np.array([0.78, -0.34]), 0.20 * size, 0.055 * size)
        drawing.piece(shape, water, edge, frame.line(0.018))


def _paint_tear(
    drawing: Drawing, eye: EyeShape, amount: float, frame: Frame, water: Colour, edge: Colour
) -> None:
    outer = eye.lower if eye.side == RIGHT else eye.lower[::-1]
    root = at(outer, 0.72)
    shape = _drop(frame, moved(root, 0, -0.01), 0.12 + 0.20 * amount, 0.035 + 0.03 * amount)
    drawing.piece(shape, water, edge, frame.line(0.014))
    shine = ellipse(moved(root, -0.012, 0.09 + 0.14 * amount), (0.012, 0.022), 8)
    drawing.fill(frame.face(shine), WHITE)

"""Paints ears, neck, the face's skin with its shadows, blush, nose, mouth, tears and sweat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.data.painter.canvas import Drawing
from pipeline.data.painter.colours import WHITE, Colour, from_hex, lighten, mix, shade
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
    project_contour,
)
from pipeline.data.painter.identity import Identity
from pipeline.data.painter.light import Light
from pipeline.data.painter.pose import Frame

LINE = 0.019  # an ordinary contour's width, head units


def skin_shadow(skin: Colour) -> Colour:
    """The cel shadow on skin: warmer and rosier than `shade` makes other surfaces."""
    return mix(shade(skin, 0.20), (skin[0] * 0.92, skin[1] * 0.66, skin[2] * 0.64), 0.5)


def skin_line(skin: Colour) -> Colour:
    """Line colour around skin: dark reddish brown, never black."""
    return mix(shade(skin, 0.62), from_hex("#4a1f22"), 0.55)


def face_outline(contour: Contour, frame: Frame) -> Array:
    """The whole face as a polygon (px): contour, closed over the brow under the hair."""
    forehead = spline([[0.97, -0.62], [0.7, -1.05], [0.0, -1.22], [-0.7, -1.05], [-0.97, -0.62]], 5)
    lower = project_contour(contour, frame)
    upper = frame.head(forehead[1:-1], 0.1, CONTOUR_FLAT)
    return np.concatenate([lower, upper])


def paint_ears(drawing: Drawing, identity: Identity, frame: Frame) -> None:
    """Both ears, behind the face; pointed for elves."""
    for side in (LEFT, RIGHT):
        _paint_ear(drawing, identity, frame, side)


def paint_near_ear(drawing: Drawing, identity: Identity, frame: Frame) -> None:
    """The ear on the near side of a turned head, before the cheek's edge."""
    if abs(frame.pose.yaw) > 12:
        _paint_ear(drawing, identity, frame, LEFT if frame.sin_yaw > 0 else RIGHT)


def _paint_ear(drawing: Drawing, identity: Identity, frame: Frame, side: int) -> None:
    skin = identity.face.skin
    if identity.face.pointed_ears:
        knots = [(0.92, -0.10), (1.14, -0.20), (1.52, -0.34), (1.22, 0.10), (0.96, 0.36)]
    else:
        knots = [(0.93, -0.10), (1.05, -0.20), (1.14, -0.06), (1.08, 0.20), (0.95, 0.40)]
    points = spline(np.array(knots) * (side, 1), 5)
    # A turned head carries its near ear inwards over the cheek's edge.
    near = max(0.0, -side * frame.sin_yaw)
    points[:, 0] -= side * 0.22 * near
    shape = frame.head(points, -0.12, CONTOUR_FLAT)
    drawing.fill(shape, skin, "ears")
    inner = spline(np.array([(1.00, -0.06), (1.08, -0.03), (1.05, 0.10), (1.00, 0.16)]), 5)
    inner = inner * (side, 1) - (side * 0.22 * near, 0)
    inner_px = frame.head(inner, -0.12, CONTOUR_FLAT)
    drawing.fill(inner_px, skin_shadow(skin))
    drawing.fill(brush(shape, frame.line(LINE)), skin_line(skin))


def paint_neck(
    drawing: Drawing, identity: Identity, features: Features, frame: Frame, light: Light
) -> None:
    """Neck and collarbones, with the shadow that chin and jaw cast on them."""
    skin = identity.face.skin
    thick = identity.face.neck
    top = frame.head(np.array([[-0.30, 0.55], [0.30, 0.55]]), 0.02)
    left = frame.body(
        spline([[-thick, 0.86], [-thick - 0.01, 1.14], [-thick - 0.10, 1.32], [-0.90, 1.49]], 5)
    )
    right = frame.body(
        spline([[0.90, 1.49], [thick + 0.10, 1.32], [thick + 0.01, 1.14], [thick, 0.86]], 5)
    )
    low = frame.body(np.array([[-1.3, 1.64], [-0.9, 2.6], [0.9, 2.6], [1.3, 1.64]]))
    shape = np.concatenate([top[:1], left, low, right, top[1:]])
    drawing.fill(shape, skin, "neck")
    shadow = skin_shadow(skin)
    chin = project_contour(features.contour, frame)
    with drawing.clipped([shape]):
        drop = 0.17 + 0.12 * light.height
        drawing.fill(chin + _turned(frame, (-0.10 * light.side, drop)), shadow)
        # The neck's own side away from the light.
        away = -1.0 if light.side > 0 else 1.0
        edge = np.array([(0.9, 0.8), (0.55, 0.8), (0.62, 1.2), (0.74, 1.5), (1.3, 1.9)]) * thick
        drawing.fill(frame.body(edge * (away, 1 / thick)), shadow)
    ink = skin_line(skin)
    for side in (LEFT, RIGHT):
        bone = spline(np.array([(0.10, 1.60), (0.30, 1.535), (0.62, 1.52)]) * (side, 1), 4)
        drawing.fill(brush(frame.body(bone), frame.line(LINE)), ink, None, 0.75)
    for line in (left, right[::-1]):
        drawing.fill(brush(line, frame.line(LINE)), ink)


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
            reach = 0.24 * light.side * light.contrast
            lit = outline + _turned(frame, (reach, -0.10 * abs(reach)))
            drawing.fill_outside(lit, shadow)
        cast = _turned(frame, (-0.06 * light.side, 0.06 + 0.05 * light.height))
        drawing.fill_all([lock + cast for lock in fringe], shadow)


def paint_face_line(drawing: Drawing, identity: Identity, features: Features, frame: Frame) -> None:
    """The face's contour line, heaviest under the chin."""
    line = jaw_line(features.contour, frame)
    t = np.linspace(-1, 1, len(line))
    weight = 0.6 + 0.6 * (1 - t * t) ** 2
    drawing.fill(
        brush(line, frame.line(LINE * 1.05) * weight, "both"), skin_line(identity.face.skin)
    )


def paint_blush(drawing: Drawing, identity: Identity, expression: Expression, frame: Frame) -> None:
    """Soft cheeks, with hatching when the blush is strong; moles."""
    strength = min(1.0, max(0.0, expression.blush))
    rose = mix(identity.face.skin, from_hex("#ff5a5f"), 0.55)
    y = identity.eyes.y + identity.eyes.height + 0.12
    centres = frame.face(np.array([[-0.60, y], [0.60, y]]))
    for centre in centres:
        drawing.glow(
            centre,
            frame.px(0.29),
            [(0, rose, 0.60 * strength), (0.45, rose, 0.36 * strength), (1, rose, 0)],
            squash=0.55,
            angle=frame.pose.roll + frame.placement.turn,
        )
    if strength > 0.5:
        ink = mix(rose, from_hex("#c02030"), 0.4)
        for side in (LEFT, RIGHT):
            marks = [
                brush(
                    frame.face(np.array([[x + 0.03, y - 0.04], [x, y], [x - 0.03, y + 0.04]])),
                    frame.line(0.015),
                )
                for x in side * 0.60 + np.array([-0.10, 0.0, 0.10])
            ]
            drawing.fill_all(marks, ink, None, alpha=min(1.0, 1.6 * (strength - 0.5) + 0.15))
    mole = identity.face.mole
    if mole:
        spot = {1: (-0.50, y), 2: (0.50, y), 3: (0.24, y + 0.36)}[mole]
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

    style = identity.face.nose
    big = 1.0 + 1.1 * abs(turn)
    ink = skin_line(skin)
    if style == "shade":
        shape = place([(0, -0.10), (0.055 * away * big, 0.018), (0.012 * away, 0.035), (0.0, 0.0)])
        drawing.fill(shape, skin_shadow(skin), "nose")
        edge = [(0.05 * away * big, 0.012), (0.01 * away, 0.032), (-0.02 * away, 0.01)]
        drawing.fill(brush(spline(place(edge), 4), frame.line(0.019)), ink, "nose", 0.9)
    elif style in ("tick", "line"):
        # "line" draws the bridge too, as for adults.
        high = -0.30 if style == "line" and abs(turn) > 0.1 else -0.07
        line = spline(
            place([(0.0, high), (0.020 * away * big, 0.5 * high), (0.040 * away * big, 0.002),
                   (-0.006 * away, 0.018)]), 4
        )  # fmt: skip
        drawing.fill(brush(line, frame.line(0.021)), ink, "nose", 0.9)
        under = place([(0.036 * away, 0.004), (0.0, 0.034), (-0.022 * away, 0.014)])
        drawing.fill(under, skin_shadow(skin), "nose", 0.9)
    else:
        dot = place([tuple(p) for p in ellipse((0.012 * away * big, 0.0), (0.022, 0.013), 10)])
        drawing.fill(dot, ink, "nose", 0.8)
    # A touch of light on the tip, on the other side.
    spot = lighten(skin, 0.6)
    tip = [tuple(p) for p in ellipse((-0.032 * away, -0.035), (0.014, 0.020), 8)]
    drawing.fill(place(tip), spot, None, 0.6)


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
        drawing.fill(inside, from_hex("#8a3238"), "mouth")
        with drawing.clipped([inside]):
            # The throat is dark under the upper lip, the tongue lies on the lower one.
            throat = np.concatenate([mouth.upper, moved(mouth.upper[::-1], 0, 0.34 * mouth.gap)])
            drawing.fill(frame.face(throat), from_hex("#5c1f2a"))
            middle = at(mouth.lower, 0.5)
            tongue = ellipse(moved(middle, 0, 0.03), (0.36 * width, 0.40 * mouth.gap + 0.02), 18)
            drawing.fill(frame.face(tongue), from_hex("#dd7a78"))
            if expression.teeth > 0.05:
                drop = np.array([0.0, 0.27 * mouth.gap * expression.teeth])
                row = np.concatenate([mouth.upper, (mouth.upper + drop)[::-1]])
                drawing.fill(frame.face(row), from_hex("#fbf4ee"))
            if identity.face.fang:
                root = at(mouth.upper, 0.78)
                tooth = root + np.array([(-0.035, -0.01), (0.035, -0.01), (0.004, 0.085)])
                drawing.fill(frame.face(tooth), from_hex("#fbf4ee"))
        drawing.fill(brush(upper, frame.line(0.028), "soft"), ink, "mouth")
        drawing.fill(brush(lower, frame.line(0.022), "soft"), ink, "mouth")
    else:
        # The corners are the heaviest spots of a shut mouth's line.
        t = np.linspace(-1, 1, len(upper))
        weight = 0.62 + 0.5 * np.abs(t) ** 2 - 0.9 * np.clip(np.abs(t) - 0.9, 0, 1)
        drawing.fill(brush(upper, max(frame.px(0.032), 0.85) * weight, "even"), ink, "mouth")
        if identity.face.fang and expression.mouth_smile > 0.3:
            root = at(mouth.upper, 0.76)
            tooth = root + np.array([(-0.026, 0.0), (0.026, 0.0), (0.004, 0.06)])
            drawing.fill(frame.face(tooth), from_hex("#fbf4ee"), "mouth")
            edge = root + np.array([(-0.026, 0.0), (0.004, 0.06), (0.026, 0.0)])
            drawing.fill(brush(frame.face(edge), frame.line(0.014), "even"), ink, "mouth")
    # The lower lip's shadow; strong for a pout.
    low = at(mouth.lower, 0.5)
    reach = 0.14 * width + 0.02
    lip = spline(low + np.array([(-reach, 0.062), (0, 0.078), (reach, 0.062)]), 4)
    strength = 0.55 + 0.45 * expression.mouth_pout
    drawing.fill(
        brush(frame.face(lip), frame.line(0.026)), skin_shadow(identity.face.skin), None, strength
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
        shape = _drop(frame, np.array([0.76, -0.30]), 0.20 * size, 0.055 * size)
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

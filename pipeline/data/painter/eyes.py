"""Paints eyes and brows: ball, iris, highlights, lids, lashes, crease."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.painter.canvas import Drawing
from pipeline.data.painter.colours import WHITE, Colour, lighten, mix, shade
from pipeline.data.painter.curves import Array, at, brush, ellipse, moved, profile, section, spline
from pipeline.data.painter.features import RIGHT, EyeShape, Features, eye_opening
from pipeline.data.painter.identity import Eyes, Identity
from pipeline.data.painter.light import Light
from pipeline.data.painter.pose import Frame

PART = "eyes"
# Lid lines fade through the fringe, as drawn in TV series, so that looks stay readable.
THROUGH_HAIR = 0.42


@dataclass(frozen=True)
class _Ink:
    """Colours of one eye's lines."""

    lid: Colour
    crease: Colour


def _ink(identity: Identity) -> _Ink:
    dark = mix(shade(identity.hair.colour, 0.78), (0.13, 0.08, 0.11), 0.6)
    return _Ink(lid=dark, crease=shade(identity.face.skin, 0.42))


def paint_eyes(
    drawing: Drawing,
    identity: Identity,
    features: Features,
    frame: Frame,
    light: Light,
    shine: float,
) -> None:
    """Both eyes; `shine` is the expression's highlight factor."""
    ink = _ink(identity)
    for eye in (features.left_eye, features.right_eye):
        if not eye.shut:
            _paint_ball(drawing, identity.eyes, eye, frame, light, shine, identity.face.skin)
        _paint_lids(drawing, identity.eyes, eye, frame, ink)


def paint_lids_through_hair(
    drawing: Drawing, identity: Identity, features: Features, frame: Frame
) -> None:
    """The upper lid lines once more, faintly, over the fringe."""
    ink = _ink(identity)
    for eye in (features.left_eye, features.right_eye):
        drawing.fill(_lid_stroke(identity.eyes, eye, frame), ink.lid, None, alpha=THROUGH_HAIR)


def _iris_colour(eyes: Eyes, eye: EyeShape) -> Colour:
    if eye.side == RIGHT and eyes.second_colour is not None:
        return eyes.second_colour
    return eyes.colour


def _paint_ball(
    drawing: Drawing,
    eyes: Eyes,
    eye: EyeShape,
    frame: Frame,
    light: Light,
    shine: float,
    skin: Colour,
) -> None:
    opening = frame.face(eye_opening(eye))
    white = mix(WHITE, skin, 0.12)
    drawing.fill(opening, white, PART)
    with drawing.clipped([opening]):
        # The lid's shadow on the white.
        lid = eye.upper
        shadow = np.concatenate([lid, moved(lid[::-1], 0.0, 0.42 * eyes.height)])
        drawing.fill(frame.face(shadow), shade(mix(white, (0.72, 0.72, 0.86), 0.5), 0.10))
        _paint_iris(drawing, eyes, eye, frame, light, shine)


def _paint_iris(
    drawing: Drawing, eyes: Eyes, eye: EyeShape, frame: Frame, light: Light, shine: float
) -> None:
    colour = _iris_colour(eyes, eye)
    centre, radii = np.array(eye.iris_centre), np.array(eye.iris_radii)

    def disc(scale: tuple[float, float], shift: tuple[float, float] = (0, 0), n: int = 22) -> Array:
        return frame.face(ellipse(centre + radii * shift, radii * scale, n))

    top, bottom = frame.face(centre + radii * np.array([(0.0, -1.0), (0.0, 1.0)]))
    deep = mix(shade(colour, 0.74), (0.12, 0.08, 0.12), 0.25)
    bright = lighten(colour, 0.42 if eyes.style != "soft" else 0.25)
    drawing.fill(disc((1.0, 1.0)), deep)
    drawing.gradient(
        disc((0.89, 0.92)),
        top,
        bottom,
        [(0.0, shade(colour, 0.66), 1), (0.38, shade(colour, 0.42), 1), (0.62, colour, 1),
         (1.0, bright, 1)],
    )  # fmt: skip
    if eyes.style == "ring":
        drawing.fill(disc((0.72, 0.74), (0, 0.05)), shade(colour, 0.42), alpha=0.55)
        drawing.fill(disc((0.60, 0.62), (0, 0.07)), mix(colour, bright, 0.25), alpha=0.75)
    # The pool of light opposite the highlight.
    with drawing.clipped([disc((0.86, 0.89))]):
        glow = lighten(colour, 0.6)
        drawing.fill(disc((0.70, 0.46), (0, 0.66), 18), glow, alpha=0.5)
        if eyes.style == "gem":
            drawing.fill(disc((0.46, 0.24), (0, 0.76), 16), lighten(colour, 0.85), alpha=0.6)
    pupil = (0.17, 0.58) if eyes.slit else (0.43, 0.47)
    drawing.fill(disc(pupil, (0, -0.02), 20), mix(shade(colour, 0.9), (0.05, 0.03, 0.06), 0.4))
    if eyes.style == "star":
        _paint_star(drawing, frame, centre + radii * (0, 0.02), radii * 0.3, lighten(colour, 0.7))
    # The upper part lies in the lid's shadow.
    lid = eye.upper
    band = np.concatenate([lid, moved(lid[::-1], 0.0, 0.46 * eyes.height)])
    with drawing.clipped([disc((1.0, 1.0))]):
        drawing.fill(frame.face(band), shade(colour, 0.85), alpha=0.5)
    from_side = -1.0 if light.side <= 0.15 else 1.0
    big, small = 0.31 * shine, 0.15 * shine
    drawing.fill(disc((big, big * 1.08), (0.40 * from_side, -0.42), 18), WHITE)
    drawing.fill(disc((small, small * 0.95), (-0.40 * from_side, 0.44), 14), WHITE, alpha=0.9)
    if shine > 1.1:  # watery
        drawing.fill(disc((0.42, 0.13), (0, 0.80), 14), WHITE, alpha=0.75)


def _paint_star(
    drawing: Drawing, frame: Frame, centre: Array, radii: Array, colour: Colour
) -> None:
    angles = np.arange(8) * np.pi / 4
    reach = np.where(np.arange(8) % 2 == 0, 1.0, 0.35)
    points = np.stack([np.sin(angles) * reach, -np.cos(angles) * reach], axis=1)
    drawing.fill(frame.face(points * radii + centre), colour, alpha=0.9)


def _outward(eye: EyeShape, line: Array) -> Array:
    """A lid line from the inner to the outer corner."""
    return line if eye.side == RIGHT else line[::-1]


def _lid_stroke(eyes: Eyes, eye: EyeShape, frame: Frame) -> Array:
    """The thick upper lid: thin at the inner corner, fullest past the middle, ending in a point
    that hangs or rises with the eye's tilt. Its weight lies above the eye's edge."""
    line = _outward(eye, eye.upper)
    open_ = min(1.0, eye.openness * 1.6)
    end = np.array([eye.side * 0.035, 0.012 - 0.05 * eyes.tilt])
    if eye.shut:
        bow = 1.0 if at(line, 0.5)[1] < at(line, 0.0)[1] else -1.0
        end = np.array([eye.side * 0.03, 0.03 * bow])
    full = np.concatenate([line, (line[-1] + end)[None]])
    t = np.linspace(0, 1, len(full))
    weight = np.interp(t, [0, 0.10, 0.35, 0.78, 0.93, 1.0], [0.20, 0.42, 0.78, 1.0, 0.72, 0.0])
    width = 0.088 * eyes.lid * (0.68 + 0.32 * open_)
    lifted = moved(full, 0.0, 0.0)
    lifted[:, 1] -= 0.35 * open_ * width * weight
    return brush(frame.face(lifted), max(frame.px(width), 1.0) * weight, "even")


def _lashes(eyes: Eyes, eye: EyeShape, frame: Frame) -> list[Array]:
    """Pointed lash clusters at the outer end of the upper lid, and small ones below it."""
    line = _outward(eye, eye.upper)
    down = 1.0 if eye.shut and at(line, 0.5)[1] > at(line, 0.0)[1] else -1.0
    strokes = []
    for index in range(eyes.lashes):
        root = at(line, 0.97 - 0.10 * index)
        reach = np.array([eye.side * (0.085 - 0.017 * index), down * (0.035 + 0.022 * index)])
        if down > 0:
            reach *= (0.8, 0.8)
        bow = root + reach * 0.55 + np.array([0.0, 0.014])
        points = spline(np.array([root, bow, root + reach]), 4)
        strokes.append(brush(frame.face(points), frame.px(0.050 * eyes.lid), "end"))
    if eyes.lashes > 1 and not eye.shut:
        low = _outward(eye, eye.lower)
        for place in (0.80, 0.93):
            root = at(low, place)
            tip = root + np.array([eye.side * 0.035, 0.040])
            strokes.append(brush(frame.face(np.stack([root, tip])), frame.px(0.026), "end"))
    return strokes


def _paint_lids(drawing: Drawing, eyes: Eyes, eye: EyeShape, frame: Frame, ink: _Ink) -> None:
    strokes = [_lid_stroke(eyes, eye, frame), *_lashes(eyes, eye, frame)]
    if not eye.shut:
        lower, upper = _outward(eye, eye.lower), _outward(eye, eye.upper)
        width = frame.line(0.024)
        line = brush(frame.face(section(lower, 0.30, 1.0)), width, "start")
        drawing.fill(line, ink.lid, PART, 0.45 + 0.5 * eyes.lower)
        drawing.fill(brush(frame.face(section(lower, 0.0, 0.45)), width * 0.6), ink.crease, PART)
        # The lid's end turns down towards the lower one and closes the outer corner.
        corner = np.stack([upper[-1], 0.62 * upper[-1] + 0.38 * lower[-1], lower[-1]])
        strokes.append(brush(frame.face(spline(corner, 4)), frame.px(0.040 * eyes.lid), "end"))
        inner = np.stack([upper[0], 0.5 * (upper[0] + lower[0]) + (0.012 * eye.side, 0.0)])
        strokes.append(brush(frame.face(inner), frame.px(0.022), "end"))
        if eye.openness > 0.45:
            lift = np.array([0.0, -0.085 - 0.05 * eyes.lid - 0.03 * (eye.openness - 1)])
            crease = section(upper, 0.22, 0.9) + lift
            drawing.fill(brush(frame.face(crease), frame.line(0.017)), ink.crease, None)
    drawing.fill_all(strokes, ink.lid, PART)


def brow_strokes(
    identity: Identity, features: Features, frame: Frame, extra: float = 0.0
) -> list[Array]:
    """The two brows' outlines: full at the inner end, pointed at the outer; `extra` widens."""
    strokes = []
    for line, kind in ((features.left_brow, "start"), (features.right_brow, "end")):
        rise = np.linspace(0, 1, len(line))
        ends = np.minimum(1.0, 0.5 + 5 * np.minimum(rise, 1 - rise))
        weight = (0.42 + 0.58 * profile(kind, len(line))) * ends
        width = max(frame.px(0.062 * identity.face.brow_thickness), 0.9) + frame.px(extra)
        strokes.append(brush(frame.face(line), width * weight, "even"))
    return strokes


def brow_colour(identity: Identity) -> Colour:
    """A brow is a dark tone of the hair, warmer where the hair is pale: it must read on both."""
    hair = identity.hair.colour
    pale = max(0.0, sum(hair) / 3 - 0.6)
    tone = mix(shade(hair, 0.62), shade(identity.face.skin, 0.62), 0.12 + 0.4 * pale)
    return mix(tone, (0.14, 0.08, 0.10), 0.35)


def paint_brows(drawing: Drawing, identity: Identity, features: Features, frame: Frame) -> None:
    """Both brows on the skin, under the fringe."""
    strokes = brow_strokes(identity, features, frame)
    drawing.fill_all(strokes, brow_colour(identity), "brows")


def paint_brows_through_hair(
    drawing: Drawing, identity: Identity, features: Features, frame: Frame
) -> None:
    """The brows once more over the fringe; a pale edge keeps them legible on dark hair."""
    if sum(identity.hair.colour) < 1.15:
        edge = lighten(identity.hair.colour, 0.35)
        drawing.fill_all(brow_strokes(identity, features, frame, 0.035), edge, None, alpha=0.5)
    strokes = brow_strokes(identity, features, frame)
    drawing.fill_all(strokes, brow_colour(identity), "brows", alpha=0.92)

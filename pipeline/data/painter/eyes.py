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
    drawing.fill(opening, mix(WHITE, skin, 0.10), PART)
    with drawing.clipped([opening]):
        # The lid's shadow on the white.
        lid = eye.upper
        shadow = np.concatenate([lid, moved(lid[::-1], 0.0, 0.34 * eyes.height)])
        drawing.fill(frame.face(shadow), shade(mix(WHITE, skin, 0.35), 0.22))
        _paint_iris(drawing, eyes, eye, frame, light, shine)


def _paint_iris(
    drawing: Drawing, eyes: Eyes, eye: EyeShape, frame: Frame, light: Light, shine: float
) -> None:
    colour = _iris_colour(eyes, eye)
    centre, radii = np.array(eye.iris_centre), np.array(eye.iris_radii)

    def disc(scale: tuple[float, float], shift: tuple[float, float] = (0, 0), n: int = 24) -> Array:
        return frame.face(ellipse(centre + radii * shift, radii * scale, n))

    top, bottom = frame.face(centre + radii * np.array([(0.0, -1.0), (0.0, 1.0)]))
    dark, deep = shade(colour, 0.62), shade(colour, 0.80)
    bright = lighten(colour, 0.30 if eyes.style != "soft" else 0.18)
    drawing.fill(disc((1.0, 1.0)), deep)
    drawing.gradient(
        disc((0.90, 0.93)),
        top,
        bottom,
        [(0.0, dark, 1), (0.42, shade(colour, 0.25), 1), (0.75, colour, 1), (1.0, bright, 1)],
    )
    if eyes.style == "ring":
        drawing.fill(disc((0.70, 0.72), (0, 0.06)), shade(colour, 0.35), alpha=0.65)
        drawing.fill(disc((0.58, 0.60), (0, 0.08)), colour, alpha=0.8)
    # The pool of light opposite the highlight.
    with drawing.clipped([disc((0.86, 0.89))]):
        glow = lighten(colour, 0.55)
        drawing.fill(disc((0.72, 0.52), (0, 0.62), 18), glow, alpha=0.55)
        if eyes.style == "gem":
            drawing.fill(disc((0.50, 0.30), (0, 0.70), 16), lighten(colour, 0.8), alpha=0.6)
    pupil = (0.17, 0.58) if eyes.slit else (0.40, 0.46)
    drawing.fill(disc(pupil, (0, 0.02), 20), shade(colour, 0.88))
    if eyes.style == "star":
        _paint_star(drawing, frame, centre + radii * (0, 0.02), radii * 0.3, lighten(colour, 0.7))
    # The upper part lies in the lid's shadow.
    lid = eye.upper
    band = np.concatenate([lid, moved(lid[::-1], 0.0, 0.42 * eyes.height)])
    with drawing.clipped([disc((1.0, 1.0))]):
        drawing.fill(frame.face(band), shade(colour, 0.85), alpha=0.5)
    from_side = -1.0 if light.side <= 0.15 else 1.0
    big, small = 0.32 * shine, 0.17 * shine
    drawing.fill(disc((big, big * 0.92), (0.38 * from_side, -0.40), 18), WHITE)
    drawing.fill(disc((small, small * 0.9), (-0.42 * from_side, 0.42), 14), WHITE, alpha=0.95)
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
    """The thick upper lid: thin at the inner corner, fullest past the middle, ending in a wing."""
    line = _outward(eye, eye.upper)
    tip = line[-1] + np.array([eye.side * 0.055, -0.035 - 0.03 * eyes.tilt]) * (
        1.0 if eye.openness > 0.3 else 0.5
    )
    full = np.concatenate([line, tip[None]])
    t = np.linspace(0, 1, len(full))
    weight = np.interp(t, [0, 0.12, 0.5, 0.8, 0.93, 1.0], [0.22, 0.5, 0.92, 1.0, 0.75, 0.0])
    thin = 0.75 + 0.25 * min(1.0, eye.openness * 1.6)
    return brush(frame.face(full), frame.px(0.108 * eyes.lid * thin) * weight, "even")


def _lashes(eyes: Eyes, eye: EyeShape, frame: Frame) -> list[Array]:
    line = _outward(eye, eye.upper)
    down = 1.0 if eye.shut and at(line, 0.5)[1] > at(line, 0.0)[1] else -1.0
    strokes = []
    for index in range(eyes.lashes):
        root = at(line, 0.95 - 0.11 * index)
        reach = np.array([eye.side * (0.105 - 0.018 * index), down * (0.055 + 0.018 * index)])
        if down > 0:
            reach *= (0.8, 0.8)
        bow = root + reach * 0.55 + np.array([0.0, 0.016])
        points = spline(np.array([root, bow, root + reach]), 4)
        strokes.append(brush(frame.face(points), frame.px(0.052 * eyes.lid), "end"))
    return strokes


def _paint_lids(drawing: Drawing, eyes: Eyes, eye: EyeShape, frame: Frame, ink: _Ink) -> None:
    if not eye.shut:
        lower = _outward(eye, eye.lower)
        width = frame.line(0.030)
        drawing.fill(
            brush(frame.face(section(lower, 0.28, 1.0)), width, "start"), ink.lid, PART, 0.85
        )
        drawing.fill(brush(frame.face(section(lower, 0.0, 0.4)), width * 0.5), ink.crease, PART)
        if eye.openness > 0.45:
            lift = np.array([0.0, -0.105 - 0.03 * (eye.openness - 1)])
            crease = section(_outward(eye, eye.upper), 0.22, 0.9) + lift
            drawing.fill(brush(frame.face(crease), frame.line(0.022)), ink.crease, None)
    drawing.fill_all([_lid_stroke(eyes, eye, frame), *_lashes(eyes, eye, frame)], ink.lid, PART)


def brow_strokes(
    identity: Identity, features: Features, frame: Frame, extra: float = 0.0
) -> list[Array]:
    """The two brows' outlines: full at the inner end, pointed at the outer; `extra` widens."""
    strokes = []
    for line, kind in ((features.left_brow, "start"), (features.right_brow, "end")):
        rise = np.linspace(0, 1, len(line))
        ends = np.minimum(1.0, 0.25 + 6 * np.minimum(rise, 1 - rise))
        weight = (0.35 + 0.65 * profile(kind, len(line))) * ends
        width = frame.line(0.066 * identity.face.brow_thickness) + frame.px(extra)
        strokes.append(brush(frame.face(line), width * weight, "even"))
    return strokes


def brow_colour(identity: Identity) -> Colour:
    """A brow is darker than the hair, warmer where the hair is pale."""
    hair = identity.hair.colour
    pale = max(0.0, sum(hair) / 3 - 0.6)
    return mix(shade(hair, 0.45), shade(identity.face.skin, 0.55), 0.15 + 0.3 * pale)


def paint_brows(drawing: Drawing, identity: Identity, features: Features, frame: Frame) -> None:
    """Both brows on the skin, under the fringe."""
    strokes = brow_strokes(identity, features, frame)
    drawing.fill_all(strokes, brow_colour(identity), "brows")


def paint_brows_through_hair(
    drawing: Drawing, identity: Identity, features: Features, frame: Frame
) -> None:
    """The brows once more over the fringe; a pale edge keeps them legible on dark hair."""
    if sum(identity.hair.colour) < 1.25:
        edge = lighten(identity.hair.colour, 0.3)
        drawing.fill_all(brow_strokes(identity, features, frame, 0.04), edge, None, alpha=0.45)
    strokes = brow_strokes(identity, features, frame)
    drawing.fill_all(strokes, brow_colour(identity), "brows", alpha=0.75)

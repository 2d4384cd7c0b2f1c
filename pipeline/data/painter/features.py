"""The face's geometry: contour, brows, eyes, nose and mouth as curves in head coordinates.

One place for it, so that what is painted, the 28 landmarks and the part masks cannot disagree.
Identity gives the shapes, expression bends them; pose comes later (`pose.Frame`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.landmarks import NUM_LANDMARKS, Points
from pipeline.data.painter.curves import Array, at, section, spline
from pipeline.data.painter.expression import Expression
from pipeline.data.painter.identity import Eyes, Face, Identity
from pipeline.data.painter.pose import Frame

LEFT, RIGHT = -1, 1  # the picture's sides; factors of x


@dataclass(frozen=True)
class Contour:
    """The face's outline from temple over chin to temple, with each point's depth."""

    points: Array  # n×2
    depth: Array  # n
    marks: tuple[int, ...]  # indices of contour landmarks 0..4


@dataclass(frozen=True)
class EyeShape:
    """One eye's lids, both running from the picture's left to its right."""

    side: int
    upper: Array
    lower: Array
    openness: float
    iris_centre: tuple[float, float]
    iris_radii: tuple[float, float]

    @property
    def shut(self) -> bool:
        """Whether too little of the eye shows to draw the ball."""
        return self.openness < 0.12


@dataclass(frozen=True)
class MouthShape:
    """Lip lines from the left to the right corner, and how far the mouth is open."""

    upper: Array
    lower: Array
    gap: float  # head units, at the middle


@dataclass(frozen=True)
class Features:
    """All of a face's geometry for one identity and expression."""

    contour: Contour
    left_brow: Array
    right_brow: Array
    left_eye: EyeShape
    right_eye: EyeShape
    nose: tuple[float, float]
    mouth: MouthShape

    def landmarks(self, frame: Frame) -> Points:
        """The 28 landmarks (28×2 px)."""
        marks = list(self.contour.marks)
        contour = project_contour(self.contour, frame)[marks]
        inner = [
            *_brow_marks(self.left_brow),
            *_brow_marks(self.right_brow),
            *_eye_marks(self.left_eye),
            *_eye_marks(self.right_eye),
        ]
        mouth = [
            self.mouth.upper[0],
            at(self.mouth.upper, 0.5),
            self.mouth.upper[-1],
            at(self.mouth.lower, 0.5),
        ]
        points = np.concatenate(
            [
                contour,
                frame.face(np.array(inner)),
                frame.head(np.array([self.nose]), NOSE_DEPTH),
                frame.face(np.array(mouth)),
            ]
        )
        assert points.shape == (NUM_LANDMARKS, 2)
        return points


# A turned head's outline is that of a round body: it hardly narrows.
CONTOUR_FLAT = 0.25
NOSE_DEPTH = 0.76


def _brow_marks(brow: Array) -> tuple[Array, Array, Array]:
    return brow[0], at(brow, 0.5), brow[-1]


def _eye_marks(eye: EyeShape) -> tuple[Array, ...]:
    return (
        eye.upper[0],
        at(eye.upper, 0.5),
        eye.upper[-1],
        eye.lower[0],
        at(eye.lower, 0.5),
        eye.lower[-1],
    )


def build_features(identity: Identity, expression: Expression) -> Features:
    """The geometry of `identity` making `expression`."""
    return Features(
        contour=_contour(identity.face, expression),
        left_brow=_brow(identity, expression, LEFT),
        right_brow=_brow(identity, expression, RIGHT),
        left_eye=_eye(identity.eyes, expression, LEFT),
        right_eye=_eye(identity.eyes, expression, RIGHT),
        nose=(0.0, identity.face.nose_height * identity.face.chin),
        mouth=_mouth(identity.face, expression),
    )


def _contour(face: Face, expression: Expression) -> Contour:
    puff = expression.cheek_puff
    # An open mouth takes the chin down with it.
    chin = face.chin + 0.05 * expression.mouth_open
    jaw, wide = face.jaw, 0.022 * face.cheek + 0.025 * puff
    half = np.array(
        [
            [0.96, -0.62, -0.05],
            [0.98, -0.28, -0.03],
            [0.96 + 0.4 * wide, 0.08, 0.02],
            [0.905 + wide, 0.34 * chin, 0.11],
            [0.715 + wide + 0.04 * jaw + 0.045 * puff, 0.635 * chin, 0.25],
            [0.355 + 0.085 * jaw, 0.885 * chin, 0.42],
            [0.125 + 0.055 * jaw, 0.978 * chin, 0.53],
        ]
    )
    mirrored = half * (-1, 1, 1)
    tip = np.array([[0.0, chin, 0.56]])
    knots = np.concatenate([mirrored, tip, half[::-1]])
    samples = 6
    points = spline(knots[:, :2], samples)
    depth = np.interp(np.arange(len(points)) / samples, np.arange(len(knots)), knots[:, 2])
    marks = tuple(samples * index for index in (2, 4, 7, 10, 12))
    return Contour(points, depth, marks)


def _brow(identity: Identity, expression: Expression, side: int) -> Array:
    """A brow's centre line from the picture's left to its right."""
    eyes = identity.eyes
    y = eyes.y - 0.22 - 0.95 * eyes.height + eyes.brow - 0.13 * expression.brow_raise
    bend = 0.055 + 0.045 * expression.brow_bend
    tilt = 0.235 * expression.brow_tilt + 0.025 * eyes.tilt
    squeeze = 0.06 * expression.brow_squeeze
    # From the inner to the outer end, in local coordinates (along, up).
    along = np.array([0.0, 0.3, 0.68, 1.0])
    arch = np.array([0.40, 0.85, 1.0, 0.15])
    inner, width = eyes.spacing - 0.98 * eyes.width - squeeze, 0.26 + 0.95 * eyes.width
    x = inner + along * width
    # Tilt lowers the inner end and lifts the outer one.
    height = y - bend * arch + tilt * (0.55 - along)
    line = spline(np.stack([side * x, height], axis=1), 6)
    return line if side == RIGHT else line[::-1].copy()


def _eye(eyes: Eyes, expression: Expression, side: int) -> EyeShape:
    openness = max(0.0, expression.left_lid if side == LEFT else expression.right_lid)
    bend, slant = expression.lid_bend, expression.lid_slant
    round_ = eyes.roundness - 0.5
    # Local coordinates: u from the inner (-1) to the outer (1) corner, v down, both in half sizes.
    u_upper = np.array([-1.0, -0.84, -0.42, 0.08, 0.58, 0.92, 1.06])
    open_upper = np.array([0.32, -0.22, -0.82, -1.0, -0.90, -0.50, -0.02])
    open_upper[[1, 5]] -= 0.16 * round_
    u_lower = np.array([-0.74, -0.42, 0.04, 0.48, 0.90])
    open_lower = np.array([0.72, 0.94, 1.0, 0.94, 0.52])
    open_lower[[0, 4]] += 0.12 * round_

    def shut(u: Array) -> Array:
        return 0.42 - 0.42 * bend * (1 - u * u) + 0.10 * bend

    upper = shut(u_upper) + openness * (open_upper - shut(u_upper))
    lower = shut(u_lower) + min(1.0, openness) * (open_lower - shut(u_lower))
    lower -= expression.lower_lid * 0.34 * (1 - 0.6 * u_lower**2) * min(1.0, openness)
    # A slanted lid presses on one half; where it would cross the lower lid it stops.
    upper += min(1.0, openness) * 0.52 * (
        max(slant, 0.0) * (0.35 - u_upper) * (u_upper < 0.35)
        + max(-slant, 0.0) * (u_upper + 0.35) * (u_upper > -0.35)
    ) * (1 - 0.35 * np.abs(u_upper))  # fmt: skip
    upper = np.minimum(upper, np.interp(u_upper, u_lower, lower) - 0.02)

    tilt = 0.13 * eyes.tilt
    upper, lower = upper - tilt * u_upper, lower - tilt * u_lower
    scale = np.array([side * eyes.width, eyes.height])
    centre = np.array([side * eyes.spacing, eyes.y])
    upper_line = spline(np.stack([u_upper, upper], axis=1) * scale + centre, 5)
    lower_line = spline(np.stack([u_lower, lower], axis=1) * scale + centre, 5)
    if side == LEFT:
        upper_line, lower_line = upper_line[::-1].copy(), lower_line[::-1].copy()

    iris_width = eyes.iris * eyes.width * (0.5 + 0.5 * expression.pupil)
    iris_height = 1.05 * eyes.height * (0.4 + 0.6 * expression.pupil)
    gaze = (0.26 * expression.gaze_x * eyes.width, 0.2 * expression.gaze_y * eyes.height)
    iris_centre = (
        side * (eyes.spacing - 0.05 * eyes.width) + gaze[0],
        eyes.y + 0.01 * eyes.height + gaze[1],
    )
    return EyeShape(side, upper_line, lower_line, openness, iris_centre, (iris_width, iris_height))


def _mouth(face: Face, expression: Expression) -> MouthShape:
    opening = max(0.0, expression.mouth_open)
    round_, pout = expression.mouth_round, expression.mouth_pout
    half = face.mouth_width * expression.mouth_width * (1 + 0.28 * opening) * (1 - 0.35 * pout)
    half *= 1 - 0.25 * round_
    y = face.mouth_height * face.chin - 0.02 * pout - 0.06 * opening
    curve = 0.09 * expression.mouth_smile * (half / 0.17)
    gap = opening * (0.33 + 0.05 * round_) * (0.55 + 0.45 * face.chin)
    u = np.linspace(-1, 1, 7)
    dome = 1 - u * u
    # Lens: corners lifted by `curve`, both lips hang from them. "o": the corners sit half way.
    corner = y - curve * (1 - 0.4 * round_) + gap * 0.42 * round_
    lens = 1 - np.abs(u) ** 3
    oval = np.sqrt(np.maximum(dome, 0.0))
    upper = corner + (curve * 0.9 - 0.04 * pout) * dome - gap * 0.42 * round_ * oval
    upper += 0.25 * gap * np.maximum(-expression.mouth_smile, 0) * (-lens)
    # A shout is square at the bottom, a laugh round.
    square = 0.35 + 0.5 * float(np.clip(-expression.mouth_smile, 0, 1))
    lower = upper + gap * (round_ * oval + (1 - round_) * (square * lens + (1 - square) * dome))
    return MouthShape(
        spline(np.stack([half * u, upper], axis=1), 4),
        spline(np.stack([half * u, lower], axis=1), 4),
        gap,
    )


def eye_opening(eye: EyeShape) -> Array:
    """The closed outline of the visible eyeball (head units)."""
    return np.concatenate([eye.upper, eye.lower[::-1]])


def project_contour(contour: Contour, frame: Frame) -> Array:
    """The contour in px (n×2). On the far side of a turned head the outline dips at the eye's
    socket and swells over the cheekbone, as a three-quarter view shows it."""
    points = contour.points.copy()
    turn = frame.sin_yaw
    far = np.clip(points[:, 0] * (1.0 if turn > 0 else -1.0) / 0.6, 0.0, 1.0)
    y = points[:, 1]
    swell = 0.10 * np.exp(-(((y - 0.42) / 0.22) ** 2)) - 0.13 * np.exp(-(((y + 0.05) / 0.17) ** 2))
    points[:, 0] += turn * far * swell
    return frame.head(points, contour.depth, CONTOUR_FLAT)


def jaw_line(contour: Contour, frame: Frame) -> Array:
    """The contour's part below the ears (px): what is drawn as the face's line."""
    return section(project_contour(contour, frame), 0.14, 0.86)

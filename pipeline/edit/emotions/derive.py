"""Derives the presets from the painter's statistics: the same bytes whenever it is run.

Many painted identities in many poses make each emotion; how their landmarks move from the neutral
face, in that face's own frame, is averaged, and what depends on the face's proportions (a shut
lid's way on the eye's height) is fitted by least squares. Sliders are finite differences of one of
the painter's parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.data import landmarks as lm
from pipeline.data.landmarks import Points
from pipeline.data.painter import EXPRESSIONS, Expression, Identity, Pose, random_identity
from pipeline.data.painter.features import build_features
from pipeline.data.painter.painting import portrait_placement
from pipeline.data.painter.pose import Frame
from pipeline.edit.emotion_names import EMOTIONS, SLIDERS
from pipeline.edit.emotions import presets
from pipeline.edit.emotions.frame import FaceFrame
from pipeline.edit.emotions.presets import Preset

IDENTITIES = 200
_STREAM = 71  # the stream's number among this project's random draws
# Head angles of the faces that are averaged, degrees: standard deviations.
_POSE = (8.0, 4.0, 5.0)
# Weight that keeps a slope at 0 where the painter's faces say little, in standard deviations.
_RIDGE = 0.02

# What is no preset of the painter's own. Embarrassed: brows up and drawn together, eyes a little
# narrowed and looking away, a small mouth with its corners down, a strong blush.
EMBARRASSED = Expression(
    brow_raise=0.15, brow_tilt=-0.8, brow_squeeze=0.5, left_lid=0.74, right_lid=0.74,
    lid_slant=-0.5, gaze_x=-0.5, gaze_y=0.3, mouth_smile=-0.7, mouth_width=0.85,
    blush=1.0, sweat=0.5,
)  # fmt: skip


@dataclass(frozen=True)
class _Emotion:
    label: str
    expression: Expression
    reads_as: dict[str, float]


_EMOTIONS: dict[str, _Emotion] = {
    "neutral": _Emotion("Neutral", EXPRESSIONS["neutral"], {"neutral": 1.0}),
    "smile": _Emotion("Smile", EXPRESSIONS["smile"], {"smile": 1.0}),
    "laugh": _Emotion("Laugh", EXPRESSIONS["laugh"], {"laugh": 1.0}),
    "wink": _Emotion("Wink", EXPRESSIONS["wink"], {"wink": 1.0}),
    "surprised": _Emotion("Surprised", EXPRESSIONS["surprised"], {"surprised": 1.0}),
    # Between two of the reader's nine: it has none of that name.
    "embarrassed": _Emotion("Embarrassed", EMBARRASSED, {"sad": 0.6, "pout": 0.4}),
    "pout": _Emotion("Pout", EXPRESSIONS["pout"], {"pout": 1.0}),
    "angry": _Emotion("Angry", EXPRESSIONS["angry"], {"angry": 1.0}),
    "sad": _Emotion("Sad", EXPRESSIONS["sad"], {"sad": 1.0}),
    "sleepy": _Emotion("Sleepy", EXPRESSIONS["closed"], {"closed": 1.0}),
}

Change = Callable[[Identity, Pose], tuple[Identity, Pose, Expression]]


def _mood(expression: Expression) -> Change:
    """The same face with this expression."""
    return lambda who, pose: (who, pose, expression)


def _face(**values: float) -> Change:
    """A slider that is a change of the neutral expression."""
    return _mood(replace(EXPRESSIONS["neutral"], **values))


def _larger_eyes(who: Identity, pose: Pose) -> tuple[Identity, Pose, Expression]:
    eyes = replace(who.eyes, width=1.2 * who.eyes.width, height=1.2 * who.eyes.height)
    return replace(who, eyes=eyes), pose, EXPRESSIONS["neutral"]


def _turned(**degrees: float) -> Change:
    def change(who: Identity, pose: Pose) -> tuple[Identity, Pose, Expression]:
        angles = {key: getattr(pose, key) + value for key, value in degrees.items()}
        return who, replace(pose, **angles), EXPRESSIONS["neutral"]

    return change


# Slider -> what it is called, and the change of a painted face that its value 1 stands for.
_SLIDERS: dict[str, tuple[str, Change]] = {
    "eye_size": ("Eye size", _larger_eyes),
    "eye_open_left": ("Left eye shut (-1) to wide", _face(left_lid=1.3)),
    "eye_open_right": ("Right eye shut (-1) to wide", _face(right_lid=1.3)),
    "gaze_x": ("Gaze left (-1) to right", _face(gaze_x=1.0)),
    "gaze_y": ("Gaze up (-1) to down", _face(gaze_y=1.0)),
    "mouth_width": ("Mouth width", _face(mouth_width=1.45)),
    "mouth_open": ("Mouth open", _face(mouth_open=0.85)),
    "mouth_corners": ("Mouth corners down (-1) to up", _face(mouth_smile=1.2)),
    "brow_height": ("Brow height", _face(brow_raise=1.0)),
    "brow_tilt": ("Brows sad (-1) to angry", _face(brow_tilt=1.0)),
    "head_yaw": ("Head turned left (-1) to right", _turned(yaw=20.0)),
    "head_pitch": ("Head down (-1) to up", _turned(pitch=10.0)),
    "head_roll": ("Head tilted left (-1) to right", _turned(roll=10.0)),
}
# A lid's way to shut is longer than that to wide open: value -1 must shut the eye.
_SCALE = {"eye_open_left": 0.94 / 0.36, "eye_open_right": 0.94 / 0.36}


def expression_of(emotion: str) -> Expression:
    """The painter's expression that an emotion's preset comes from."""
    return _EMOTIONS[emotion].expression


def derive() -> list[Preset]:
    """All presets, emotions first."""
    faces = _faces()
    found = []
    for name in EMOTIONS:
        emotion = _EMOTIONS[name]

        change = _mood(emotion.expression)
        fitted = _fit(name, emotion.label, "emotion", faces, change)
        marks = _marks(emotion.expression)
        rest = _rest(faces) if name == "neutral" else {}
        found.append(replace(fitted, reads_as=emotion.reads_as, marks=marks, rest=rest))
    for name in SLIDERS:
        label, change = _SLIDERS[name]
        found.append(_fit(name, label, "slider", faces, change, _SCALE.get(name, 1.0)))
    return found


def write(folder: Path) -> list[Path]:
    """Write all presets below `folder` (as conf/ has them); the files."""
    paths = []
    for preset in derive():
        path = folder / preset.kind / f"{preset.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(presets.preset_text(preset), encoding="utf-8")
        paths.append(path)
    return paths


def painted_points(who: Identity, pose: Pose, mood: Expression, size: int = 256) -> Points:
    """30×2 px of a painted portrait: its landmarks and both irises' centres."""
    frame = Frame(pose, portrait_placement(size))
    features = build_features(who, mood)
    irises = [features.left_eye.iris_centre, features.right_eye.iris_centre]
    points: Points = np.concatenate([features.landmarks(frame), frame.face(np.array(irises))])
    return points


def _faces() -> list[tuple[Identity, Pose]]:
    faces = []
    for index in range(IDENTITIES):
        rng = np.random.default_rng([_STREAM, index])
        who = random_identity(rng)
        yaw, pitch, roll = rng.normal(0, _POSE)
        faces.append((who, Pose(float(yaw), float(pitch), float(roll))))
    return faces


def _fit(
    name: str,
    label: str,
    kind: str,
    faces: list[tuple[Identity, Pose]],
    change: Change,
    scale: float = 1.0,
) -> Preset:
    moves, shapes = [], []
    for who, pose in faces:
        neutral = painted_points(who, pose, EXPRESSIONS["neutral"])
        frame = FaceFrame.of(neutral[: lm.NUM_LANDMARKS], pose.yaw, pose.pitch)
        moved = painted_points(*change(who, pose))
        moves.append(scale * frame.into_vectors(moved - neutral))
        shapes.append(presets.proportions(frame.into(neutral[: lm.NUM_LANDMARKS])))
    names = list(shapes[0])
    values = np.array([[shape[key] for key in names] for shape in shapes])
    typical = values.mean(axis=0)
    deviation = values.std(axis=0)
    white = (values - typical) / deviation
    flat = np.array(moves).reshape(len(moves), -1)
    mean = flat.mean(axis=0)
    normal = white.T @ white / len(white) + _RIDGE * np.eye(len(names))
    slopes = np.linalg.solve(normal, white.T @ (flat - mean) / len(white)) / deviation[:, None]
    shape = (len(presets.POINTS), 2)
    return Preset(
        name=name,
        label=label,
        kind=kind,
        displacements=mean.reshape(shape),
        sensitivity={key: slope.reshape(shape) for key, slope in zip(names, slopes, strict=True)},
        typical=dict(zip(names, typical.tolist(), strict=True)),
        reads_as={},
        marks={},
    )


def _rest(faces: list[tuple[Identity, Pose]]) -> dict[str, tuple[float, float]]:
    """Means and deviations of the neutral faces' measures."""
    found = [
        presets.rest_measures(painted_points(who, pose, EXPRESSIONS["neutral"])[:28])
        for who, pose in faces
    ]
    return {
        name: (
            float(np.mean([one[name] for one in found])),
            float(np.std([one[name] for one in found])),
        )
        for name in found[0]
    }


def _marks(expression: Expression) -> dict[str, float]:
    neutral = EXPRESSIONS["neutral"]
    return {
        "blush": max(0.0, expression.blush - neutral.blush),
        "teeth": expression.teeth,
        "tears": expression.tears,
    }

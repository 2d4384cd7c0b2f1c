"""What an emotion asks of one face: where its landmarks should go, and where it may change.

A preset's move is added to the *neutral* face of the same person, which is estimated first: what
the face reader takes the present expression for is subtracted, weighted by its probabilities. So a
smile asked of a face that smiles already changes nothing, and of an angry one undoes the anger.
Sliders without an emotion leave the expression as it is. Knows points; nothing of networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np

from pipeline.data import landmarks as lm
from pipeline.data.face_reader import Reading
from pipeline.data.landmarks import Points
from pipeline.edit.emotion_names import EMOTIONS, SLIDERS
from pipeline.edit.emotions import presets
from pipeline.edit.emotions.frame import FaceFrame
from pipeline.edit.emotions.presets import find_preset
from pipeline.edit.recipe import Move
from pipeline.errors import ConfigError, check_choice, check_range

# Beyond these the painter's faces, and with them the presets, say nothing.
MOST_STRENGTH, MOST_SLIDER = 1.5, 1.5
ASSUMED = ("read", "neutral")
# A measure's squared deviation from rest counts up to this.
_MOST_UNREST = 9.0
# Rounds of estimating the neutral face: its frame and proportions follow from itself.
_ROUNDS = 4
# Landmarks that move less than this share of the face's width are no handles.
_STILL = 0.006
# Of the face's width: room around what is free, and how wide its edge fades.
_ROOM, _EDGE = 0.07, 0.10
# The face's inner parts with both cheeks: what an emotion (blush, tears) may change.
_INNER = np.r_[1:4, 5:11, 11:23, 24:28]
# Sliders that turn the whole head: nothing can be kept.
_WHOLE = ("head_yaw", "head_pitch", "head_roll")


@dataclass(frozen=True)
class Goal:
    """What a face should do.

    emotions: preset -> strength (0 to 1.5), added up. sliders: slider -> value (-1.5 to 1.5).
    mirror: left and right changed over (a wink with the other eye).
    """

    emotions: Mapping[str, float] = field(default_factory=dict)
    sliders: Mapping[str, float] = field(default_factory=dict)
    mirror: bool = False

    def __post_init__(self) -> None:
        for name, strength in self.emotions.items():
            check_choice("emotion", name, EMOTIONS)
            check_range(f"strength of {name}", strength, 0, MOST_STRENGTH)
        for name, value in self.sliders.items():
            check_choice("slider", name, SLIDERS)
            check_range(f"slider {name}", value, -MOST_SLIDER, MOST_SLIDER)

    @property
    def whole_head(self) -> bool:
        """Whether the head turns, so that all of the picture may change."""
        return any(self.sliders.get(name) for name in _WHOLE)

    @property
    def reads_as(self) -> dict[str, float]:
        """Shares (sum 1) of the face reader's expressions that the goal stands for; {} where only
        sliders are set, of which the reader has no name."""
        if not self.emotions:
            return {}
        shares: dict[str, float] = {}
        for name, strength in self.emotions.items():
            strength = min(strength, 1.0)
            for reads, share in find_preset("emotion", name).reads_as.items():
                shares[reads] = shares.get(reads, 0.0) + strength * share
        total = sum(shares.values())
        if total < 1:
            shares["neutral"] = shares.get("neutral", 0.0) + 1 - total
        return {name: share / max(total, 1.0) for name, share in shares.items() if share}


@dataclass(frozen=True, eq=False)
class EmotionPlan:
    """A goal for one face.

    Attributes:
        goal: what was asked.
        source, neutral, target: 30×2 px (28 landmarks, both irises): as read, as estimated, wanted.
        moves: the landmarks that have a way to go, as handles and targets of a drag.
        mask: height × width uint8, 255 keeps; None: everything may change (the head turns).
        face_px: the face's width in px.
    """

    goal: Goal
    source: Points
    neutral: Points
    target: Points
    moves: tuple[Move, ...]
    mask: np.ndarray | None
    face_px: float

    @property
    def landmark_targets(self) -> Points:
        """28×2 px: the target as the face reader reads it, without the irises."""
        return self.target[: lm.NUM_LANDMARKS]

    @property
    def way(self) -> float:
        """Mean distance from source to target, in face widths, over the 28 landmarks."""
        moved = (self.target - self.source)[: lm.NUM_LANDMARKS]
        return float(np.linalg.norm(moved, axis=1).mean() / self.face_px)


def plan_emotion(
    reading: Reading,
    name: str,
    strength: float = 1.0,
    *,
    width: int,
    height: int,
    mirror: bool = False,
    assume: str = "read",
) -> EmotionPlan:
    """The plan for one preset; see `plan_goal`."""
    return plan_goal(
        reading, Goal({name: strength}, mirror=mirror), width=width, height=height, assume=assume
    )


def plan_goal(
    reading: Reading, goal: Goal, *, width: int, height: int, assume: str = "read"
) -> EmotionPlan:
    """Where the landmarks of this face should go.

    Args:
        reading: of a picture of width × height px (`FaceReader.read`).
        assume: "read": the face has the expression that the reader takes it for; "neutral": it is
            taken to be neutral (drawings whose style the reader does not know).

    DataError where the reading is of no face, ConfigError for an unknown name or value.
    """
    if width < 1 or height < 1:
        raise ConfigError(f"A picture of {width} × {height} px has no face.")
    check_choice("assume", assume, ASSUMED)
    source = _with_irises(reading.landmarks)
    chances = reading.expressions if assume == "read" else {}
    neutral = estimate_neutral(source, chances, reading.yaw, reading.pitch)
    frame = FaceFrame.of(neutral[: lm.NUM_LANDMARKS], reading.yaw, reading.pitch)
    # Sliders alone are laid over the expression that is there; an emotion takes its place.
    base = neutral if goal.emotions else source
    target = base + frame.out_of_vectors(moves_of(goal, frame, neutral))
    # A lid never passes through the other, nor one lip through the other.
    for upper, lower in ((12, 15), (18, 21), (25, 27)):
        target[upper] = _not_below(target[upper], target[lower], frame)
    moved = np.linalg.norm(target - source, axis=1) > _STILL * frame.width
    limits = np.array([width, height], dtype=np.float64)
    moves = tuple(
        Move(_point(np.clip(a, 0, limits)), _point(np.clip(b, 0, limits)))
        for a, b in zip(source[moved], target[moved], strict=True)
    )
    mask = None
    if not goal.whole_head:
        mask = _mask(goal, source, target, moved, frame, (height, width))
    return EmotionPlan(goal, source, neutral, target, moves, mask, frame.width)


def moves_of(goal: Goal, frame: FaceFrame, neutral: Points) -> Points:
    """30×2 face widths: the goal's move of a neutral face (30×2 px)."""
    shape = presets.proportions(frame.into(neutral[: lm.NUM_LANDMARKS]))
    total = np.zeros((len(presets.POINTS), 2))
    for kind, values in (("emotion", goal.emotions), ("slider", goal.sliders)):
        for name, amount in values.items():
            total += amount * find_preset(kind, name).moves(shape, goal.mirror)
    return total


def estimate_neutral(
    source: Points, expressions: Mapping[str, float], yaw: float = 0.0, pitch: float = 0.0
) -> Points:
    """30×2 px: the face without the expressions (name -> probability) that it is read to have."""
    present = {
        preset: chance
        for reads, chance in expressions.items()
        if (preset := preset_of(reads)) not in (None, "neutral")
    }
    neutral = source
    for _ in range(_ROUNDS if present else 0):
        frame = FaceFrame.of(neutral[: lm.NUM_LANDMARKS], yaw, pitch)
        shape = presets.proportions(frame.into(neutral[: lm.NUM_LANDMARKS]))
        total = sum(
            chance * _facing(name, source, frame, shape)
            for name, chance in present.items()
            if name is not None
        )
        neutral = source - frame.out_of_vectors(np.asarray(total))
    # A drawing of another style may be misread: what makes it no more of a face at rest was none.
    return neutral if _unrest(neutral) <= _unrest(source) else source


def _unrest(points: Points) -> float:
    """How far a face is from the painter's at rest: mean of squared deviations, each bounded."""
    rest = find_preset("emotion", "neutral").rest
    found = presets.rest_measures(points[: lm.NUM_LANDMARKS])
    # Twice the painter's deviations: other styles differ more.
    off = [
        (found[name] - mean) / (2 * max(deviation, 0.05 * abs(mean), 0.004))
        for name, (mean, deviation) in rest.items()
    ]
    return float(np.mean(np.minimum(np.square(off), _MOST_UNREST)))


def preset_of(expression: str) -> str | None:
    """The emotion preset that stands for one of the face reader's expressions."""
    for name in EMOTIONS:
        if find_preset("emotion", name).reads_as == {expression: 1.0}:
            return name
    return None


def _facing(name: str, source: Points, frame: FaceFrame, shape: Mapping[str, float]) -> Points:
    """A present expression's move; of the wink, that of the eye which is the more shut."""
    preset = find_preset("emotion", name)
    gaps = [
        float(frame.into_vectors((source[below] - source[above])[None])[0, 1])
        for above, below in ((12, 15), (18, 21))
    ]
    mirror = name == "wink" and gaps[0] < gaps[1]
    return preset.moves(shape, mirror)


def _with_irises(landmarks: Points) -> Points:
    """28×2 => 30×2: an iris is taken to be in the middle of its eye."""
    eyes = [landmarks[part].mean(axis=0) for part in (lm.LEFT_EYE, lm.RIGHT_EYE)]
    return np.concatenate([landmarks, np.array(eyes)])


def _not_below(upper: Points, lower: Points, frame: FaceFrame) -> Points:
    gap = frame.into_vectors((lower - upper)[None])[0]
    if gap[1] >= 0:
        return upper
    lifted: Points = upper + frame.out_of_vectors(np.array([[0.0, gap[1]]]))[0]
    return lifted


def _mask(
    goal: Goal,
    source: Points,
    target: Points,
    moved: np.ndarray,
    frame: FaceFrame,
    size: tuple[int, int],
) -> np.ndarray:
    """Free is the inner face for an emotion, else the parts that move; soft edges."""
    free = np.zeros(size, np.uint8)
    groups = [_INNER] if goal.emotions else []
    for part in lm.PARTS.values():
        indices = np.arange(part.start, part.stop)
        # The contour runs around the face: the hull of all of it would free everything.
        indices = indices[moved[indices]] if part == lm.CONTOUR else indices
        if moved[indices].any():
            groups.append(indices)
    for iris, eye in ((28, lm.LEFT_EYE), (29, lm.RIGHT_EYE)):
        if moved[iris]:
            groups.append(np.r_[eye, iris])
    room = max(1, round(_ROOM * frame.width))
    for indices in groups:
        points = np.concatenate([source[indices], target[indices]]).astype(np.float32)
        hull = np.rint(cv2.convexHull(points) * 16 - 8).astype(np.int32)
        cv2.fillConvexPoly(free, hull, 255, cv2.LINE_8, 4)
        cv2.polylines(free, [hull], True, 255, 2 * room, cv2.LINE_8, 4)
    distance = cv2.distanceTransform(255 - free, cv2.DIST_L2, 5)
    share = np.clip(distance / max(_EDGE * frame.width, 1.0), 0, 1)
    return np.rint(255 * share * share * (3 - 2 * share)).astype(np.uint8)


def _point(values: Points) -> tuple[float, float]:
    return float(values[0]), float(values[1])

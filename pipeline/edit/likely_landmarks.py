"""Where a face's 28 landmarks go when some of its points are dragged.

How one character's landmarks vary together, over moods and poses, the painter knows exactly; that
Gaussian, conditioned on the ways of the dragged points, has the likeliest face as its mean (Bishop
2006, eq. 2.81). So an eye moves whole, a chin takes the mouth along, and both pupils and the nose
turn the head. A mood's habits reach no further than neighbours (covariance localisation, Gaspari
and Cohn 1999), else a raised brow would open the mouth. Knows points; nothing of pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from pipeline.data import landmarks as lm
from pipeline.data.landmarks import Points
from pipeline.data.painter.expression import preset
from pipeline.data.painter.features import build_features
from pipeline.data.painter.identity import Identity
from pipeline.data.painter.pose import Frame, Placement, Pose
from pipeline.data.painter.samples import character, random_expression, random_pose
from pipeline.edit.emotions.frame import FaceFrame
from pipeline.edit.recipe import Move

# Faces that the painter's statistics are made of.
_CHARACTERS, _FACES = 24, 24
# Lengths in face widths. A point this near a landmark takes hold of it, ...
BOUND = 0.13
# ... of those about as near as the nearest one, ...
_SHARED = 0.012
# ... and this exactly, more loosely the further off.
_NOISE = 0.004
# Middles of an upper and a lower lid, or lip; and the corners on both sides.
_PAIRS = tuple(
    (lm.INDEX[f"{part}_upper{end}"], lm.INDEX[f"{part}_lower{end}"])
    for part, end in (("left_eye", "_middle"), ("right_eye", "_middle"), ("mouth", ""))
)
_CORNERS = tuple(
    (lm.INDEX[f"{part}_left"], lm.INDEX[f"{part}_right"])
    for part in ("left_eye_upper", "right_eye_upper", "mouth")
)
_PART_OF = np.zeros(lm.NUM_LANDMARKS, int)
for _number, _part in enumerate(lm.PARTS.values()):
    _PART_OF[_part] = _number
# What no mood explains: neighbours, within so much, moving this far by themselves.
_OWN_REACH, _OWN = 0.14, 0.04
# How far a mood's habits reach.
_MOOD_REACH = 0.18
# Share of a pose's variance: one point alone seldom means that the head shall turn; several that
# agree still say so.
_POSE = 0.12


def followed(landmarks: Points, moves: Sequence[Move]) -> Points:
    """28×2 px: where the landmarks (28×2 px) lie after the moves, their likeliest place.

    Moves further from every landmark than BOUND face widths count for nothing.
    """
    frame = FaceFrame.of(landmarks)
    places = frame.into(landmarks)
    shares = held(landmarks, moves)
    bound = shares.any(axis=1)
    if not bound.any():
        return landmarks.copy()
    shares, ways = shares[bound], frame.into_vectors(_ways(moves))[bound]
    starts = frame.into(_starts(moves))[bound]
    nearest = np.linalg.norm(starts[:, None] - places[None], axis=2).min(axis=1)
    watched = np.kron(shares, np.eye(2))  # 2n × 56: the points' ways of the landmarks'
    squared = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    poses, moods = _covariances()
    spread = (
        _POSE * poses + np.kron(np.exp(-0.5 * squared / _MOOD_REACH**2), np.ones((2, 2))) * moods
    )
    # What each landmark does by itself is alike for near ones.
    spread += np.kron(_OWN**2 * np.exp(-0.5 * squared / _OWN_REACH**2), np.eye(2))
    noise = np.repeat((_NOISE + 0.05 * nearest) ** 2, 2)
    gain = spread @ watched.T
    total = gain @ np.linalg.solve(watched @ gain + np.diag(noise), ways.reshape(-1))
    moved: Points = landmarks + frame.out_of_vectors(total.reshape(-1, 2))
    for upper, lower in _PAIRS:
        if _is_shut(places, upper, lower) and not shares[:, (upper, lower)].any():
            # What nobody takes hold of stays shut, as wide as a smile may become.
            half = (landmarks[lower] - landmarks[upper]) / 2
            middle = (moved[upper] + moved[lower]) / 2
            moved[upper], moved[lower] = middle - half, middle + half
    return _uncrossed(moved, landmarks, frame)


def held(landmarks: Points, moves: Sequence[Move]) -> np.ndarray:
    """n × 28: which landmarks (28×2 px) each move takes hold of, in shares that add up to 1; a row
    of zeros where none is near."""
    frame = FaceFrame.of(landmarks)
    places, starts = frame.into(landmarks), frame.into(_starts(moves))
    distances = np.linalg.norm(starts[:, None] - places[None], axis=2)
    nearest = distances.min(axis=1, keepdims=True)
    shares = np.exp(-0.5 * (distances / np.maximum(nearest, _SHARED)) ** 2)
    # One part's alone: between a lid and its brow nobody means both.
    shares *= _PART_OF[distances.argmin(axis=1)][:, None] == _PART_OF
    shares /= shares.sum(axis=1, keepdims=True)
    ways = frame.into_vectors(_ways(moves))
    for pair, corners in zip(_PAIRS, _CORNERS, strict=True):
        if _is_shut(places, *pair):
            _at_corners(shares, starts, places, pair, corners)
            _opened(shares, ways, *pair)
    bound: np.ndarray = shares * (nearest < BOUND)
    return bound


def _starts(moves: Sequence[Move]) -> np.ndarray:
    return np.array([move.start for move in moves], np.float64).reshape(-1, 2)


def _ways(moves: Sequence[Move]) -> np.ndarray:
    ways = [np.subtract(move.target, move.start) for move in moves]
    return np.array(ways, np.float64).reshape(-1, 2)


def _is_shut(places: Points, upper: int, lower: int) -> bool:
    """places: in face widths."""
    return bool(np.linalg.norm(places[upper] - places[lower]) < 2 * _SHARED)


@lru_cache(maxsize=1)
def _covariances() -> tuple[np.ndarray, np.ndarray]:
    """56×56 each, face widths squared: how the painter's characters vary about their own means, by
    poses and by moods."""
    rng = np.random.default_rng(0)
    found = []
    for turned in (True, False):
        deviations = []
        for number in range(_CHARACTERS):
            who = character(number)
            faces = np.stack([_face(who, rng, turned) for _ in range(_FACES)])
            deviations.append((faces - faces.mean(axis=0)).reshape(_FACES, -1))
        found.append(np.cov(np.concatenate(deviations).T))
    return found[0], found[1]


def _face(who: Identity, rng: np.random.Generator, turned: bool) -> Points:
    """Its landmarks in face widths: in some pose without a mood, or in some mood without a pose."""
    mood = preset("neutral") if turned else random_expression(rng)[1]
    pose = random_pose(rng) if turned else Pose()
    # A face is two units wide.
    return build_features(who, mood).landmarks(Frame(pose, Placement(0.5, (0.0, 0.0))))


def _at_corners(
    shares: np.ndarray,
    starts: np.ndarray,
    places: Points,
    pair: tuple[int, int],
    corners: tuple[int, int],
) -> None:
    """On a shut mouth or eye, a point more than half way to a corner takes hold of that alone, so
    that a pull at it opens nothing, however small the mouth is."""
    left, right = places[list(corners)]
    middle, half = (left + right) / 2, (right - left) / 2
    along = (starts - middle) @ half / max(float(half @ half), 1e-12)
    held = np.isin(shares.argmax(axis=1), (*pair, *corners)) & (np.abs(along) > 0.5)
    shares[held] = 0.0
    shares[held, np.where(along[held] < 0, *corners)] = 1.0


def _opened(shares: np.ndarray, ways: np.ndarray, upper: int, lower: int) -> None:
    """Of a shut mouth or eye, a pull up is meant for the upper lip or lid, one down the lower."""
    both = shares[:, upper] + shares[:, lower]
    upright = np.abs(ways[:, 1]) > np.abs(ways[:, 0]) / 2
    down = ways[:, 1] > 0
    shares[:, lower] = np.where(upright, both * down, shares[:, lower])
    shares[:, upper] = np.where(upright, both * ~down, shares[:, upper])


def _uncrossed(points: Points, before: Points, frame: FaceFrame) -> Points:
    """The lids and the lips of an open eye or mouth meet at most, in their own middle."""
    result = points.copy()
    for upper, lower in _PAIRS:
        gap = frame.into_vectors((points[lower] - points[upper])[None])[0]
        was = frame.into_vectors((before[lower] - before[upper])[None])[0]
        if gap[1] < 0 < was[1]:
            result[upper] = result[lower] = (points[upper] + points[lower]) / 2
    return result

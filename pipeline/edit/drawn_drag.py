"""A drag carried out on the drawing itself, without a model.

The landmarks go where the handles take them (`likely_landmarks`), and the drawing follows as it
does for an emotion: moved lines stay its own, a mouth that opens and an eye that shuts are drawn
in its own colours. What is left of a handle's way (hair, a horn, a ribbon) is a bump in the
motion, as wide as the way is long; so is all of it where no face is read. Knows pictures and
points; nothing of networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.data import landmarks as lm
from pipeline.data.face_reader import Reading
from pipeline.edit.carry import LEAST_AREA
from pipeline.edit.emotions.carry import Sides, landmark_flow
from pipeline.edit.emotions.drawn import draw_emotion
from pipeline.edit.likely_landmarks import followed, held
from pipeline.edit.recipe import Move

# Parts seen less than this are covered by hair, and not drawn anew.
HIDDEN = 0.35
# A bump's deviation: in face widths, and in lengths of its way, whichever is more. Beyond one way
# in 1.65 deviations lines would fold (the steepest slope of a Gaussian is e^-1/2 of its height).
_BUMP, _PER_WAY = 0.09, 1.2
# Of the bumps' regression: so little that one handle arrives.
_LEAST_DAMPING = 1e-3
# Share of the crop that a face is wide, where none is read.
_WIDTH = 0.5


def draw_drag(
    face: np.ndarray, reading: Reading | None, moves: Sequence[Move], keep: np.ndarray
) -> np.ndarray:
    """The face with each move's start carried to its target.

    Args:
        face: S × S × 3 uint8, the drawing's own crop.
        reading: of it; None where it shows no readable face.
        moves: in its pixels.
        keep: S × S float in [0, 1], 1 where nothing may change.
    """
    if reading is None:
        return _bumps(face, moves, _WIDTH * face.shape[1], keep)
    before = reading.landmarks
    target = followed(before, moves)
    hidden = [part for part, seen in reading.part_visibility.items() if seen < HIDDEN]
    drawn = draw_emotion(face, before, target, keep, {}, {}, None, hidden)
    sides = Sides(face, face, before, target)
    left = _left(sides, moves, keep, drawn.parts)
    return _bumps(drawn.face, left, lm.face_width(before), keep)


def _left(
    sides: Sides, moves: Sequence[Move], keep: np.ndarray, drawn: Sequence[str]
) -> list[Move]:
    """What the landmarks leave of each handle's way; `drawn`: the parts that were drawn anew."""
    flow = landmark_flow(sides, tuple(drawn), keep)
    size = np.array(sides.before.shape[1::-1], np.float32)
    shares = held(sides.points_before, moves)
    new = np.zeros(lm.NUM_LANDMARKS)
    for part in drawn:
        new[lm.PARTS[part]] = 1
    left = []
    for move, share in zip(moves, shares, strict=True):
        at = np.array(move.start, np.float64)
        if share @ new > 0.5:
            # What was drawn anew lies where its landmarks do; the motion knows nothing of it.
            x, y = at + share @ (sides.points_after - sides.points_before)
            left.append(Move((float(x), float(y)), move.target, move.radius))
            continue
        # The flow says where each place came from: where the handle's place goes is its inverse.
        for _ in range(8):
            at = np.array(move.start) - _sampled(flow, at / size) * size
        left.append(Move((float(at[0]), float(at[1])), move.target, move.radius))
    return left


def _sampled(flow: np.ndarray, place: np.ndarray) -> np.ndarray:
    rows, columns = flow.shape[:2]
    x, y = place * (columns, rows) - 0.5
    at = np.full((1, 1), x, np.float32), np.full((1, 1), y, np.float32)
    found = cv2.remap(flow, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found[0, 0], np.float64)


def _bumps(face: np.ndarray, moves: Sequence[Move], width: float, keep: np.ndarray) -> np.ndarray:
    """The face with what is around each start moved on to its target."""
    ways = np.array([np.subtract(m.target, m.start) for m in moves], np.float64).reshape(-1, 2)
    lengths = np.linalg.norm(ways, axis=1)
    if lengths.max(initial=0.0) < 0.003 * width:
        return face
    targets = np.array([m.target for m in moves], np.float64)
    discs = np.array([m.radius or 0.0 for m in moves])
    sigma = np.maximum.reduce([np.full(len(moves), _BUMP * width), _PER_WAY * lengths, discs])
    apart = np.linalg.norm(targets[:, None] - targets[None], axis=2)
    # At each target the bumps together are that handle's own way, as far as the ways agree (ridge
    # regression): two that pull to one place from both sides would tear what is in between.
    shares = np.exp(-0.5 * (apart / sigma[None]) ** 2)
    coarse = _grid(face.shape, 96)
    damping = _LEAST_DAMPING
    while True:
        gram = shares @ shares.T + damping * np.eye(len(moves))
        heights = shares.T @ np.linalg.solve(gram, ways)
        if _least_area(_shift(coarse, targets, heights, sigma), face.shape) > LEAST_AREA:
            break
        damping *= 2
    columns, rows = _grid(face.shape, None)
    shift = _shift((columns, rows), targets, heights, sigma)
    shift *= (1 - keep)[..., None]
    return cv2.remap(
        face,
        columns - shift[..., 0] - 0.5,
        rows - shift[..., 1] - 0.5,
        cv2.INTER_LANCZOS4,
        borderMode=cv2.BORDER_REFLECT,
    )


def _grid(shape: tuple[int, ...], side: int | None) -> tuple[np.ndarray, np.ndarray]:
    """x and y (px of the face) of side × side places spread over it; None: of each pixel's."""
    height, width = shape[:2]
    across, down = (side or width, side or height)
    columns, rows = np.meshgrid(
        (np.arange(across, dtype=np.float32) + 0.5) * (width / across),
        (np.arange(down, dtype=np.float32) + 0.5) * (height / down),
    )
    return columns, rows


def _shift(
    places: tuple[np.ndarray, np.ndarray],
    targets: np.ndarray,
    heights: np.ndarray,
    sigma: np.ndarray,
) -> np.ndarray:
    """H × W × 2 px: how far what comes to lie at each place (H × W each, px) was moved."""
    columns, rows = places
    shift = np.zeros((*columns.shape, 2), np.float32)
    for (x, y), height, spread in zip(targets, heights, sigma, strict=True):
        squared = (columns - x) ** 2 + (rows - y) ** 2
        shift += np.exp(-0.5 * squared / spread**2)[..., None] * height.astype(np.float32)
    return shift


def _least_area(shift: np.ndarray, shape: tuple[int, ...]) -> float:
    """The least share of its area that a patch of a face of that shape comes from."""
    rows, columns = shift.shape[:2]
    dy, dx = np.gradient(shift, shape[0] / rows, shape[1] / columns, axis=(0, 1))
    area = (1 - dx[..., 0]) * (1 - dy[..., 1]) - dx[..., 1] * dy[..., 0]
    return float(area.min())

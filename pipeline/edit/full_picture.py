"""The uploaded drawing with a drag in it, by the way that suits it.

`drawing`: its own pixels, moved as the model's face moved, and the model's where no motion explains
what came of the drag. `drawn`: the handles' ways carried out on the drawing itself, no model.
`face`: the model's face, pasted. `auto` takes `drawing` where the model moved what was dragged, and
`drawn` where it did not, or broke: what moves is seen again elsewhere, in colours that were near
already, while a small model off the paths that it knows smears, flares, fades and tints. Little of
a mood is motion (a mouth opens, an eye shuts); there the face reader says whether the landmarks
under the handles went along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from pipeline.data.align import CropTransform, change_mask, crop, paste_back
from pipeline.data.face_reader import FaceReader, Reading
from pipeline.edit.carry import Motion, apply_motion, carry_over, measure_motion
from pipeline.edit.drawn_drag import draw_drag
from pipeline.edit.likely_landmarks import held
from pipeline.edit.own_face import at_width, kept_part, own_face, put_back
from pipeline.edit.recipe import Move
from pipeline.edit.sharpening import crisp

# Share of a change that may be new colours. True paintings of moods and turned heads stay below
# 0.015, faces that broke lie above 0.03 (27 drags by two small models, 29 November 2026).
MOST_NEW = 0.025
# Share of a change that must be motion, and of the handles' way that the motion must have carried
# them. Drags that smeared have 0.06 to 0.40 of the first (40 drags of inverted drawings, real and
# painted, on the 128-px starter, 29 November 2026), true paintings of turned heads 0.5 and more.
LEAST_MOTION, LEAST_CARRIED = 0.45, 0.25
# ... Or else, of a mood: the share of the handles' way that the face reader must see the landmarks
# under them go in the finished drawing. True paintings of moods have 0.65 to 0.94 (15, of which
# `drawing` comes three times as near to the truth as `drawn`); drags that smeared without new
# colours have 0.47 at most (13 of inverted drawings on small models, 29 November 2026).
LEAST_READ = 0.55
# A film of the drawing on its way: the side of its views, and their number.
VIEW_SIDE, FILM_FRAMES = 512, 12
# How far around a colour counts as near, of the face's side.
_NEAR = 0.06


@dataclass(frozen=True, eq=False)
class Dragged:
    """A drag of a drawing's face.

    Attributes:
        source: the drawing, H × W × 3 uint8; transform: where the face lies in it.
        before, after: the model's face, h × w × 3 uint8 each.
        acts: what was dragged together, one after the other: handles in pixels of that face, and
            where each was brought. Empty: it was no drag, so `drawn` has nothing to carry out.
        mask: h × w uint8, 255 keeps; None: everything may change.
    """

    source: np.ndarray
    transform: CropTransform
    before: np.ndarray
    after: np.ndarray
    acts: Sequence[Sequence[Move]]
    mask: np.ndarray | None


def full_picture(dragged: Dragged, paste: str) -> tuple[np.ndarray, dict[str, Any]]:
    """The drawing with the drag in it (H × W × 3 uint8), and how that was made.

    paste: auto | drawing | drawn | face.
    """
    if paste == "face":
        return _pasted(dragged), {"from": "face"}
    if paste == "drawn":
        return _drawn(dragged), {"from": "drawn"}
    # What the mask keeps stays the artist's own pixels.
    keep = None if dragged.mask is None else dragged.mask.astype(np.float32) / 255
    full, motion = carry_over(
        dragged.source, dragged.before, dragged.after, dragged.transform, keep
    )
    new, gone = new_colours(dragged.before, dragged.after), carried(motion, dragged)
    about = {
        "explained_by_motion": round(motion.explained, 4),
        "carried_share": round(gone, 4),
        "repainted_share": round(float(motion.repaint.mean()), 4),
        "new_colours": round(new, 4),
    }
    moved = new <= MOST_NEW and motion.explained >= LEAST_MOTION and gone >= LEAST_CARRIED
    if paste == "auto" and dragged.acts and not moved:
        read = read_share(dragged, full) if new <= MOST_NEW else None
        if read is not None:
            about["read_share"] = round(read, 4)
        if read is None or read < LEAST_READ:
            return _drawn(dragged), {"from": "drawn", **about}
    return full, {"from": "drawing", **about}


def views_between(dragged: Dragged, way: str, count: int) -> list[np.ndarray]:
    """`count` views (h × VIEW_SIDE × 3 uint8) of the drawing's face, from as it was to as it is.

    way: `drawing` or `drawn`, how the full picture was made. Slower at both ends (3t² - 2t³).
    """
    face = at_width(own_face(dragged.source, dragged.transform), VIEW_SIDE)
    steps = np.linspace(0, 1, count)
    shares = (steps * steps * (3 - 2 * steps)).tolist()
    if way != "drawing":
        reading = FaceReader.shipped().read(face)
        parts = [replace(dragged, acts=_part(dragged.acts, t)) for t in shares]
        return [_acted(face, part, reading) for part in parts]
    height, width = face.shape[:2]
    whole = CropTransform(width / 2, height / 2, width, height)
    before, after = dragged.before, dragged.after
    keep = None if dragged.mask is None else dragged.mask.astype(np.float32) / 255
    motion = measure_motion(before, after, crop(face, whole, before.shape[1]), keep)
    motions = [Motion(t * motion.flow, t * motion.repaint, motion.explained) for t in shares]
    sharp = crisp(after)
    return [apply_motion(face, sharp, whole, part) for part in motions]


def _part(acts: Sequence[Sequence[Move]], share: float) -> list[list[Move]]:
    """That share of all acts' ways, one act after the other."""
    done = share * len(acts)
    parts = []
    for number, act in enumerate(acts):
        t = min(max(done - number, 0.0), 1.0)
        if t > 0:
            parts.append([replace(move, target=_between(move, t)) for move in act])
    return parts


def _between(move: Move, t: float) -> tuple[float, float]:
    (x, y), (u, v) = move.start, move.target
    return x + t * (u - x), y + t * (v - y)


def new_colours(before: np.ndarray, after: np.ndarray) -> float:
    """Share of the change between two faces (h × w × 3 uint8) that lies outside the range of the
    colours nearby: 0 to 1, 0 where nothing changed."""
    side = 2 * max(1, round(_NEAR * before.shape[1])) + 1
    near = np.ones((side, side), np.uint8)
    lowest, highest = cv2.erode(before, near), cv2.dilate(before, near)
    was, now = before.astype(np.float32), after.astype(np.float32)
    outside = np.maximum(now - highest, lowest - now).clip(0).max(axis=2)
    return float(outside.sum() / max(float(np.abs(now - was).max(axis=2).sum()), 1e-9))


def carried(motion: Motion, dragged: Dragged) -> float:
    """How much of the handles' way, of what was dragged last, the motion went (0: they stayed, 1:
    they arrived). A handle that was to stay says nothing."""
    height, width = motion.flow.shape[:2]
    across, down = width / dragged.before.shape[1], height / dragged.before.shape[0]
    gone = asked = 0.0
    for move in dragged.acts[-1] if dragged.acts else ():
        way = np.subtract(move.target, move.start) * (across, down)
        length = float(np.linalg.norm(way))
        x, y = move.target[0] * across - 0.5, move.target[1] * down - 0.5
        column, row = (int(np.clip(round(v), 0, n - 1)) for v, n in ((x, width), (y, height)))
        # The flow says where each place came from.
        came = -motion.flow[row, column] * (width, height)
        gone += float(came @ way) / max(length, 1e-9)
        asked += length
    return gone / asked if asked else 1.0


def read_share(dragged: Dragged, full: np.ndarray) -> float | None:
    """How much of the handles' way the landmarks that they hold went in the finished drawing (H × W
    × 3 uint8), as the face reader finds them: 1 where they arrived, 0 and less where they came no
    nearer. None where a handle holds none, or no face can be read."""
    reader = FaceReader.shipped()
    before, after = (
        reader.read(crop(picture, dragged.transform, VIEW_SIDE))
        for picture in (dragged.source, full)
    )
    scale = VIEW_SIDE / dragged.before.shape[1]
    moves = [_scaled(move, scale) for move in _whole_ways(dragged.acts)]
    shares = held(before.landmarks, moves)
    sure = before.confident and after.confident
    if not sure or not moves or not shares.any(axis=1).all():
        return None
    ways = np.array([np.subtract(move.target, move.start) for move in moves])
    missed = ways - shares @ (after.landmarks - before.landmarks)
    length = np.linalg.norm(ways, axis=1).sum()
    return 1.0 - float(np.linalg.norm(missed, axis=1).sum() / length)


def _whole_ways(acts: Sequence[Sequence[Move]]) -> list[Move]:
    """Where each handle went in all acts together; one that was to stay is left out."""
    whole: list[Move] = []
    for move in (move for act in acts for move in act):
        earlier = next((one for one in whole if one.target == move.start), None)
        if earlier is not None:
            whole.remove(earlier)
            move = replace(earlier, target=move.target)
        whole.append(move)
    return [move for move in whole if move.start != move.target]


def _pasted(dragged: Dragged) -> np.ndarray:
    changed = change_mask(dragged.before, dragged.after)
    if dragged.mask is not None:
        changed = changed * (1 - dragged.mask.astype(np.float32) / 255)
    return paste_back(dragged.source, dragged.after, dragged.transform, changed)


def _drawn(dragged: Dragged) -> np.ndarray:
    own = own_face(dragged.source, dragged.transform)
    return put_back(dragged.source, dragged.transform, own, _acted(own, dragged))


def _acted(face: np.ndarray, dragged: Dragged, reading: Reading | None = None) -> np.ndarray:
    """The drawing's face (S × S × 3 uint8), dragged; reading: what was read of it already."""
    scale = face.shape[1] / dragged.before.shape[1]
    # A mask holds more than the border, which must be at rest in any case: no seam shows there.
    keep = np.maximum(kept_part(None, face.shape), kept_part(dragged.mask, face.shape))
    reader = FaceReader.shipped()
    for act in dragged.acts:
        reading = reader.read(face) if reading is None else reading
        moves = [_scaled(move, scale) for move in act]
        face = draw_drag(face, reading if reading.confident else None, moves, keep)
        reading = None  # that was of the face before this act
    return face


def _scaled(move: Move, by: float) -> Move:
    radius = None if move.radius is None else by * move.radius
    (x, y), (u, v) = move.start, move.target
    return Move((by * x, by * y), (by * u, by * v), radius)

"""Carries an edit over to the drawing itself: the drawing's own pixels move as the face moved.

A model paints softer than an artist, and at its own resolution. So the motion between the face
before and after the drag is measured (dense optical flow), and the drawing is warped by it: its
lines stay as sharp as they were drawn. Only where no motion explains what the drag made (a mouth
that opened), the model's own pixels are taken, enlarged and sharpened. Knows pictures and crops;
nothing of networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.data.align import CropTransform, area_of, change_mask, crop, into_picture, seam_weight
from pipeline.edit.sharpening import crisp

# The flow is measured on faces enlarged to at least this side, in pixels.
_FLOW_SIDE = 256
# Shares of the face's side: how far a motion reaches into flat areas, and beyond what changed.
_SPREAD = 0.02
_REACH = 0.08
# Pixels of the face's frame in which forward and backward flow may differ and still agree.
_AGREEMENT_PX = 1.5
# Least share of its area that a patch may keep when it is moved: below it, lines would fold.
LEAST_AREA = 0.15
# Grey levels (of 255) that motion may leave unexplained before the model's pixels are taken.
_LEAST_UNEXPLAINED = 32.0
# Share of that at which a part that must be repainted ends, and how far from its surest pixels (a
# share of the face's side).
_PART_EDGE = 0.25
_PART_REACH = 0.06
# Displacements below this many picture pixels leave a pixel as it is.
_STILL_PX = 0.03


@dataclass(frozen=True, eq=False)
class Motion:
    """What a drag did to a face, h x w over its frame.

    `flow`: h x w x 2 float32, where each pixel came from, as fractions of the frame's width and
    height; `repaint`: h x w float32 in [0, 1], where the model's pixels must be taken;
    `explained`: share of the change that the motion alone accounts for, 0 to 1.
    """

    flow: np.ndarray
    repaint: np.ndarray
    explained: float


def carry_over(
    drawing: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    transform: CropTransform,
    keep: np.ndarray | None = None,
) -> tuple[np.ndarray, Motion]:
    """The drawing with the edit carried out on its own pixels.

    Args:
        drawing: the uploaded picture, H x W x 3 uint8.
        before, after: the model's face before and after the drag, h x w x 3 uint8.
        transform: where the face lies in the drawing.
        keep: h x w float in [0, 1], 1 where nothing may change; None: everything may.

    Returns:
        The new picture (H x W x 3 uint8; pixels that neither moved nor were repainted equal the
        drawing's bit for bit, all those outside the crop among them), and the motion.
    """
    motion = measure_motion(before, after, crop(drawing, transform, before.shape[1]), keep)
    return apply_motion(drawing, crisp(after), transform, motion), motion


def apply_motion(
    drawing: np.ndarray, after: np.ndarray, transform: CropTransform, motion: Motion
) -> np.ndarray:
    """The drawing moved by a motion of its face, repainted from `after` (of any size) where that
    says so."""
    result = drawing.copy()
    area = area_of(drawing, transform)
    if area is None:
        return result
    x0, y0, x1, y1 = area
    seam = seam_weight(transform, area)
    fractions = into_picture(motion.flow, transform, area) * seam[..., None]
    # From fractions of the turned frame to pixels of the upright picture.
    flow = transform.inverse(fractions + 0.5) - transform.inverse(np.array([0.5, 0.5]))
    columns, rows = np.meshgrid(np.arange(x1 - x0), np.arange(y1 - y0))
    moved = cv2.remap(
        np.ascontiguousarray(drawing[y0:y1, x0:x1]),
        (columns + flow[..., 0]).astype(np.float32),
        (rows + flow[..., 1]).astype(np.float32),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT,
    ).astype(np.float32)
    weight = into_picture(motion.repaint, transform, area) * seam
    face = into_picture(after, transform, area).astype(np.float32)
    painted = np.clip(np.rint(moved + weight[..., None] * (face - moved)), 0, 255).astype(np.uint8)
    touched = (np.abs(flow).max(axis=2) > _STILL_PX) | (weight > 0)
    result[y0:y1, x0:x1][touched] = painted[touched]
    return result


def measure_motion(
    before: np.ndarray,
    after: np.ndarray,
    drawn: np.ndarray,
    keep: np.ndarray | None = None,
    known: np.ndarray | None = None,
) -> Motion:
    """How the face moved between two pictures of it, and what is no motion.

    Dense inverse search flow (Kroeger et al. 2016) both ways; where the two disagree or there is
    nothing to see, the neighbours' motion is taken (normalised convolution, Knutsson & Westin
    1993). It fades to nothing around what changed, and is smoothed until no patch folds over.

    Args:
        before, after: h x w x 3 uint8.
        drawn: the drawing's own face in the same frame, h x w x 3 uint8: where the model's
            `before` is far from it, the model's pixels are not trusted with repainting.
        keep: h x w float in [0, 1], 1 where nothing may move.
        known: h x w x 2, where each pixel came from, as fractions, where that is known (from
            landmarks); None: it is measured.
    """
    factor = max(1, -(-_FLOW_SIDE // min(before.shape[:2])))
    large_before, large_after = _enlarged(before, factor), _enlarged(after, factor)
    side = min(large_before.shape[:2])
    fading = change_mask(large_before, large_after, grow=_REACH)
    fading = cv2.GaussianBlur(fading, (0, 0), _SPREAD * side) * fading
    if keep is not None:
        held = cv2.resize(keep.astype(np.float32), fading.shape[::-1])
        fading = fading * (1.0 - cv2.GaussianBlur(held, (0, 0), _SPREAD * side))
    if known is None:
        raw, trust = _flow(large_after, large_before, factor)
    else:
        raw = cv2.resize(known.astype(np.float32), fading.shape[::-1]) * fading.shape[::-1]
        trust, fading = np.ones_like(fading), _held(fading.shape, keep, side)
    flow = _unfolded(raw, trust, fading, _SPREAD * side)
    moved = _warped(large_before, flow)
    difference = _levels(large_after, large_before)
    left = _levels(large_after, moved)
    explained = 1.0 - float((left * fading).sum()) / max(float((difference * fading).sum()), 1e-9)
    doubt = _levels(_enlarged(drawn, factor), large_before)
    repaint = _repaint(left, doubt, fading) * fading
    return Motion(
        flow / np.array(flow.shape[1::-1], np.float32),
        np.where(repaint < 1 / 255, 0, repaint).astype(np.float32),
        float(np.clip(explained, 0.0, 1.0)) if difference.any() else 1.0,
    )


def _held(shape: tuple[int, ...], keep: np.ndarray | None, side: int) -> np.ndarray:
    """H x W in [0, 1]: 1 where a known motion acts, fading to 0 where nothing may move."""
    free = np.ones(shape, np.float32)
    if keep is not None:
        free -= cv2.resize(keep.astype(np.float32), shape[::-1])
    return cv2.GaussianBlur(free, (0, 0), 0.5 * _SPREAD * side) * free


def _enlarged(picture: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return picture
    size = (picture.shape[1] * factor, picture.shape[0] * factor)
    return cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)


def _flow(to: np.ndarray, source: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of `to` lies in `source` (H x W x 2), and how far that is to be trusted."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # Nothing finer than the model's own pixels; patches wide enough for an eye's outline.
    search.setFinestScale(max(1, factor.bit_length() - 1))
    search.setPatchSize(16)
    search.setPatchStride(4)
    grey_to, grey_source = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (to, source))
    still = np.zeros((*grey_to.shape, 2), np.float32)
    back = search.calc(grey_to, grey_source, still.copy())
    forth = search.calc(grey_source, grey_to, still.copy())
    columns, rows = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in grey_to.shape[::-1]))
    round_trip = back + cv2.remap(
        forth, columns + back[..., 0], rows + back[..., 1], cv2.INTER_LINEAR
    )
    agreement = np.exp(-((np.linalg.norm(round_trip, axis=2) / (_AGREEMENT_PX * factor)) ** 2))
    blurred = cv2.GaussianBlur(grey_to, (0, 0), 0.5 * factor + 0.5).astype(np.float32)
    slope = np.hypot(cv2.Sobel(blurred, cv2.CV_32F, 1, 0), cv2.Sobel(blurred, cv2.CV_32F, 0, 1))
    return back, (agreement * (0.02 + np.minimum(slope / 64.0, 1.0))).astype(np.float32)


def _unfolded(flow: np.ndarray, trust: np.ndarray, fading: np.ndarray, sigma: float) -> np.ndarray:
    """The flow, spread from where it is trusted, faded, and smooth enough not to fold."""
    while True:
        total = cv2.GaussianBlur(trust, (0, 0), sigma) + 1e-6
        spread = cv2.GaussianBlur(flow * trust[..., None], (0, 0), sigma) / total[..., None]
        result = spread * cv2.GaussianBlur(fading, (0, 0), sigma / 2)[..., None]
        dy, dx = np.gradient(result, axis=(0, 1))
        area = (1 + dx[..., 0]) * (1 + dy[..., 1]) - dx[..., 1] * dy[..., 0]
        if area.min() > LEAST_AREA or sigma > min(flow.shape[:2]) / 4:
            return result.astype(np.float32)
        sigma *= 1.4


def _warped(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    columns, rows = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in flow.shape[1::-1]))
    return cv2.remap(
        picture,
        columns + flow[..., 0],
        rows + flow[..., 1],
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT,
    )


def _levels(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean absolute difference over the colours, H x W, in grey levels."""
    return np.abs(a.astype(np.float32) - b.astype(np.float32)).mean(axis=2)


def _repaint(left: np.ndarray, doubt: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """H x W in [0, 1]: where what motion leaves unexplained is more than noise.

    Noise is what remains over most of the face, and what the model had wrong before any drag. A
    part that is surely more (an open mouth) is taken whole, out to where it fades into noise.
    """
    side = min(left.shape)
    if not changed.any():
        return np.zeros_like(left)
    sigma = 0.008 * side
    # A model that misses the drawing everywhere is not asked to paint on it at all.
    noise = 4.0 * np.median(left[changed > 0]) + 2.0 * np.average(doubt, weights=changed)
    left, doubt = cv2.GaussianBlur(left, (0, 0), sigma), cv2.GaussianBlur(doubt, (0, 0), 3 * sigma)
    ratio = left / (np.maximum(_LEAST_UNEXPLAINED, noise) + doubt)
    core = (ratio > 1.0).astype(np.uint8)
    near = cv2.dilate(core, _disc(_PART_REACH * side)) & (ratio > _PART_EDGE)
    _, parts = cv2.connectedComponents(near.astype(np.uint8))
    whole = np.isin(parts, np.unique(parts[core > 0]))
    reach = _SPREAD * side / 2
    part = cv2.dilate((whole & (parts > 0)).astype(np.float32), _disc(reach))
    return cv2.GaussianBlur(part, (0, 0), reach / 1.5)


def _disc(radius: float) -> np.ndarray:
    side = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))

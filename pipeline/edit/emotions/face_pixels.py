"""Which pixels of a face are a part's, which skin and which hair; parts taken away, skin left.

Knows nothing about emotions.
"""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.data import landmarks as lm
from pipeline.data.landmarks import Points

# Shares of the face's width: how far lashes reach beyond an eye's landmarks, lips beyond a mouth's.
_LASHES, _LIPS = 0.075, 0.035
# How far around a part its place is looked at: four deviations of the spread skin.
_AROUND = 0.26
# How far beyond an eye's landmarks the broadest lashes reach.
_BROADEST = 0.14
# Side of the largest thing that is taken for a scrap of an eye, of the face's width.
_SCRAP = 0.06

Colour = tuple[int, int, int]


def eye_alone(face: np.ndarray, points: Points, part: str, width: float) -> np.ndarray:
    """H × W uint8: 255 where a pixel belongs to the eye or its lashes, not to skin or hair."""
    place = hull(points, part, _LASHES * width, face.shape)
    for brow in ("left_brow", "right_brow"):
        place[hull(points, brow, 0.02 * width, face.shape) > 0] = 0
    near = np.abs(face.astype(np.float32) - skin_colour(face, points)).max(axis=2) < 34
    place[_hair(face, points, part, place, near, width) | near] = 0
    # Between the lids everything is the eye's, also what has the skin's colour; further out only
    # what hangs together with it: scraps of locks and of a crease would look like dirt.
    inside = hull(points, part, 0, face.shape) > 0
    place[inside] = 255
    _, pieces = cv2.connectedComponents(place, connectivity=8)
    place[~np.isin(pieces, np.unique(pieces[inside]))] = 0
    return place


def hull(points: Points, part: str, reach: float, shape: tuple[int, ...]) -> np.ndarray:
    """H × W uint8: 255 on the part and around it."""
    filled = np.zeros(shape[:2], np.uint8)
    outline = np.rint(cv2.convexHull(points[lm.PARTS[part]].astype(np.float32)) * 16 - 8)
    cv2.fillConvexPoly(filled, outline.astype(np.int32), 255, cv2.LINE_8, 4)
    side = 2 * max(1, round(reach)) + 1
    return cv2.dilate(filled, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))


def skin_colour(face: np.ndarray, points: Points) -> np.ndarray:
    """3 float: the median colour of both cheeks and of the skin between mouth and chin."""
    chin, mouth = points[lm.INDEX["chin"]], points[lm.MOUTH].mean(axis=0)
    nose = points[lm.NOSE][0]
    places = [0.55 * mouth + 0.45 * chin]
    for corner, cheek in ((0, 0), (2, 4)):
        places.append(0.5 * points[lm.MOUTH][corner] + 0.5 * points[lm.CONTOUR][cheek])
        places.append(0.6 * nose + 0.4 * points[lm.CONTOUR][cheek])
    reach = max(1, round(0.02 * lm.face_width(points)))
    samples = []
    for x, y in places:
        column, row = round(float(x)), round(float(y))
        patch = face[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach]
        samples.append(patch.reshape(-1, 3))
    colours = np.concatenate(samples)
    return np.median(colours, axis=0) if len(colours) else np.array([255.0, 224.0, 208.0])


def painted_over(face: np.ndarray, points: Points, part: str, width: float) -> np.ndarray:
    """The face with skin in the part's place; only what lies around it is looked at."""
    room = _AROUND * width
    low = np.floor(points[lm.PARTS[part]].min(axis=0) - room).astype(int).clip(0)
    high = np.ceil(points[lm.PARTS[part]].max(axis=0) + room).astype(int).clip(0)
    place = np.s_[low[1] : high[1], low[0] : high[0]]
    if not face[place].size:
        return face
    painted = face.copy()
    skin = skin_colour(face, points)
    painted[place] = _skin_spread(face[place], points - low, part, width, skin)
    return painted


def _skin_spread(
    face: np.ndarray, points: Points, part: str, width: float, skin: np.ndarray
) -> np.ndarray:
    """A piece of the face with the skin that is around the part spread inwards (normalised
    convolution, Knutsson & Westin 1993)."""
    reach = (_LIPS if part == "mouth" else _LASHES) * width
    hole = hull(points, part, reach, face.shape)
    for brow in ("left_brow", "right_brow"):
        hole[hull(points, brow, 0.02 * width, face.shape) > 0] = 0
    near = np.abs(face.astype(np.float32) - skin).max(axis=2) < 34
    if part != "mouth":
        hole[_hair(face, points, part, hole, near, width)] = 0
        hole[_thick_lash(face, points, part, hole, near, width)] = 255
        hole[_scraps(points, hole, near, width)] = 255
    else:
        hole[_cut_off(hole, near, width)] = 255
    trust = (near & (hole == 0)).astype(np.float32)
    blurred = face.astype(np.float32) * trust[..., None]
    sigma = 0.06 * width
    total = cv2.GaussianBlur(trust, (0, 0), sigma)
    spread = cv2.GaussianBlur(blurred, (0, 0), sigma) + 1e-3 * skin.astype(np.float32)
    filling = spread / (total + 1e-3)[..., None]
    soft = cv2.GaussianBlur(hole.astype(np.float32) / 255, (0, 0), max(0.6, 0.006 * width))
    # Outside the hole only skin is softened into it: hair and brows keep their borders.
    soft = np.where(hole > 0, 1.0, soft * near)[..., None]
    mixed = face + soft * (filling - face)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _hair(
    face: np.ndarray,
    points: Points,
    part: str,
    hole: np.ndarray,
    skin: np.ndarray,
    width: float,
) -> np.ndarray:
    """H × W bool: hair that hangs into an eye's place, which is to stay. It has one of the colours
    that, beside skin, lie around the place, and is no lash: lighter than those, or further out."""
    size = 2 * max(1, round(0.07 * width)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    around = (cv2.dilate(hole, kernel) > 0) & (hole == 0) & ~skin
    for brow in ("left_brow", "right_brow"):
        around &= hull(points, brow, 0.02 * width, face.shape) == 0
    colours = face[around].astype(np.float32)
    if len(colours) < 40:
        return np.zeros(hole.shape, bool)
    criteria = (cv2.TERM_CRITERIA_MAX_ITER, 12, 0.0)
    cv2.setRNGSeed(1)
    _, labels, centres = cv2.kmeans(
        colours, 3, np.zeros(0, np.int32), criteria, 1, cv2.KMEANS_PP_CENTERS
    )
    shares = np.bincount(labels.ravel(), minlength=3) / len(colours)
    pixels = face.astype(np.float32)
    like = np.zeros(hole.shape, bool)
    for centre, share in zip(centres, shares, strict=True):
        if share > 0.15:
            like |= np.abs(pixels - centre).max(axis=2) < 26
    ink = sum(darkest(face, points, part, width)) / 3
    lighter = pixels.mean(axis=2) > ink + 36
    near_eye = hull(points, part, 0.015 * width, face.shape) > 0
    near_lashes = hull(points, part, 0.05 * width, face.shape) > 0
    kept = (like & ~skin & ~near_eye & (lighter | ~near_lashes)).astype(np.uint8)
    # Locks, not the soft borders of lines: wide enough, and coming in from outside.
    side = 2 * max(1, round(0.008 * width)) + 1
    wide = cv2.morphologyEx(
        kept, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    )
    edge = (cv2.erode(hole, np.ones((5, 5), np.uint8)) == 0) & (hole > 0)
    _, parts = cv2.connectedComponents(np.where(hole > 0, wide, 0).astype(np.uint8))
    coming_in = np.unique(parts[edge & (parts > 0)])
    locks = np.isin(parts, coming_in[coming_in > 0]).astype(np.uint8)
    # With the line around them.
    grown = cv2.dilate(locks, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    found = (grown > 0) & ~skin & ~near_eye
    # A lock's border is a line, not the steps of pixels.
    smooth: np.ndarray = cv2.GaussianBlur(found.astype(np.float32), (0, 0), 0.008 * width) > 0.5
    return smooth & ~near_eye


def _thick_lash(
    face: np.ndarray,
    points: Points,
    part: str,
    hole: np.ndarray,
    skin: np.ndarray,
    width: float,
) -> np.ndarray:
    """H × W bool: what reaches beyond an eye's hole of a lash that is broader than lashes mostly
    are. It hangs together with the eye, is as dark as its lines, and broader than a lock's line;
    what goes on further out is dark hair."""
    ink = sum(darkest(face, points, part, width)) / 3
    dark = (face.mean(axis=2) < ink + 30) & ~skin
    near_eye = hull(points, part, _BROADEST * width, face.shape) > 0
    for brow in ("left_brow", "right_brow"):
        dark &= hull(points, brow, 0.02 * width, face.shape) == 0
    side = 2 * max(1, round(0.011 * width)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    bands = cv2.morphologyEx(dark.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    _, parts = cv2.connectedComponents(bands)
    of_eye = np.setdiff1d(parts[hole > 0], parts[~near_eye])
    lash = np.isin(parts, of_eye[of_eye > 0]).astype(np.uint8)
    # With its soft border.
    grown: np.ndarray = cv2.dilate(lash, kernel) > 0
    return grown & ~skin & (hole == 0)


def _cut_off(hole: np.ndarray, skin: np.ndarray, width: float) -> np.ndarray:
    """H × W bool: what would be left of a mouth's lines beside its hole: small things that are no
    skin, and go on inside. A mole or a nose beside it does not."""
    rest = (~skin & (hole == 0)).astype(np.uint8)
    _, parts, found, _ = cv2.connectedComponentsWithStats(rest)
    goes_on = cv2.dilate(np.where(skin, 0, hole), np.ones((3, 3), np.uint8)) > 0
    touching = np.bincount(parts[goes_on], minlength=len(found)) > 0
    left = touching & (found[:, cv2.CC_STAT_AREA] < (_SCRAP * width) ** 2)
    left[0] = False
    size = 2 * max(1, round(0.006 * width)) + 1
    grown = cv2.dilate(left[parts].astype(np.uint8), np.ones((size, size), np.uint8))
    found_left: np.ndarray = (grown > 0) & ((rest == 0) | left[parts])
    return found_left


def _scraps(points: Points, hole: np.ndarray, skin: np.ndarray, width: float) -> np.ndarray:
    """H × W bool: what would be left of an eye beside its hole: tips of lashes, ends of creases.
    Small things that are no skin, lie along the hole, and are no brow."""
    rest = (~skin & (hole == 0)).astype(np.uint8)
    side = 2 * max(1, round(0.025 * width)) + 1
    beside = (cv2.dilate(hole, np.ones((side, side), np.uint8)) > 0) & (rest > 0)
    _, parts, found, _ = cv2.connectedComponentsWithStats(rest)
    brows = np.zeros(hole.shape, bool)
    for brow in ("left_brow", "right_brow"):
        brows |= hull(points, brow, 0.005 * width, hole.shape) > 0
    on_brow = np.bincount(parts[brows], minlength=len(found))
    areas = found[:, cv2.CC_STAT_AREA]
    along = np.bincount(parts[beside], minlength=len(found))
    scraps = (areas < (_SCRAP * width) ** 2) & (along > 0.6 * areas) & (on_brow < 0.3 * areas)
    scraps[0] = False
    size = 2 * max(1, round(0.006 * width)) + 1
    grown = cv2.dilate(scraps[parts].astype(np.uint8), np.ones((size, size), np.uint8))
    found_scraps: np.ndarray = (grown > 0) & ((rest == 0) | scraps[parts])
    return found_scraps


def darkest(face: np.ndarray, points: Points, part: str, width: float) -> Colour:
    """The colour of the part's darkest lines."""
    inside = face[hull(points, part, 0.02 * width, face.shape) > 0].astype(np.float32)
    if not len(inside):
        return (60, 35, 40)
    light = inside.sum(axis=1)
    dark = inside[light <= np.quantile(light, 0.06)]
    red, green, blue = (round(float(v)) for v in np.median(dark, axis=0))
    return red, green, blue

"""Near-duplicates among faces: the same drawing saved twice, resized, recompressed, retouched.

Two faces are near-duplicates when both their structure (a 256-bit perceptual hash) and their
colours (a tiny thumbnail) agree; one character in two moods, or in two lights, is no duplicate. As
a copy's face may be measured, and so turned and cut, a little differently, the whole picture's
structure is a second witness: where it agrees closely, and the faces have the same place in it,
they may differ more.

Which one is kept depends on the faces alone, not on their order. Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

HASH_SIDE = 16  # frequencies each way: 256 bits
THUMB_SIDE = 12
# Difference of the thumbnails, in grey levels, up to which colours agree: in the mean, and in any
# one cell (an eye that is open in one and shut in the other changes a cell by 100).
THUMB_TOLERANCE = (10.0, 32.0)
# What crops may differ in where whole pictures agree (in half as many bits as crops have to): bits,
# grey levels, and distance of their places in widths of the face.
LOOSE_BITS, LOOSE_THUMB_TOLERANCE, LOOSE_PLACE = 110, (18.0, 80.0), 0.2
# Pairs compared at a time: bounds the memory.
BLOCK = 1024


@dataclass(frozen=True)
class Fingerprint:
    """What near-duplicates have in common."""

    bits: bytes  # of the face, 32 bytes
    thumb: bytes  # of the face, THUMB_SIDE x THUMB_SIDE x 3 uint8
    picture_bits: bytes  # of the picture that it was cut from, 32 bytes
    place: tuple[float, float, float]  # eyes x, y and face width, as shares of the picture's width

    def to_json(self) -> dict[str, Any]:
        """Plain values by field; bytes as hexadecimal text."""
        values = dict(vars(self))
        return {k: v.hex() if isinstance(v, bytes) else list(v) for k, v in values.items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Fingerprint:
        """The inverse of `to_json`."""
        return cls(
            bytes.fromhex(data["bits"]),
            bytes.fromhex(data["thumb"]),
            bytes.fromhex(data["picture_bits"]),
            tuple(data["place"]),
        )


def fingerprint(
    face: np.ndarray, picture: np.ndarray, eyes: tuple[float, float], face_width: float
) -> Fingerprint:
    """Fingerprint of a face crop, and of the picture that it was cut from (both H x W x 3 uint8)
    with its eyes' midpoint and width there, in px."""
    thumb = _reduced(face, THUMB_SIDE)
    width = picture.shape[1]
    place = (eyes[0] / width, eyes[1] / width, face_width / width)
    bits = _structure(face)
    # A picture that was taken as it is.
    picture_bits = bits if np.array_equal(face, picture) else _structure(picture)
    return Fingerprint(bits, thumb.tobytes(), picture_bits, place)


def _reduced(image: np.ndarray, side: int) -> Image.Image:
    """The picture at `side` x `side` px, each of which is the mean of what it covers."""
    # Halved by whole factors first: several times as fast, and the same but for rounding.
    return Image.fromarray(image).resize((side, side), Image.Resampling.BOX, reducing_gap=2.0)


def _structure(image: np.ndarray) -> bytes:
    """256 bits: the signs of the lowest frequencies (DCT of a 64 x 64 reduction) against their
    median, as in pHash, but four times as many."""
    grey = _reduced(image, 64).convert("L")
    low = cv2.dct(np.asarray(grey, np.float32))[:HASH_SIDE, :HASH_SIDE].ravel()
    return np.packbits(low > np.median(low[1:])).tobytes()  # the first is the mean brightness


def find_duplicates(
    prints: Sequence[Fingerprint], quality: Sequence[tuple], max_bits: int
) -> dict[int, int]:
    """Near-duplicates to drop: index -> index of the better one that is kept.

    Args:
        prints: one a face.
        quality: sort keys, best first in ascending order, all different: they decide who stays, so
            the result does not depend on the order of the faces.
        max_bits: Hamming distance up to which structures agree; -1 drops nothing.
    """
    if max_bits < 0 or len(prints) < 2:
        return {}
    order = sorted(range(len(prints)), key=lambda index: quality[index])
    ordered = [prints[index] for index in order]
    faces = _words([one.bits for one in ordered])
    pictures = _words([one.picture_bits for one in ordered])
    twins: dict[int, list[int]] = {}
    for start in range(0, len(order), BLOCK):
        block = slice(start, start + BLOCK)
        crops = _distances(faces[block], faces)
        alike = crops <= max_bits
        copies = (crops <= LOOSE_BITS) & (_distances(pictures[block], pictures) <= max_bits // 2)
        rows, others = np.nonzero(alike | copies)
        for row, other in zip(rows.tolist(), others.tolist(), strict=True):
            if other >= start + row:  # each pair once, the better one as `other`
                continue
            one, better = ordered[start + row], ordered[other]
            if (alike[row, other] and _colours_agree(one, better, THUMB_TOLERANCE)) or (
                copies[row, other]
                and _places_agree(one, better)
                and _colours_agree(one, better, LOOSE_THUMB_TOLERANCE)
            ):
                twins.setdefault(start + row, []).append(other)
    dropped: dict[int, int] = {}
    for row in sorted(twins):  # best first: whoever is kept by then is final
        keeper = next((other for other in twins[row] if other not in dropped), None)
        if keeper is not None:
            dropped[row] = keeper
    return {order[row]: order[keeper] for row, keeper in dropped.items()}


def _colours_agree(one: Fingerprint, other: Fingerprint, tolerance: tuple[float, float]) -> bool:
    first, second = (np.frombuffer(p.thumb, np.uint8).astype(np.int16) for p in (one, other))
    cells = np.abs(first - second).reshape(-1, 3).mean(axis=1)
    return bool(cells.mean() <= tolerance[0] and cells.max() <= tolerance[1])


def _places_agree(one: Fingerprint, other: Fingerprint) -> bool:
    distance = max(abs(a - b) for a, b in zip(one.place, other.place, strict=True))
    return distance <= LOOSE_PLACE * max(one.place[2], other.place[2])


def _words(bits: Sequence[bytes]) -> np.ndarray:
    """N x 4 uint64."""
    return np.frombuffer(b"".join(bits), np.uint64).reshape(len(bits), -1)


def _distances(some: np.ndarray, all_: np.ndarray) -> np.ndarray:
    """Hamming distances between rows of words, len(some) x len(all_) uint16."""
    total = np.zeros((len(some), len(all_)), np.uint16)
    for column in range(all_.shape[1]):
        total += np.bitwise_count(some[:, None, column] ^ all_[None, :, column])
    return total

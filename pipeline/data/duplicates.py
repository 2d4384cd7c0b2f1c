"""Near-duplicates among faces: the same drawing saved twice, resized, recompressed, retouched.

Two faces are near-duplicates when both their structure (a 256-bit perceptual hash) and their
colours (a tiny thumbnail) agree; one character in two moods, or in two lights, is no duplicate.
Which one is kept depends on the faces alone, not on their order. Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

HASH_SIDE = 16  # frequencies each way: 256 bits
THUMB_SIDE = 12
# Mean difference of the thumbnails, in grey levels, up to which colours agree.
THUMB_TOLERANCE = 10.0
# Pairs compared at a time: bounds the memory.
BLOCK = 1024


@dataclass(frozen=True)
class Fingerprint:
    """What near-duplicates have in common."""

    bits: bytes  # 32 bytes
    thumb: bytes  # THUMB_SIDE x THUMB_SIDE x 3 uint8

    def to_json(self) -> dict[str, str]:
        """Hexadecimal text by field."""
        return {"bits": self.bits.hex(), "thumb": self.thumb.hex()}

    @classmethod
    def from_json(cls, data: dict[str, str]) -> Fingerprint:
        """The inverse of `to_json`."""
        return cls(bytes.fromhex(data["bits"]), bytes.fromhex(data["thumb"]))


def fingerprint(image: np.ndarray) -> Fingerprint:
    """Fingerprint of a face crop (H x W x 3 uint8).

    Bits are the signs of the lowest frequencies (DCT of a 64 x 64 reduction) against their median,
    as in pHash, but four times as many.
    """
    picture = Image.fromarray(image)
    grey = picture.convert("L").resize((64, 64), Image.Resampling.BOX)
    low = cv2.dct(np.asarray(grey, np.float32))[:HASH_SIDE, :HASH_SIDE].ravel()
    bits = low > np.median(low[1:])  # the first is the mean brightness
    thumb = picture.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)
    return Fingerprint(np.packbits(bits).tobytes(), thumb.tobytes())


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
    bits = np.frombuffer(b"".join(prints[i].bits for i in order), np.uint64).reshape(len(order), -1)
    thumbs = np.frombuffer(b"".join(prints[i].thumb for i in order), np.uint8)
    colours = thumbs.reshape(len(order), -1).astype(np.float32)
    twins: dict[int, list[int]] = {}
    for start in range(0, len(order), BLOCK):
        block = bits[start : start + BLOCK]
        near = np.zeros((len(block), len(order)), np.uint16)
        for column in range(bits.shape[1]):
            near += np.bitwise_count(block[:, None, column] ^ bits[None, :, column])
        rows, others = np.nonzero(near <= max_bits)
        rows += start
        earlier = others < rows  # each pair once, the better one as `other`
        for row, other in zip(rows[earlier].tolist(), others[earlier].tolist(), strict=True):
            if np.abs(colours[row] - colours[other]).mean() <= THUMB_TOLERANCE:
                twins.setdefault(row, []).append(other)
    dropped: dict[int, int] = {}
    for row in sorted(twins):  # best first: whoever is kept by then is final
        keeper = next((other for other in twins[row] if other not in dropped), None)
        if keeper is not None:
            dropped[row] = keeper
    return {order[row]: order[keeper] for row, keeper in dropped.items()}

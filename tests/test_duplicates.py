"""Near-duplicates: copies are found, look-alikes are not, order does not matter."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.duplicates import (
    THUMB_TOLERANCE,
    Fingerprint,
    find_duplicates,
    fingerprint,
)
from pipeline.data.painter import EXPRESSIONS, character, paint_face, sample_face

BITS = 24  # the default of conf/stages/preprocess.yaml


def face(index: int) -> np.ndarray:
    return np.ascontiguousarray(sample_face(0, index, character_number=1, size=128).image)


def retouched(image: np.ndarray) -> list[np.ndarray]:
    """The same drawing saved badly, shrunk, a little brighter."""
    picture = Image.fromarray(image)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=45)
    small = picture.resize((70, 70)).resize((128, 128))
    brighter = np.clip(image.astype(int) + 5, 0, 255).astype(np.uint8)
    return [np.asarray(Image.open(stream)), np.asarray(small), brighter]


def whole(image: np.ndarray) -> Fingerprint:
    """Fingerprint of a picture that is a face."""
    return fingerprint(image, image, (64.0, 64.0), 64.0)


def drop(images: list[np.ndarray], bits: int = BITS) -> dict[int, int]:
    prints = [whole(image) for image in images]
    return find_duplicates(prints, [(index,) for index in range(len(images))], bits)


def test_retouched_copies_are_found() -> None:
    original = face(0)
    assert drop([original, *retouched(original)]) == {1: 0, 2: 0, 3: 0}


def test_moods_poses_and_colours_of_one_character_are_kept() -> None:
    images = [face(index) for index in range(40)]
    assert drop(images) == {}
    # Red and blue swapped; a face that is colourful enough for it to show.
    assert drop([images[2], images[2][:, :, ::-1]]) == {}


def test_a_wink_is_no_duplicate_of_closed_eyes() -> None:
    """One cell of the thumbnail tells them apart; everything else agrees."""
    shut = EXPRESSIONS["closed"]
    images = [
        paint_face(character(5), None, mood, size=128).image
        for mood in (shut, replace(shut, left_lid=1.0))
    ]
    prints = [whole(image) for image in images]
    structures = [np.unpackbits(np.frombuffer(one.bits, np.uint8)) for one in prints]
    bits = structures[0] != structures[1]
    thumbs = [np.frombuffer(one.thumb, np.uint8).astype(int) for one in prints]
    change = np.abs(thumbs[0] - thumbs[1])
    assert bits.sum() <= BITS
    assert change.mean() < THUMB_TOLERANCE[0]
    assert change.max() > THUMB_TOLERANCE[1]
    assert drop(images) == {}


def test_switched_off() -> None:
    assert drop([face(0), face(0)], bits=-1) == {}
    assert drop([face(0), face(0)], bits=0) == {1: 0}


def test_fingerprints_survive_json() -> None:
    one = whole(face(3))
    assert Fingerprint.from_json(one.to_json()) == one


@given(st.permutations(range(9)))
@settings(max_examples=30, deadline=None)
def test_order_does_not_matter(order: list[int]) -> None:
    images = _nine()
    prints = [whole(images[index]) for index in order]
    dropped = find_duplicates(prints, [(index,) for index in order], BITS)
    assert {order[a]: order[b] for a, b in dropped.items()} == {1: 0, 2: 0, 3: 0, 5: 4, 6: 4, 7: 4}


def _nine(cache: list[np.ndarray] = []) -> list[np.ndarray]:  # noqa: B006 (painted once)
    if not cache:
        for index in (0, 1):
            cache += [face(index), *retouched(face(index))]
        cache.append(face(2))
    return cache


def test_chains_are_not_swept_away_as_one() -> None:
    """A is like B and B like C, but A is not like C: dropping B leaves both A and C."""
    thumb = bytes(12 * 12 * 3)
    bits = [0, (1 << 20) - 1, (1 << 40) - 1]
    prints = [
        Fingerprint(value.to_bytes(32, "little"), thumb, bytes([index]) * 32, (0.0, 0.0, 1.0))
        for index, value in enumerate(bits)
    ]
    assert find_duplicates(prints, [(0,), (1,), (2,)], BITS) == {1: 0}


def test_a_copy_that_was_cut_a_little_differently_is_found() -> None:
    picture = face(0)
    wider = np.asarray(Image.fromarray(picture).resize((128, 128), box=(4, 4, 124, 124)))
    assert drop([picture, wider]) == {}
    quality = [(0,), (1,)]
    same = [whole(picture), fingerprint(wider, picture, (66.0, 62.0), 68.0)]
    assert find_duplicates(same, quality, BITS) == {1: 0}
    # Two faces of one picture are two faces, even if they look alike.
    two = [whole(picture), fingerprint(wider, picture, (20.0, 62.0), 68.0)]
    assert find_duplicates(two, quality, BITS) == {}

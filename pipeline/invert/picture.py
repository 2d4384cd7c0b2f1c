"""The uploaded picture: read, aligned as the training set was, ready for the model.

Knows nothing about latents. The crop transform leads back into the whole picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data import align
from pipeline.data.align import CropTransform
from pipeline.data.config import FramingConfig, PreprocessConfig
from pipeline.data.crop_rule import CropRule
from pipeline.data.pictures import PictureLimits, Rejected, decode, parse_colour
from pipeline.errors import DataError
from pipeline.invert.config import parse_crop

# What preprocess accepts, too; a picture of the largest size it decodes is smaller.
MAX_FILE_BYTES = 200 * 10**6


@dataclass(frozen=True)
class Prepared:
    """A picture ready to be inverted."""

    source: np.ndarray  # the whole picture, upright, H x W x 3 uint8
    aligned: np.ndarray  # the crop at the model's size, uint8
    transform: CropTransform  # where the crop lies in the source
    method: str  # "face", "none" or "hand"
    detector: str  # which found the face; "" else
    score: float  # how sure it was, 0 to 1; 0 where none did
    word: str  # what was done, for the user


def prepare(
    path: Path,
    width: int,
    height: int,
    how: str,
    rule: CropRule | None = None,
    by_hand: str | None = None,
) -> Prepared:
    """Read the image file and cut out what a model of width x height px is to draw.

    Args:
        how: "face" levels the face as preprocess does, "none" takes the middle of the picture,
            "auto" decides (see InvertConfig.align).
        rule: how the model's training images were framed; None: as preprocess does it unasked.
        by_hand: the crop, see `InvertConfig.crop`; it goes before `how`.

    DataError where the file is no picture, or has no face and `how` is "face".
    """
    rule = rule or default_rule()
    source = read(path, rule.background)
    if by_hand is not None:
        x, y, across, roll = parse_crop(by_hand)
        transform = CropTransform(x, y, across, across * height / width, roll)
        aligned = align.crop(source, transform, width)
        word = f"the face in {path.name} was placed by hand"
        return Prepared(source, aligned, transform, "hand", "", 0.0, word)
    size = (source.shape[1], source.shape[0])
    if how == "none" or (how == "auto" and size == (width, height)):
        why = "taken as it is" if size == (width, height) else "its middle taken"
        return _middle(source, width, height, f"{path.name} was {why}")
    return _face(path, source, (width, height), rule, required=how == "face")


def default_rule() -> CropRule:
    """How preprocess frames faces where nothing is said."""
    framing = FramingConfig()
    return CropRule(framing.face_widths, framing.eye_height, PreprocessConfig.background)


def read(path: Path, background: str = "#ffffff") -> np.ndarray:
    """The picture in an image file, upright, H x W x 3 uint8; DataError where there is none."""
    limits = PictureLimits(min_side_px=1, background=parse_colour(background))
    if path.is_dir():
        raise DataError(f"{path} is a folder; give one picture in it (a PNG, JPEG or WebP file).")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(
                f"{path} is larger than {MAX_FILE_BYTES // 10**6} MB; use a smaller copy."
            )
        return decode(path.read_bytes(), limits)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error
    except Rejected as reason:
        raise DataError(
            f"{path} cannot be inverted: {reason}; give one picture (a PNG, JPEG or WebP file)."
        ) from reason


def _face(
    path: Path, source: np.ndarray, size: tuple[int, int], rule: CropRule, required: bool
) -> Prepared:
    # The detectors load slowly; a picture taken as it is needs none.
    from pipeline.data import faces

    width, height = size
    found = faces.align_face(
        source,
        width,
        framing=faces.Framing(rule.face_widths, rule.eye_height, height / width),
    )
    face = found.face
    if face.detector != faces.WHOLE:
        word = f"the face in {path.name} was found by {face.detector} and levelled"
        score = float(face.score)
        return Prepared(source, found.image, found.transform, "face", face.detector, score, word)
    if required:
        raise DataError(
            f"No face was found in {path}; crop the picture to the face and use align=none."
        )
    word = f"no face was found in {path.name}, so its middle was taken"
    return _middle(source, width, height, word)


def _middle(source: np.ndarray, width: int, height: int, word: str) -> Prepared:
    """The largest upright crop of the model's proportions in the middle of the picture."""
    scale = min(source.shape[1] / width, source.shape[0] / height)
    transform = CropTransform(
        center_x=source.shape[1] / 2,
        center_y=source.shape[0] / 2,
        width=width * scale,
        height=height * scale,
    )
    aligned = align.crop(source, transform, width)
    return Prepared(source, aligned, transform, "none", "", 0.0, word)

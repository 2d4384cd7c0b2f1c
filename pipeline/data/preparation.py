"""One picture of a source to its aligned faces on disk: the part of preprocess that is done in
several processes, and can be interrupted at any moment.

Each item's result is a small JSON file, which is written last and in one step: where it is, the
item is finished. Knows nothing about the order of items or the dataset they end up in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.data import landmarks as lm
from pipeline.data.align import CropTransform, crop
from pipeline.data.config import PreprocessConfig
from pipeline.data.duplicates import fingerprint
from pipeline.data.faces import (
    EYE_DISTANCE,
    EYES_TO_CHIN,
    EYES_TO_MOUTH,
    WHOLE,
    Face,
    FaceFinder,
    Framing,
    whole_picture,
)
from pipeline.data.image_zip import encode_png
from pipeline.data.pictures import PictureLimits, Rejected, parse_colour
from pipeline.data.sources import Item, KnownFace, Picture
from pipeline.errors import AnimedragError

# How the reason begins where a picture met an error that nobody foresaw.
UNFORESEEN = "an unforeseen error"
# The mark of a face whose place the painter told.
PAINTER = "painter"
# Points across a crop at which it is measured how much of it lies outside the picture.
GRID = 32
# The painter's landmarks and animeface measure faces a little differently (medians over 50 painted
# faces): what landmarks give is brought in line, so that both are framed alike.
LANDMARK_WIDTH, LANDMARK_EYES_UP = 1.11, 0.035


@dataclass(frozen=True)
class Settings:
    """What of the configuration matters for one picture; sent to every process."""

    work: Path  # folder of the results
    width_px: int  # of the images
    framing: Framing
    every_face: bool
    detectors: tuple[str, ...]
    reader: bool
    whole_if_none: bool
    use_truth: bool
    min_face_px: int
    max_mirrored: float
    limits: PictureLimits
    max_bytes: int

    @classmethod
    def of(cls, config: PreprocessConfig, work: Path) -> Settings:
        """The settings that a configuration asks for; ConfigError for a colour that is none."""
        return cls(
            work=work,
            width_px=config.size[0],
            framing=Framing(config.framing.face_widths, config.framing.eye_height, config.aspect),
            every_face=config.faces == "all",
            detectors=tuple(config.detectors),
            reader=config.reader,
            whole_if_none=config.on_no_face == "whole",
            use_truth=config.source.truth,
            min_face_px=config.min_face_px,
            max_mirrored=config.max_mirrored,
            limits=PictureLimits(
                max_megapixels=config.max_megapixels,
                min_side_px=config.min_face_px,
                background=parse_colour(config.background),
            ),
            max_bytes=int(config.max_file_mb * 1e6),
        )


@dataclass(frozen=True)
class WorkerFactory:
    """Makes the worker of a process; unlike the worker it can be sent there."""

    settings: Settings
    own_process: bool

    def __call__(self) -> FaceWorker:
        if self.own_process:
            cv2.setNumThreads(1)  # the processes share the cores already
            # torch, which the face reader brings, reads this when it is imported.
            os.environ["OMP_NUM_THREADS"] = "1"
        return FaceWorker(self.settings)


class FaceWorker:
    """Finds and crops the faces of items, one after the other."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._finder: FaceFinder | None = None

    def work(self, item: Item) -> None:
        """Do one item, leaving its images and its result in the work folder."""
        try:
            result = self._result(item)
        except (AnimedragError, OSError):
            raise  # the settings' or the disk's fault, not the picture's
        except Exception as error:
            # One picture of thousands that a library stumbles over must not cost the others; the
            # detectors begin afresh, for what the error left of them is unknown.
            with contextlib.suppress(Exception):
                self.close()
            self._finder = None
            result = {"faces": [], "rejects": [_unforeseen(error)]}
        write_result(self.settings.work, item, result)

    def close(self) -> None:
        """Release the detectors."""
        if self._finder is not None:
            self._finder.close()
            self._finder = None

    def _result(self, item: Item) -> dict[str, Any]:
        settings = self.settings
        try:
            picture = item.read(settings.limits, settings.max_bytes)
        except Rejected as reason:
            return {"faces": [], "rejects": [str(reason)]}
        faces, rejects = [], []
        found = self._find(picture)
        for number, (face, transform) in enumerate(found):
            outside = share_outside(transform, picture.image)
            problem = self._problem(face, outside)
            if problem:
                rejects.append(problem if len(found) == 1 else f"face {number}: {problem}")
                continue
            image = crop(picture.image, transform, settings.width_px)
            png = image_path(settings.work, item, number)
            png.parent.mkdir(parents=True, exist_ok=True)
            png.write_bytes(_png(image, picture))
            record = {
                "face": number,
                **face.to_json(),
                "transform": transform.to_json(),
                "mirrored": round(outside, 4),
            }
            marks = fingerprint(image, picture.image, face.eyes, face.width)
            faces.append({"record": record, "fingerprint": marks.to_json()})
        if not found:
            rejects.append("no face found")
        height, width = picture.image.shape[:2]
        return {
            "sha256": picture.sha256,
            "size": [width, height],
            "faces": faces,
            "rejects": rejects,
        }

    def _find(self, picture: Picture) -> list[tuple[Face, CropTransform]]:
        """The faces to be cropped, best first, with their crops."""
        settings = self.settings
        if settings.use_truth and picture.known_faces is not None:
            faces = [known_face(known) for known in picture.known_faces]
        else:
            if self._finder is None:
                self._finder = FaceFinder(settings.detectors, read=settings.reader)
            faces = self._finder.find(picture.image, settings.every_face)
            faces = [_with_landmarks(face, picture.known_faces or ()) for face in faces]
        if not settings.every_face:
            faces = faces[:1]
        if not faces and settings.whole_if_none:
            return [whole_picture(picture.image, settings.framing)]
        return [(face, settings.framing.transform(face)) for face in faces]

    def _problem(self, face: Face, outside: float) -> str | None:
        """Why a face is of no use, if it is not; `outside`: see `share_outside`."""
        if face.detector != WHOLE and face.width < self.settings.min_face_px:
            return (
                f"face too small ({face.width:.0f} px wide; use a larger picture, or lower "
                f"preprocess.min_face_px={self.settings.min_face_px})"
            )
        if outside > self.settings.max_mirrored:
            return (
                f"face cut too tightly ({outside:.0%} of the crop is outside the picture, "
                f"max_mirrored={self.settings.max_mirrored:g})"
            )
        return None


def _unforeseen(error: Exception) -> str:
    """A reason for rejects.jsonl that says enough to report the error."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:160]
    place = f"{Path(last.filename).name} line {last.lineno}"
    return f"{UNFORESEEN} ({type(error).__name__}: {text}; {place})"


def _png(image: np.ndarray, picture: Picture) -> bytes:
    """PNG bytes of a crop: the file's own where the crop is the whole picture as it is."""
    if picture.png is not None and np.array_equal(image, picture.image):
        return picture.png
    return encode_png(image)


def share_outside(transform: CropTransform, image: np.ndarray) -> float:
    """Share of a crop's area that lies outside its picture."""
    limits = np.array([image.shape[1], image.shape[0]])
    corners = transform.corners()
    if (corners >= 0).all() and (corners <= limits).all():
        return 0.0
    steps = (np.arange(GRID) + 0.5) / GRID
    points = transform.inverse(np.stack(np.meshgrid(steps, steps), axis=-1))
    return float(((points < 0) | (points > limits)).any(axis=-1).mean())


def known_face(known: KnownFace) -> Face:
    """A face from its 28 landmarks, measured like a detected one."""
    points = known.landmarks
    left, right = lm.left_eye_centre(points), lm.right_eye_centre(points)
    eyes = lm.eyes_midpoint(points)
    across = (right - left) / np.linalg.norm(right - left)
    mouth, chin = points[lm.MOUTH].mean(axis=0), points[lm.INDEX["chin"]]
    width = float(
        np.median(
            [
                np.linalg.norm(right - left) / EYE_DISTANCE,
                np.linalg.norm(mouth - eyes) / EYES_TO_MOUTH,
                np.linalg.norm(chin - eyes) / EYES_TO_CHIN,
            ]
        )
    )
    width *= LANDMARK_WIDTH
    eyes = eyes - LANDMARK_EYES_UP * width * np.array([-across[1], across[0]])
    parts = dict(
        zip(("left_eye", "right_eye", "mouth", "chin"), (left, right, mouth, chin), strict=True)
    )
    return Face(
        box=lm.bounding_box(points),
        score=1.0,
        detector=PAINTER,
        eyes=(float(eyes[0]), float(eyes[1])),
        width=width,
        roll_degrees=lm.roll_degrees(points),
        parts={name: (float(point[0]), float(point[1])) for name, point in parts.items()},
        landmarks=points,
    )


def finished(work: Path, item: Item) -> bool:
    """Whether an item's result is there."""
    return _result_path(work, item).is_file()


def read_result(work: Path, item: Item) -> dict[str, Any]:
    """What `FaceWorker.work` found for an item."""
    result: dict[str, Any] = json.loads(_result_path(work, item).read_text(encoding="utf-8"))
    return result


def write_result(work: Path, item: Item, result: dict[str, Any]) -> None:
    """Write an item's result in one step, so that there is all of it or nothing."""
    path = _result_path(work, item)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.draft")
    draft.write_text(json.dumps(result), encoding="utf-8")
    draft.replace(path)


def image_path(work: Path, item: Item, number: int) -> Path:
    """Where the PNG of an item's face `number` lies."""
    return _result_path(work, item).with_suffix(f".{number}.png")


def _result_path(work: Path, item: Item) -> Path:
    # Names of items may be anything, so files are named by their hash; 256 folders keep each small.
    key = hashlib.sha256(item.name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return work / key[:2] / f"{key[2:]}.json"


def _with_landmarks(face: Face, known: Sequence[KnownFace]) -> Face:
    """The face with the source's landmarks, if the source knows one at its place."""
    for one in known:
        truth = known_face(one)
        if np.hypot(truth.eyes[0] - face.eyes[0], truth.eyes[1] - face.eyes[1]) < face.width / 3:
            return replace(face, landmarks=one.landmarks)
    return face

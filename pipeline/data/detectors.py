"""Finders of face candidates: three programs of very different kinds behind one small interface.

Each says where it believes faces to be and how sure it is; believing it is `pipeline.data.faces`'
affair. A detector that cannot run here says why, instead of failing or finding nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image

from pipeline import weights
from pipeline.data import nvxs

# Long sides in pixels at which whole pictures are scanned, coarse to fine. The detector wants faces
# 60 to 110 px wide: 160 finds close-ups, 768 finds those a tenth of the picture wide.
ANIMEFACE_SCANS = (160, 224, 288, 384, 512, 768)
# Beyond them, for faces that are small in a large picture: each scan so much longer than the last.
FINE_STEP = 1.5
# A landscape of 3:2 is scanned up to 1728 px, where faces of a fortieth of its width are found.
# That takes tenths of a second of one core, and seven where every place resembles a face (noise).
MAX_SCAN_PIXELS = 2.2e6
# Enlarging a picture further than this would only look for faces of too few pixels to be of use.
SCAN_ENLARGEMENT = 1.35
MEDIAPIPE_SCANS = (192, 384)
CASCADE_SCANS = (256, 512)
# Where mediapipe's and the cascade's boxes lie in relation to animeface's, measured on drawings
# that both find: width of animeface's box, height of the eyes, as shares of the other box.
MEDIAPIPE_FACE_WIDTH, MEDIAPIPE_EYES = 1.13, 0.37
CASCADE_FACE_WIDTH, CASCADE_EYES = 0.96, 0.37
# Animeface's eyes lie at this share of its box's height.
ANIMEFACE_EYES = 0.47


@dataclass(frozen=True)
class Proposal:
    """A place where a face may be, in the picture's continuous pixels."""

    eyes_x: float  # midpoint of the eyes
    eyes_y: float
    face_width: float  # of the box that animeface would draw: cheek to cheek with some hair
    score: float  # the detector's own, 0 to 1
    detector: str


class Detector(Protocol):
    """What `pipeline.data.faces` asks of every detector."""

    name: str

    def close(self) -> None:
        """Release what the detector holds."""


class DetectorMissing(Exception):
    """The detector cannot run here; the message says why."""


class AnimefaceDetector:
    """nvxs of the package animeface: made for drawn faces, finds their parts as well."""

    name = "animeface"

    def __init__(self) -> None:
        library = nvxs.load()
        if isinstance(library, str):
            raise DetectorMissing(library)
        self.library = library

    def scan(self, image: np.ndarray, long_side: int) -> list[Proposal]:
        """Candidates in the picture resized to a long side of that many pixels."""
        small, scale = resize_long_side(image, long_side)
        return [self._proposal(face, scale) for face in self.library.detect(small)]

    def close(self) -> None:
        """Nothing to release."""

    def _proposal(self, face: nvxs.RawFace, scale: float) -> Proposal:
        eyes = np.array([box_center(face.left_eye), box_center(face.right_eye)]).mean(axis=0)
        width = face.face[2] - face.face[0]
        x, y = eyes / scale
        return Proposal(float(x), float(y), width / scale, float(face.likelihood), self.name)


class MediapipeDetector:
    """mediapipe's short-range face detector: made for photographs, good at rendered faces."""

    name = "mediapipe"

    def __init__(self, model: Path | None = None, min_score: float = 0.3) -> None:
        model = model or weights.find("mediapipe-face")
        if model is None:
            raise DetectorMissing("its model file is not there (`make setup` fetches it)")
        if importlib.util.find_spec("mediapipe") is None:
            raise DetectorMissing("the package mediapipe is not installed")
        with quiet_stderr():
            try:
                import mediapipe
                from mediapipe.tasks.python import BaseOptions, vision

                self._mediapipe = mediapipe
                self._detector = vision.FaceDetector.create_from_options(
                    vision.FaceDetectorOptions(
                        base_options=BaseOptions(model_asset_path=str(model)),
                        min_detection_confidence=min_score,
                    )
                )
                self._detect(np.zeros((64, 64, 3), np.uint8))
            # A build for another machine, or a changed model file, fails in ways of its own.
            except Exception as error:
                raise DetectorMissing(f"it does not start ({error})") from error

    def propose(self, image: np.ndarray) -> list[Proposal]:
        """Candidates; a face that both scan sizes find counts with the mean of both scores."""
        scans = []
        for long_side in MEDIAPIPE_SCANS:
            small, scale = resize_long_side(image, long_side)
            scans.append(self.scan(small, scale))
        return _agreement(*scans)

    def scan(self, image: np.ndarray, scale: float = 1.0) -> list[Proposal]:
        """Candidates at the picture's own size, their coordinates divided by `scale`."""
        return [_mediapipe_proposal(found, scale) for found in self._detect(image).detections]

    def close(self) -> None:
        """Stop the detector's threads; mediapipe complains at exit if this is left to it."""
        with quiet_stderr():
            self._detector.close()

    def _detect(self, image: np.ndarray) -> Any:
        mediapipe = self._mediapipe
        data = np.ascontiguousarray(image)
        picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=data)
        with quiet_stderr():  # it may complain about its own memory at any picture
            return self._detector.detect(picture)


class CascadeDetector:
    """OpenCV's frontal-face cascade: weak on drawings (it finds one in fifteen), but it is
    a part of OpenCV itself."""

    name = "cascade"

    def __init__(self) -> None:
        folder = Path(getattr(cv2, "data").haarcascades)  # noqa: B009 (untyped in OpenCV's stubs)
        path = folder / "haarcascade_frontalface_alt.xml"
        if not path.is_file():
            raise DetectorMissing("this build of OpenCV ships no cascade files")
        self._cascade = cv2.CascadeClassifier(str(path))

    def propose(self, image: np.ndarray) -> list[Proposal]:
        """Candidates that both scan sizes find, with a constant score as the cascade has none."""
        scans = []
        for long_side in CASCADE_SCANS:
            small, scale = resize_long_side(image, long_side)
            grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
            boxes = self._cascade.detectMultiScale(grey, 1.05, 4)
            scans.append([self._proposal(tuple(map(float, box)), scale) for box in boxes])
        return [found for found in _agreement(*scans) if found.score >= 0.5]

    def close(self) -> None:
        """Nothing to release."""

    def _proposal(self, box: tuple[float, ...], scale: float) -> Proposal:
        x, y, width, height = box
        return Proposal(
            (x + width / 2) / scale,
            (y + CASCADE_EYES * height) / scale,
            CASCADE_FACE_WIDTH * width / scale,
            0.5,
            self.name,
        )


def scan_sizes(image: np.ndarray) -> list[int]:
    """Animeface's scan sizes for a picture: none enlarges it much."""
    limit = max(image.shape[:2]) * SCAN_ENLARGEMENT
    return [size for size in ANIMEFACE_SCANS if size <= limit] or [ANIMEFACE_SCANS[0]]


def fine_scan_sizes(image: np.ndarray) -> list[int]:
    """Further scan sizes for faces that are small in a large picture, or in a long strip.

    As many pixels as the picture has, each half as long again as the one before, while a scan is
    of at most MAX_SCAN_PIXELS.
    """
    height, width = image.shape[:2]
    sizes = []
    size = round(ANIMEFACE_SCANS[-1] * FINE_STEP)
    while size <= max(height, width):
        if size * size * min(height, width) / max(height, width) > MAX_SCAN_PIXELS:
            break
        sizes.append(size)
        size = round(size * FINE_STEP)
    return sizes


def resize_long_side(image: np.ndarray, long_side: int) -> tuple[np.ndarray, float]:
    """The picture resized to that long side, and the factor by which it shrank or grew."""
    height, width = image.shape[:2]
    scale = long_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # reducing_gap: a box average before the filter, as scanning needs speed more than finesse.
    small = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(small), scale


def box_center(box: nvxs.Box) -> tuple[float, float]:
    """Centre of a box (x0, y0, x1, y1)."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def same_face(a: Proposal, b: Proposal) -> bool:
    """Whether two candidates are of one face: close by, and of like size."""
    distance = np.hypot(a.eyes_x - b.eyes_x, a.eyes_y - b.eyes_y)
    larger, smaller = max(a.face_width, b.face_width), min(a.face_width, b.face_width)
    return bool(distance < 0.45 * larger and larger < 2.0 * smaller)


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep what native code writes to the process's stderr out of the user's sight."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _mediapipe_proposal(detection: Any, scale: float) -> Proposal:
    box = detection.bounding_box
    return Proposal(
        (box.origin_x + box.width / 2) / scale,
        (box.origin_y + MEDIAPIPE_EYES * box.height) / scale,
        MEDIAPIPE_FACE_WIDTH * box.width / scale,
        float(detection.categories[0].score),
        MediapipeDetector.name,
    )


def _agreement(first: list[Proposal], second: list[Proposal]) -> list[Proposal]:
    """Merge two scans: agreeing pairs are averaged, scores of loners are halved."""
    merged, partners = [], list(second)
    for one in first:
        twin = next((other for other in partners if same_face(one, other)), None)
        if twin is not None:
            partners.remove(twin)
        merged.append(_average(one, twin))
    return merged + [_average(other, None) for other in partners]


def _average(one: Proposal, other: Proposal | None) -> Proposal:
    if other is None:
        return Proposal(one.eyes_x, one.eyes_y, one.face_width, one.score / 2, one.detector)
    return Proposal(
        (one.eyes_x + other.eyes_x) / 2,
        (one.eyes_y + other.eyes_y) / 2,
        (one.face_width + other.face_width) / 2,
        (one.score + other.score) / 2,
        one.detector,
    )

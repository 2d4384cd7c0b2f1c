"""Anime faces in pictures: find them, measure them, frame them for a crop.

One call, `FaceFinder.find`, runs a chain of detectors and says which one each face rests on; one
rule, `Framing`, turns a face into the same crop everywhere (preprocess and the artist's upload).
Knows nothing about files, datasets or networks.

How a face is believed: detectors propose places (`detectors`), animeface looks at each again in a
few close-ups (`close_ups`), and what all of them say is weighed here. The face reader then reads
the landmarks of each face that was found, and its roll where it is sure of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pipeline.data import landmarks as lm
from pipeline.data.align import CropTransform, crop
from pipeline.data.close_ups import Zoomable, look_around, pool, roll_of
from pipeline.data.detectors import (
    ANIMEFACE_EYES,
    SCAN_ENLARGEMENT,
    AnimefaceDetector,
    CascadeDetector,
    Detector,
    DetectorMissing,
    MediapipeDetector,
    Proposal,
    fine_scan_sizes,
    same_face,
    scan_sizes,
)
from pipeline.data.face import (
    EYE_DISTANCE,
    EYES_TO_CHIN,
    EYES_TO_MOUTH,
    PART_NAMES,
    Face,
    box_around,
)
from pipeline.errors import DataError, ModelError, check_choice, check_range

if TYPE_CHECKING:  # it brings torch, which takes a second, and is needed once a face is found
    from pipeline.data.face_reader import FaceReader

__all__ = [
    "EYES_TO_CHIN",
    "EYES_TO_MOUTH",
    "EYE_DISTANCE",
    "PART_NAMES",
    "WHOLE",
    "Aligned",
    "Face",
    "FaceFinder",
    "Framing",
    "align_face",
    "whole_picture",
]

_D = TypeVar("_D", bound=Detector)

DETECTORS = ("animeface", "mediapipe", "cascade")
# The mark of a crop that rests on no face at all.
WHOLE = "whole"

# Mean likelihood over the views from which animeface is believed: alone, and where mediapipe
# (its own mean score from MEDIAPIPE_SUPPORT) sees a face in the same place. Chance finds that
# were looked at reached 0.70, true frontal faces stayed above 0.8.
BELIEVED, BELIEVED_SUPPORTED = 0.75, 0.3
MEDIAPIPE_SUPPORT, MEDIAPIPE_ALONE = 0.42, 0.5
# From here on no further scan is made when one face is wanted.
CERTAIN = 0.9
# Below this mean likelihood animeface's size is averaged with mediapipe's.
SURE_OF_SIZE = 0.95
# Turned pictures offer many more chances of a false find; there both detectors must agree.
TURNED_ALONE, TURNED_SUPPORT = 0.97, 0.4
# Further leans at which a doubtful upright candidate is looked at, in degrees.
LEANS = (30.0, -30.0)
# Mediapipe's close-ups of a candidate: sides in face widths, size in px.
SUPPORT_WIDTHS, SUPPORT_SIZE = (2.0, 3.0), 192
# A weak find of mediapipe's counts if its close-ups are this convincing.
SUPPORT_ALONE = 0.65
# Looking more often at one place that does not convince is no use.
MAX_LOOKS_AT_ONE = 2
# Places that are looked at closely in one picture when one face is wanted; more is a crowd, or a
# pattern that resembles faces, and only costs time.
MAX_CLOSE_LOOKS = 12
# A reading is of the face that was found if its eyes lie no further from the detectors' (in face
# widths), and its width is within this factor of theirs.
READ_DISTANCE, READ_SIZE = 0.3, 1.8
# Scan sizes for turned pictures, tried only where nothing was found upright.
TURNED_SCANS = (224, 384)


@dataclass(frozen=True)
class Framing:
    """How much of a picture belongs to a face: the same for training images and uploads."""

    # Width of the crop in face widths. 2.1 shows hair and chin, as sets of anime faces do.
    face_widths: float = 2.1
    # Height of the eyes' midpoint, as a share of the crop from its top; across, it is centred.
    eye_height: float = 0.52
    # The crop is so many times as high as wide.
    aspect: float = 1.0

    def __post_init__(self) -> None:
        check_range("framing.face_widths", self.face_widths, 0.8, 6.0)
        check_range("framing.eye_height", self.eye_height, 0.1, 0.9)

    def transform(self, face: Face) -> CropTransform:
        """The crop that puts the face's eyes where they belong, level."""
        width = self.face_widths * face.width
        height = width * self.aspect
        # From the eyes to the crop's centre, in the turned frame.
        offset = (0.5 - self.eye_height) * height
        roll = np.radians(face.roll_degrees)
        return CropTransform(
            float(face.eyes[0] - np.sin(roll) * offset),
            float(face.eyes[1] + np.cos(roll) * offset),
            width,
            height,
            face.roll_degrees,
        )


@dataclass(frozen=True)
class Aligned:
    """A picture's face, cropped."""

    image: np.ndarray  # resolution x resolution x 3 uint8
    transform: CropTransform
    face: Face


@dataclass
class _Evidence:
    """What is known of one candidate: where it is, and who says so."""

    proposal: Proposal
    roll: float = 0.0
    views: float = 0.0  # animeface's mean likelihood over the close-ups
    mediapipe: float = 0.0
    close_up: float = 0.0  # mediapipe's mean score over its own close-ups
    mediapipe_width: float | None = None
    looks: int = 0
    measured: Face | None = None

    @property
    def score(self) -> float:
        return 1.0 - (1.0 - self.views) * (1.0 - self.mediapipe)

    def believed(self) -> bool:
        supported = self.mediapipe >= MEDIAPIPE_SUPPORT and self.views >= BELIEVED_SUPPORTED
        return self.views >= BELIEVED or supported

    def seen_by_mediapipe(self) -> bool:
        weak = self.mediapipe >= MEDIAPIPE_SUPPORT and self.close_up >= SUPPORT_ALONE
        return self.mediapipe >= MEDIAPIPE_ALONE or weak

    def face(self) -> Face:
        """The measured face; from the proposal alone where there is nothing better."""
        if self.measured is None:
            score = (self.mediapipe + self.close_up) / 2
            return _unmeasured_face(self.proposal, score or self.proposal.score)
        return self.measured


class FaceFinder:
    """The chain of detectors. Use as a context manager, or call `close`.

    Args:
        detectors: which to use, by name, best first (see `DETECTORS`). Those that cannot run on
            this machine are left out; `missing` says why.
        roll_search_degrees: where no upright face is found, faces turned up to this far (in steps
            of 30 degrees, both ways) are looked for.
        read: let the face reader that ships with the code read the landmarks of what was found.

    Attributes:
        missing: one sentence a detector that cannot be used, by name; under "reader" why faces
            are not read, once one was found.
    """

    def __init__(
        self,
        detectors: Sequence[str] = DETECTORS,
        roll_search_degrees: float = 60.0,
        read: bool = True,
    ) -> None:
        for name in detectors:
            check_choice("detectors", name, DETECTORS)
        self.roll_search_degrees = roll_search_degrees
        self.missing: dict[str, str] = {}
        self._read_faces = read
        self._reader: FaceReader | None = None
        self._animeface = self._start(AnimefaceDetector, detectors)
        self._mediapipe = self._start(MediapipeDetector, detectors)
        # On drawings the cascade is more often wrong than right: only where nothing better runs.
        alone = self._animeface is None and self._mediapipe is None
        self._cascade = self._start(CascadeDetector, detectors) if alone else None

    def find(self, image: np.ndarray, every: bool = False) -> list[Face]:
        """Faces in a picture (H x W x 3 uint8 RGB), best first; empty if there are none.

        Args:
            image: the picture.
            every: look for all faces (slower); otherwise the search ends once one is certain.

        Faces are ordered by size times score, so that the main person of a picture comes first.
        """
        picture = Zoomable(image)
        evidence = self._from_mediapipe(picture)
        if self._animeface is not None:
            if every or not _certain(evidence):
                self._scan(picture, evidence, scan_sizes(image), every)
            if every or not _any_seen(evidence):
                self._scan_fine(picture, evidence, every)
            if not _any_seen(evidence):
                self._scan_turned(picture, evidence)
        believed = [one for one in evidence if one.believed()]
        if not believed:  # nothing that animeface confirms: mediapipe's word, then the cascade's
            believed = [one for one in evidence if one.mediapipe >= MEDIAPIPE_ALONE]
        elif every:
            believed += [
                one for one in evidence if one.mediapipe >= MEDIAPIPE_ALONE and not one.believed()
            ]
        if not believed and self._cascade is not None:
            believed = [_Evidence(proposal) for proposal in self._cascade.propose(image)]
        faces = [self._read(picture, one) for one in _distinct([one.face() for one in believed])]
        return sorted(faces, key=lambda face: -face.width * face.score)

    def close(self) -> None:
        """Release the detectors."""
        for detector in (self._animeface, self._mediapipe, self._cascade):
            if detector is not None:
                detector.close()

    def __enter__(self) -> FaceFinder:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, kind: type[_D], names: Sequence[str]) -> _D | None:
        if kind.name not in names:
            return None
        try:
            return kind()
        except DetectorMissing as reason:
            self.missing[kind.name] = f"The face detector {kind.name} is not used: {reason}."
            return None

    def _read(self, picture: Zoomable, face: Face) -> Face:
        """The face with landmarks, levelled by them, where the reader is sure of them."""
        if self._read_faces and self._reader is None:
            from pipeline.data.face_reader import FaceReader

            try:
                self._reader = FaceReader.shipped()
            except ModelError as reason:
                self.missing["reader"] = f"Faces are not read: {reason}"
                self._read_faces = False
        if self._reader is None:
            return face
        reading = self._reader.read_in(picture, face.box, face.roll_degrees)
        if not reading.confident or not _is_of(reading.landmarks, face):
            return face
        return replace(
            face, landmarks=reading.landmarks, roll_degrees=lm.roll_degrees(reading.landmarks)
        )

    def _from_mediapipe(self, picture: Zoomable) -> list[_Evidence]:
        if self._mediapipe is None:
            return []
        evidence = [
            _Evidence(proposal, mediapipe=proposal.score, mediapipe_width=proposal.face_width)
            for proposal in self._mediapipe.propose(picture.image)
        ]
        for one in evidence:
            if one.mediapipe >= MEDIAPIPE_SUPPORT:
                self._look_closer(picture, one)
                if not one.believed():
                    place = one.proposal
                    one.close_up = self._support(
                        picture, (place.eyes_x, place.eyes_y), place.face_width, 0.0
                    )
        return evidence

    def _scan_fine(self, picture: Zoomable, evidence: list[_Evidence], every: bool) -> None:
        """Look for faces that are small in a long strip or a large scene.

        There are many places in such a picture, so there are many chances of a false find: what
        the usual sizes did not show must be certain.
        """
        fine: list[_Evidence] = list(evidence)
        self._scan(picture, fine, fine_scan_sizes(picture.image), every)
        evidence += [one for one in fine[len(evidence) :] if one.views >= CERTAIN]

    def _scan(
        self, picture: Zoomable, evidence: list[_Evidence], sizes: Sequence[int], every: bool
    ) -> None:
        """Add what animeface finds at these scan sizes, coarse to fine."""
        assert self._animeface is not None
        for size in sizes:
            found = self._animeface.scan(picture.image, size)
            for proposal in sorted(found, key=lambda one: -one.score):
                known = next((o for o in evidence if same_face(o.proposal, proposal)), None)
                if known is None:
                    known = _Evidence(proposal)
                    evidence.append(known)
                elif known.believed() or known.looks >= MAX_LOOKS_AT_ONE:
                    continue
                else:  # a second look, from a better place
                    known.proposal = proposal
                self._look_closer(picture, known)
            crowd = sum(one.views > 0 for one in evidence) > MAX_CLOSE_LOOKS
            if not every and (_certain(evidence) or crowd):
                return

    def _scan_turned(self, picture: Zoomable, evidence: list[_Evidence]) -> None:
        """Look for faces that lean too far to be found upright."""
        assert self._animeface is not None
        height, width = picture.image.shape[:2]
        angles = np.arange(30.0, self.roll_search_degrees + 0.1, 30.0)
        for roll in [float(sign * angle) for angle in angles for sign in (1, -1)]:
            # The square that holds the turned picture whole.
            frame = CropTransform.square(
                width / 2, height / 2, float(np.hypot(width, height)), roll
            )
            for size in TURNED_SCANS:
                if size > SCAN_ENLARGEMENT * frame.width:
                    continue
                for found in self._animeface.scan(picture.crop(frame, size), size):
                    eyes = frame.inverse(np.array([found.eyes_x, found.eyes_y]), size)
                    face_width = found.face_width * frame.width / size
                    candidate = replace(
                        found, eyes_x=float(eyes[0]), eyes_y=float(eyes[1]), face_width=face_width
                    )
                    one = _Evidence(candidate, roll=roll)
                    if found.score > 0.8 and 0 < eyes[0] < width and 0 < eyes[1] < height:
                        self._look_closer(picture, one)
                        if self._holds_turned(one):
                            evidence.append(one)
                            return

    def _holds_turned(self, one: _Evidence) -> bool:
        if self._mediapipe is None:
            return one.views >= TURNED_ALONE
        return one.views >= CERTAIN and one.mediapipe >= TURNED_SUPPORT

    def _support(
        self, picture: Zoomable, eyes: tuple[float, float], face_width: float, roll: float
    ) -> float:
        """Mediapipe's mean score for this very place, over levelled close-ups."""
        if self._mediapipe is None:
            return 0.0
        total = 0.0
        for widths in SUPPORT_WIDTHS:
            frame = CropTransform.square(*eyes, widths * face_width, roll)
            close_up = picture.crop(frame, SUPPORT_SIZE)
            half = SUPPORT_SIZE / 2
            middle = Proposal(half, half, SUPPORT_SIZE / widths, 0.0, MediapipeDetector.name)
            for seen in (close_up, np.ascontiguousarray(close_up[:, ::-1])):
                scores = [one.score for one in self._mediapipe.scan(seen) if same_face(one, middle)]
                total += max(scores, default=0.0)
        return total / (2 * len(SUPPORT_WIDTHS))

    def _look_closer(self, picture: Zoomable, one: _Evidence) -> None:
        """Fill in `views` and `measured` of a candidate from close-ups of it."""
        if self._animeface is None:
            return
        one.looks += 1
        roll = one.roll
        sights, views = look_around(self._animeface.library, picture, one.proposal, roll)
        if views < CERTAIN and (views >= BELIEVED_SUPPORTED or one.mediapipe >= MEDIAPIPE_SUPPORT):
            # Perhaps a face, but leaning further than animeface recognises.
            for lean in LEANS:
                leaning, seen = look_around(
                    self._animeface.library, picture, one.proposal, one.roll + lean
                )
                if seen >= max(CERTAIN, views) and roll_of(leaning) is not None:
                    sights, views, roll = leaning, seen, one.roll + lean
        if views < one.views or not sights:
            return
        one.views = views
        pooled = pool(sights, fallback_roll=roll)
        doubtful = views < BELIEVED or one.roll != 0.0
        if doubtful and views >= BELIEVED_SUPPORTED and one.mediapipe < MEDIAPIPE_SUPPORT:
            one.mediapipe = self._support(picture, pooled.eyes, pooled.width, pooled.roll_degrees)
        if one.believed():
            width = pooled.width
            if views < SURE_OF_SIZE and one.mediapipe_width is not None:
                # In faces that it hardly recognises (bowed, turned away) animeface sees too small
                # ones; mediapipe's boxes are coarse, but not biased.
                width = float(np.sqrt(width * one.mediapipe_width))
            one.measured = replace(pooled, score=one.score, width=width)


def _unmeasured_face(proposal: Proposal, score: float) -> Face:
    """A face of which only a place and a size are known."""
    center = np.array(
        [proposal.eyes_x, proposal.eyes_y + (0.5 - ANIMEFACE_EYES) * proposal.face_width]
    )
    return Face(
        box=box_around(center, proposal.face_width),
        score=score,
        detector=proposal.detector,
        eyes=(proposal.eyes_x, proposal.eyes_y),
        width=proposal.face_width,
    )


def _is_of(landmarks: np.ndarray, face: Face) -> bool:
    """Whether landmarks lie where a detector saw the face."""
    distance = float(np.linalg.norm(lm.eyes_midpoint(landmarks) - face.eyes))
    size = lm.face_width(landmarks) / face.width
    return distance <= READ_DISTANCE * face.width and 1 / READ_SIZE <= size <= READ_SIZE


def _certain(evidence: list[_Evidence]) -> bool:
    return any(one.views >= CERTAIN for one in evidence)


def _any_seen(evidence: list[_Evidence]) -> bool:
    return any(one.believed() or one.seen_by_mediapipe() for one in evidence)


def _distinct(faces: list[Face]) -> list[Face]:
    """Drop faces that are a better one's twin."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: (face.detector != "animeface", -face.score)):
        if not any(_same(face, other) for other in kept):
            kept.append(face)
    return kept


def _same(a: Face, b: Face) -> bool:
    distance = np.hypot(a.eyes[0] - b.eyes[0], a.eyes[1] - b.eyes[1])
    return bool(distance < 0.5 * max(a.width, b.width))


def whole_picture(image: np.ndarray, framing: Framing) -> tuple[Face, CropTransform]:
    """The largest upright crop in the picture's middle, marked as resting on no face."""
    height, width = image.shape[:2]
    transform = CropTransform.whole(width, height, framing.aspect)
    side = transform.width
    eyes = transform.inverse(np.array([0.5, framing.eye_height]))
    face_width = side / framing.face_widths
    box = box_around(np.array([width / 2, height / 2]), side)
    face = Face(box, 0.0, WHOLE, (float(eyes[0]), float(eyes[1])), face_width)
    return face, transform


def align_face(
    image: np.ndarray,
    resolution: int,
    finder: FaceFinder | None = None,
    framing: Framing | None = None,
    on_no_face: str = "whole",
) -> Aligned:
    """Crop the main face of one picture (H x W x 3 uint8 RGB), `resolution` px wide.

    Args:
        finder: detectors that are running already; None starts them for this one call.
        framing: None for the one that preprocess uses by default.
        on_no_face: "whole" crops the picture's middle, marked by `face.detector == "whole"`;
            "reject" raises DataError.
    """
    check_choice("on_no_face", on_no_face, ("whole", "reject"))
    framing = framing or Framing()
    if finder is None:
        with FaceFinder() as own:
            faces = own.find(image)
    else:
        faces = finder.find(image)
    if faces:
        face, transform = faces[0], framing.transform(faces[0])
    elif on_no_face == "reject":
        raise DataError("No face was found in the picture; crop it closer to the face and retry.")
    else:
        face, transform = whole_picture(image, framing)
    return Aligned(crop(image, transform, resolution), transform, face)

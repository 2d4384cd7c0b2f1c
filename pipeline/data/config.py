"""Settings of the preprocess stage and of the source group. Plain values; knows no images."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.errors import ConfigError, check_choice, check_range

SOURCE_KINDS = ("folder", "zip", "kaggle", "painter")
PAINTER_MODES = ("scenes", "faces")
CHARACTER_CHOICES = ("auto", "none")
FACE_CHOICES = ("best", "all")
NO_FACE_POLICIES = ("reject", "whole")
# Pillow itself refuses pictures above about 179 megapixels.
PILLOW_MEGAPIXELS = 178
RESOLUTIONS = tuple(2**power for power in range(3, 12))
# Shape of the images -> how many times as high as wide.
SHAPES = {"square": 1, "tall": 2}


@dataclass
class SourceConfig:
    """Where the pictures come from."""

    # folder and zip (either takes both), kaggle, or painter.
    kind: str = "folder"
    # A folder (searched with its subfolders), a zip, or a single picture.
    path: str | None = None
    # kaggle: owner/name of the data set.
    dataset: str = ""
    # painter: whole scenes, or faces alone.
    mode: str = "scenes"
    # painter: how many pictures.
    count: int = 0
    # painter: every picture follows from it and its number.
    seed: int = 0
    # painter: number of the character that is painted; None paints anyone.
    character: int | None = None
    # painter: share of the pictures that show somebody else than that character.
    others: float = 0.0
    # painter: side of the pictures in faces mode, in px.
    size: int = 512
    # painter: take the faces' places from the painter's own landmarks instead of detecting them.
    truth: bool = False

    def __post_init__(self) -> None:
        check_choice("source.kind", self.kind, SOURCE_KINDS)
        check_choice("source.mode", self.mode, PAINTER_MODES)
        check_range("source.count", self.count, 0, 10_000_000)
        check_range("source.seed", self.seed, 0, 2**63 - 1)
        check_range("source.size", self.size, 32, 4096)
        check_range("source.others", self.others, 0, 1)
        if self.character is not None:
            check_range("source.character", self.character, 0, 2**63 - 1)


@dataclass
class FramingConfig:
    """How much of a picture belongs to a face (see pipeline.data.faces.Framing)."""

    # Width of the crop, in face widths.
    face_widths: float = 2.1
    # Height of the eyes' midpoint, as a share of the crop from its top.
    eye_height: float = 0.52

    def __post_init__(self) -> None:
        check_range("preprocess.framing.face_widths", self.face_widths, 0.8, 6.0)
        check_range("preprocess.framing.eye_height", self.eye_height, 0.1, 0.9)


@dataclass
class PreprocessConfig:
    """Pictures in, a dataset of aligned faces out."""

    # Name of the dataset that is made.
    name: str = "dataset"
    # Where the pictures come from.
    source: SourceConfig = field(default_factory=SourceConfig)
    # Height of the dataset's images, in px, and with shape=square their width.
    resolution: int = 512
    # square, or tall: twice as high as wide (for stylegan-human).
    shape: str = "square"
    # Model to be trained on: size, shape and framing of its images are taken over.
    like: str | None = None
    # How much of a picture belongs to a face.
    framing: FramingConfig = field(default_factory=FramingConfig)
    # auto: sub-folders, or a zip's own labels, say which character a picture shows; none: nothing.
    characters: str = "auto"
    # best: the main face of each picture; all: every face.
    faces: str = "best"
    # Which detectors are used, best first.
    detectors: list[str] = field(default_factory=lambda: ["animeface", "mediapipe", "cascade"])
    # Let the face reader read each face's landmarks, and level faces by them.
    reader: bool = True
    # reject: pictures without a face are left out; whole: their middle square is taken.
    on_no_face: str = "reject"
    # Faces narrower than this many px are left out.
    min_face_px: int = 40
    # Faces whose crop lies outside the picture by more than this share are left out.
    max_mirrored: float = 1.0
    # Colour behind transparent pixels: "#rrggbb" or a name that Pillow knows.
    background: str = "#ffffff"
    # Larger pictures are left out unread.
    max_megapixels: float = 100.0
    # Larger files are left out unread.
    max_file_mb: float = 200.0
    # Bits (of 256) by which two faces' perceptual hashes may differ as near-duplicates.
    duplicate_bits: int = 24
    # Share of the faces that is kept from training.
    heldout: float = 0.05
    # Only the first so many pictures, in order of their names; None takes all.
    limit: int | None = None
    # Draw guide lines into the contact sheet.
    guides: bool = False
    # Processes; None: one a core; 0: none but this one.
    workers: int | None = None

    @property
    def aspect(self) -> int:
        """How many times as high as wide the images are."""
        return SHAPES[self.shape]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the images, in px."""
        return self.resolution // self.aspect, self.resolution

    def __post_init__(self) -> None:
        check_choice("preprocess.shape", self.shape, SHAPES)
        if self.resolution not in RESOLUTIONS:
            check_choice("preprocess.resolution", self.resolution, RESOLUTIONS)
        check_choice("preprocess.characters", self.characters, CHARACTER_CHOICES)
        check_choice("preprocess.faces", self.faces, FACE_CHOICES)
        for name in self.detectors:
            check_choice("preprocess.detectors", name, ("animeface", "mediapipe", "cascade"))
        check_choice("preprocess.on_no_face", self.on_no_face, NO_FACE_POLICIES)
        check_range("preprocess.min_face_px", self.min_face_px, 1, 4096)
        check_range("preprocess.max_mirrored", self.max_mirrored, 0, 1)
        check_range(
            "preprocess.max_megapixels", self.max_megapixels, 0, PILLOW_MEGAPIXELS, low_open=True
        )
        check_range("preprocess.max_file_mb", self.max_file_mb, 0, 10_000, low_open=True)
        check_range("preprocess.duplicate_bits", self.duplicate_bits, -1, 128)
        check_range("preprocess.heldout", self.heldout, 0, 0.9)
        if self.limit is not None:
            check_range("preprocess.limit", self.limit, 1)
        if self.workers is not None:
            check_range("preprocess.workers", self.workers, 0, 1024)
        if not self.detectors and self.on_no_face == "reject":
            raise ConfigError(
                "preprocess.detectors is empty, so no face can be found; name a detector, or set "
                "preprocess.on_no_face=whole."
            )

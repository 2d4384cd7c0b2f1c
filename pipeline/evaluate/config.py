"""Settings of the evaluate, samples and report stages.

Plain values only; knows nothing of folders or of HTML.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.edit.emotion_names import EMOTIONS
from pipeline.errors import ConfigError, check_choice, check_range

# The same names as in pipeline/metrics, which this module does not import: that takes torch.
METRICS = ("fid", "kid", "precision", "recall", "is", "ppl", "eq_t", "eq_t_frac", "eq_r")
FEATURES = ("auto", "inception", "efficientnet-lite0", "lpips-vgg", "lpips-alex")
PARTS = ("train", "heldout", "all")


@dataclass
class EvaluateConfig:
    """How good a model is, in figures; the defaults' reasons are in conf/stages/evaluate.yaml."""

    # Name of the evaluation.
    name: str = "character"
    # Reference to the model that is measured.
    model: str = "model/${character}"
    # Reference to the dataset that it is compared with; null: the one it was trained on.
    dataset: str | None = None
    # Parts of the dataset compared with, each by itself: train, heldout, all.
    parts: list[str] = field(default_factory=lambda: ["train", "heldout"])
    # What is measured, names of pipeline.metrics.suite.METRICS.
    metrics: list[str] = field(default_factory=lambda: ["fid", "kid", "precision", "recall", "is"])
    seed: int = 0
    # auto, cpu or cuda.
    device: str = "auto"
    # Feature network, one of pipeline.metrics.features.NAMES, or auto.
    features: str = "auto"
    # File of FID's Inception weights, needed for features=inception.
    features_file: str | None = None
    # 1: the model as it is; below 1 its images are more alike.
    truncation_psi: float = 1.0
    # Images made at once.
    batch: int = 16
    # Images for FID, KID, precision, recall and IS.
    images: int = 2000
    # Of these, feature vectors kept for KID, precision and recall.
    keep: int = 5000
    # Nearest neighbours that span the manifolds of precision and recall.
    neighbours: int = 3
    # Groups of the jackknife for FID's and IS's interval; 1: no interval.
    groups: int = 10
    # Pairs of images for PPL.
    paths: int = 500
    # Images moved for EQ-T and EQ-R.
    moved: int = 50
    # Also measure every training state that the model keeps.
    snapshots: bool = False
    # Images a snapshot is measured by.
    snapshot_images: int = 500
    # Images in each row of the sheets of most and least typical samples.
    sheet_columns: int = 8

    def __post_init__(self) -> None:
        if not self.metrics or not self.parts:
            raise ConfigError("metrics and parts must each name one at least.")
        for name in self.metrics:
            check_choice("metrics", name, METRICS)
        for part in self.parts:
            check_choice("parts", part, PARTS)
        for key in ("metrics", "parts"):
            names = getattr(self, key)
            if len(set(names)) < len(names):
                raise ConfigError(f"{key}={','.join(names)} names something twice.")
        check_choice("features", self.features, FEATURES)
        if self.features == "inception" and self.features_file is None:
            raise ConfigError(
                "features=inception needs features_file, FID's Inception weights "
                "(pt_inception-2015-12-05-6726825d.pth of pytorch-fid), which no package ships; "
                "or take features=auto."
            )
        check_range("truncation_psi", self.truncation_psi, -2, 2)
        check_range("batch", self.batch, 1, 1024)
        check_range("images", self.images, 2, 1_000_000)
        check_range("keep", self.keep, 2, 20_000)
        check_range("neighbours", self.neighbours, 1, 100)
        check_range("groups", self.groups, 1, 50)
        check_range("paths", self.paths, 2, 1_000_000)
        check_range("moved", self.moved, 2, 100_000)
        check_range("snapshot_images", self.snapshot_images, 2, 1_000_000)
        check_range("sheet_columns", self.sheet_columns, 1, 16)


PICTURES = ("grid", "truncation", "mixing", "walk", "characters")
WALK_SPACES = ("w", "z")
EASINGS = ("smooth", "linear")


@dataclass
class SamplesConfig:
    """Pictures and films of what a model draws; reasons are in conf/stages/samples.yaml."""

    # Name of the samples.
    name: str = "character"
    # Reference to the model.
    model: str = "model/${character}"
    # Character (name or class number) that is drawn, for a model of several; null: all in turn.
    label: str | None = None
    # What is made: names of PICTURES; characters needs a model with labels.
    pictures: list[str] = field(default_factory=lambda: list(PICTURES))
    seed: int = 0
    # auto, cpu or cuda.
    device: str = "auto"
    # Images made at once.
    batch: int = 8
    # Truncation of everything but the truncation sweep.
    truncation_psi: float = 0.7
    # Columns and rows of the grid of seeds.
    grid: list[int] = field(default_factory=lambda: [8, 5])
    # Values of psi, one a column, and seeds, one a row, of the truncation sweep.
    sweep: list[float] = field(default_factory=lambda: [-0.5, 0.0, 0.3, 0.5, 0.7, 0.85, 1.0])
    sweep_rows: int = 4
    # Columns and rows of the style-mixing tables.
    mixing: list[int] = field(default_factory=lambda: [6, 4])
    # Rows of ws taken from the column's face, one table each: "0-3"; null: coarse, middle, fine.
    mixing_rows: list[str] | None = None
    # Faces side by side and below each other in the film of the walk.
    walk_grid: list[int] = field(default_factory=lambda: [3, 2])
    # Faces that each of them passes on its round, and frames from one to the next.
    walk_stops: int = 5
    walk_steps: int = 24
    # w: straight lines | z: arcs.
    walk_space: str = "w"
    # smooth: slower at every stop | linear: even.
    walk_easing: str = "smooth"
    frames_per_second: int = 24
    # Longest side of the films in pixels, and most MiB of one.
    film_px: int = 768
    film_mib: float = 8.0
    # Faces (columns) of the table of characters.
    character_columns: int = 8
    # Steps from one character to the next.
    character_steps: int = 7

    def __post_init__(self) -> None:
        if not self.pictures:
            raise ConfigError(f"pictures names nothing; take some of {', '.join(PICTURES)}.")
        for name in self.pictures:
            check_choice("pictures", name, PICTURES)
        check_choice("walk_space", self.walk_space, WALK_SPACES)
        check_choice("walk_easing", self.walk_easing, EASINGS)
        check_range("batch", self.batch, 1, 256)
        check_range("truncation_psi", self.truncation_psi, -2, 2)
        for key, most in (("grid", 32), ("mixing", 16), ("walk_grid", 8)):
            size = getattr(self, key)
            if len(size) != 2:
                raise ConfigError(f"{key}={size} must be two numbers, columns and rows.")
            check_range(f"{key}[0]", size[0], 1, most)
            check_range(f"{key}[1]", size[1], 1, most)
        if not 1 <= len(self.sweep) <= 16:
            raise ConfigError("sweep must hold 1 to 16 values of psi.")
        for value in self.sweep:
            check_range("sweep", value, -2, 2)
        check_range("sweep_rows", self.sweep_rows, 1, 16)
        check_range("walk_stops", self.walk_stops, 2, 64)
        check_range("walk_steps", self.walk_steps, 1, 240)
        check_range("frames_per_second", self.frames_per_second, 1, 60)
        check_range("film_px", self.film_px, 64, 2048)
        check_range("film_mib", self.film_mib, 0.1, 256)
        check_range("character_columns", self.character_columns, 1, 16)
        check_range("character_steps", self.character_steps, 3, 16)


STRATEGIES = ("draggan", "freedrag", "stable", "auto")


@dataclass
class DragBenchConfig:
    """Ways of dragging on the same pairs; reasons are in conf/stages/drag_bench.yaml."""

    # Name of the benchmark.
    name: str = "character"
    # Reference to the model.
    model: str = "model/${character}"
    # Reference to another face reader that judges as well; None: none does.
    judge: str | None = None
    # What is compared.
    strategies: list[str] = field(default_factory=lambda: list(STRATEGIES))
    # Pairs of the model's own faces, and of painted ones that are inverted first.
    pairs: int = 12
    painted: int = 2
    # Numbers of points dragged at once.
    points: list[int] = field(default_factory=lambda: [1, 5, 28])
    truncation: float = 0.8
    # Also drag back, and see what is left.
    back: bool = True
    max_steps: int = 300
    # Feature layer (null: by the model), leading rows of ws that may change.
    layer: str | None = None
    rows: int = 6
    move_whole_face: bool = False
    # none | proposed: only the handles' surroundings and parts may change; never dragged back.
    mask: str = "none"
    seed: int = 0
    # auto, cpu or cuda.
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.strategies or not self.points:
            raise ConfigError("strategies and points must each name one at least.")
        for name in self.strategies:
            check_choice("strategies", name, STRATEGIES)
        for key in ("strategies", "points"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ConfigError(f"{key}={','.join(map(str, values))} names something twice.")
        for count in self.points:
            check_range("points", count, 1, 28)
        check_range("pairs", self.pairs, 1, 10_000)
        check_range("painted", self.painted, 0, 1000)
        check_range("truncation", self.truncation, 0, 2)
        check_range("max_steps", self.max_steps, 1, 100_000)
        check_range("rows", self.rows, 1, 64)
        check_choice("mask", self.mask, ("none", "proposed"))
        check_choice("device", self.device, ("auto", "cpu", "cuda"))


# Ways of reaching an emotion; a drag's strategy follows a colon.
EMOTION_METHODS = (
    "drawn",
    "search",
    "solve",
    "direction",
    "auto",
    *(f"drag:{name}" for name in STRATEGIES),
)


@dataclass
class EmotionBenchConfig:
    """Ways of reaching emotions; reasons are in conf/stages/emotion_bench.yaml."""

    # Name of the benchmark.
    name: str = "character"
    # References to the model, and to its directions (None: none).
    model: str = "model/${character}"
    directions: str | None = None
    methods: list[str] = field(
        default_factory=lambda: ["drawn", "search", "direction", "drag:auto"]
    )
    emotions: list[str] = field(default_factory=lambda: [e for e in EMOTIONS if e != "neutral"])
    # Numbers of painted characters.
    characters: list[int] = field(default_factory=lambda: [23, 5, 11])
    # Of their inversions.
    project_steps: int = 250
    prior_weight: float = 0.003
    tune_steps: int = 250
    # Of a drag.
    max_steps: int = 60
    seed: int = 0
    # auto, cpu or cuda.
    device: str = "auto"

    def __post_init__(self) -> None:
        for key, valid in (("methods", EMOTION_METHODS), ("emotions", EMOTIONS)):
            names = getattr(self, key)
            if not names or len(set(names)) < len(names):
                raise ConfigError(f"{key} must name one at least, and none twice.")
            for name in names:
                check_choice(key, name, valid)
        if not self.characters or len(set(self.characters)) < len(self.characters):
            raise ConfigError("characters must name one at least, and none twice.")
        for number in self.characters:
            check_range("characters", number, 0, 2**31)
        check_range("project_steps", self.project_steps, 1, 100_000)
        check_range("prior_weight", self.prior_weight, 0, 1e3)
        check_range("tune_steps", self.tune_steps, 0, 100_000)
        check_range("max_steps", self.max_steps, 1, 100_000)
        check_choice("device", self.device, ("auto", "cpu", "cuda"))


@dataclass
class ReportConfig:
    """What one report shows; the defaults and their reasons are in conf/stages/report.yaml."""

    # Name of the report, and of the character in its title.
    name: str = "character"
    # References to artifacts ("model/ganyu", "model/ganyu:v3", a path) or null: left out.
    dataset: str | None = None
    model: str | None = None
    inversion: str | None = None
    edit: str | None = None
    evaluation: str | None = None
    drag_bench: str | None = None
    # Sample grids shown between the first and the last one, both included.
    sample_grids: int = 6
    # Frames of the drag shown with their handles and targets, first and last included.
    key_frames: int = 6
    # Longest side in pixels of the large pictures (contact sheet, last samples, full picture).
    picture_px: int = 1600
    # Largest animation embedded, in MiB (base64 makes it a third larger in the page).
    video_mib: float = 4.0

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("name is empty; give the report a name, for example name=ganyu.")
        check_range("sample_grids", self.sample_grids, 1, 24)
        check_range("key_frames", self.key_frames, 2, 24)
        check_range("picture_px", self.picture_px, 128, 4096)
        check_range("video_mib", self.video_mib, 0, 64)

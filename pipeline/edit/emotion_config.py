"""Settings of what emotions need: a face's goal, directions, sheets. Plain values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.edit.emotion_names import ANIMATIONS, EMOTIONS
from pipeline.errors import ConfigError, check_choice, check_range

# How an emotion is reached. drawn: the drawing's own lines, without the model | search: latents by
# the face reader, from the best learnt direction | solve: the same from the face itself |
# direction: along a learnt direction alone | drag: handles by edit.drag.strategy | auto: drawn or
# search, whichever is measured to be better.
METHODS = ("auto", "drawn", "search", "solve", "direction", "drag")
ASSUMED = ("read", "neutral")


@dataclass
class EmotionConfig:
    """What a face should do; the defaults' reasons are in conf/stages/edit.yaml."""

    # "smile", "smile 0.7 + wink 0.3"; null: none.
    name: str | None = None
    # Multiplies all shares of `name`.
    strength: float = 1.0
    # "gaze_x=0.5, mouth_open=0.3"; null: none.
    sliders: str | None = None
    mirror: bool = False
    # read: the face has the expression that the reader takes it for | neutral.
    assume: str = "read"
    method: str = "auto"
    # Rounds of the search for latents.
    steps: int = 14
    # Weight of staying near the face's own latents.
    prior: float = 1.0

    def __post_init__(self) -> None:
        check_range("emotion.strength", self.strength, 0, 1.5)
        check_choice("emotion.assume", self.assume, ASSUMED)
        check_choice("emotion.method", self.method, METHODS)
        check_range("emotion.steps", self.steps, 1, 1000)
        check_range("emotion.prior", self.prior, 0, 1e6, low_open=True)

    @property
    def asked(self) -> bool:
        """Whether there is anything to do."""
        return bool((self.name or "").strip() or (self.sliders or "").strip())


@dataclass
class DirectionsConfig:
    """Directions of one model; the defaults' reasons are in conf/stages/directions.yaml."""

    # Name of the directions.
    name: str = "character"
    # Reference to the model.
    model: str = "model/${character}"
    seed: int = 0
    # auto, cpu or cuda.
    device: str = "auto"
    # Faces that the model draws to learn from, how far from the mean, and how many at once.
    samples: int = 1500
    truncation: float = 0.9
    batch: int = 16
    # Parts of the cross-validation.
    folds: int = 5
    # Weight of the logistic regression's penalty.
    penalty: float = 0.003
    # Faces by which the rows of ws that a direction moves are chosen; also shown.
    tried: int = 6

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("name is empty; give the directions a name, for example name=ganyu.")
        check_range("samples", self.samples, 20, 1_000_000)
        check_range("truncation", self.truncation, 0.05, 2)
        check_range("batch", self.batch, 1, 256)
        check_range("folds", self.folds, 2, 20)
        check_range("penalty", self.penalty, 0, 1e3, low_open=True)
        check_range("tried", self.tried, 1, 64)
        check_choice("device", self.device, ("auto", "cpu", "cuda"))


@dataclass
class EmotionsConfig:
    """One character in every emotion; the defaults' reasons are in conf/stages/emotions.yaml."""

    # Name of the sheet.
    name: str = "character"
    # References: the inverted picture, the model (None: the one it was inverted with), directions.
    inversion: str = "inversion/${character}"
    model: str | None = None
    directions: str | None = None
    # Which picture of a folder's inversion; None: the first, or the only one.
    picture: str | None = None
    # What is shown, in this order, and how strongly.
    emotions: list[str] = field(default_factory=lambda: list(EMOTIONS))
    strength: float = 1.0
    mirror: bool = False
    # As of an edit's emotion.
    assume: str = "read"
    method: str = "auto"
    steps: int = 14
    # Written above; None: the artifact's name. Beneath it; "": nothing.
    title: str | None = None
    subtitle: str = "One drawing in, every expression out"
    # Columns of the grid, side of a cell and of the loop, px.
    columns: int = 5
    cell_px: int = 320
    loop_px: int = 384
    # How long the loop stays at an emotion, in seconds.
    hold: float = 0.9
    seed: int = 0
    # auto, cpu or cuda.
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.emotions:
            raise ConfigError(f"emotions names nothing; take some of {', '.join(EMOTIONS)}.")
        for name in self.emotions:
            check_choice("emotions", name, EMOTIONS)
        if len(set(self.emotions)) < len(self.emotions):
            raise ConfigError(f"emotions={','.join(self.emotions)} names something twice.")
        check_range("strength", self.strength, 0, 1.5)
        check_choice("assume", self.assume, ASSUMED)
        check_choice("method", self.method, METHODS)
        check_range("steps", self.steps, 1, 1000)
        check_range("columns", self.columns, 1, 10)
        check_range("cell_px", self.cell_px, 96, 1024)
        check_range("loop_px", self.loop_px, 64, 1024)
        check_range("hold", self.hold, 0.05, 60)
        check_choice("device", self.device, ("auto", "cpu", "cuda"))


@dataclass
class AnimateConfig:
    """A film of one face; the defaults' reasons are in conf/stages/animate.yaml."""

    # Name of the animation.
    name: str = "character"
    # References: the inverted picture, the model (None: the one it was inverted with), directions.
    inversion: str = "inversion/${character}"
    model: str | None = None
    directions: str | None = None
    # Which picture of a folder's inversion; None: the first, or the only one.
    picture: str | None = None
    # A name in conf/animation, or a file of that format.
    animation: str = "blink"
    file: str | None = None
    # drawn: the drawing's own lines | search, solve, direction, drag: latents at every keyframe.
    method: str = "drawn"
    assume: str = "read"
    frames_per_second: int = 24
    # picture: the whole drawing | face: the part of it that the model sees.
    of: str = "picture"
    # Longest side of the films, side of a sprite, px.
    film_px: int = 720
    sprite_px: int = 192
    seed: int = 0
    # auto, cpu or cuda.
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.file is None:
            check_choice("animation", self.animation, ANIMATIONS)
        check_choice("method", self.method, [name for name in METHODS if name != "auto"])
        check_choice("assume", self.assume, ASSUMED)
        check_choice("of", self.of, ("picture", "face"))
        check_range("frames_per_second", self.frames_per_second, 1, 60)
        check_range("film_px", self.film_px, 64, 4096)
        check_range("sprite_px", self.sprite_px, 32, 1024)
        check_choice("device", self.device, ("auto", "cpu", "cuda"))


@dataclass
class BatchConfig:
    """One change of many faces; the defaults' reasons are in conf/stages/batch.yaml."""

    # Name of the batch.
    name: str = "character"
    # References: inverted pictures (None: seeds only), the model, directions.
    inversion: str | None = None
    model: str | None = None
    directions: str | None = None
    # Faces of the model by number: "0-9, 17"; None: none.
    seeds: str | None = None
    truncation: float = 0.7
    # What is done: an emotion, or a drag recipe's file.
    emotion: EmotionConfig = field(default_factory=EmotionConfig)
    recipe: str | None = None
    # Pairs a row, and the side of a picture, on the contact sheet.
    columns: int = 6
    cell_px: int = 160
    seed: int = 0
    # auto, cpu or cuda.
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.emotion.asked and self.recipe is not None:
            raise ConfigError("batch.emotion and batch.recipe exclude each other; set one of them.")
        if self.inversion is None and self.model is None:
            self.model = f"model/{self.name}"
        check_range("truncation", self.truncation, -2, 2)
        check_range("columns", self.columns, 1, 32)
        check_range("cell_px", self.cell_px, 48, 512)
        check_choice("device", self.device, ("auto", "cpu", "cuda"))

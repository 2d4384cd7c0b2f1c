"""Settings of the edit stage. Plain values only; knows nothing of tensors or files."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.edit.emotion_config import EmotionConfig
from pipeline.edit.points import parse_points
from pipeline.errors import ConfigError, check_choice, check_range

POINTS_FRAMES = ("face", "picture")
PASTES = ("auto", "drawing", "drawn", "face")
MASKS = ("auto", "none", "proposed")
# The names in pipeline/edit/strategies, which this module does not import: that takes torch.
STRATEGY_NAMES = ("draggan", "draggan-compatible", "freedrag", "stable", "auto")


@dataclass
class DragConfig:
    """How to drag. Null leaves a value to the recipe, else to the strategy's own default."""

    strategy: str | None = None
    # Steps at most, and steps without progress after which a drag is called stuck.
    max_steps: int | None = None
    patience: int | None = None
    learning_rate: float | None = None
    # Lengths in pixels of a 512-pixel picture.
    radius: float | None = None
    search_radius: float | None = None
    stop_distance: float | None = None
    mask_weight: float | None = None

    def __post_init__(self) -> None:
        if self.strategy is not None:
            check_choice("drag.strategy", self.strategy, STRATEGY_NAMES)
        for name in ("max_steps", "patience"):
            if getattr(self, name) is not None:
                check_range(f"drag.{name}", getattr(self, name), 1, 100_000)
        for name in ("radius", "search_radius", "stop_distance"):
            if getattr(self, name) is not None:
                check_range(f"drag.{name}", getattr(self, name), 0, 256, low_open=True)
        if self.learning_rate is not None:
            check_range("drag.learning_rate", self.learning_rate, 0, 10, low_open=True)
        if self.mask_weight is not None:
            check_range("drag.mask_weight", self.mask_weight, 0, 1e6)

    def constants(self) -> dict[str, float]:
        """The strategy constants that are set."""
        names = ("learning_rate", "radius", "search_radius", "stop_distance", "mask_weight")
        values = {name: getattr(self, name) for name in names}
        return {name: float(value) for name, value in values.items() if value is not None}


@dataclass
class EditConfig:
    """One edit; the defaults and their reasons are in conf/stages/edit.yaml."""

    # Name of the edit.
    name: str = "character"
    # References: the inverted picture, and the model (None: the one it was inverted with; for
    # seed_face: the one of the edit's name).
    inversion: str | None = None
    # Which picture of a folder's inversion, by name; None: the first, or the only one.
    picture: str | None = None
    model: str | None = None
    # What to drag: a recipe file, or points written out.
    recipe: str | None = None
    points: str | None = None
    points_frame: str = "face"
    # Every handle's mirror image across the face's middle moves as well.
    symmetric: bool = False
    # none: as the recipe has it | proposed: free around the handles' ways only | auto: proposed
    # where drag.strategy is auto.
    mask: str = "auto"
    # What a mask keeps is drawn from the start's own features.
    blend: bool = True
    # Drag the face that this seed gives instead of an inverted picture.
    seed_face: int | None = None
    truncation: float = 0.7
    # Character (name or class number) that is drawn, for a model of several (seed_face only); null:
    # the number's own, as in the samples stage.
    label: str | None = None
    # Directions of the model (make directions), for an emotion; None: none.
    directions: str | None = None
    # Feature layer (null: by the model), leading rows of ws that may change.
    layer: str | None = None
    rows: int = 6
    move_whole_face: bool = False
    # What the full picture is made of, see `full_picture`.
    paste: str = "auto"
    # Every how many steps the drag is saved, to go on from if the process is killed.
    save_every: int = 10
    # Every how many steps a picture is made, and how fast they are shown.
    frame_every: int = 2
    frames_per_second: int = 20
    seed: int = 0
    # auto | cpu | cuda
    device: str = "auto"
    drag: DragConfig = field(default_factory=DragConfig)
    # An emotion instead of points.
    emotion: EmotionConfig = field(default_factory=EmotionConfig)

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("name is empty; give the edit a name, for example name=ganyu.")
        if self.seed_face is not None:
            check_range("seed_face", self.seed_face, 0, 2**63 - 1)
            # The face comes from the seed; no inverted picture is wanted.
            self.inversion = None
            if self.points_frame == "picture":
                raise ConfigError(
                    "points_frame=picture needs an uploaded picture, and seed_face has none; "
                    "use points_frame=face."
                )
        elif self.inversion is None:
            raise ConfigError(
                "inversion is empty; name the inverted picture, for example "
                "inversion=inversion/ganyu, or set seed_face=0 to drag a face of the model."
            )
        if self.model is None and self.seed_face is not None:
            self.model = f"model/{self.name}"
        asked = (self.recipe is not None) + (self.points is not None) + self.emotion.asked
        if asked != 1:
            raise ConfigError(
                "points, recipe or emotion must say what to change, one of the three: "
                "edit.points='from-x,from-y>to-x,to-y' (several parted by semicolons), "
                "edit.recipe=file.json or edit.emotion.name=smile (make: POINTS=, RECIPE=, "
                "EMOTION=)."
            )
        if self.points is not None:
            parse_points(self.points)  # before an inversion, which takes a minute
        check_choice("points_frame", self.points_frame, POINTS_FRAMES)
        check_choice("paste", self.paste, PASTES)
        check_choice("mask", self.mask, MASKS)
        check_range("truncation", self.truncation, -2, 2)
        check_range("rows", self.rows, 1, 64)
        check_range("save_every", self.save_every, 1, 10_000)
        check_range("frame_every", self.frame_every, 1, 10_000)
        check_range("frames_per_second", self.frames_per_second, 1, 50)
        check_choice("device", self.device, ("auto", "cpu", "cuda"))

"""The constants that strategies have in common, each with its range; one class a kind of need.

A strategy inherits what it needs and adds its own. Lengths are pixels of a 512-pixel picture and
scale with the model's; each has a smallest value in the model's own pixels (`smallest_..._px`),
since a disc of 3 px at 512 would be a third of a pixel at 64.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from pipeline.edit.drag import DragModel
from pipeline.edit.strategies.measuring import LARGEST_LENGTH, scaled_px
from pipeline.errors import check_range

# Constant -> smallest value, largest value, whether the smallest is itself too small.
RANGES: dict[str, tuple[float, float, bool]] = {
    "radius": (0, LARGEST_LENGTH, True),
    "search_radius": (0, LARGEST_LENGTH, True),
    "stop_distance": (0, LARGEST_LENGTH, True),
    "reach": (0, LARGEST_LENGTH, True),
    "trust": (0, LARGEST_LENGTH, True),
    "noise": (0, LARGEST_LENGTH, True),
    "template_radius": (0, LARGEST_LENGTH, False),
    "smallest_radius_px": (1, LARGEST_LENGTH, False),
    "smallest_search_px": (1, LARGEST_LENGTH, False),
    "smallest_reach_px": (1, LARGEST_LENGTH, False),
    "smallest_trust_px": (1, LARGEST_LENGTH, False),
    "smallest_template_px": (0, LARGEST_LENGTH, False),
    "smallest_stop_px": (0, LARGEST_LENGTH, False),
    "smallest_noise_px": (0, 100, True),
    "mask_weight": (0, 1e6, False),
    "learning_rate": (0, 10, True),
    # FreeDrag's.
    "expected_loss": (0, 100, True),
    "inner_steps": (1, 1000, False),
    "candidates": (1, 1000, False),
    # Stable's.
    "filter_share": (0, 1, False),
    "trusted": (0, 1, False),
    "ridge": (0, 100, True),
    # Auto's.
    "common_share": (0, 0.999, False),
    "likely": (0, 1e6, False),
    "keep_levels": (0, 1e6, True),
}


@dataclass(frozen=True)
class Stopping:
    """What every strategy has: when a handle has arrived, and how heavy the mask weighs.

    Raises:
        ConfigError: for a constant outside its range (`RANGES`).
    """

    stop_distance: float = 2.0
    smallest_stop_px: float = 0.5
    mask_weight: float = 20.0  # lambda

    name: ClassVar[str]
    source: ClassVar[str]

    def __post_init__(self) -> None:
        for constant in fields(self):
            low, high, low_open = RANGES[constant.name]
            value: Any = getattr(self, constant.name)
            check_range(constant.name, value, low, high, low_open=low_open)

    def stop_distance_px(self, model: DragModel) -> float:
        """The stop distance in the model's pixels."""
        return scaled_px(self.stop_distance, self.smallest_stop_px, model)


@dataclass(frozen=True)
class Tracking(Stopping):
    """A tracker's: the window that it searches, and the patch that it compares."""

    search_radius: float = 12.0  # r2
    smallest_search_px: float = 3.0
    template_radius: float = 3.0
    smallest_template_px: float = 3.0  # 0, with template_radius 0, is the paper's single feature

    def search_px(self, model: DragModel) -> float:
        """Half the side of the search window in the model's pixels."""
        return scaled_px(self.search_radius, self.smallest_search_px, model)

    def template_px(self, model: DragModel) -> float:
        """Radius of the compared patch in the model's pixels."""
        return scaled_px(self.template_radius, self.smallest_template_px, model)


@dataclass(frozen=True)
class Pulling(Stopping):
    """Motion supervision's: the disc that is pulled or compared, and Adam's rate."""

    radius: float = 3.0  # r1
    smallest_radius_px: float = 2.0
    learning_rate: float = 2e-3

    def radius_px(self, model: DragModel) -> float:
        """The disc's radius in the model's pixels."""
        return scaled_px(self.radius, self.smallest_radius_px, model)

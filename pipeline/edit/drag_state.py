"""What a drag is: its state, the events that change it, and the events that it answers with.

Frozen values only; the engine that makes one out of another is `drag`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from torch import Tensor

from pipeline.errors import AnimedragError

Point = tuple[float, float]


class DragError(AnimedragError):
    """The caller asked for something a drag cannot do; the state is unchanged."""


class Status(Enum):
    """Where a drag stands."""

    EMPTY = "empty"  # no handle yet
    DRAGGING = "dragging"  # a step is possible
    ARRIVED = "arrived"  # every handle is within the stop distance
    STUCK = "stuck"  # no progress for `patience` steps
    LOST = "lost"  # a handle was no longer recognised; the last good state is back
    EXHAUSTED = "exhausted"  # the step budget is used up
    STOPPED = "stopped"  # the user said stop


# --- state ---


@dataclass(frozen=True, eq=False)
class Handle:
    """One point being dragged.

    `reference` (n × C) is what the tracker looks for: features around the point when it was set.
    `anchor` (m × C) is what a handle that has arrived is held to; None while it travels.
    `radius_px`: a region handle takes hold of the whole disc of that radius; None: of a point.
    `memory`: what the strategy wants to know of this handle at the next step; its own business.
    """

    id: int
    start: Point
    position: Point
    target: Point
    reference: Tensor | None = None
    anchor: Tensor | None = None
    confidence: float = 1.0
    radius_px: float | None = None
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def distance_px(self) -> float:
        """Distance left to the target."""
        return math.dist(self.position, self.target)


@dataclass(frozen=True, eq=False)
class Moments:
    """Adam's running averages over the free rows (1 × rows × w_dim) and its step count."""

    first: Tensor
    second: Tensor
    count: int = 0


@dataclass(frozen=True, eq=False)
class Best:
    """The best measured step of the present goal in which no handle was lost.

    A smaller score is better.

    The score is (mean distance beyond the stop distance, mean distance), in pixels.
    """

    score: tuple[float, float]
    ws: Tensor
    step: int
    positions: tuple[tuple[int, Point], ...]


@dataclass(frozen=True, eq=False)
class DragState:
    """Everything a drag needs to go on. Tensors in it are never changed in place."""

    ws: Tensor  # 1 × num_ws × w_dim: what the next step measures
    shown_ws: Tensor  # the ws of the last measured step, i.e. of the picture last shown
    start_ws: Tensor
    free_rows: tuple[int, int]  # first and one past the last row that is optimised
    moments: Moments
    status: Status = Status.EMPTY
    handles: tuple[Handle, ...] = ()
    mask: Tensor | None = None  # H × W in [0, 1]; 1 keeps, 0 is free
    base: Tensor | None = None  # 1 × C × h × w features of the first step
    step: int = 0
    goal_step: int = 0  # steps since handles, targets or mask last changed
    best: Best | None = None
    progress: tuple[float, int] = (math.inf, 0)  # score last improved clearly, and at which step
    next_id: int = 1
    lost_steps: int = 0  # steps in a row in which a handle was not recognised
    memory: Mapping[str, Tensor] = field(default_factory=dict)  # the strategy's, for this goal


# --- events in ---


@dataclass(frozen=True)
class AddHandle:
    """Put a handle on the picture last shown; with a radius, on the whole disc around the point."""

    position: Point
    target: Point
    radius_px: float | None = None


@dataclass(frozen=True)
class MoveHandle:
    """Put a handle elsewhere; it gets a new reference there."""

    id: int
    position: Point


@dataclass(frozen=True)
class MoveTarget:
    """Give a handle another target; its reference stays."""

    id: int
    target: Point


@dataclass(frozen=True)
class RemoveHandle:
    """Take a handle away."""

    id: int


@dataclass(frozen=True, eq=False)
class SetMask:
    """Set (H × W in [0, 1], 1 keeps) or remove the keep-mask."""

    mask: Tensor | None


@dataclass(frozen=True)
class Step:
    """Measure once and move once."""


@dataclass(frozen=True)
class Stop:
    """Stop at the user's word."""


@dataclass(frozen=True)
class Continue:
    """Go on after a stop, with a fresh step budget."""


EventIn = AddHandle | MoveHandle | MoveTarget | RemoveHandle | SetMask | Step | Stop | Continue

_EDITS: frozenset[type] = frozenset({AddHandle, MoveHandle, MoveTarget, RemoveHandle, SetMask})
# Which events each status accepts. Handles and mask may change at any time.
LEGAL: dict[Status, frozenset[type]] = {
    Status.EMPTY: frozenset({AddHandle, SetMask}),
    Status.DRAGGING: _EDITS | {Step, Stop},
    Status.ARRIVED: _EDITS,
    Status.STUCK: _EDITS | {Continue},
    Status.LOST: _EDITS | {Continue},
    Status.EXHAUSTED: _EDITS | {Continue},
    Status.STOPPED: _EDITS | {Continue},
}


# --- events out ---


@dataclass(frozen=True)
class HandleReport:
    """One handle as a step measured it."""

    id: int
    position: Point
    target: Point
    distance_px: float
    confidence: float
    held: bool


@dataclass(frozen=True, eq=False)
class Stepped:
    """A step was taken. Positions and `ws` belong together; the move comes after them."""

    step: int
    loss: float
    motion_loss: float
    mask_loss: float
    handles: tuple[HandleReport, ...]
    ws: Tensor
    gradient: Tensor  # 1 × rows × w_dim

    @property
    def mean_distance_px(self) -> float:
        """Mean distance of the handles to their targets."""
        return sum(handle.distance_px for handle in self.handles) / max(len(self.handles), 1)


@dataclass(frozen=True)
class HandleAdded:
    """A handle was accepted under this id."""

    id: int


@dataclass(frozen=True)
class Ended:
    """The drag left DRAGGING by itself; `reason` is one sentence."""

    status: Status
    reason: str


EventOut = Stepped | HandleAdded | Ended

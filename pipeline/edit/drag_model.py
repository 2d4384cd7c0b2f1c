"""What a drag is given: the generator as it needs it, a strategy, and limits.

The engine is `drag`. Knows no network class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from pipeline.edit.drag_state import DragState, Handle, Moments
from pipeline.edit.sampling import Frame
from pipeline.errors import check_range


@dataclass(frozen=True, eq=False)
class LatentPrior:
    """Which latents the model was trained to draw from: mean and spread of its w.

    w = mean + spread @ u, with u of unit variance (w_dim; w_dim × w_dim, lower triangular).
    """

    mean: Tensor
    spread: Tensor


@dataclass(frozen=True, eq=False)
class Survey:
    """What faces near the dragged one look like: N small random moves of the free rows, alike in
    all rows, and what each did to the picture.

    `landmarks` is None where the face cannot be read; samples whose face cannot are left out.
    """

    moves: Tensor  # N × w_dim
    landmarks: Tensor | None  # N × 56, pixels of the picture
    pictures: Tensor  # N × 3 × h × w, change of small pictures, in grey levels of 255


@dataclass(frozen=True, eq=False)
class Seen:
    """What one picture shows."""

    landmarks: Tensor  # 28×2, pixels of the picture
    error: float  # of them, expected, in face widths
    # 3 × h × w: change of a small picture since the start, in grey levels; without the mask.
    small: Tensor


class View(Protocol):
    """The pictures of a drag, and the face that is seen in them.

    `start_ws` and `mask` are the drag's: what the mask keeps is drawn as the start has it.
    """

    def see(self, ws: Tensor, start_ws: Tensor, mask: Tensor | None) -> Seen:
        """The picture of ws (1 × num_ws × w_dim) and the face in it."""
        ...

    def landmarks(self, ws: Tensor, start_ws: Tensor, mask: Tensor | None) -> Tensor:
        """28×2 px, a little less exact than `see` has them; differentiable by ws."""
        ...

    def survey(
        self, start_ws: Tensor, rows: tuple[int, int], mask: Tensor | None, faces: int
    ) -> Survey:
        """At most so many `faces` near the start's; the same for the same arguments."""
        ...


@dataclass(frozen=True)
class DragModel:
    """What the engine needs of a generator."""

    # ws N × num_ws × w_dim -> N × C × h × w; a step asks for N = 1, `auto` for more.
    features: Callable[[Tensor], Tensor]
    frame: Frame
    width: int  # of the picture, pixels
    height: int
    # What latents are likely; None: unknown, all directions are alike.
    prior: LatentPrior | None = None
    # The pictures and the faces in them; None: there are features only.
    view: View | None = None


@dataclass(frozen=True, eq=False)
class Proposal:
    """What a strategy measured, and the move it proposes."""

    handles: tuple[Handle, ...]
    motion_loss: float
    mask_loss: float
    gradient: Tensor
    next_ws: Tensor
    moments: Moments
    base: Tensor
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    settled: bool = False  # the strategy knows that no further step would help


class Strategy(Protocol):
    """One way of measuring and moving; holds constants only, never state.

    What it must know at the next step it puts into `Proposal.memory` and `Handle.memory`. The
    former is empty again when the goal changed (`state.goal_step == 0`), the latter stays.
    """

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str:
        """The paper it is from."""
        ...

    def stop_distance_px(self, model: DragModel) -> float:
        """A handle at most this far from its target has arrived."""
        ...

    def propose(self, state: DragState, model: DragModel) -> Proposal:
        """Measure `state.ws` and propose the next one; pure."""
        ...


@dataclass(frozen=True)
class Limits:
    """When a drag ends although its handles have not arrived."""

    max_steps: int = 300
    patience: int = 80  # steps without clear progress
    min_progress: float = 0.01  # of the distance left: what counts as clear progress
    # A handle below this confidence is not recognised; after so many steps of that in a row the
    # drag is lost. One step alone may be a blink.
    min_confidence: float = 0.05
    lost_after: int = 8

    def __post_init__(self) -> None:
        check_range("max_steps", self.max_steps, 1)
        check_range("patience", self.patience, 1)
        check_range("min_progress", self.min_progress, 0, 1)
        check_range("min_confidence", self.min_confidence, 0, 1)
        check_range("lost_after", self.lost_after, 1)

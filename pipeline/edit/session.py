"""The studio's session: its state, the messages it takes and the events it gives.

A session is a drag with a memory. Every picture that was made is a *frame*; frames know which one
they came from, so that scrubbing back and dragging on from there begins a branch and loses nothing.
Every thing the artist did is a *node* of the undo tree: the drag's state, and the frame shown.
Nothing is ever removed, so undo, redo and scrubbing only choose what is shown.

Here is what a session holds, hears and says; `session_machine` is what it does with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.edit import drag
from pipeline.edit.drag import DragModel, DragState, Limits, Point, Status, Strategy
from pipeline.edit.sentences import Told

# A frame keeps its latents (some 20 KB) and its picture; beyond this a session is an accident.
MAX_FRAMES = 5000
# Each handle costs time at every step, and a face has 28 landmarks.
MAX_HANDLES = 40


class SessionError(Told):
    """The message cannot be carried out; the session is unchanged."""


# --- state ---


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture that was made, and where the handles were in it."""

    id: int
    parent: int | None
    step: int  # of the drag that made it; 0 for the start picture
    ws: Tensor  # 1 × num_ws × w_dim
    positions: Mapping[int, Point] = field(default_factory=dict)
    distance_px: float | None = None  # mean distance left


@dataclass(frozen=True, eq=False)
class Node:
    """One thing that was done: the state after it, the frame shown, the last frame beyond it."""

    id: int
    parent: int | None
    label: str
    state: DragState
    frame: int
    tip: int
    pairs: tuple[tuple[int, int], ...] = ()  # handles that mirror each other


@dataclass(frozen=True)
class Engine:
    """What a session needs in order to drag."""

    model: DragModel
    strategy: Strategy
    limits: Limits


@dataclass(frozen=True, eq=False)
class Session:
    """Everything there is; `current` is the node shown, `visited` the children redo returns to."""

    frames: tuple[Frame, ...]
    nodes: tuple[Node, ...]
    current: int = 0
    running: bool = False
    reason: str = ""  # why the drag stopped by itself; "" while it did not
    visited: Mapping[int, int] = field(default_factory=dict)

    @property
    def node(self) -> Node:
        return self.nodes[self.current]

    @property
    def state(self) -> DragState:
        return self.node.state

    @property
    def frame(self) -> Frame:
        return self.frames[self.node.frame]

    @property
    def can_undo(self) -> bool:
        return self.node.parent is not None

    @property
    def can_redo(self) -> bool:
        return self.current in self.visited

    def timeline(self) -> list[int]:
        """The frames from the first one to the last one beyond the frame shown."""
        path = []
        at: int | None = self.node.tip
        while at is not None:
            path.append(at)
            at = self.frames[at].parent
        return path[::-1]

    def partner(self, handle: int) -> int | None:
        """The other handle of a mirrored pair."""
        for one, other in self.node.pairs:
            if handle in (one, other):
                return other if handle == one else one
        return None


# --- messages in ---


@dataclass(frozen=True)
class Add:
    """Put a handle on the picture shown; `mirrored`: and another one on the other half."""

    position: Point
    target: Point
    mirrored: bool = False


@dataclass(frozen=True)
class Move:
    """Give a handle another place, another target, or both; its partner follows."""

    id: int
    position: Point | None = None
    target: Point | None = None


@dataclass(frozen=True)
class Remove:
    """Take a handle and its partner away."""

    id: int


@dataclass(frozen=True, eq=False)
class Mask:
    """H × W in [0, 1]: 1 keeps; None removes it."""

    mask: Tensor | None


@dataclass(frozen=True)
class Run:
    """Drag until the handles arrive or somebody stops it."""


@dataclass(frozen=True)
class Pause:
    """Stop dragging; the picture stays as it is."""


@dataclass(frozen=True)
class StepOnce:
    """One step, then pause."""


@dataclass(frozen=True)
class Tick:
    """The time for a step has come; nothing happens while paused."""


@dataclass(frozen=True)
class Seek:
    """Show a frame of the timeline, and go on from there."""

    frame: int


@dataclass(frozen=True)
class Undo:
    """Back to before the last thing that was done."""


@dataclass(frozen=True)
class Redo:
    """The opposite of undo."""


@dataclass(frozen=True)
class Go:
    """To any thing that was ever done, on whatever branch."""

    node: int


@dataclass(frozen=True, eq=False)
class Play:
    """Pictures that something else than a drag made, after that frame: a branch of their own."""

    label: str
    after: int
    ws: tuple[Tensor, ...]  # each 1 × num_ws × w_dim


MessageIn = (
    Add | Move | Remove | Mask | Run | Pause | StepOnce | Tick | Seek | Undo | Redo | Go | Play
)


# --- events out ---


@dataclass(frozen=True, eq=False)
class FrameMade:
    """A step made this picture."""

    frame: Frame
    loss: float


@dataclass(frozen=True)
class Changed:
    """Something else than the frame changed: handles, mask, the node, running."""


@dataclass(frozen=True)
class Ended:
    """The drag stopped by itself; `reason` is one sentence."""

    status: Status
    reason: str


EventOut = FrameMade | Changed | Ended


# --- the beginning ---


def begin(ws: Tensor, free_rows: tuple[int, int]) -> Session:
    """A session on the picture of `ws` (1 × num_ws × w_dim), see `drag.start`."""
    state = drag.start(ws, free_rows)
    return Session((Frame(0, None, 0, state.ws),), (Node(0, None, "start", state, 0, 0),))

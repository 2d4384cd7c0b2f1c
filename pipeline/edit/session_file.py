"""A session on disk, so that a closed page, a killed server or a power cut loses at most a step.

    session.json            frames, nodes, what is shown; replaced whole, written last
    nodes/<n>.safetensors   the drag's state at that node (see `state_file`)
    frames/<n>.npy, .png    a frame's latents and its picture

Frames never change and are written once; a node is written again while the drag runs in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import files
from pipeline.edit import state_file
from pipeline.edit.session import Frame, Node, Session
from pipeline.errors import DataError

FORMAT = 2


def frame_picture(folder: Path, frame: int) -> Path:
    """Where the picture of a frame lies."""
    return folder / "frames" / f"{frame:06d}.png"


class SessionFile:
    """Writes one session to one folder; remembers what it has written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._states: dict[int, object] = {}  # node -> the state that is on disk
        self._frames = 0
        for name in ("frames", "nodes"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def write(self, session: Session) -> None:
        """Write what is new, then `session.json`."""
        for frame in session.frames[self._frames :]:
            np.save(self.folder / "frames" / f"{frame.id:06d}.npy", frame.ws.cpu().numpy())
        self._frames = len(session.frames)
        for node in session.nodes:
            if self._states.get(node.id) is not node.state:
                state_file.write(node.state, self._node_path(node.id))
                self._states[node.id] = node.state
        files.put_text(self.folder / "session.json", json.dumps(_to_json(session)) + "\n")

    def read(self, device: str = "cpu") -> Session | None:
        """The session that was written; None where there is none; DataError where it is damaged."""
        path = self.folder / "session.json"
        if not path.is_file():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] not in (1, FORMAT):
                raise DataError(f"its format is {data['format']}")
            frames = tuple(self._frame(item, device) for item in data["frames"])
            nodes = tuple(self._node(item, device) for item in data["nodes"])
            _check_numbers(data, frames, nodes)
        except Exception as error:  # whatever a damaged file gives
            raise DataError(f"The session in {self.folder.name} is damaged ({error}).") from error
        self._frames = len(frames)
        self._states = {node.id: node.state for node in nodes}
        return Session(
            frames=frames,
            nodes=nodes,
            current=data["current"],
            reason=data["reason"],
            visited={int(parent): child for parent, child in data["visited"].items()},
        )

    def _frame(self, item: dict[str, Any], device: str) -> Frame:
        path = self.folder / "frames" / f"{item['id']:06d}.npy"
        ws = torch.from_numpy(np.load(path, allow_pickle=False)).to(device)
        positions = {int(handle): (x, y) for handle, (x, y) in item["positions"].items()}
        return Frame(item["id"], item["parent"], item["step"], ws, positions, item["distance_px"])

    def _node(self, item: dict[str, Any], device: str) -> Node:
        state = state_file.read(self._node_path(item["id"]), device)
        pairs = tuple((one, other) for one, other in item.get("pairs", ()))  # format 1 has none
        return Node(**{**item, "pairs": pairs}, state=state)

    def _node_path(self, node: int) -> Path:
        return self.folder / "nodes" / f"{node:05d}.safetensors"


def _check_numbers(
    data: dict[str, Any], frames: tuple[Frame, ...], nodes: tuple[Node, ...]
) -> None:
    """ValueError unless everything that is named by number is there, parents before children."""
    named = {data["current"], *map(int, data["visited"]), *data["visited"].values()}
    for number, frame in enumerate(frames):
        if frame.id != number or not (frame.parent is None or 0 <= frame.parent < number):
            raise ValueError(f"frame {number} is not where it should be")
    for number, node in enumerate(nodes):
        if node.id != number or not (node.parent is None or 0 <= node.parent < number):
            raise ValueError(f"node {number} is not where it should be")
        if not {node.frame, node.tip} <= set(range(len(frames))):
            raise ValueError(f"node {number} shows a frame that is not there")
    if not named <= set(range(len(nodes))):
        raise ValueError("it names a node that is not there")


def _to_json(session: Session) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "current": session.current,
        "reason": session.reason,
        "visited": {str(parent): child for parent, child in session.visited.items()},
        "frames": [
            {
                "id": frame.id,
                "parent": frame.parent,
                "step": frame.step,
                "positions": {str(handle): point for handle, point in frame.positions.items()},
                "distance_px": frame.distance_px,
            }
            for frame in session.frames
        ],
        "nodes": [
            {
                "id": node.id,
                "parent": node.parent,
                "label": node.label,
                "frame": node.frame,
                "tip": node.tip,
                "pairs": node.pairs,
            }
            for node in session.nodes
        ],
    }

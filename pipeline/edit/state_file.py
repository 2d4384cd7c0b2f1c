"""A drag's state on disk, so that an interrupted drag goes on where it stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline import files
from pipeline.edit.drag import Best, DragState, Handle, Moments, Point, Status

_PLAIN = "state"


def write(state: DragState, path: Path) -> None:
    """Write the state as one safetensors file, aside first; what is no tensor is in its header."""
    tensors: dict[str, Tensor | None] = {
        "ws": state.ws,
        "shown_ws": state.shown_ws,
        "start_ws": state.start_ws,
        "first": state.moments.first,
        "second": state.moments.second,
        "mask": state.mask,
        "base": state.base,
        "best_ws": None if state.best is None else state.best.ws,
    }
    for handle in state.handles:
        tensors[f"reference.{handle.id}"] = handle.reference
        tensors[f"anchor.{handle.id}"] = handle.anchor
        for name, value in handle.memory.items():
            tensors[f"handle.{handle.id}.{name}"] = value
    for name, value in state.memory.items():
        tensors[f"memory.{name}"] = value
    plain = {
        "free_rows": state.free_rows,
        "count": state.moments.count,
        "status": state.status.value,
        "step": state.step,
        "goal_step": state.goal_step,
        "next_id": state.next_id,
        "lost_steps": state.lost_steps,
        # JSON knows no infinity: null is "no progress measured yet".
        "progress": [None if math.isinf(state.progress[0]) else state.progress[0],
                     state.progress[1]],
        "best": None if state.best is None else {
            "score": state.best.score, "step": state.best.step, "positions": state.best.positions,
        },
        "handles": [
            {"id": h.id, "start": h.start, "position": h.position, "target": h.target,
             "confidence": h.confidence, "radius_px": h.radius_px}
            for h in state.handles
        ],
    }  # fmt: skip
    # Clones, because a file may not hold two names for one memory.
    held = {
        key: value.detach().cpu().contiguous().clone()
        for key, value in tensors.items()
        if value is not None
    }
    with files.put(path) as aside:
        save_file(held, aside, {_PLAIN: json.dumps(plain)})


def read(path: Path, device: str = "cpu") -> DragState:
    """The state that `write` wrote; raises what a damaged file gives (start anew then).

    Tensors lie on the device, but for those of float64: strategies do their algebra on the
    processor (see `strategies.gauss_newton`).
    """
    with safe_open(path, "pt") as file:
        plain = json.loads(file.metadata()[_PLAIN])
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dict)
    tensors = {
        key: value if value.dtype == torch.float64 else value.to(device)
        for key, value in found.items()
    }
    best = plain["best"]
    progress, since = plain["progress"]
    return DragState(
        ws=tensors["ws"],
        shown_ws=tensors["shown_ws"],
        start_ws=tensors["start_ws"],
        free_rows=(plain["free_rows"][0], plain["free_rows"][1]),
        moments=Moments(tensors["first"], tensors["second"], plain["count"]),
        status=Status(plain["status"]),
        handles=tuple(_handle(item, tensors) for item in plain["handles"]),
        mask=tensors.get("mask"),
        base=tensors.get("base"),
        step=plain["step"],
        goal_step=plain["goal_step"],
        best=None
        if best is None
        else Best(
            score=(best["score"][0], best["score"][1]),
            ws=tensors["best_ws"],
            step=best["step"],
            positions=tuple((number, _point(place)) for number, place in best["positions"]),
        ),
        progress=(math.inf if progress is None else progress, since),
        next_id=plain["next_id"],
        lost_steps=plain["lost_steps"],
        memory=_named("memory.", tensors),
    )


def _handle(item: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Handle:
    return Handle(
        id=item["id"],
        start=_point(item["start"]),
        position=_point(item["position"]),
        target=_point(item["target"]),
        reference=tensors.get(f"reference.{item['id']}"),
        anchor=tensors.get(f"anchor.{item['id']}"),
        confidence=item["confidence"],
        radius_px=item["radius_px"],
        memory=_named(f"handle.{item['id']}.", tensors),
    )


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _point(value: list[float]) -> Point:
    return value[0], value[1]

"""All that a page needs to draw itself, but for the pictures."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.edit.kept import there
from pipeline.edit.session import Engine, Session
from pipeline.edit.studio.makers import Header


def of_session(session: Session, engine: Engine) -> Header:
    """Where the drag, its points and its history stand."""
    timeline = session.timeline()
    return {
        "running": session.running,
        "status": session.state.status.value,
        "reason": session.reason,
        "handles": handles(session),
        "frame": session.frame.id,
        "step": session.frame.step,
        "timeline": timeline,
        "distances": [left(session.frames[number].distance_px) for number in timeline],
        "node": session.current,
        "nodes": [
            {"parent": node.parent, "label": node.label, "frame": node.frame}
            for node in session.nodes
        ],
        "can_undo": session.can_undo,
        "can_redo": session.can_redo,
        "stop_px": engine.strategy.stop_distance_px(engine.model),
    }


def left(distance: float | None) -> float | None:
    """Pixels left to go, rounded; None where nothing was dragged."""
    return None if distance is None else round(distance, 2)


def handles(session: Session) -> list[Header]:
    """The points: where each was put, is, and is to go."""
    return [
        {"id": h.id, "start": h.start, "position": h.position, "target": h.target,
         "distance": round(h.distance_px, 3), "confidence": round(h.confidence, 3),
         "partner": session.partner(h.id)}
        for h in session.state.handles
    ]  # fmt: skip


def kept_of(saved: Header | None, table: dict[str, str]) -> Header | None:
    """What a page is told of something that was saved: no paths."""
    if saved is None:
        return None
    told = {key: saved[key] for key in ("reference", "frame")}
    return {**told, "files": there(Path(saved["folder"]), table)}


def device_name(device: torch.device) -> str:
    """What a GPU calls itself; "" for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""

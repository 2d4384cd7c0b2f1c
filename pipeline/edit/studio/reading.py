"""Strict reading of what a page says. DataError, one sentence, for everything else."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import torch
from torch import Tensor

from pipeline.edit import session as sessions
from pipeline.edit.session import Engine
from pipeline.edit.studio.makers import Header
from pipeline.errors import DataError

MOST = 2**31 - 1


def number(header: Header, key: str) -> float:
    """A finite number."""
    value = header.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # JSON's whole numbers have no end
            if math.isfinite(value):
                return float(value)
    raise DataError(f"{header['type']}: {key} must be a number.")


def whole(header: Header, key: str, most: int = MOST) -> int:
    """A whole number from 0 to `most`."""
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise DataError(f"{header['type']}: {key} must be a whole number from 0 to {most}.")
    return value


def text(header: Header, key: str) -> str:
    """A text of 1 to 200 characters."""
    value = header.get(key)
    if not isinstance(value, str) or not value or len(value) > 200:
        raise DataError(f"{header['type']}: {key} must be a short text.")
    return value


def point(header: Header, key: str) -> tuple[float, float]:
    """A point [x, y], in pixels of the face."""
    value = header.get(key)
    if not isinstance(value, list) or len(value) != 2:
        raise DataError(f"{header['type']}: {key} must be [x, y].")
    x, y = (number({"type": header["type"], key: part}, key) for part in value)
    return x, y


def mask(body: bytes, engine: Engine, device: torch.device) -> Tensor:
    """H x W bytes, 255 keeps, as a mask in [0, 1]."""
    width, height = engine.model.width, engine.model.height
    if len(body) != width * height:
        raise DataError(f"A mask has {width}×{height} bytes, one a pixel of the face.")
    values = np.frombuffer(body, np.uint8).reshape(height, width).astype(np.float32) / 255
    return torch.from_numpy(values).to(device)


def edit_message(
    header: Header, body: bytes, engine: Engine, device: torch.device
) -> sessions.MessageIn:
    """What the page wants of the session."""
    match header["type"]:
        case "add":
            mirrored = header.get("mirrored") is True
            return sessions.Add(point(header, "position"), point(header, "target"), mirrored)
        case "move":
            ends = (point(header, key) if key in header else None for key in ("position", "target"))
            return sessions.Move(whole(header, "id"), *ends)
        case "remove":
            return sessions.Remove(whole(header, "id"))
        case "mask":
            return sessions.Mask(mask(body, engine, device) if body else None)
        case "run":
            return sessions.Run()
        case "pause":
            return sessions.Pause()
        case "step":
            return sessions.StepOnce()
        case "seek":
            return sessions.Seek(whole(header, "frame"))
        case "undo":
            return sessions.Undo()
        case "redo":
            return sessions.Redo()
        case "go":
            return sessions.Go(whole(header, "node"))
    raise DataError(f"The studio does not know the message {header['type'][:40]!r}.")

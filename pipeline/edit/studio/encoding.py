"""Pictures and masks as the bytes and texts that go to a page."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# The page shows no more of a picture; the file taken home is whole.
SHOWN_SIDE = 1600


def png(picture: np.ndarray) -> bytes:
    """H x W x 3 uint8 as a PNG file. Level 1: half the time of the default, a tenth more bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def webp(picture: np.ndarray) -> bytes:
    """H x W x 3 uint8 as a WebP file, made smaller where it is larger than a page shows."""
    image = Image.fromarray(picture)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=92, method=2)
    return buffer.getvalue()


def mask_bytes(mask: Tensor) -> np.ndarray:
    """A mask of H x W in [0, 1] as uint8, 255 keeps."""
    values: np.ndarray = (mask * 255).round().to(torch.uint8).cpu().numpy()
    return values


def mask_text(mask: Tensor | None) -> str | None:
    """The same in base64, row by row; None where there is no mask."""
    return None if mask is None else base64.b64encode(mask_bytes(mask).tobytes()).decode("ascii")

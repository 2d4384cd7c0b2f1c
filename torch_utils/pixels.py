"""Images of the networks and 8-bit pixels. Knows nothing about files."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# ITU-R BT.601: what a grey network sees of a coloured picture.
_LUMA = (0.299, 0.587, 0.114)


def to_uint8(images: Tensor) -> np.ndarray:
    """N×C×H×W in [-1, 1], C 3 or 1 => N×H×W×3 uint8, rounded to the nearest and clipped."""
    values = images.detach().float().cpu().mul(127.5).add(127.5).round().clamp(0, 255)
    pixels = values.numpy().astype(np.uint8).transpose(0, 2, 3, 1)
    return np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels


def to_tensor(picture: np.ndarray, channels: int = 3) -> Tensor:
    """H×W×3 uint8 => 1×channels×H×W float32 in [-1, 1]; one channel is the luma."""
    values = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
    if channels == 1:
        return (values * torch.tensor(_LUMA).reshape(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    return values

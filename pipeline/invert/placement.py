"""Where StyleGAN3's picture lies on the plane: a turn and a shift of its Fourier input.

Karras et al. 2021, section 3.2: the input's waves fill the whole plane, and the buffer
`input.transform` of the synthesis network says which part of it is drawn. For a picture that is not
aligned it is optimised with the latent. A motion is three numbers: the turn in radians
(anticlockwise in the picture, whose y axis points down), and the shift to the right and down in
image sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

# Name of the buffer within the synthesis network.
BUFFER = "input.transform"

# Coarse grid that is searched before anything is optimised: gradients lead home only from nearby.
TURNS_DEGREES = (-30.0, -15.0, 0.0, 15.0, 30.0)
SHIFTS = (-0.15, 0.0, 0.15)


def can_move(generator: Any) -> bool:
    """Whether the generator has a Fourier input that can be moved."""
    return BUFFER in dict(generator.synthesis.named_buffers())


def matrix(motion: Tensor) -> Tensor:
    """The buffer's value for a motion (3 numbers): an inverse 3 x 3 transformation; differentiable.

    A point of the plane is where the picture's point was before it was turned, then shifted.
    """
    turn, right, down = motion.unbind()
    cos, sin = turn.cos(), turn.sin()
    zero, one = torch.zeros_like(turn), torch.ones_like(turn)
    back = torch.stack([one, zero, -right, zero, one, -down, zero, zero, one]).reshape(3, 3)
    turned_back = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one]).reshape(3, 3)
    return turned_back @ back


def identity(device: torch.device) -> Tensor:
    """The motion that leaves all where it is."""
    return torch.zeros(3, device=device)


def grid(device: torch.device) -> Iterator[Tensor]:
    """Motions of a coarse search, the identity among them."""
    for turn in TURNS_DEGREES:
        for right in SHIFTS:
            for down in SHIFTS:
                yield torch.tensor([math.radians(turn), right, down], device=device)


def nearest(distance: Callable[[Tensor], float], device: torch.device) -> Tensor:
    """The motion of the grid whose picture is nearest, `distance` being told its matrix."""
    with torch.no_grad():
        return min(grid(device), key=lambda motion: distance(matrix(motion)))

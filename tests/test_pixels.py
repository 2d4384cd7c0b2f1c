"""Images of the networks and 8-bit pixels."""

from __future__ import annotations

import numpy as np
import torch

from torch_utils.pixels import to_tensor, to_uint8


def test_pixels_survive_the_way_to_tensors_and_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    tensor = to_tensor(pixels)
    assert tensor.shape == (1, 3, 9, 7)
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    np.testing.assert_array_equal(to_uint8(tensor)[0], pixels)
    grey = np.repeat(pixels[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(to_uint8(to_tensor(grey, 1))[0], grey)


def test_values_are_rounded_and_clipped() -> None:
    images = torch.tensor([-1.0, 0.0, 1.0, 3.0, -3.0]).reshape(1, 1, 1, 5)
    pixels = to_uint8(images)
    assert pixels.shape == (1, 1, 5, 3)
    assert pixels[0, 0, :, 0].tolist() == [0, 128, 255, 255, 0]

"""Masks: proposed ones, and pictures whose kept part does not change."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from test_edit_generator import sg2, sg3, ws_of

from pipeline.data.painter import character, face_landmarks
from pipeline.edit.blending import Blend
from pipeline.edit.generator import choose_layer
from pipeline.edit.proposed_mask import propose_mask
from pipeline.edit.recipe import Move
from pipeline.invert.pti import picture_of


@pytest.mark.parametrize("kind", ["sg2", "sg3"])
def test_what_a_mask_keeps_does_not_change_by_a_bit(kind: str) -> None:
    generator = sg2() if kind == "sg2" else sg3()
    start = ws_of(generator)
    ws = start + 0.5 * torch.randn(start.shape, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(64, 64)
    mask[:, 40:] = 1
    mask[:, 32:40] = torch.linspace(0, 1, 8)
    blend = Blend(generator, start, mask, choose_layer(generator), picture_of)
    with torch.no_grad():
        before, free = picture_of(generator, start), picture_of(generator, ws)
    after = blend.picture(ws)
    assert torch.equal(after[..., 40:], before[..., 40:])
    assert not torch.allclose(free[..., 40:], before[..., 40:], atol=0.01)
    # Far inside the free part it is the dragged picture, but for what reaches across.
    change = (after - before)[..., :16].abs().mean()
    assert change > 0.5 * (free - before)[..., :16].abs().mean()
    # No step at the seam beyond those that the pictures have themselves, and what it takes to come
    # from one to the other over the mask's eight pixels.
    step = (after[..., 1:] - after[..., :-1]).abs().mean((0, 1, 2))
    own = torch.maximum(
        (before[..., 1:] - before[..., :-1]).abs().mean((0, 1, 2)),
        (free[..., 1:] - free[..., :-1]).abs().mean((0, 1, 2)),
    )
    across = float((free - before)[..., 28:44].abs().mean()) / 8
    assert float(step[30:42].max()) < 1.5 * (float(own.max()) + across)
    # The hooks are gone.
    with torch.no_grad():
        assert torch.equal(picture_of(generator, ws), free)


def test_what_another_thread_draws_meanwhile_is_left_alone() -> None:
    generator = sg2()
    start = ws_of(generator)
    free, drawn = start + 0.5, []

    def with_company(network: Any, ws: torch.Tensor) -> torch.Tensor:
        thread = threading.Thread(target=lambda: drawn.append(picture_of(network, free)))
        thread.start()
        thread.join()
        return picture_of(network, ws)

    blend = Blend(generator, start, torch.ones(64, 64), choose_layer(generator), with_company)
    with torch.no_grad():
        blend.picture(free)
        alone = picture_of(generator, free)
    assert len(drawn) == 2
    assert all(torch.equal(picture, alone) for picture in drawn)


def test_a_proposed_mask_is_free_around_the_ways_and_keeps_the_rest() -> None:
    moves = (Move((60, 70), (70, 66)), Move((30, 100), (30, 100), 6.0))
    mask = propose_mask(moves, 128, 128)
    assert mask.shape == (128, 128)
    assert mask.dtype == np.uint8
    for x, y in ((60, 70), (70, 66), (65, 68), (30, 100), (36, 100)):
        assert mask[y, x] == 0
    assert mask[5, 5] == mask[120, 120] == 255
    assert len(np.unique(mask)) > 5  # it fades


def test_a_proposed_mask_frees_the_whole_part_under_a_handle() -> None:
    points = face_landmarks(character(3), size=128)
    corner = points[24]
    move = Move((float(corner[0]), float(corner[1])), (float(corner[0]) - 3, float(corner[1])))
    plain = propose_mask((move,), 128, 128)
    whole = propose_mask((move,), 128, 128, points)
    x, y = np.floor(points[26]).astype(int)  # the mouth's other corner
    assert whole[y, x] == 0
    assert (whole > plain).sum() == 0
    x, y = np.floor(points[18]).astype(int)  # an eye
    assert whole[y, x] > 200

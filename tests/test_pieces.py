"""Batches in pieces: whole groups, the same draws, the same gradients as undivided."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.models.stylegan2_discriminator import MinibatchStdLayer
from pipeline.train import loop
from pipeline.train.images import TrainingImages
from pipeline.train.pieces import check_pieces, passes
from pipeline.train.recipe import make_recipe
from pipeline.train.start import prepare
from tests.train_tiny import make_config, make_dataset
from torch_utils import distributed, rng
from torch_utils.distributed import Share

RECIPE = make_recipe(make_config(), "stylegan2", 16, 16)


@given(pieces=st.integers(1, 4), groups=st.integers(1, 3), size=st.integers(1, 4))
@settings(deadline=None)
def test_pieces_hold_whole_groups_of_the_minibatch_statistics(pieces, groups, size):
    layer = MinibatchStdLayer(size)
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(pieces * groups * size, 2, 3, 3, generator=draws)
    whole = layer(images)
    for index in range(pieces):
        rows = Share(index, pieces).rows
        assert torch.allclose(layer(images[rows]), whole[rows], atol=1e-6)


@given(processes=st.integers(1, 4), parts=st.integers(1, 4), rank=st.integers(0, 3))
def test_a_piece_of_a_share_is_a_share_of_the_batch(processes, parts, rank):
    mine = Share(rank % processes, processes)
    batch = list(range(processes * parts * 3))
    for index in range(parts):
        piece = mine.piece(index, parts)
        assert batch[piece.rows] == batch[mine.rows][Share(index, parts).rows]


@pytest.mark.parametrize("draw", [rng.rand, rng.randn])
def test_pieces_are_drawn_as_the_whole_is(draw):
    torch.manual_seed(5)
    whole = draw((6, 2))
    for index in range(3):
        torch.manual_seed(5)
        with distributed.spread(Share(index, 3)):
            assert torch.equal(draw((2, 2)), whole[index::3])


@pytest.mark.parametrize(
    ("batch", "microbatch", "processes", "expected"),
    [(8, 8, 1, 1), (8, 4, 1, 2), (8, 4, 2, 1), (32, 4, 2, 4), (12, 4, 2, 2), (30, 7, 2, 3)],
)
def test_as_few_passes_as_fit(batch, microbatch, processes, expected):
    recipe = replace(RECIPE, batch=batch, microbatch=microbatch)
    assert passes(recipe, processes) == expected


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        ({"batch": 9}, 2, r"train\.batch=9 does not divide by the 2 processes.* such as 8"),
        ({"batch": 4}, 2, r"batch=4 in 2 pieces .* groups of 4 .* multiple of 8 such as 8"),
        ({"batch": 6}, 1, r"batch=6 does not split into groups of 4 .* such as 8"),
        ({"batch": 8, "microbatch": 2}, 1, r"batch=8 in 4 pieces .* such as 16"),
    ],
)
def test_batches_that_do_not_divide_are_refused(changes, processes, message):
    layers = torch.nn.Sequential(MinibatchStdLayer(4))
    recipe = replace(RECIPE, **{"microbatch": changes["batch"], **changes})
    with pytest.raises(ConfigError, match=message):
        check_pieces(layers, recipe, processes, "train")


def test_path_lengths_need_pieces_that_halve():
    recipe = replace(RECIPE, batch=6, microbatch=3)
    with pytest.raises(ConfigError, match=r"3 images each.*multiple of 4"):
        check_pieces(torch.nn.Sequential(MinibatchStdLayer(1)), recipe, 1, "train")


def test_passes_equal_the_undivided_batch(tmp_path):
    """Gradients of every phase, the sums that are measured, and the generator's running means."""
    dataset = Dataset(make_dataset(tmp_path / "data"))
    found = []
    for microbatch in (8, 4):
        config = make_config(microbatch=microbatch, augment={"p": 0.5})
        recipe = make_recipe(config, "stylegan2", 16, 16)
        images = TrainingImages(dataset.images, dataset.train_indices, seed=3)
        state = prepare(config, recipe, images, None, torch.device("cpu")).state
        # Steps of size zero, so that all phases compute their gradients at the same place.
        for optimizer in state.optimizers.values():
            optimizer.param_groups[0]["lr"] = 0.0
        inputs = loop.draw_inputs(state, recipe, images, seed=3)
        values = {}
        for phase in loop.phases(recipe):
            loop.run_phase(state, recipe, phase, inputs[phase.name])
            for name, parameter in state.trainable[phase.network].items():
                if parameter.grad is not None:
                    values[f"{phase.name}/{name}"] = parameter.grad.clone()
        values |= {name: torch.tensor(mean) for name, mean in state.statistics.means().items()}
        values["w_avg"] = state.objective.generator.mapping.w_avg.clone()
        values["path_length_mean"] = state.objective.path_length_mean
        found.append(values)
    assert found[0].keys() == found[1].keys()
    for name, whole in found[0].items():
        scale = max(float(whole.abs().max()), 1e-5)
        assert float((whole - found[1][name]).abs().max()) / scale < 2e-4, name

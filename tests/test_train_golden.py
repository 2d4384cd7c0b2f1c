"""Training numbers of our own, for where the reference values are absent.

Regenerate with: python -m tests.test_train_golden
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.dataset import Dataset
from pipeline.train import loop, start
from pipeline.train.augment import AugmentPipe
from pipeline.train.images import TrainingImages
from pipeline.train.recipe import make_recipe
from tests.train_tiny import make_config, make_dataset

GOLDEN = Path(__file__).parent / "golden" / "train.json"


def measure(folder: Path) -> dict[str, float]:
    """Statistics of the first two iterations of a tiny run, and of an augmented picture."""
    dataset = Dataset(make_dataset(folder))
    config = make_config()
    recipe = make_recipe(config, "stylegan2", 16, 16)
    images = TrainingImages(dataset.images, dataset.train_indices, seed=config.seed)
    state = start.prepare(config, recipe, images, None, torch.device("cpu")).state
    values: dict[str, float] = {}
    for iteration in range(2):
        inputs = loop.draw_inputs(state, recipe, images, config.seed)
        loop.run_iteration(state, recipe, inputs, iteration)
        state.images_seen += recipe.batch
        means = state.statistics.means()
        values |= {f"{iteration}/{name}": value for name, value in means.items()}
    picture = torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16)
    augmented = AugmentPipe.from_group("bgcf")(picture, 1.0, torch.Generator().manual_seed(1))
    values["augmented/mean"] = augmented.mean().item()
    values["augmented/std"] = augmented.std().item()
    return values


def test_numbers_are_those_of_the_record(tmp_path):
    expected = json.loads(GOLDEN.read_text())
    found = measure(tmp_path)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name
    assert np.isfinite(list(found.values())).all()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        record = {name: float(f"{value:.7g}") for name, value in measure(Path(temporary)).items()}
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n")

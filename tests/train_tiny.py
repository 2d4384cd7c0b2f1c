"""A dataset and settings so small that tests can really train; also a process that trains.

As a program: python -m tests.train_tiny CONFIG.json DATASET OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.image_zip import ImageZipWriter
from pipeline.errors import AnimedragError
from pipeline.models.config import NetworkConfig
from pipeline.train.config import AugmentConfig, TrainConfig

SIZE = 16

NETWORK = {
    "architecture": "stylegan2",
    "channel_base": 128,
    "channel_max": 8,
    "d_channel_base": 128,
    "d_channel_max": 8,
    "z_dim": 8,
    "w_dim": 8,
    "mapping_layers": 2,
}

# Every part of the training state gets used: ADA adjusts p, both regularisers run.
SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "device": "cpu",
    "kimg": 0.24,
    "batch": 8,
    "r1_interval": 3,
    "path_length_interval": 2,
    "log_kimg": 0.08,
    "snapshot_kimg": 0.08,
    "sample_grid": [3, 2],
    "threads": 1,
    # Scores have tests of their own.
    "score_samples": 0,
}
AUGMENT = {"mode": "ada", "p": 0.1, "interval": 2, "speed_kimg": 1.0}


def make_dataset(folder: Path, count: int = 20, labels: bool = False, enlarged: int = 1) -> Path:
    """A dataset artifact's payload: blobs in two colours, the last four images held out.

    `enlarged` repeats each pixel so many times in both directions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    names = []
    with ImageZipWriter(folder / "images.zip") as writer:
        for index in range(count):
            centre = rng.uniform(5, 11, size=2)
            blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 12)
            colour = np.array([[255, 120, 90], [80, 140, 255]][index % 2])
            image = 255 - blob[:, :, None] * (255 - colour)
            image = image.repeat(enlarged, axis=0).repeat(enlarged, axis=1)
            names.append(writer.add(image.astype(np.uint8), index % 2 if labels else None))
    split = {"train": names[:-4], "heldout": names[-4:]}
    (folder / "split.json").write_text(json.dumps(split))
    return folder


def make_config(**changes: Any) -> TrainConfig:
    """The tiny settings with changes; `network` and `augment` are dictionaries of changes."""
    network = NetworkConfig(**{**NETWORK, **changes.pop("network", {})})
    augment = AugmentConfig(**{**AUGMENT, **changes.pop("augment", {})})
    return TrainConfig(**{**SETTINGS, **changes}, network=network, augment=augment)


def main() -> int:
    """Train as the runner does; print what the user would see."""
    from pipeline.train.stage import run

    changes, dataset, out = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2], sys.argv[3]
    try:
        metrics = run(make_config(**changes), {"dataset": Path(dataset)}, Path(out))
    except AnimedragError as error:
        print(error)
        return error.exit_code
    print(json.dumps(metrics))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The evaluate stage: a model and a dataset in, figures and sheets to look at out.

    metrics.json          every figure with its interval, feature network and source
    real_and_fake.png     images of the dataset above images of the model
    typical.png           the model's most and least typical images, by realism score

What is measured lies in pipeline/metrics. An unfinished pass lies in `unfinished/` until the end.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts.manifest import read_manifest
from pipeline.console import catch_stop, progress, say
from pipeline.data.dataset import Dataset
from pipeline.errors import ArtifactError, ConfigError
from pipeline.evaluate import evaluation_file
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.evaluation_file import Evaluation, Snapshot
from pipeline.evaluate.sheet import Sheet, draw_sheet, rows_of
from pipeline.metrics import cache, features, suite
from pipeline.metrics.distances import realism
from pipeline.metrics.features import FeatureNetwork
from pipeline.metrics.sampling import Sampler
from pipeline.metrics.statistics import FeatureStatistics
from pipeline.metrics.suite import METRICS, OF_FEATURES, OF_REALS, Effort, Result, Watch
from pipeline.models import checkpoint
from pipeline.models.build import Generator
from pipeline.train.stage import TRAINING_STATE
from pipeline.train.state import read_network, saved_states
from torch_utils import distributed, rng
from torch_utils.device import choose_device, describe
from torch_utils.pixels import to_uint8

STATES = "unfinished"
REAL_AND_FAKE = "real_and_fake.png"
TYPICAL = "typical.png"
# Rows of real and rows of generated images on the sheet of both.
SHEET_ROWS = 3
# Real images that go through the feature network at once.
REAL_BATCH = 32


@dataclass(frozen=True)
class RealImages:
    """The parts of a dataset that a model is compared with: indices by the part's name."""

    dataset: Dataset
    digest: str
    parts: dict[str, list[int]]

    @classmethod
    def of(cls, folder: Path, names: Sequence[str]) -> RealImages:
        """Parts by name: train, heldout, all."""
        dataset = Dataset(folder)
        every = {
            "train": dataset.train_indices,
            "heldout": dataset.heldout_indices,
            "all": list(range(len(dataset))),
        }
        return cls(dataset, _digest(folder), {name: every[name] for name in names})

    def read(self, indices: Sequence[int]) -> Tensor:
        """N x C x H x W uint8."""
        pixels = np.stack([self.dataset.images.read(index) for index in indices])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def batches(self, part: str, shares: slice) -> Iterator[tuple[int, Tensor]]:
        """(number of the first, images): every process's share of a part's batches.

        In random order: of a large part only the first features are kept, and neighbours in name
        are often alike.
        """
        draws = rng.generator(0, 0, 0, f"real images/{part}")
        order = torch.randperm(len(self.parts[part]), generator=draws)
        indices = [self.parts[part][place] for place in order.tolist()]
        for first in range(0, len(indices), REAL_BATCH)[shares]:
            yield first, self.read(indices[first : first + REAL_BATCH])


def check(config: EvaluateConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what cannot be measured before anything is begun."""
    described = checkpoint.read_architecture(inputs["model"])
    if "G_ema" not in described:
        raise ConfigError(
            f"The model in {inputs['model']} has no averaged generator G_ema to be measured."
        )
    if config.snapshots and not saved_states(inputs["model"] / TRAINING_STATE):
        raise ConfigError(
            "evaluate.snapshots=true, but the model keeps no training states; train it with "
            "train.keep_training_state=true train.kept_states=null, or leave snapshots out."
        )
    if config.snapshots and not _snapshot_metrics(config):
        raise ConfigError(
            "evaluate.snapshots=true measures snapshots by metrics of features; add one of "
            f"{', '.join(OF_FEATURES)} to evaluate.metrics."
        )


def run(
    config: EvaluateConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Measure `inputs["model"]` against `inputs["dataset"]` (may be absent) into `out`."""
    check(config, inputs)
    device = choose_device(config.device)
    network = _feature_network(config, inputs, device)
    reals = RealImages.of(inputs["dataset"], config.parts) if "dataset" in inputs else None
    generator = cast(Generator, checkpoint.load(inputs["model"], ("G_ema",), device)["G_ema"])
    generator.requires_grad_(False)
    sampler = Sampler(
        generator,
        seed=config.seed,
        batch=config.batch,
        truncation_psi=config.truncation_psi,
        labels=_labels(generator, reals),
    )
    _announce(config, network, reals, device)
    statistics = {} if network is None or reals is None else _observe(config, network, reals)
    evaluation, fakes = _measure(config, inputs["model"], sampler, network, statistics, out)
    if distributed.current().is_first:
        evaluation_file.write(out, evaluation)
        _write_pictures(config, sampler, reals, statistics, fakes, out)
        shutil.rmtree(out / STATES, ignore_errors=True)
        for result in evaluation.results:
            say(f"evaluate: {sentence(result)}")
    return summary(evaluation)


def summary(evaluation: Evaluation) -> dict[str, float | int | str]:
    """The figures as the manifest holds them: fid_train, ppl, ..."""
    return {
        "_".join(filter(None, (result.metric, result.against))): result.estimate.value
        for result in evaluation.results
        if result.estimate is not None
    }


def sentence(result: Result) -> str:
    """A figure in words."""
    metric = METRICS[result.metric]
    name = metric.title + (f" against {result.against}" if result.against else "")
    if result.estimate is None:
        return f"{name} is not available: {result.note}."
    estimate = result.estimate
    text = f"{name} {estimate.value:.4g}"
    if estimate.low == estimate.low:
        text += f" ({estimate.low:.4g} to {estimate.high:.4g})"
    text += f" {metric.unit}" if metric.unit else ""
    return f"{text}; {metric.better} is better" + (
        f"; {result.network}." if result.network else "."
    )


def _feature_network(
    config: EvaluateConfig, inputs: Mapping[str, Path], device: torch.device
) -> FeatureNetwork | None:
    if not any(name in OF_FEATURES for name in config.metrics):
        return None
    return features.load(config.features, device, file=inputs.get("features_file"))


def _labels(generator: Generator, reals: RealImages | None) -> Tensor | None:
    """What labels are drawn from: the dataset's, else one-hot ones; None for a model without."""
    if not generator.c_dim:
        return None
    if reals is not None and reals.dataset.images.label_dim == generator.c_dim:
        images = reals.dataset.images
        indices = next(iter(reals.parts.values())) or range(len(images))
        return torch.from_numpy(np.stack([images.label(index) for index in indices]))
    return torch.eye(generator.c_dim)


def _announce(
    config: EvaluateConfig,
    network: FeatureNetwork | None,
    reals: RealImages | None,
    device: torch.device,
) -> None:
    if not distributed.current().is_first:
        return
    through = f", through {network.name}" if network is not None else ""
    say(f"evaluate: {', '.join(config.metrics)}{through}, on {describe(device)}.")
    if reals is None and any(name in OF_REALS for name in config.metrics):
        say("evaluate: the model names no dataset; give one with evaluate.dataset=dataset/NAME.")


def _observe(
    config: EvaluateConfig, network: FeatureNetwork, reals: RealImages
) -> dict[str, FeatureStatistics]:
    """Statistics of every part, out of the cache where they are."""
    if not any(name in OF_REALS for name in config.metrics):
        return {}
    world = distributed.current()
    found = {}
    for part, indices in reals.parts.items():
        key: dict[str, str | int] = {
            "dataset": reals.digest, "part": part, "images": len(indices),
            "network": network.name, "weights": network.weights_digest, "keep": config.keep,
        }  # fmt: skip
        empty = FeatureStatistics.for_network(network, keep=config.keep)
        statistics = cache.find(key, empty)
        # All must take part where one of them has to look.
        if world.any(statistics is None):
            with progress(f"real images ({part})", len(indices), "images") as bar:
                statistics = suite.observe(
                    reals.batches(part, world.rows),
                    network,
                    keep=config.keep,
                    world=world,
                    watch=Watch(advance=bar.advance),
                )
            if world.is_first:
                cache.keep(key, statistics)
        assert statistics is not None
        found[part] = statistics
    return found


def _measure(
    config: EvaluateConfig,
    model: Path,
    sampler: Sampler,
    network: FeatureNetwork | None,
    statistics: Mapping[str, FeatureStatistics],
    out: Path,
) -> tuple[Evaluation, FeatureStatistics | None]:
    effort = Effort(
        images=config.images, keep=config.keep, groups=config.groups,
        neighbours=config.neighbours, paths=config.paths, moved=config.moved,
    )  # fmt: skip
    of_snapshots = _snapshot_metrics(config) if config.snapshots else []
    files = saved_states(model / TRAINING_STATE)[::-1] if config.snapshots else []
    small = Effort(
        images=config.snapshot_images, keep=config.keep, neighbours=config.neighbours, groups=1
    )
    total = suite.work_of(config.metrics, effort)
    total += len(files) * suite.work_of(of_snapshots, small)
    with catch_stop() as stop, progress("evaluate", total, "images") as bar:
        watch = Watch(bar.advance, stop)
        world = distributed.current()
        results, fakes = suite.measure(
            config.metrics, sampler, effort, network=network, reals=statistics,
            states=out / STATES / "model", world=world, watch=watch,
        )  # fmt: skip
        snapshots = []
        weights = {key: value.clone() for key, value in sampler.network.state_dict().items()}
        for file in files:
            sampler.network.load_state_dict(read_network(file, "G_ema"))
            measured, _ = suite.measure(
                of_snapshots, sampler, small, network=network, reals=statistics,
                states=out / STATES / file.stem, world=world, watch=watch,
            )  # fmt: skip
            snapshots.append(Snapshot(int(file.stem), measured))
        sampler.network.load_state_dict(weights)
    return Evaluation(config.seed, config.truncation_psi, results, snapshots), fakes


def _snapshot_metrics(config: EvaluateConfig) -> list[str]:
    return [name for name in config.metrics if name in OF_FEATURES]


def _write_pictures(
    config: EvaluateConfig,
    sampler: Sampler,
    reals: RealImages | None,
    statistics: Mapping[str, FeatureStatistics],
    fakes: FeatureStatistics | None,
    out: Path,
) -> None:
    part = next((name for name in config.parts if reals and reals.parts[name]), None)
    if reals is not None and part is not None:
        draw_sheet(_real_and_fake(config, sampler, reals, part)).save(out / REAL_AND_FAKE)
    enough = 2 * config.neighbours + 2
    ranked = [(name, known) for name, known in statistics.items() if known.count > enough]
    if fakes is not None and ranked:
        part, known = ranked[0]
        scores = realism(fakes.features, known.features, neighbours=config.neighbours)
        draw_sheet(_typical(config, sampler, scores, part)).save(out / TYPICAL)


def _real_and_fake(config: EvaluateConfig, sampler: Sampler, reals: RealImages, part: str) -> Sheet:
    columns = config.sheet_columns
    count = SHEET_ROWS * columns
    indices = reals.parts[part]
    chosen = sorted({indices[i * len(indices) // count] for i in range(count)})
    above = rows_of(list(_pixels(reals.read(chosen))), columns)
    batches = sampler.batches(min(count, config.images))
    below = rows_of([picture for _, images in batches for picture in _pixels(images)], columns)
    return Sheet(
        title="Real and generated",
        subtitle=f"Above: {len(chosen)} of the {len(indices)} real images ({part}), evenly chosen. "
        f"Below: the first samples of seed {config.seed}, none left out.",
        cells=above + below,
        row_labels=["real"] * len(above) + ["generated"] * len(below),
    )


def _typical(config: EvaluateConfig, sampler: Sampler, scores: Tensor, part: str) -> Sheet:
    """The samples with the highest and those with the lowest realism."""
    columns = config.sheet_columns
    order = scores.argsort(descending=True).tolist()
    half = min(2 * columns, len(order) // 2)
    chosen = order[:half] + order[len(order) - half :]
    pictures = {index: _pixels(_sample(sampler, index, config.images))[0] for index in chosen}
    rows = rows_of(chosen[:half], columns) + rows_of(chosen[half:], columns)
    top = -(-half // columns)
    return Sheet(
        title="Most and least typical samples",
        subtitle="By realism score (Kynkaanniemi et al. 2019): how deep a sample lies among the "
        f"real images ({part}); below 1 it lies outside. Of {len(order)} samples; beneath each its "
        "score and number.",
        cells=[[pictures[index] for index in row] for row in rows],
        captions=[[f"{scores[index]:.2f}   #{index}" for index in row] for row in rows],
        row_labels=["most typical"] * top + ["least typical"] * (len(rows) - top),
    )


def _sample(sampler: Sampler, index: int, total: int) -> Tensor:
    """Sample number `index` of `total`, 1 x C x H x W uint8."""
    batch, row = divmod(index, sampler.batch)
    count = min(sampler.batch, total - batch * sampler.batch)
    return sampler.images(batch, count)[row : row + 1]


def _pixels(images: Tensor) -> np.ndarray:
    """N x C x H x W uint8 => N x H x W x 3."""
    return to_uint8(images.float() / 127.5 - 1)


def _digest(folder: Path) -> str:
    """The dataset's digest; that of the file itself where it is a bare zip."""
    try:
        return read_manifest(folder).digest
    except ArtifactError:
        file = folder if folder.is_file() else folder / "images.zip"
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

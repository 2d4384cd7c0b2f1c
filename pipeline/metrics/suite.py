"""Metrics by name: which there are, what each needs, and one call that measures several.

Metrics that rest on the same images share one pass over them. A pass is saved from time to time
into a folder of the caller's and goes on from there. Knows nothing about datasets, stages or files
other than those.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import weights
from pipeline.errors import Interrupted, ModelError, check_choice
from pipeline.metrics import distances, equivariance, perceptual
from pipeline.metrics.estimate import BOOTSTRAP_RESAMPLES, Estimate, jackknife
from pipeline.metrics.features import FeatureNetwork
from pipeline.metrics.path_length import PathSettings, mean_length, path_lengths
from pipeline.metrics.sampling import Sampler
from pipeline.metrics.statistics import FeatureStatistics
from torch_utils.distributed import ALONE, World

# LPIPS of larger images is taken at this side, as StyleGAN2's PPL is.
PPL_LARGEST_PX = 256
# In order of preference; the published figures are VGG16's.
PPL_NETWORKS = {"lpips-vgg": "LPIPS VGG16", "lpips-alex": "LPIPS AlexNet"}
# Fewer real images have no covariance and no neighbours.
LEAST_REALS = 5
# Seconds between saved states of a pass: the most that a kill can cost.
SAVE_SECONDS = 30.0

_BOOTSTRAP = f"bootstrap, {BOOTSTRAP_RESAMPLES} resamples"


@dataclass(frozen=True)
class Metric:
    """What a metric is called, which way is better, where it is defined, and its unit."""

    name: str
    title: str
    better: str  # lower | higher
    source: str
    unit: str = ""


METRICS = {
    metric.name: metric
    for metric in (
        Metric("fid", "FID", "lower", "Heusel et al. 2017, eq. 6"),
        Metric("kid", "KID", "lower", "Binkowski et al. 2018, eq. 4"),
        Metric("precision", "Precision", "higher", "Kynkaanniemi et al. 2019, eq. 1"),
        Metric("recall", "Recall", "higher", "Kynkaanniemi et al. 2019, eq. 2"),
        Metric("is", "Inception score", "higher", "Salimans et al. 2016, section 4"),
        Metric("ppl", "PPL", "lower", "Karras et al. 2019, eq. 3; Karras et al. 2020"),
        Metric("eq_t", "EQ-T", "higher", "Karras et al. 2021, eq. 3", "dB"),
        Metric("eq_t_frac", "EQ-T, parts of a pixel", "higher",
               "Karras et al. 2021, appendix E.2", "dB"),
        Metric("eq_r", "EQ-R", "higher", "Karras et al. 2021, appendix E.3", "dB"),
    )
}  # fmt: skip
OF_FEATURES = ("fid", "kid", "precision", "recall", "is")
# Those that compare with real images.
OF_REALS = ("fid", "kid", "precision", "recall")


@dataclass(frozen=True)
class Result:
    """One metric's figure.

    estimate: None where it cannot be had; `note` says why.
    samples: generated images (or pairs of them) that it rests on.
    network: the feature network, "" where there is none.
    interval: how the interval was made.
    against: which real images it compares with, and `reals`: how many.
    """

    metric: str
    estimate: Estimate | None
    samples: int = 0
    network: str = ""
    interval: str = ""
    note: str = ""
    against: str = ""
    reals: int = 0


@dataclass(frozen=True)
class Effort:
    """How much is made for each metric."""

    # Images for FID, KID, precision, recall and IS.
    images: int = 10_000
    # Of these, feature vectors kept for KID, precision and recall (pairs grow with the square).
    keep: int = 5000
    # Groups of the jackknife that gives FID's and IS's interval; 1: no interval.
    groups: int = 10
    # Neighbours that span the manifolds of precision and recall.
    neighbours: int = 3
    # Pairs of images for PPL.
    paths: int = 2000
    # Images moved for EQ-T and EQ-R.
    moved: int = 200


@dataclass
class Watch:
    """Hears how a measurement goes, and tells it to stop."""

    advance: Callable[[int], None] = field(default=lambda count: None)
    stop: Callable[[], bool] = field(default=lambda: False)


def measure(
    names: Sequence[str],
    sampler: Sampler,
    effort: Effort,
    *,
    network: FeatureNetwork | None = None,
    reals: Mapping[str, FeatureStatistics] | None = None,
    states: Path | None = None,
    world: World = ALONE,
    watch: Watch | None = None,
) -> tuple[list[Result], FeatureStatistics | None]:
    """The metrics called `names`, and the statistics of the generated images if any needed them.

    Args:
        network: that `reals` were seen through; needed for OF_FEATURES.
        reals: statistics of sets of real images by name (see `observe`); each of OF_REALS is
            measured against each of them.
        states: folder for the states of unfinished passes; None: nothing is kept.
        world: the processes that share the work.

    Raises:
        Interrupted: where `watch.stop` asked for it; the states are saved then.
    """
    for name in names:
        check_choice("metric", name, METRICS)
    driver = _Driver(states if world.size == 1 else None, world, watch or Watch())
    results: list[Result] = []
    fakes = None
    if any(name in OF_FEATURES for name in names):
        if network is None:
            raise ModelError("Metrics of features need a feature network.")
        fakes = _observe_fakes(driver, sampler, effort, network)
        for name in names:
            if name in OF_REALS:
                results += _against_each(name, network, fakes, reals or {}, effort)
        if "is" in names:
            results.append(_inception_score(network, fakes))
    if "ppl" in names:
        results.append(_path_length(driver, sampler, effort))
    moves = [name for name in names if name in equivariance.KINDS]
    if moves:
        results += _equivariance(driver, sampler, effort, moves)
    order = list(names)
    return sorted(results, key=lambda result: order.index(result.metric)), fakes


def work_of(names: Sequence[str], effort: Effort) -> int:
    """How many steps of `Watch.advance` measuring takes in all."""
    total = effort.images if any(name in OF_FEATURES for name in names) else 0
    total += effort.paths if "ppl" in names else 0
    return total + (effort.moved if any(name in equivariance.KINDS for name in names) else 0)


def observe(
    batches: Iterable[tuple[int, Tensor]],
    network: FeatureNetwork,
    *,
    keep: int,
    world: World = ALONE,
    watch: Watch | None = None,
) -> FeatureStatistics:
    """Statistics of images: (number of the first, N x C x H x W uint8), this process's share."""
    statistics = FeatureStatistics.for_network(network, keep=keep)
    for first, images in batches:
        statistics.add(first, network(images))
        if watch is not None:
            watch.advance(len(images))
    return statistics.reduced(world)


def _observe_fakes(
    driver: _Driver, sampler: Sampler, effort: Effort, network: FeatureNetwork
) -> FeatureStatistics:
    groups = effort.groups if effort.images >= 2 * effort.groups + 2 else 1
    statistics = FeatureStatistics.for_network(network, groups=groups, keep=effort.keep)
    path = driver.path("features")
    if path is not None:
        statistics = FeatureStatistics.load(path, statistics) or statistics
    done = statistics.count

    def take(first: int, images: Tensor) -> int:
        statistics.add(first, network(images))
        return len(images)

    driver.run(
        sampler.batches(effort.images, first=done, world=driver.world),
        take,
        lambda: None if path is None else statistics.save(path),
        done,
    )
    return statistics.reduced(driver.world)


def _against_each(
    name: str,
    network: FeatureNetwork,
    fakes: FeatureStatistics,
    reals: Mapping[str, FeatureStatistics],
    effort: Effort,
) -> list[Result]:
    """The metric against every set of real images."""
    if not reals:
        return [Result(name, None, network=network.name, note="no real images were given")]
    results = []
    for against, some in reals.items():
        # Single images are compared with those whose features were kept.
        compared = some.count if name == "fid" else len(some.features)
        if some.count < LEAST_REALS:
            note = f"it needs at least {LEAST_REALS} real images, and there are {some.count}"
            result = Result(name, None, network=network.name, note=note)
        elif name == "fid":
            result = _frechet(network, fakes, some)
        else:
            result = _of_pairs(name, network, fakes, some, effort)
        results.append(replace(result, against=against, reals=compared))
    return results


def _of_pairs(
    name: str,
    network: FeatureNetwork,
    fakes: FeatureStatistics,
    reals: FeatureStatistics,
    effort: Effort,
) -> Result:
    """KID, precision or recall, which compare single images with each other."""
    kept = len(fakes.features)
    if name == "kid":
        estimate = distances.kernel_distance(reals.features, fakes.features)
        return Result(name, estimate, kept, network.name, "bootstrap, 200 resamples")
    precision, recall = distances.precision_recall(
        reals.features, fakes.features, neighbours=effort.neighbours
    )
    estimate = precision if name == "precision" else recall
    return Result(name, estimate, kept, network.name, _BOOTSTRAP)


def _frechet(network: FeatureNetwork, fakes: FeatureStatistics, reals: FeatureStatistics) -> Result:
    truth = reals.gaussian()
    factor = distances.factor(truth.covariance)

    def distance(without: int | None) -> float:
        return distances.frechet_distance(truth, fakes.gaussian(without), factor)

    return _jackknifed("fid", network, fakes, distance)


def _inception_score(network: FeatureNetwork, fakes: FeatureStatistics) -> Result:
    if not network.classes:
        note = f"{network.name} is no classifier, so that it has no class probabilities"
        return Result("is", None, network=network.name, note=note)

    def score(without: int | None) -> float:
        return distances.inception_score(*fakes.class_statistics(without))

    return _jackknifed("is", network, fakes, score)


def _jackknifed(
    name: str,
    network: FeatureNetwork,
    fakes: FeatureStatistics,
    statistic: Callable[[int | None], float],
) -> Result:
    groups = fakes.groups if fakes.groups > 1 else 0
    estimate = jackknife(statistic(None), [statistic(group) for group in range(groups)])
    interval = f"delete-a-group jackknife, {groups} groups" if groups else ""
    return Result(name, estimate, fakes.count, network.name, interval)


def _path_length(driver: _Driver, sampler: Sampler, effort: Effort) -> Result:
    name = next((name for name in PPL_NETWORKS if weights.find(name) is not None), None)
    if name is None:
        note = f"the weights of {' or '.join(PPL_NETWORKS)} are not on this machine"
        return Result("ppl", None, note=note)
    metric = perceptual.load(name, sampler.device, smallest_px=0, largest_px=PPL_LARGEST_PX)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return metric.distance(metric.features(a), metric.features(b))

    settings = PathSettings()

    def lengths(done: int) -> Iterator[tuple[int, Tensor]]:
        batches = path_lengths(
            sampler, distance, settings, effort.paths, first=done, world=driver.world
        )
        for begin, part in batches:
            yield begin, part[:, None].double()

    rows = driver.rows("paths", lengths, 1)
    estimate = mean_length(rows[:, 0], settings.reject)
    return Result("ppl", estimate, len(rows), PPL_NETWORKS[name], _BOOTSTRAP)


def _equivariance(
    driver: _Driver, sampler: Sampler, effort: Effort, kinds: Sequence[str]
) -> list[Result]:
    side = min(sampler.network.synthesis.img_size)
    known = [kind for kind in kinds if kind != "eq_r" or side >= equivariance.SMALLEST_TURNED_PX]

    def errors(done: int) -> Iterator[tuple[int, Tensor]]:
        batches = equivariance.squared_errors(
            sampler, known, effort.moved, first=done, world=driver.world
        )
        for begin, part in batches:
            yield begin, torch.cat([part[kind] for kind in known], dim=1)

    results = []
    if known:
        rows = driver.rows("moves", errors, 2 * len(known))
        for kind, part in zip(known, rows.split(2, dim=1), strict=True):
            estimate = equivariance.decibels(part)
            results.append(Result(kind, estimate, len(part), interval=_BOOTSTRAP))
    if len(known) < len(kinds):
        note = f"pictures of {side} px are smaller than the filter that turns them needs"
        results.append(Result("eq_r", None, note=note))
    return results


@dataclass(frozen=True)
class _Driver:
    """Runs passes over batches: counts, saves from time to time, stops when asked."""

    states: Path | None
    world: World
    watch: Watch

    def path(self, name: str) -> Path | None:
        """File of a pass's state; None where none is kept."""
        if self.states is None:
            return None
        self.states.mkdir(parents=True, exist_ok=True)
        return self.states / f"{name}.safetensors"

    def run(
        self,
        batches: Iterable[tuple[int, Tensor]],
        take: Callable[[int, Tensor], int],
        save: Callable[[], None],
        done: int,
    ) -> None:
        """Hand every batch to `take`, which says how many samples it was."""
        self.watch.advance(done)
        saved = time.monotonic()
        for first, batch in batches:
            self.watch.advance(take(first, batch))
            if self.watch.stop():
                save()
                raise Interrupted("Stopped; run the same command again to continue.")
            if time.monotonic() - saved > SAVE_SECONDS:
                save()
                saved = time.monotonic()
        save()

    def rows(
        self, name: str, make: Callable[[int], Iterable[tuple[int, Tensor]]], width: int
    ) -> Tensor:
        """All processes' rows (N x width float64) of a pass; `make(done)` goes on after `done`."""
        path = self.path(name)
        parts = [torch.zeros(0, width, dtype=torch.float64)]
        if path is not None:
            parts += _saved_rows(path, width)
        numbers = [torch.arange(sum(len(part) for part in parts))]
        done = len(numbers[0])

        def take(first: int, part: Tensor) -> int:
            parts.append(part)
            numbers.append(torch.arange(first, first + len(part)))
            return len(part)

        def save() -> None:
            if path is not None:
                aside = path.with_name(path.name + ".part")
                save_file({"rows": torch.cat(parts)}, aside)
                aside.replace(path)

        self.run(make(done), take, save, done)
        order = self.world.gather(torch.cat(numbers)).argsort()
        return self.world.gather(torch.cat(parts))[order]


def _saved_rows(path: Path, width: int) -> list[Tensor]:
    try:
        rows = load_file(path)["rows"]
    except (OSError, SafetensorError, KeyError):
        return []
    return [rows] if rows.ndim == 2 and rows.shape[1] == width else []

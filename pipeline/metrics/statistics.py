"""Running statistics of network outputs: bounded memory, however many images pass.

Sums in double precision give mean and covariance; of the feature vectors themselves only the first
`keep` stay. What belongs to sample i depends on i alone, so that any number of processes that share
the samples out between them end with the same statistics.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import DataError
from pipeline.metrics.distances import Gaussian
from pipeline.metrics.features import FeatureNetwork, Outputs
from torch_utils.distributed import ALONE, World


class FeatureStatistics:
    """Sums of features (and of class probabilities) in groups, and the first features themselves.

    Args:
        dim: length of a feature vector.
        classes: classes that the network tells apart; 0: none.
        groups: sample i belongs to group i mod `groups`; several allow a delete-a-group jackknife
            and take `groups` times the memory (8 * dim^2 bytes each).
        keep: so many feature vectors are kept, those of the first samples.
    """

    def __init__(self, dim: int, classes: int = 0, *, groups: int = 1, keep: int = 0) -> None:
        self.dim, self.classes, self.groups, self.keep = dim, classes, groups, keep
        double = torch.float64
        self._tensors = {
            "count": torch.zeros(groups, dtype=double),
            "sum": torch.zeros(groups, dim, dtype=double),
            "outer": torch.zeros(groups, dim, dim, dtype=double),
            # Of class probabilities: sum of p, and sum of p log p, for the inception score.
            "probability": torch.zeros(groups, classes, dtype=double),
            "entropy": torch.zeros(groups, dtype=double),
            "index": torch.zeros(0, dtype=torch.int64),
            "features": torch.zeros(0, dim),
        }

    @classmethod
    def for_network(
        cls, network: FeatureNetwork, *, groups: int = 1, keep: int = 0
    ) -> FeatureStatistics:
        """Empty statistics of what `network` puts out."""
        return cls(network.dim, network.classes, groups=groups, keep=keep)

    @property
    def count(self) -> int:
        """Samples seen."""
        return int(self._tensors["count"].sum())

    @property
    def features(self) -> Tensor:
        """The features kept, in the order of their samples; at most keep x dim float32."""
        order = self._tensors["index"].argsort()[: self.keep]
        return self._tensors["features"][order]

    def add(self, first: int, outputs: Outputs) -> None:
        """Take in the outputs for the samples first, first + 1, ..."""
        features = outputs.features.cpu()
        index = torch.arange(first, first + len(features))
        tensors = self._tensors
        logs = None if outputs.logits is None else outputs.logits.cpu().double().log_softmax(dim=1)
        for group in range(self.groups):
            rows = index % self.groups == group
            x = features[rows].double()
            tensors["count"][group] += len(x)
            tensors["sum"][group] += x.sum(dim=0)
            tensors["outer"][group].addmm_(x.T, x)
            if logs is not None:
                probability = logs[rows].exp()
                tensors["probability"][group] += probability.sum(dim=0)
                tensors["entropy"][group] += (probability * logs[rows]).sum()
        kept = index < self.keep
        if kept.any():
            tensors["index"] = torch.cat([tensors["index"], index[kept]])
            tensors["features"] = torch.cat([tensors["features"], features[kept]])

    def reduced(self, world: World = ALONE) -> FeatureStatistics:
        """The statistics of all processes' samples together, in each of them."""
        whole = FeatureStatistics(self.dim, self.classes, groups=self.groups, keep=self.keep)
        for name, tensor in self._tensors.items():
            gathers = name in ("index", "features")
            whole._tensors[name] = world.gather(tensor) if gathers else world.sum(tensor)
        return whole

    def gaussian(self, without: int | None = None) -> Gaussian:
        """Mean and covariance of all samples, or of all but those of one group.

        DataError for fewer than two samples.
        """
        count, total, outer = (self._summed(name, without) for name in ("count", "sum", "outer"))
        if count < 2:
            raise DataError(f"A covariance needs at least two images, but there are {count:g}.")
        mean = total / count
        covariance = (outer - count * torch.outer(mean, mean)) / (count - 1)
        return Gaussian(mean, (covariance + covariance.T) / 2)

    def class_statistics(self, without: int | None = None) -> tuple[float, Tensor]:
        """Mean of sum_y p(y|x) log p(y|x), and mean of p(y|x), over the samples."""
        count, entropy, probability = (
            self._summed(name, without) for name in ("count", "entropy", "probability")
        )
        return float(entropy / count), probability / count

    def _summed(self, name: str, without: int | None) -> Tensor:
        tensor = self._tensors[name]
        return tensor.sum(dim=0) if without is None else tensor.sum(dim=0) - tensor[without]

    def save(self, path: Path) -> None:
        """Write everything to a safetensors file, which appears when it is complete."""
        numbers = {name: str(getattr(self, name)) for name in ("dim", "classes", "groups", "keep")}
        aside = path.with_name(path.name + ".part")
        save_file(self._tensors, aside, metadata=numbers)
        aside.replace(path)

    @classmethod
    def load(cls, path: Path, like: FeatureStatistics) -> FeatureStatistics | None:
        """What `save` wrote; None where the file is missing, damaged or of other statistics."""
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError):
            return None
        loaded = cls(like.dim, like.classes, groups=like.groups, keep=like.keep)
        fixed = {name for name in loaded._tensors if name not in ("index", "features")}
        if tensors.keys() != loaded._tensors.keys() or any(
            tensors[name].shape != loaded._tensors[name].shape for name in fixed
        ):
            return None
        loaded._tensors = tensors
        return loaded

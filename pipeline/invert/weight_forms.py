"""In which form weights may move: each for itself, or by a matrix of low rank.

A form holds the variables that an optimiser moves, and makes the generator's weights of them. What
it stores is what a reader needs to make the same weights again (`restore`); nothing here knows of
files, pictures or losses.

Low rank: Hu et al. 2021, "LoRA", eq. 3, for every weight W (O x I, a convolution's kernel as
O x I k k): W + B A with B (O x r) and A (r x I), where that takes fewer numbers than W has; small
tensors (biases, the colour layers) move as a whole. A begins with variance 1/r, so that Adam's step
on B moves each weight about as far as Adam's step on the weight itself would. It is drawn, or it is
aimed: its rows are then the first gradient's strongest right singular vectors (Wang et al. 2024,
"LoRA-GA", section 3; B stays 0), the directions in which the picture wants the weight to move. At
rank 32 that is as quick as moving every number.
"""

from __future__ import annotations

import fnmatch
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError, ModelError, nearest

ALL, LOW_RANK = "all", "low-rank"
NAMES = (ALL, LOW_RANK)

# What the two factors of a weight are called in a delta, after the weight's own name.
LEFT, RIGHT = ".lora_b", ".lora_a"


# A delta takes at most this share of the generator in float32, if its numbers are kept in half
# precision; a higher rank than MOST_RANK gains nothing within 500 steps.
DELTA_SHARE = 0.2
MOST_RANK = 32


class WeightForm(ABC):
    """The weights that move, by their names in the generator ("synthesis.b8.conv0.weight")."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """`weights`: the values to begin with; they are copied where they are changed."""
        self.names = tuple(weights)

    @abstractmethod
    def variables(self) -> dict[str, Tensor]:
        """What an optimiser moves, by name; leaves that require gradients."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The weights as they are now, by name; differentiable in the variables."""

    @abstractmethod
    def stored(self) -> dict[str, Tensor]:
        """What a delta holds, float32; weights that have not moved are left out."""

    @property
    def aims(self) -> bool:
        """Whether `aim` changes anything."""
        return False

    def aim(self, gradients: Mapping[str, Tensor]) -> None:
        """Before the first step: be told the loss's gradient by weight, to choose directions."""
        del gradients


class Whole(WeightForm):
    """Every number of every weight moves."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self._before = {name: value.detach().clone() for name, value in weights.items()}
        self._now = {
            name: value.detach().clone().requires_grad_(True) for name, value in weights.items()
        }

    def variables(self) -> dict[str, Tensor]:
        return dict(self._now)

    def weights(self) -> dict[str, Tensor]:
        return dict(self._now)

    def stored(self) -> dict[str, Tensor]:
        return {
            name: (value - self._before[name]).detach()
            for name, value in self._now.items()
            if not torch.equal(value, self._before[name])
        }


class LowRank(WeightForm):
    """Large weights move by matrices of rank `rank`, small ones as a whole."""

    def __init__(
        self, weights: Mapping[str, Tensor], rank: int, draws: torch.Generator | None = None
    ) -> None:
        """`draws`: CPU generator of the fixed directions; None: one seeded with 0."""
        super().__init__(weights)
        draws = draws or torch.Generator().manual_seed(0)
        self._before = {name: value.detach().clone() for name, value in weights.items()}
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}
        small = {}
        for name, value in self._before.items():
            if not saves(value.shape, rank):
                small[name] = value
                continue
            outputs, inputs = matrix_shape(value.shape)
            left = value.new_zeros(outputs, rank)
            right = torch.randn(rank, inputs, generator=draws).to(value) / math.sqrt(rank)
            self._factors[name] = (left.requires_grad_(True), right.requires_grad_(True))
        self._small = Whole(small)

    def variables(self) -> dict[str, Tensor]:
        found = self._small.variables()
        for name, (left, right) in self._factors.items():
            found |= {name + LEFT: left, name + RIGHT: right}
        return found

    def weights(self) -> dict[str, Tensor]:
        low = {
            name: self._before[name] + product(left, right, self._before[name].shape)
            for name, (left, right) in self._factors.items()
        }
        return self._small.weights() | low

    @property
    def aims(self) -> bool:
        return bool(self._factors)

    @torch.no_grad()
    def aim(self, gradients: Mapping[str, Tensor]) -> None:
        for name, (_, right) in self._factors.items():
            outputs, inputs = matrix_shape(self._before[name].shape)
            gradient = gradients[name].reshape(outputs, inputs)
            if not gradient.isfinite().all():
                continue  # the first step says so, in words
            strongest = torch.linalg.svd(gradient, full_matrices=False).Vh[: len(right)]
            # Rows beyond the gradient's rank stay as they were drawn.
            right[: len(strongest)] = strongest * math.sqrt(inputs / len(right))

    def stored(self) -> dict[str, Tensor]:
        found = self._small.stored()
        for name, (left, right) in self._factors.items():
            if left.detach().any():
                found |= {name + LEFT: left.detach(), name + RIGHT: right.detach()}
        return found


def make(form: str, weights: Mapping[str, Tensor], rank: int) -> WeightForm:
    """The form called `form`, one of NAMES; `rank` matters to low-rank alone."""
    return LowRank(weights, rank) if form == LOW_RANK else Whole(weights)


def fitting_rank(weights: Mapping[str, Tensor], numbers: int) -> int:
    """The highest rank, at most MOST_RANK, at which a low-rank delta of the weights takes no more
    than DELTA_SHARE of a generator of so many numbers; 1 at least."""
    shapes = [value.shape for value in weights.values()]

    def kept(rank: int) -> int:
        return sum(
            rank * sum(matrix_shape(shape)) if saves(shape, rank) else math.prod(shape)
            for shape in shapes
        )

    room = DELTA_SHARE * 2 * numbers  # half precision against float32
    return next((rank for rank in range(MOST_RANK, 1, -1) if kept(rank) <= room), 1)


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a weight as a matrix: its outputs, and all else."""
    return shape[0], math.prod(shape[1:])


def saves(shape: Sequence[int], rank: int) -> bool:
    """Whether two factors of that rank take fewer numbers than a weight of that shape."""
    if len(shape) < 2:
        return False
    outputs, inputs = matrix_shape(shape)
    return rank * (outputs + inputs) < outputs * inputs


def product(left: Tensor, right: Tensor, shape: Sequence[int]) -> Tensor:
    """B A as a weight of that shape."""
    return (left @ right).reshape(*shape)


def restore(delta: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Differences by weight that a stored delta stands for, float32.

    Args:
        delta: what `stored` gave, in whatever precision it was kept.
        parameters: the generator's weights by name.

    Raises:
        ModelError: naming the first tensor that does not belong to these weights.
    """
    differences: dict[str, Tensor] = {}
    for name, value in delta.items():
        if name.endswith(RIGHT):
            continue
        weight = name.removesuffix(LEFT)
        if weight not in parameters:
            raise ModelError(f"{weight} of {tuple(value.shape)}")
        shape = parameters[weight].shape
        if name.endswith(LEFT):
            right = delta.get(weight + RIGHT)
            outputs, inputs = matrix_shape(shape)
            if right is None or (
                value.shape != (outputs, len(right)) or right.shape != (len(right), inputs)
            ):
                raise ModelError(f"{weight} by factors of another shape")
            # In double precision the product does not depend on the machine's order of sums,
            # once rounded.
            value = product(value.double(), right.double(), shape).float()
        elif value.shape != shape:
            raise ModelError(f"{weight} of {tuple(value.shape)}")
        differences[weight] = value
    return differences


def tuned_parameters(generator: nn.Module, layers: Sequence[str] = ("*",)) -> dict[str, Tensor]:
    """The parameters that tuning moves, by their name in the generator.

    All of the synthesis network but StyleGAN3's Fourier input (tuned, it would move every latent's
    picture); of these, those that match one of `layers`, names within the synthesis network with
    * and ?: "b64.*", "*.torgb.*", "L5_*". ConfigError for a pattern that matches nothing.
    """
    network = generator.get_submodule("synthesis")
    names = [name for name, _ in network.named_parameters() if not name.startswith("input.")]
    chosen: set[str] = set()
    for pattern in layers:
        found = fnmatch.filter(names, pattern)
        if not found:
            modules = sorted({name.rpartition(".")[0] for name in names})
            raise ConfigError(
                f"tune.layers={pattern} names no layer of this model; the nearest is "
                f"{nearest(pattern, modules)}.* (there are {', '.join(modules[:6])}, ...)."
            )
        chosen.update(found)
    return {
        f"synthesis.{name}": parameter
        for name, parameter in network.named_parameters()
        if name in chosen
    }

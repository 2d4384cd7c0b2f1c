"""Inception v3 of 2015, the network that published FID, KID and IS figures rest on.

The architecture is that of Szegedy et al. 2016, "Rethinking the Inception Architecture", section 6,
with the two departures that TensorFlow's graph of 2015-12-05 has and FID keeps: average pooling
leaves the padding out of its count, and the last block pools by the maximum. Names of tensors are
those of the weights that pytorch-fid publishes (torchvision's names, 1008 classes). No package
ships these weights; `read` takes them from a file of the user's.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from pipeline.errors import ModelError

RESOLUTION = 299
FEATURES = 2048
CLASSES = 1008

_NORM_EPSILON = 1e-3

# Weight and bias of each convolution, batch norm folded in, by its name.
Convolutions = dict[str, tuple[Tensor, Tensor]]

# Convolutions before the first block, with stride and padding; max pooling after two of them.
_STEM = (
    ("Conv2d_1a_3x3", 2, 0),
    ("Conv2d_2a_3x3", 1, 0),
    ("Conv2d_2b_3x3", 1, 1),
    ("Conv2d_3b_1x1", 1, 0),
    ("Conv2d_4a_3x3", 1, 0),
)
_POOLED_AFTER = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")
# Blocks in order: figure 5 (35 x 35), a reduction, figure 6 (17 x 17), a reduction, figure 7 (8 x
# 8).
_BLOCKS = {
    "Mixed_5b": "figure5", "Mixed_5c": "figure5", "Mixed_5d": "figure5",
    "Mixed_6a": "reduce35",
    "Mixed_6b": "figure6", "Mixed_6c": "figure6", "Mixed_6d": "figure6", "Mixed_6e": "figure6",
    "Mixed_7a": "reduce17",
    "Mixed_7b": "figure7", "Mixed_7c": "figure7",
}  # fmt: skip
# A block's branches: chains of convolutions. A chain may end in a pair that both read its last
# output; "branch_pool" reads the pooled input.
_BRANCHES: dict[str, tuple[tuple[str, ...], ...]] = {
    "figure5": (
        ("branch1x1",),
        ("branch5x5_1", "branch5x5_2"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        ("branch_pool",),
    ),
    "reduce35": (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")),
    "figure6": (
        ("branch1x1",),
        ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
        ("branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"),
        ("branch_pool",),
    ),
    "reduce17": (
        ("branch3x3_1", "branch3x3_2"),
        ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"),
    ),
    "figure7": (
        ("branch1x1",),
        ("branch3x3_1", "branch3x3_2a|branch3x3_2b"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a|branch3x3dbl_3b"),
        ("branch_pool",),
    ),
}
_REDUCTIONS = ("reduce35", "reduce17")
_MAX_POOLED = "Mixed_7c"


def read(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of weights (torch's .pth or safetensors); no code in it runs.

    ModelError where it is missing, unreadable, or of another network.
    """
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"There is no file of Inception weights at {path}.") from None
    # On damaged bytes torch's reader raises anything, IndexError included.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ModelError(f"{path} cannot be read as a file of weights ({reason}).") from error
    try:
        fold(tensors)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return dict(tensors)


def fold(tensors: Mapping[str, Tensor]) -> Convolutions:
    """The published tensors as convolutions and one matrix; ModelError if they are others."""
    folded: Convolutions = {}
    try:
        for name in convolution_names():
            norm = {key: tensors[f"{name}.bn.{key}"] for key in
                    ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
            scale = norm["weight"] * (norm["running_var"] + _NORM_EPSILON).rsqrt()
            weight = tensors[f"{name}.conv.weight"] * scale.reshape(-1, 1, 1, 1)
            folded[name] = (weight, norm["bias"] - norm["running_mean"] * scale)
        matrix = tensors["fc.weight"]
        if matrix.shape != (CLASSES, FEATURES):
            raise ModelError(
                f"These are not FID's Inception weights: fc.weight is {list(matrix.shape)}, not "
                f"[{CLASSES}, {FEATURES}]."
            )
        # Published inception scores leave out the last layer's bias (Salimans' program did).
        folded["fc"] = (matrix, torch.zeros_like(matrix[:, 0]))
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(f"These are not FID's Inception weights ({error}).") from error
    return folded


def convolution_names() -> Iterator[str]:
    """The convolutions' names, in the order in which they run."""
    yield from (name for name, _, _ in _STEM)
    for block, kind in _BLOCKS.items():
        for chain in _BRANCHES[kind]:
            for link in chain:
                yield from (f"{block}.{name}" for name in link.split("|"))


def forward(network: Convolutions, images: Tensor) -> tuple[Tensor, Tensor]:
    """N x 3 x 299 x 299 in [-1, 1] => (pool3 features N x 2048, logits N x 1008)."""
    x = images
    for name, stride, padding in _STEM:
        x = _convolve(network, name, x, stride, (padding, padding))
        if name in _POOLED_AFTER:
            x = F.max_pool2d(x, 3, stride=2)
    for block, kind in _BLOCKS.items():
        x = _block(network, block, kind, x)
    features = x.mean(dim=(2, 3))
    return features, F.linear(features, *network["fc"])


def _block(network: Convolutions, block: str, kind: str, x: Tensor) -> Tensor:
    """The branches' outputs side by side; a reduction halves the map and pools its input."""
    reduces = kind in _REDUCTIONS
    outputs: list[Tensor] = []
    for chain in _BRANCHES[kind]:
        y = _pooled(x, block) if chain == ("branch_pool",) else x
        for position, link in enumerate(chain):
            stride = 2 if reduces and position == len(chain) - 1 else 1
            ends = [
                _convolve(network, f"{block}.{name}", y, stride, None if stride == 1 else (0, 0))
                for name in link.split("|")
            ]
            y = torch.cat(ends, dim=1)
        outputs.append(y)
    if reduces:
        outputs.append(F.max_pool2d(x, 3, stride=2))
    return torch.cat(outputs, dim=1)


def _pooled(x: Tensor, block: str) -> Tensor:
    if block == _MAX_POOLED:
        return F.max_pool2d(x, 3, stride=1, padding=1)
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _convolve(
    network: Convolutions, name: str, x: Tensor, stride: int, padding: tuple[int, int] | None
) -> Tensor:
    """Rectified convolution; padding None keeps the size."""
    weight, bias = network[name]
    if padding is None:
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return F.relu(F.conv2d(x, weight, bias, stride=stride, padding=padding))

"""EfficientNet-Lite0, an ImageNet classifier, as a function of its tensors.

The network is that of Tan and Le 2019, "EfficientNet", table 1, in its "Lite" form: no squeeze and
excitation, ReLU6, stem and head of fixed width. Names of tensors are those of the published
PyTorch weights. Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ModelError

RESOLUTION = 224
FEATURES = 1280
CLASSES = 1000

# TensorFlow's epsilon, with which the weights were trained.
_NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class Stage:
    """A row of table 1: `repeats` inverted bottlenecks, the first with `stride`."""

    repeats: int
    kernel: int
    stride: int
    expansion: int


STAGES = (
    Stage(1, 3, 1, 1),
    Stage(2, 3, 2, 6),
    Stage(2, 5, 2, 6),
    Stage(3, 3, 2, 6),
    Stage(3, 5, 1, 6),
    Stage(4, 5, 2, 6),
    Stage(1, 3, 1, 6),
)


# Weight and bias of each convolution, batch norm folded in, by the convolution's name.
Convolutions = dict[str, tuple[Tensor, Tensor]]


def fold(tensors: Mapping[str, Tensor]) -> Convolutions:
    """The published tensors as convolutions and one matrix; ModelError if they are others."""
    try:
        folded = {
            convolution: _folded(tensors, convolution, norm) for convolution, norm in _layers()
        }
        folded["_fc"] = (tensors["_fc.weight"], tensors["_fc.bias"])
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"These are not EfficientNet-Lite0's tensors ({error}).") from error
    return folded


def forward(network: Convolutions, images: Tensor) -> tuple[Tensor, Tensor]:
    """N x 3 x 224 x 224 in [-1, 1] => (pooled features N x 1280, logits N x 1000)."""
    x = _stem(network, images)
    for index, (stage, stride) in enumerate(_blocks()):
        x = _bottleneck(network, f"_blocks.{index}", x, stage, stride)
    x = F.relu6(_convolve(network, "_conv_head", x))
    features = x.mean(dim=(2, 3))
    return features, F.linear(features, *network["_fc"])


def maps(network: Convolutions, images: Tensor) -> list[Tensor]:
    """N x 3 x height x width in [-1, 1] => the last map of each resolution, from a half of the
    picture's down to a 32nd (N x 16, 24, 40, 112 and 320 channels); any size, differentiable."""
    x = _stem(network, images)
    found: list[Tensor] = []
    for index, (stage, stride) in enumerate(_blocks()):
        if stride > 1:
            found.append(x)
        x = _bottleneck(network, f"_blocks.{index}", x, stage, stride)
    return [*found, x]


def _stem(network: Convolutions, images: Tensor) -> Tensor:
    # The weights expect (pixel - 127) / 128. Channels last: the layout that depthwise
    # convolutions are fast in.
    x = ((images * 127.5 + 0.5) / 128).contiguous(memory_format=torch.channels_last)
    return F.relu6(_convolve(network, "_conv_stem", x, stride=2))


def _blocks() -> Iterator[tuple[Stage, int]]:
    """Each bottleneck's stage and stride."""
    for stage in STAGES:
        for repeat in range(stage.repeats):
            yield stage, 1 if repeat else stage.stride


def _layers() -> Iterator[tuple[str, str]]:
    """Names of each convolution and of the batch norm after it."""
    yield "_conv_stem", "_bn0"
    for index, (stage, _) in enumerate(_blocks()):
        block = f"_blocks.{index}"
        if stage.expansion > 1:
            yield f"{block}._expand_conv", f"{block}._bn0"
        yield f"{block}._depthwise_conv", f"{block}._bn1"
        yield f"{block}._project_conv", f"{block}._bn2"
    yield "_conv_head", "_bn1"


def _folded(tensors: Mapping[str, Tensor], convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    scale = tensors[f"{norm}.weight"] * (tensors[f"{norm}.running_var"] + _NORM_EPSILON).rsqrt()
    bias = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
    weight = tensors[f"{convolution}.weight"] * scale.reshape(-1, 1, 1, 1)
    return weight.contiguous(memory_format=torch.channels_last), bias


def _bottleneck(network: Convolutions, name: str, x: Tensor, stage: Stage, stride: int) -> Tensor:
    """Expand, convolve each channel alone, project; added to the input where the shapes agree."""
    y = x
    if stage.expansion > 1:
        y = F.relu6(_convolve(network, f"{name}._expand_conv", y))
    y = F.relu6(_convolve(network, f"{name}._depthwise_conv", y, stride))
    y = _convolve(network, f"{name}._project_conv", y)
    return x + y if stride == 1 and x.shape[1] == y.shape[1] else y


def _convolve(network: Convolutions, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight, bias = network[name]
    groups = x.shape[1] // weight.shape[1]
    x = _pad_same(x, weight.shape[-1], stride)
    return F.conv2d(x, weight, bias, stride=stride, groups=groups)


def _pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's SAME: ceil(size / stride) outputs; an odd row of zeros goes to the end."""
    sides: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides) if any(sides) else x

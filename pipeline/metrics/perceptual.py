"""Perceptual distance between images: LPIPS, a classifier's maps, or the model's discriminator.

LPIPS is Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric", eq. 1: channels of five feature maps are unit-normalised, weighted by learned non-negative
1x1 heads, squared differences averaged over space and summed over layers. Here each map is scaled
by sqrt(weight / (H W)) beforehand, so that every distance is a plain sum of squared differences of
`features`, and the features of a fixed target are computed once.

Knows nothing about inversion or training, and never touches the network: weights come from the
cache (`pipeline.weights`).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline import weights
from pipeline.errors import ModelError, check_choice
from pipeline.metrics import efficientnet

NAMES = ("lpips-alex", "lpips-vgg", "efficientnet-lite0", "discriminator")

# Keeps the unit normalisation and its gradient finite where a location's features are all zero
# (flat paper); far below any real feature's energy.
_TINY_ENERGY = 1e-10

# Below this side AlexNet's last maps shrink to a few pixels and say nothing about where things are.
SMALLEST_SIDE_PX = 128


class PerceptualDistance(ABC):
    """A distance between images as the squared distance of their feature maps.

    `smallest_px` / `largest_px`: an image whose shorter side is below / above it is resized to it
    first (bilinear up, area-averaged down); 0 leaves that side unbounded.
    """

    name: str

    def __init__(self, smallest_px: int = 0, largest_px: int = 0) -> None:
        self.smallest_px = smallest_px
        self.largest_px = largest_px

    @abstractmethod
    def maps(self, images: Tensor) -> list[Tensor]:
        """Scaled feature maps of images already of the right size; NCHW in [-1, 1]."""

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps (each N x channels x height x width) of `images`, NCHW in [-1, 1].

        Differentiable. Grey images are read as RGB.
        """
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        return self.maps(self._resized(images))

    def distance(self, features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
        """Distance of each pair, N values >= 0; 0 for equal images."""
        pairs = zip(features_a, features_b, strict=True)
        return sum_of_layers([(a - b).square().sum(dim=(1, 2, 3)) for a, b in pairs])

    def _resized(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        side = min(height, width)
        if self.smallest_px and side < self.smallest_px:
            factor = self.smallest_px / side
        elif self.largest_px and side > self.largest_px:
            factor = self.largest_px / side
        else:
            return images
        size = (round(height * factor), round(width * factor))
        if factor < 1:
            return F.interpolate(images, size=size, mode="area")
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def sum_of_layers(values: list[Tensor]) -> Tensor:
    """Sum of one value a layer (N each), kept in one tensor expression."""
    return torch.stack(values).sum(dim=0)


def unit_channels(maps: Tensor) -> Tensor:
    """Each location's channel vector scaled to length one; NCHW."""
    return maps * (maps.square().sum(dim=1, keepdim=True) + _TINY_ENERGY).rsqrt()


class Lpips(PerceptualDistance):
    """LPIPS v0.1 (Zhang 2018) on the convolutions of AlexNet or VGG16."""

    # Kernel, stride and padding are in `_alexnet_taps` and `_vgg16_taps`. The networks were trained
    # on images normalised by ImageNet's statistics; these are those for a [-1, 1] input.
    _SHIFT = (-0.030, -0.088, -0.188)
    _SCALE = (0.458, 0.448, 0.450)

    def __init__(
        self,
        name: str,
        tensors: dict[str, Tensor],
        smallest_px: int = 0,
        largest_px: int = 0,
        mixed: bool = False,
    ) -> None:
        """
        Args:
            tensors: conv{i}.weight (OIHW), conv{i}.bias, head{j}.weight (C), on their device.
            mixed: convolve in bfloat16 (its range is that of float32, so gradients do not vanish);
                all else stays as it is.
        """
        super().__init__(smallest_px, largest_px)
        self.name = name
        self._mixed = mixed
        self._tensors = tensors
        self._heads = [tensors[f"head{j}.weight"].sqrt().reshape(1, -1, 1, 1) for j in range(5)]
        some = tensors["conv0.weight"]
        self._shift = torch.tensor(self._SHIFT).reshape(1, 3, 1, 1).to(some)
        self._scale = torch.tensor(self._SCALE).reshape(1, 3, 1, 1).to(some)

    def maps(self, images: Tensor) -> list[Tensor]:
        return [
            unit_channels(tap) * head / (tap.shape[2] * tap.shape[3]) ** 0.5
            for tap, head in zip(self._taps(images), self._heads, strict=True)
        ]

    def last_map(self, images: Tensor) -> Tensor:
        """The last rectified convolution as it is, neither normalised nor weighted; NCHW."""
        return self._taps(images)[-1]

    def _taps(self, images: Tensor) -> list[Tensor]:
        x = (images.to(self._scale.dtype) - self._shift) / self._scale
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._mixed):
            taps = self._alexnet_taps(x) if self.name == "lpips-alex" else self._vgg16_taps(x)
        return [tap.to(x.dtype) for tap in taps]

    def _conv(self, x: Tensor, index: int, stride: int = 1, padding: int = 1) -> Tensor:
        weight, bias = self._tensors[f"conv{index}.weight"], self._tensors[f"conv{index}.bias"]
        return F.relu(F.conv2d(x, weight, bias, stride=stride, padding=padding))

    def _alexnet_taps(self, x: Tensor) -> list[Tensor]:
        """After each of the five rectified convolutions (Krizhevsky 2014's one-tower AlexNet)."""
        taps = [self._conv(x, 0, stride=4, padding=2)]
        taps.append(self._conv(F.max_pool2d(taps[-1], 3, stride=2), 1, padding=2))
        taps.append(self._conv(F.max_pool2d(taps[-1], 3, stride=2), 2))
        taps.append(self._conv(taps[-1], 3))
        taps.append(self._conv(taps[-1], 4))
        return taps

    def _vgg16_taps(self, x: Tensor) -> list[Tensor]:
        """The last rectified convolution of each of VGG16's five blocks (Simonyan 2015)."""
        taps: list[Tensor] = []
        index = 0
        for block, convolutions in enumerate((2, 2, 3, 3, 3)):
            x = F.max_pool2d(x, 2) if block else x
            for _ in range(convolutions):
                x = self._conv(x, index)
                index += 1
            taps.append(x)
        return taps


class ClassifierDistance(PerceptualDistance):
    """Distance in the maps of EfficientNet-Lite0, from fine to coarse; a second opinion beside
    LPIPS, whose heads were fitted to what people see. Not comparable with it.

    Each map is unit-normalised over channels, averaged over space and over maps.
    """

    name = "efficientnet-lite0"

    def __init__(
        self, tensors: dict[str, Tensor], smallest_px: int = 0, largest_px: int = 0
    ) -> None:
        """`tensors`: the published ones (see `efficientnet.fold`), on their device."""
        super().__init__(smallest_px, largest_px)
        self._network = efficientnet.fold(tensors)

    def maps(self, images: Tensor) -> list[Tensor]:
        found = efficientnet.maps(self._network, images)
        return [
            unit_channels(layer) / (len(found) * layer.shape[2] * layer.shape[3]) ** 0.5
            for layer in found
        ]


class DiscriminatorDistance(PerceptualDistance):
    """Distance in the features of a StyleGAN discriminator's blocks: trained on drawings, but
    blind to what the discriminator never needed; a stand-in, not comparable with LPIPS.

    Each block's output is unit-normalised over channels, averaged over space and over blocks.
    """

    name = "discriminator"

    def __init__(self, discriminator: nn.Module) -> None:
        """`discriminator`: callable as D(images, c) with blocks named b<resolution>; its own
        resolution is the only one it takes."""
        super().__init__()
        self._network = discriminator.eval().requires_grad_(False)
        self._blocks = {
            name: block
            for name, block in discriminator.named_children()
            if re.fullmatch(r"b\d+", name) and name != "b4"  # b4 is the epilogue: one number
        }
        if not self._blocks:
            raise ModelError("This discriminator has no blocks whose features could be compared.")

    def features(self, images: Tensor) -> list[Tensor]:
        # Its own channels and resolution, whatever the other networks want.
        return self.maps(images)

    def maps(self, images: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = []

        def keep(_block: nn.Module, _inputs: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple) else output
            assert isinstance(first, Tensor)
            outputs.append(first.float())

        hooks = [block.register_forward_hook(keep) for block in self._blocks.values()]
        try:
            labels = images.new_zeros([images.shape[0], int(self._network.c_dim)])  # type: ignore[arg-type]
            self._network(images, labels)
        finally:
            for hook in hooks:
                hook.remove()
        layers = len(outputs)
        return [
            unit_channels(output) / (layers * output.shape[2] * output.shape[3]) ** 0.5
            for output in outputs
        ]


def load(
    name: str,
    device: torch.device | str = "cpu",
    *,
    discriminator: nn.Module | None = None,
    smallest_px: int = SMALLEST_SIDE_PX,
    largest_px: int = 0,
    mixed: bool = False,
) -> PerceptualDistance:
    """The distance called `name` (one of NAMES) on `device`.

    `discriminator` is needed for that name only. `smallest_px`, `largest_px`: see
    PerceptualDistance; the published LPIPS figures are those without resizing (both 0).
    `mixed`: see Lpips; the other distances have no such thing.
    ModelError where the weights are not in the cache.
    """
    check_choice("perceptual", name, NAMES)
    if name == "discriminator":
        if discriminator is None:
            raise ModelError("The discriminator's distance needs a model that has a discriminator.")
        return DiscriminatorDistance(discriminator.to(device))
    path = weights.find(name)
    if path is None:
        raise ModelError(
            f"The weights of {name} are not on this machine; run `python -m scripts.fetch_weights` "
            "while online."
        )
    if name == ClassifierDistance.name:
        return ClassifierDistance(_tensors(path, device), smallest_px, largest_px)
    return Lpips(name, _tensors(path, device), smallest_px, largest_px, mixed)


def _tensors(path: Path, device: torch.device | str) -> dict[str, Tensor]:
    return load_file(path, device=str(device))

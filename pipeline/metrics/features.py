"""Feature networks behind one interface: what FID, KID, precision, recall and IS rest on.

Figures of different networks cannot be compared, nor can those of one network at different input
sizes, so that each has a `name` that says both and is written beside every figure. Weights come
from the cache (`pipeline.weights`) or from a file of the user's; nothing here touches the network.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from pipeline import weights
from pipeline.errors import ModelError, check_choice
from pipeline.metrics import efficientnet, inception, perceptual

AUTO = "auto"
INCEPTION = "inception"
NAMES = (INCEPTION, "efficientnet-lite0", "lpips-vgg", "lpips-alex")
# In order of preference. Inception needs a file and is never chosen unasked, so that figures do not
# change with what lies about on a machine.
PACKAGED = ("efficientnet-lite0", "lpips-vgg", "lpips-alex")

# Side that LPIPS's networks were trained at.
_LPIPS_PX = 224


@dataclass(frozen=True)
class Outputs:
    """What a network says of a batch: features N x dim, and logits N x classes or None."""

    features: Tensor
    logits: Tensor | None


class FeatureNetwork(ABC):
    """Images to feature vectors.

    Attributes:
        name: the network, its layer and the side it sees in pixels.
        weights_digest: SHA-256 of the file that its weights came from.
        dim: length of a feature vector.
        classes: number of classes it tells apart; 0: it is no classifier.
    """

    name: str
    dim: int
    classes: int = 0

    def __init__(self, side_px: int, device: torch.device | str, weights_digest: str = "") -> None:
        self.weights_digest = weights_digest
        self.side_px = side_px
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Outputs:
        """Outputs (float32, on the network's device) for N x C x H x W uint8, C 3 or 1."""
        outputs = self._outputs(self._prepared(images))
        logits = None if outputs.logits is None else outputs.logits.float()
        return Outputs(outputs.features.float(), logits)

    @abstractmethod
    def _outputs(self, images: Tensor) -> Outputs:
        """For images of the right size, N x 3 x side x side float32 in [-1, 1]."""

    def _prepared(self, images: Tensor) -> Tensor:
        x = images.to(self.device, torch.float32)
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if x.shape[2:] != (self.side_px, self.side_px):
            # Antialiased bicubic, as Parmar et al. 2022 ("On Aliased Resizing ...") recommend:
            # the plain bilinear of the first FID programs sees stairs where there are none.
            size = (self.side_px, self.side_px)
            x = F.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
            x = x.clamp(0, 255)
        return x / 127.5 - 1


class PooledLpips(FeatureNetwork):
    """The last convolution of LPIPS's AlexNet or VGG16, averaged over space."""

    def __init__(self, name: str, file: Path, side_px: int, device: torch.device | str) -> None:
        super().__init__(side_px, device, _digest(file))
        tensors = load_file(file, device=str(device))
        self._network = perceptual.Lpips(name, tensors)
        layer = {"lpips-alex": "AlexNet conv5", "lpips-vgg": "VGG16 conv5_3"}[name]
        self.name = f"{layer} at {side_px} px"
        self.dim = len(tensors["head4.weight"])

    def _outputs(self, images: Tensor) -> Outputs:
        return Outputs(self._network.last_map(images).mean(dim=(2, 3)), None)


class EfficientNet(FeatureNetwork):
    """EfficientNet-Lite0's pooled features, and its ImageNet logits."""

    name = f"EfficientNet-Lite0 pool at {efficientnet.RESOLUTION} px"
    dim = efficientnet.FEATURES
    classes = efficientnet.CLASSES

    def __init__(self, file: Path, device: torch.device | str) -> None:
        super().__init__(efficientnet.RESOLUTION, device, _digest(file))
        self._network = efficientnet.fold(load_file(file, device=str(device)))

    def _outputs(self, images: Tensor) -> Outputs:
        return Outputs(*efficientnet.forward(self._network, images))


class Inception(FeatureNetwork):
    """FID's Inception v3 (the one of 2015): pool3 features and 1008 logits."""

    name = f"FID Inception-v3 pool3 at {inception.RESOLUTION} px"
    dim = inception.FEATURES
    classes = inception.CLASSES

    def __init__(self, file: Path, device: torch.device | str) -> None:
        tensors = inception.read(file)
        super().__init__(inception.RESOLUTION, device, _digest(file))
        self._network = inception.fold({key: value.to(device) for key, value in tensors.items()})

    def _outputs(self, images: Tensor) -> Outputs:
        return Outputs(*inception.forward(self._network, images))


def load(
    name: str = AUTO,
    device: torch.device | str = "cpu",
    *,
    file: Path | None = None,
    side_px: int = _LPIPS_PX,
    order: tuple[str, ...] = PACKAGED,
) -> FeatureNetwork:
    """The network called `name`, one of NAMES, or the first of `order` whose weights are here.

    Args:
        file: Inception's weights (see `inception.read`), needed for that name only.
        side_px: side that the LPIPS networks see; the others have a fixed one.

    Raises:
        ModelError: where weights are missing or not what they should be.
    """
    check_choice("features", name, (AUTO, *NAMES))
    if name == AUTO:
        name = _first_there(order)
    if name == INCEPTION:
        if file is None:
            raise ModelError(
                "No package ships FID's Inception weights; give the file that pytorch-fid "
                "publishes (pt_inception-2015-12-05-6726825d.pth) as features_file, or take "
                "features=auto."
            )
        return Inception(file, device)
    path = weights.find(name)
    if path is None:
        raise ModelError(_missing(name))
    if name == "efficientnet-lite0":
        return EfficientNet(path, device)
    return PooledLpips(name, path, side_px, device)


def _first_there(order: tuple[str, ...]) -> str:
    for name in order:
        if weights.find(name) is not None:
            return name
    raise ModelError(_missing(", ".join(order)))


def _missing(names: str) -> str:
    return (
        f"The weights of {names} are not on this machine; run `python -m scripts.fetch_weights` "
        "while online."
    )


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""An encoder: a picture to the latent of one model, in a few passes.

A small convolutional network sees the picture beside what the model draws so far and says how the
latent must change (Alaluf et al. 2021, "ReStyle", eq. 3), beginning at the mean latent. It knows
one model only, whose digest it carries. On disk:

    encoder.json           format, the model's digest, the network's arguments, passes
    encoder.safetensors    its weights, and the mean and deviation of w that it counts in

How it is trained is in `encoder_stage`. A generator that was trained as half of an autoencoder (the
pretrain stage) has the other half among its networks: `OwnEncoder`, which counts where no other is
named.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import files
from pipeline.errors import ArtifactError
from pipeline.invert import pti
from pipeline.models import checkpoint
from pipeline.models.picture_encoder import HIDDEN, OWN, PictureEncoder

FORMAT = 1
# Larger pictures are reduced to this side first: what a latent says of a face is seen at 64 px.
LARGEST_SIDE_PX = 64


class Finder(Protocol):
    """What finds the latent of a picture."""

    def ws(
        self, generator: Any, target: Tensor, space: str, distance: Callable[[Tensor], float]
    ) -> Tensor:
        """The latent of the target (1 x C x H x W): 1 x 1 x w_dim for space "w", else
        1 x num_ws x w_dim. `distance` tells how far a picture is from the target."""
        ...


class OwnEncoder:
    """The encoder that a generator was trained with: one look, space W."""

    def __init__(self, network: PictureEncoder) -> None:
        self._network = network

    @classmethod
    def of_model(cls, folder: Path, device: torch.device | str) -> OwnEncoder | None:
        """None where the model has none."""
        if OWN not in checkpoint.read_architecture(folder):
            return None
        network = cast(PictureEncoder, checkpoint.load(folder, [OWN], device)[OWN])
        return cls(network.eval().requires_grad_(False))

    @torch.no_grad()
    def ws(
        self, generator: Any, target: Tensor, space: str, distance: Callable[[Tensor], float]
    ) -> Tensor:
        """See `Finder`."""
        w = self._network(target)[:, None]
        return w.clone() if space == "w" else w.expand(-1, generator.num_ws, -1)


class EncoderNetwork(PictureEncoder):
    """What says how the latent must change.

    Args:
        channels: of a picture (it sees two, one over the other).
        height, width: of the pictures as it sees them, powers of two.
        rows: of the latent, 1 (space W) or num_ws (W+).
        w_dim: of each row.
        breadth, hidden: see `PictureEncoder`. At first nothing comes out: the mean latent is the
            best guess without knowledge.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        rows: int,
        w_dim: int,
        breadth: int = 32,
        hidden: int = HIDDEN,
    ) -> None:
        super().__init__(2 * channels, height, width, rows * w_dim, breadth, hidden)
        self.arguments: dict[str, int] = {
            "channels": channels, "height": height, "width": width, "rows": rows, "w_dim": w_dim,
            "breadth": breadth, "hidden": hidden,
        }  # fmt: skip
        self.rows, self.w_dim = rows, w_dim

    def change(self, target: Tensor, current: Tensor) -> Tensor:
        """Two N x C x height x width in [-1, 1] => the change of the latent, N x rows x w_dim, in
        standard deviations."""
        change: Tensor = self(torch.cat([target, current - target], dim=1))
        return change.reshape(-1, self.rows, self.w_dim)


@dataclass
class Encoder:
    """An encoder and the scale it counts in.

    Attributes:
        mean: the latent it begins at, w_dim values.
        deviation: standard deviation of each value of w, w_dim values.
        passes: how often it looks.
    """

    network: EncoderNetwork
    mean: Tensor
    deviation: Tensor
    passes: int
    model_digest: str

    @property
    def space(self) -> str:
        """w or w+."""
        return "w" if self.network.rows == 1 else "w+"

    def start(self, count: int) -> Tensor:
        """The mean latent, count x rows x w_dim."""
        return self.mean.expand(count, self.network.rows, -1)

    def refined(self, target: Tensor, w: Tensor, image: Tensor) -> Tensor:
        """One pass: the latents (N x rows x w_dim) after a look at their pictures."""
        change = self.network.change(self.seen(target), self.seen(image))
        return w + change * self.deviation

    def seen(self, images: Tensor) -> Tensor:
        """Pictures (NCHW) as the network sees them."""
        size = (self.network.arguments["height"], self.network.arguments["width"])
        return images if images.shape[2:] == size else F.interpolate(images, size, mode="area")

    @torch.no_grad()
    def ws(
        self, generator: Any, target: Tensor, space: str, distance: Callable[[Tensor], float]
    ) -> Tensor:
        """The latent of the target (1 x C x H x W): 1 x 1 x w_dim for space "w", else
        1 x num_ws x w_dim; of all passes' the one whose picture is nearest by `distance`.

        An encoder for W+ gives W its rows' mean, one for W gives each row the same.
        """
        w = self.start(1)
        best: tuple[float, Tensor] | None = None
        for look in range(self.passes + 1):
            if space == "w":
                w = w.mean(dim=1, keepdim=True).expand(-1, self.network.rows, -1)
            image = pti.picture_of(generator, w.expand(-1, generator.num_ws, -1))
            far = distance(image)
            if best is None or far < best[0]:
                best = (far, w)
            if look < self.passes:
                w = self.refined(target, w, image)
        assert best is not None
        found = best[1]
        return found[:, :1].clone() if space == "w" else found.expand(-1, generator.num_ws, -1)

    def save(self, folder: Path, half: bool = False) -> None:
        """Write both files into the folder; `half`: the network's weights in half precision."""
        network = self.network.state_dict().items()
        tensors = {f"network.{key}": value.half() if half else value for key, value in network}
        tensors |= {"mean": self.mean, "deviation": self.deviation}
        with files.put(folder / "encoder.safetensors") as aside:
            save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, aside)
        info = {
            "format": FORMAT,
            "model": {"digest": self.model_digest},
            "network": self.network.arguments,
            "passes": self.passes,
        }
        files.put_text(folder / "encoder.json", json.dumps(info, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Encoder:
        """Read an encoder; ArtifactError, one sentence, where it is missing, damaged or newer."""
        path = folder / "encoder.json"
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
            if info["format"] != FORMAT:
                raise ArtifactError(
                    f"{path} is of format {info['format']}, and this animedrag reads {FORMAT}; "
                    "update animedrag or train the encoder again."
                )
            network = EncoderNetwork(**info["network"])
            tensors = load_file(folder / "encoder.safetensors", device=str(device))
            own = "network."
            network.load_state_dict(
                {key.removeprefix(own): value for key, value in tensors.items() if own in key}
            )
            network.to(device).eval().requires_grad_(False)
            digest = str(info["model"]["digest"])
            mean, deviation = tensors["mean"], tensors["deviation"]
            return cls(network, mean, deviation, int(info["passes"]), digest)
        except FileNotFoundError as error:
            raise ArtifactError(f"{folder} is no encoder: it has no {error.filename}.") from None
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise ArtifactError(
                f"The encoder {folder} is damaged ({reason}); train it again."
            ) from error

"""What the generators of StyleGAN2 and StyleGAN3 have in common: z to w to an image.

Knows nothing about how the image is synthesised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from pipeline.models.layers import MappingNetwork


class LatentGenerator(nn.Module):
    """z to image: mapping network, then synthesis network.

    Args:
        z_dim, c_dim, w_dim: widths of latent, label (0: none) and intermediate latent.
        img_resolution: height of the images, a power of two.
        img_channels: 3 for RGB, 1 for grey.
        mapping_kwargs: further arguments of `MappingNetwork`.
        synthesis_kwargs: further arguments of the synthesis network and its layers.
    """

    # The synthesis network's class, and what a mapping network has here unless said otherwise.
    synthesis_class: ClassVar[Callable[..., Any]]
    mapping_defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_kwargs: Mapping[str, Any] | None = None,
        **synthesis_kwargs: Any,
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        mapping = {**self.mapping_defaults, **(mapping_kwargs or {})}
        # What the constructor was given, for files.
        self.init_kwargs: dict[str, Any] = {
            "z_dim": z_dim, "c_dim": c_dim, "w_dim": w_dim, "img_resolution": img_resolution,
            "img_channels": img_channels, "mapping_kwargs": mapping, **synthesis_kwargs,
        }  # fmt: skip
        self.synthesis = self.synthesis_class(
            w_dim, img_resolution, img_channels, **synthesis_kwargs
        )
        self.num_ws: int = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **mapping)

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None = None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        **synthesis_kwargs: Any,
    ) -> torch.Tensor:
        """[N, z_dim], [N, c_dim] => [N, img_channels, height, width]; see the two networks."""
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff, update_emas)
        img: torch.Tensor = self.synthesis(ws, update_emas=update_emas, **synthesis_kwargs)
        return img

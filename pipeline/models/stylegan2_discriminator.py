"""StyleGAN2 discriminator, which StyleGAN3 trains against as well (Karras et al. 2020; "ADA").

Knows nothing about training or files. Constructor arguments and names of weights are those of
the published checkpoints, so that weights can be carried over by name. Images are NCHW float32
in [-1, 1]. `square=False` takes images twice as high as wide; `img_resolution` is the height.

Half precision is used on a GPU only, for the `num_fp16_res` highest resolutions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pipeline.errors import ModelError, check_choice
from pipeline.models.layers import FullyConnectedLayer, MappingNetwork
from pipeline.models.precision import half_format
from pipeline.models.stylegan2_layers import (
    ARCHITECTURES,
    BINOMIAL_FILTER,
    Conv2dLayer,
    block_resolutions,
    channels_at,
    image_size,
)
from torch_utils.ops.upfirdn2d import downsample2d, setup_filter


class DiscriminatorBlock(nn.Module):
    """Two convolutions at one resolution, the second halving it (Karras et al. 2020, figure 7)."""

    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        tmp_channels: int,
        out_channels: int,
        img_channels: int,
        first_layer_idx: int,
        architecture: str = "resnet",
        activation: str = "lrelu",
        resample_filter: Sequence[float] = BINOMIAL_FILTER,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        freeze_layers: int = 0,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.half_type = torch.float16
        self.fp16_channels_last = fp16_channels_last
        self.has_fromrgb = in_channels == 0 or architecture == "skip"
        self.num_layers = 0
        self.register_buffer("resample_filter", setup_filter(list(resample_filter)))

        def layer(in_channels: int, out_channels: int, size: int, **kwargs: Any) -> Conv2dLayer:
            trainable = first_layer_idx + self.num_layers >= freeze_layers
            self.num_layers += 1
            return Conv2dLayer(in_channels, out_channels, size, trainable=trainable, **kwargs)

        common: dict[str, Any] = {"activation": activation, "conv_clamp": conv_clamp}
        halving: dict[str, Any] = {"down": 2, "resample_filter": resample_filter}
        if self.has_fromrgb:
            self.fromrgb = layer(img_channels, tmp_channels, 1, **common)
        self.conv0 = layer(tmp_channels, tmp_channels, 3, **common)
        self.conv1 = layer(tmp_channels, out_channels, 3, **common, **halving)
        if architecture == "resnet":
            self.skip = layer(tmp_channels, out_channels, 1, bias=False, **halving)

    def forward(
        self, x: torch.Tensor | None, img: torch.Tensor | None, force_fp32: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(features so far or None, image) => (features at half the size, image for the next)."""
        given = img if x is None else x
        assert given is not None
        dtype, layout = half_format(self, given.device, force_fp32)
        if x is not None:
            x = x.to(dtype, memory_format=layout)
        if self.has_fromrgb:
            assert img is not None
            y = self.fromrgb(img.to(dtype, memory_format=layout))
            x = y if x is None else x + y
            img = downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        assert x is not None
        if self.architecture == "resnet":
            # Both branches have unit variance; their sum would have twice that.
            shortcut = self.skip(x, gain=math.sqrt(0.5))
            return shortcut + self.conv1(self.conv0(x), gain=math.sqrt(0.5)), img
        return self.conv1(self.conv0(x)), img


class MinibatchStdLayer(nn.Module):
    """Appends the standard deviation over a group of images as further channels.

    Karras et al. 2018, section 3.

    Args:
        group_size: images a group (fewer where the batch is smaller); None: the whole batch.
        num_channels: how many channels are appended.
    """

    def __init__(self, group_size: int | None, num_channels: int = 1) -> None:
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] => [N, C + num_channels, H, W]; the group size must divide N."""
        batch, channels, height, width = x.shape
        group = batch if self.group_size is None else min(self.group_size, batch)
        if batch % max(group, 1):
            raise ModelError(
                f"a batch of {batch} images does not split into groups of {group} for the "
                f"discriminator; make the batch a multiple of mbstd_group_size."
            )
        f = self.num_channels
        grouped = x.reshape(group, -1, f, channels // f, height, width)
        deviation = (grouped.var(dim=0, correction=0) + 1e-8).sqrt()  # [batch / group, f, c, H, W]
        statistic = deviation.mean(dim=[2, 3, 4])  # [batch / group, f]
        statistic = statistic.repeat(group, 1)[:, :, None, None].expand(-1, -1, height, width)
        return torch.cat([x, statistic], dim=1)


class DiscriminatorEpilogue(nn.Module):
    """The 4x4 end of the discriminator: minibatch statistics, convolution, two dense layers."""

    def __init__(
        self,
        in_channels: int,
        cmap_dim: int,
        size: tuple[int, int],
        img_channels: int,
        architecture: str = "resnet",
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
        activation: str = "lrelu",
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.cmap_dim = cmap_dim
        self.fromrgb = (
            Conv2dLayer(img_channels, in_channels, 1, activation=activation)
            if architecture == "skip"
            else None
        )
        self.mbstd = (
            MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels else None
        )
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels,
            in_channels,
            3,
            activation=activation,
            conv_clamp=conv_clamp,
        )
        self.fc = FullyConnectedLayer(
            in_channels * size[0] * size[1], in_channels, activation=activation
        )
        self.out = FullyConnectedLayer(in_channels, max(cmap_dim, 1))

    def forward(
        self, x: torch.Tensor, img: torch.Tensor | None, cmap: torch.Tensor | None
    ) -> torch.Tensor:
        """Features, image at their size ("skip") and mapped label [N, cmap_dim] => [N, 1]."""
        x = x.to(torch.float32)
        if self.fromrgb is not None:
            assert img is not None
            x = x + self.fromrgb(img.to(torch.float32))
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is not None:
            # Projection discriminator (Miyato & Koyama 2018).
            x = (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)
        return x


class Discriminator(nn.Module):
    """Image (and label) to a logit: positive means real.

    Args:
        c_dim: width of the label; 0: none.
        img_resolution: height of the images, a power of two.
        img_channels: 3 for RGB, 1 for grey.
        architecture: "orig", "skip" or "resnet" (Karras et al. 2020, figure 7).
        channel_base, channel_max: channels are channel_base / resolution, at most channel_max.
        num_fp16_res: so many of the highest resolutions run in half precision on a GPU.
        conv_clamp: largest magnitude of activations; None: unlimited.
        cmap_dim: width of the mapped label; None: as many as the 4x4 block has channels.
        square: False for images twice as high as wide.
        block_kwargs, mapping_kwargs, epilogue_kwargs: further arguments of `DiscriminatorBlock`,
            `MappingNetwork` and `DiscriminatorEpilogue`.
    """

    def __init__(
        self,
        c_dim: int,
        img_resolution: int,
        img_channels: int,
        architecture: str = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 4,
        conv_clamp: float | None = 256,
        cmap_dim: int | None = None,
        square: bool = True,
        block_kwargs: Mapping[str, Any] | None = None,
        mapping_kwargs: Mapping[str, Any] | None = None,
        epilogue_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.init_kwargs = {
            "c_dim": c_dim, "img_resolution": img_resolution, "img_channels": img_channels,
            "architecture": architecture, "channel_base": channel_base,
            "channel_max": channel_max, "num_fp16_res": num_fp16_res, "conv_clamp": conv_clamp,
            "cmap_dim": cmap_dim, "square": square, "block_kwargs": dict(block_kwargs or {}),
            "mapping_kwargs": dict(mapping_kwargs or {}),
            "epilogue_kwargs": dict(epilogue_kwargs or {}),
        }  # fmt: skip
        check_choice("architecture", architecture, ARCHITECTURES)
        self.c_dim = c_dim
        self.img_resolution = img_resolution
        self.img_size = image_size(img_resolution, square)
        self.img_channels = img_channels
        resolutions = block_resolutions(img_resolution)[::-1]
        if img_resolution < 8:
            raise ModelError(
                f"img_resolution={img_resolution} is too small for a discriminator; use at least 8."
            )
        self.layer_names = [f"b{resolution}" for resolution in resolutions[:-1]]
        common: dict[str, Any] = {"architecture": architecture, "conv_clamp": conv_clamp}
        in_channels = layers = 0
        for index, resolution in enumerate(resolutions[:-1]):
            out_channels = channels_at(resolution // 2, channel_base, channel_max)
            block = DiscriminatorBlock(
                in_channels,
                channels_at(resolution, channel_base, channel_max),
                out_channels,
                img_channels,
                first_layer_idx=layers,
                use_fp16=index < num_fp16_res,
                **common,
                **dict(block_kwargs or {}),
            )
            self.add_module(f"b{resolution}", block)
            in_channels = out_channels
            layers += block.num_layers
        in_channels = channels_at(4, channel_base, channel_max)
        self.cmap_dim = (in_channels if cmap_dim is None else cmap_dim) if c_dim > 0 else 0
        self.mapping = (
            MappingNetwork(0, c_dim, self.cmap_dim, None, **dict(mapping_kwargs or {}))
            if c_dim > 0
            else None
        )
        self.b4 = DiscriminatorEpilogue(
            in_channels,
            self.cmap_dim,
            image_size(4, square),
            img_channels,
            **common,
            **dict(epilogue_kwargs or {}),
        )

    def forward(
        self,
        img: torch.Tensor,
        c: torch.Tensor | None = None,
        update_emas: bool = False,
        force_fp32: bool = False,
    ) -> torch.Tensor:
        """[N, img_channels, height, width] in [-1, 1], [N, c_dim] => logits [N, 1].

        `update_emas` is accepted for the sake of one signature with the generator.
        """
        x, rest = self._run(img, force_fp32)
        cmap = None if self.mapping is None else self.mapping(None, c)
        logits: torch.Tensor = self.b4(x[-1], rest, cmap)
        return logits

    def features(self, img: torch.Tensor, force_fp32: bool = False) -> list[torch.Tensor]:
        """The output of every block, NCHW float32, from the largest resolution to the smallest."""
        return [x.to(torch.float32) for x in self._run(img, force_fp32)[0]]

    def _run(
        self, img: torch.Tensor, force_fp32: bool
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """(outputs of the blocks, what is left of the image)."""
        x, rest = None, img
        outputs = []
        for name in self.layer_names:
            x, rest = self.get_submodule(name)(x, rest, force_fp32)
            outputs.append(x)
        return outputs, rest

"""StyleGAN2 generator and discriminator (Karras et al. 2019; 2020; 2020b = "ADA").

Knows nothing about training or files. Constructor arguments and names of weights are those of
the published checkpoints, so that weights can be carried over by name. Images are NCHW float32
in [-1, 1]. `square=False` makes images twice as high as wide (StyleGAN-Human, Fu et al. 2022);
`img_resolution` is then the height.

Half precision is used on a GPU only, for the `num_fp16_res` highest resolutions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.errors import ModelError, check_choice
from pipeline.models.features import FeatureFrame, layer_index
from pipeline.models.layers import FullyConnectedLayer, MappingNetwork
from torch_utils.ops.bias_act import ACTIVATIONS, bias_act
from torch_utils.ops.conv2d import conv2d_resample, modulated_conv2d
from torch_utils.ops.upfirdn2d import downsample2d, setup_filter, upsample2d

ARCHITECTURES = ("orig", "skip", "resnet")
NOISE_MODES = ("random", "const", "none")
BINOMIAL_FILTER = (1, 3, 3, 1)

# Block number whose output the drag editor follows (Pan et al. 2023: "the 6th block").
DRAG_BLOCK = 5


def block_resolutions(img_resolution: int) -> list[int]:
    """4, 8, ..., img_resolution; ModelError unless that is a power of two from 4 on."""
    if img_resolution < 4 or img_resolution & (img_resolution - 1):
        raise ModelError(
            f"img_resolution={img_resolution} is not possible: StyleGAN2 doubles from 4, so use a "
            f"power of two such as 64, 128, 256 or 512."
        )
    return [2**power for power in range(2, img_resolution.bit_length())]


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Number of channels at a resolution: inversely proportional, up to a maximum."""
    return min(channel_base // resolution, channel_max)


def image_size(resolution: int, square: bool) -> tuple[int, int]:
    """(height, width) at a block's resolution."""
    return resolution, resolution if square else resolution // 2


def split_gain(activation: str, gain: float) -> tuple[float, float]:
    """A layer's gain as (factor before the activation, factor after it).

    The rectifiers commute with positive factors, so theirs goes into weights, noise and bias,
    which are far smaller than the activations.
    """
    gain = gain * ACTIVATIONS[activation].gain
    return (gain, 1.0) if activation in ("linear", "relu", "lrelu") else (1.0, gain)


# ----------------------------------------------------------------------------------------------
# Layers
# ----------------------------------------------------------------------------------------------


class Conv2dLayer(nn.Module):
    """Convolution with optional resampling, then bias, activation, gain and clamp.

    A layer that is not `trainable` keeps its weights as buffers ("FreezeD", Mo et al. 2020).
    """

    resample_filter: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = BINOMIAL_FILTER,
        conv_clamp: float | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", setup_filter(list(resample_filter)))
        weight = torch.randn([out_channels, in_channels, kernel_size, kernel_size])
        start = torch.zeros([out_channels]) if bias else None
        if trainable:
            self.weight = nn.Parameter(weight)
            self.bias = None if start is None else nn.Parameter(start)
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("bias", start)

    def forward(self, x: torch.Tensor, gain: float = 1) -> torch.Tensor:
        """NCHW => NCHW at `up` / `down` times the size."""
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        before, after = split_gain(self.activation, gain)
        x = conv2d_resample(
            x,
            (self.weight * (self.weight_gain * before)).to(x.dtype),
            self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=self.up == 1,  # the published weights are stored this way
        )
        bias = None if self.bias is None else self.bias * before
        return bias_act(x, bias, act=self.activation, gain=after, clamp=clamp)


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias and activation (Karras et al. 2020, figure 2)."""

    resample_filter: torch.Tensor
    noise_const: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: tuple[int, int],
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        activation: str = "lrelu",
        resample_filter: Sequence[float] = BINOMIAL_FILTER,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.up = up
        self.use_noise = use_noise
        self.activation = activation
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.register_buffer("resample_filter", setup_filter(list(resample_filter)))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(
            torch.randn([out_channels, in_channels, kernel_size, kernel_size])
        )
        self.bias = nn.Parameter(torch.zeros([out_channels]))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(list(size)))
            self.noise_strength = nn.Parameter(torch.zeros([]))

    def forward(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        options: SynthesisOptions,
        gain: float = 1,
    ) -> torch.Tensor:
        """[N, in_channels, h, w], [N, w_dim] => [N, out_channels, *size]."""
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        before, after = split_gain(self.activation, gain)
        noise = self._noise(x, options)
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            noise=None if noise is None else noise * before,
            up=self.up,
            padding=self.padding,
            resample_filter=self.resample_filter,
            flip_weight=self.up == 1,  # the published weights are stored this way
            input_gain=before,
            fused=options.fused_modconv,
        )
        return bias_act(x, self.bias * before, act=self.activation, gain=after, clamp=clamp)

    def _noise(self, x: torch.Tensor, options: SynthesisOptions) -> torch.Tensor | None:
        if not self.use_noise or options.noise_mode == "none":
            return None
        if options.noise_mode == "const":
            return self.noise_const * self.noise_strength
        shape = [x.shape[0], 1, *self.size]
        noise = torch.randn(shape, device=x.device, generator=options.generator)
        return noise * self.noise_strength


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        kernel_size: int = 1,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(
            torch.randn([out_channels, in_channels, kernel_size, kernel_size])
        )
        self.bias = nn.Parameter(torch.zeros([out_channels]))

    def forward(
        self, x: torch.Tensor, w: torch.Tensor, fused_modconv: bool | None = None
    ) -> torch.Tensor:
        """[N, in_channels, H, W], [N, w_dim] => [N, out_channels, H, W]."""
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(
            x, self.weight, styles, padding=self.padding, demodulate=False, fused=fused_modconv
        )
        return bias_act(x, self.bias, clamp=self.conv_clamp)


# ----------------------------------------------------------------------------------------------
# Generator
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SynthesisOptions:
    """How to run the synthesis network; see `SynthesisNetwork.forward`."""

    noise_mode: str = "random"
    force_fp32: bool = False
    fused_modconv: bool | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        check_choice("noise_mode", self.noise_mode, NOISE_MODES)


class SynthesisBlock(nn.Module):
    """All layers of one resolution (Karras et al. 2020, figure 7)."""

    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        is_last: bool,
        architecture: str = "skip",
        resample_filter: Sequence[float] = BINOMIAL_FILTER,
        conv_clamp: float | None = 256,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        use_noise: bool = True,
        activation: str = "lrelu",
        square: bool = True,
    ) -> None:
        super().__init__()
        size = image_size(resolution, square)
        self.size = size
        self.out_channels = out_channels
        self.is_first = in_channels == 0
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.fp16_channels_last = fp16_channels_last
        self.has_torgb = is_last or architecture == "skip"
        self.num_conv = 1 if self.is_first else 2
        self.num_torgb = int(self.has_torgb)
        self.register_buffer("resample_filter", setup_filter(list(resample_filter)))

        def layer(channels: int, **kwargs: Any) -> SynthesisLayer:
            return SynthesisLayer(
                channels, out_channels, w_dim, size, use_noise=use_noise, activation=activation,
                conv_clamp=conv_clamp, **kwargs,
            )  # fmt: skip

        if self.is_first:
            self.const = nn.Parameter(torch.randn([out_channels, *size]))
        else:
            self.conv0 = layer(in_channels, up=2, resample_filter=resample_filter)
        self.conv1 = layer(out_channels)
        if self.has_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim, conv_clamp=conv_clamp)
        if not self.is_first and architecture == "resnet":
            self.skip = Conv2dLayer(
                in_channels, out_channels, 1, bias=False, up=2, resample_filter=resample_filter
            )

    def features(
        self, x: torch.Tensor | None, ws: torch.Tensor, options: SynthesisOptions
    ) -> torch.Tensor:
        """The block's feature maps.

        Args:
            x: the previous block's maps; None for the first.
            ws: [N, num_conv or more, w_dim], one row a convolution.
        """
        half = self.use_fp16 and ws.device.type == "cuda" and not options.force_fp32
        dtype = torch.float16 if half else torch.float32
        layout = torch.channels_last if half and self.fp16_channels_last else torch.preserve_format

        def run(
            layer: SynthesisLayer, x: torch.Tensor, w: torch.Tensor, gain: float = 1
        ) -> torch.Tensor:
            y: torch.Tensor = layer(x, w, options, gain)
            return y

        if self.is_first:
            x = self.const.to(dtype).expand(ws.shape[0], -1, -1, -1)
            return run(self.conv1, x.to(memory_format=layout), ws[:, 0])
        assert x is not None
        x = x.to(dtype, memory_format=layout)
        if self.architecture != "resnet":
            return run(self.conv1, run(self.conv0, x, ws[:, 0]), ws[:, 1])
        # Both branches have unit variance; their sum would have twice that.
        shortcut: torch.Tensor = self.skip(x, gain=math.sqrt(0.5))
        x = run(self.conv0, x, ws[:, 0])
        return shortcut + run(self.conv1, x, ws[:, 1], gain=math.sqrt(0.5))

    def image(
        self,
        x: torch.Tensor,
        img: torch.Tensor | None,
        w: torch.Tensor,
        options: SynthesisOptions,
    ) -> torch.Tensor | None:
        """The image so far: that of the previous blocks, enlarged, plus this block's part."""
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        if not self.has_torgb:
            return img
        rgb = self.torgb(x, w, options.fused_modconv).to(torch.float32)
        return rgb if img is None else img + rgb


class SynthesisNetwork(nn.Module):
    """Per-layer w to an image; its blocks are called b4, b8, ... by their resolution."""

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 4,
        fused_modconv_default: bool | str | None = None,
        square: bool = True,
        **block_kwargs: Any,
    ) -> None:
        # fused_modconv_default comes with published checkpoints; both forms of the convolution
        # give the same values, so the faster one is taken unless a call asks for one.
        super().__init__()
        check_choice("architecture", block_kwargs.get("architecture", "skip"), ARCHITECTURES)
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_size = image_size(img_resolution, square)
        self.img_channels = img_channels
        resolutions = block_resolutions(img_resolution)
        self.layer_names = [f"b{resolution}" for resolution in resolutions]
        in_channels = 0
        for index, resolution in enumerate(resolutions):
            out_channels = channels_at(resolution, channel_base, channel_max)
            block = SynthesisBlock(
                in_channels,
                out_channels,
                w_dim,
                resolution,
                img_channels,
                is_last=resolution == img_resolution,
                use_fp16=index >= max(len(resolutions) - num_fp16_res, 1),
                square=square,
                **block_kwargs,
            )
            self.add_module(f"b{resolution}", block)
            in_channels = out_channels
        self.num_ws = sum(block.num_conv for block in self.blocks) + self.blocks[-1].num_torgb

    @property
    def blocks(self) -> list[SynthesisBlock]:
        """The blocks from the smallest resolution to the largest."""
        found = [self.get_submodule(name) for name in self.layer_names]
        return [block for block in found if isinstance(block, SynthesisBlock)]

    @property
    def drag_layer(self) -> str:
        """The layer whose features the drag editor follows: the 6th block, or the last."""
        return self.layer_names[min(DRAG_BLOCK, len(self.layer_names) - 1)]

    def forward(
        self,
        ws: torch.Tensor,
        noise_mode: str = "random",
        update_emas: bool = False,
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Synthesise images.

        Args:
            ws: [N, num_ws, w_dim].
            noise_mode: "random" draws new noise, "const" takes the noise buffers, "none" adds
                none.
            update_emas: accepted for the sake of one signature; there is nothing to update here.
            force_fp32: no half precision, also on a GPU.
            fused_modconv: see `modulated_conv2d`; None: the faster form.
            generator: source of the random noise; None: torch's global one.

        Returns [N, img_channels, height, width] float32, about [-1, 1].
        """
        options = SynthesisOptions(noise_mode, force_fp32, fused_modconv, generator)
        return self._run(ws, options)[1]

    def features(
        self,
        ws: torch.Tensor,
        layer: str | int,
        noise_mode: str = "const",
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Feature maps of one block (a name of `layer_names` or its number), running no further.

        Only `feature_frame(layer).ws_rows` leading rows of ws are looked at. Returns NCHW float32.
        """
        options = SynthesisOptions(noise_mode, force_fp32, fused_modconv, generator)
        index = layer_index(layer, self.layer_names)
        x, row = None, 0
        for block in self.blocks[: index + 1]:
            x = block.features(x, ws[:, row:], options)
            row += block.num_conv
        assert x is not None
        return x.to(torch.float32)

    def features_and_image(
        self,
        ws: torch.Tensor,
        layer: str | int,
        noise_mode: str = "const",
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(features of `layer`, image) in one pass; arguments as of `features`."""
        options = SynthesisOptions(noise_mode, force_fp32, fused_modconv, generator)
        features, img = self._run(ws, options, keep=layer_index(layer, self.layer_names))
        assert features is not None
        return features, img

    def feature_frame(self, layer: str | int) -> FeatureFrame:
        """Where a block's features lie in the image, and which ws rows they depend on."""
        index = layer_index(layer, self.layer_names)
        block = self.blocks[index]
        return FeatureFrame(
            name=self.layer_names[index],
            channels=block.out_channels,
            height=block.size[0],
            width=block.size[1],
            scale=block.size[0] / self.img_resolution,
            offset=0.0,
            ws_rows=sum(block.num_conv for block in self.blocks[: index + 1]),
        )

    def _run(
        self, ws: torch.Tensor, options: SynthesisOptions, keep: int | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """(features of block number `keep`, image)."""
        x = img = kept = None
        row = 0
        for index, block in enumerate(self.blocks):
            x = block.features(x, ws[:, row:], options)
            row += block.num_conv
            # The image layer shares its row with the next block's first convolution.
            img = block.image(x, img, ws[:, row], options) if row < self.num_ws else img
            if index == keep:
                kept = x.to(torch.float32)
        assert img is not None
        return kept, img


class Generator(nn.Module):
    """z to image: mapping network, then synthesis network.

    Args:
        z_dim, c_dim, w_dim: widths of latent, label (0: none) and intermediate latent.
        img_resolution: height of the images, a power of two.
        img_channels: 3 for RGB, 1 for grey.
        mapping_kwargs: further arguments of `MappingNetwork`.
        synthesis_kwargs: further arguments of `SynthesisNetwork` and `SynthesisBlock`.
    """

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
        self.init_kwargs = {
            "z_dim": z_dim, "c_dim": c_dim, "w_dim": w_dim, "img_resolution": img_resolution,
            "img_channels": img_channels, "mapping_kwargs": dict(mapping_kwargs or {}),
            **synthesis_kwargs,
        }  # fmt: skip
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **synthesis_kwargs)
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(
            z_dim, c_dim, w_dim, self.num_ws, **dict(mapping_kwargs or {})
        )

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


# ----------------------------------------------------------------------------------------------
# Discriminator
# ----------------------------------------------------------------------------------------------


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
        half = self.use_fp16 and given.device.type == "cuda" and not force_fp32
        dtype = torch.float16 if half else torch.float32
        layout = torch.channels_last if half and self.fp16_channels_last else torch.preserve_format
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

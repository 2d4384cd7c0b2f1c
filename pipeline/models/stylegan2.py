"""StyleGAN2 generator (Karras et al. 2019; 2020; 2020b = "ADA").

The discriminator is in `stylegan2_discriminator`, what both share in `stylegan2_layers`; both are
to be had from here. Knows nothing about training or files. Constructor arguments and names of
weights are those of the published checkpoints, so that weights can be carried over by name. Images
are NCHW float32 in [-1, 1]. `square=False` makes images twice as high as wide (StyleGAN-Human, Fu
et al. 2022); `img_resolution` is then the height.

Half precision is used on a GPU only, for the `num_fp16_res` highest resolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.errors import check_choice
from pipeline.models.features import FeatureFrame, layer_index
from pipeline.models.latent_generator import LatentGenerator
from pipeline.models.layers import FullyConnectedLayer
from pipeline.models.precision import half_format
from pipeline.models.stylegan2_discriminator import (
    Discriminator,
    DiscriminatorBlock,
    DiscriminatorEpilogue,
    MinibatchStdLayer,
)
from pipeline.models.stylegan2_layers import (
    ARCHITECTURES,
    BINOMIAL_FILTER,
    Conv2dLayer,
    block_resolutions,
    channels_at,
    image_size,
    split_gain,
)
from torch_utils import rng
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.conv2d import conv2d_resample, modulated_conv2d
from torch_utils.ops.upfirdn2d import setup_filter, upsample2d

__all__ = [
    "ARCHITECTURES",
    "BINOMIAL_FILTER",
    "AdaINLayer",
    "Conv2dLayer",
    "Discriminator",
    "DiscriminatorBlock",
    "DiscriminatorEpilogue",
    "Generator",
    "MinibatchStdLayer",
    "SynthesisBlock",
    "SynthesisLayer",
    "SynthesisNetwork",
    "ToRGBLayer",
    "channels_at",
]

NOISE_MODES = ("random", "const", "none")

# Keeps the division finite where a map is flat; far below any map's deviation.
INSTANCE_EPSILON = 1e-8

# Block number whose output the drag editor follows (Pan et al. 2023: "the 6th block").
DRAG_BLOCK = 5


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias and activation (Karras et al. 2020, figure 2)."""

    resample_filter: torch.Tensor
    noise_const: torch.Tensor
    factors: torch.dtype | None = None  # of the convolution, see `conv2d_resample`

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
            factors=self.factors,
        )
        bias = self.bias * before
        return bias_act(x, bias, act=self.activation, gain=after, clamp=clamp, overwrite=True)

    def _noise(self, x: torch.Tensor, options: SynthesisOptions) -> torch.Tensor | None:
        if not self.use_noise or options.noise_mode == "none":
            return None
        if options.noise_mode == "const":
            return self.noise_const * self.noise_strength
        shape = [x.shape[0], 1, *self.size]
        noise = rng.randn(shape, device=x.device, generator=options.generator)
        return noise * self.noise_strength


def adain(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """AdaIN(x, y) = y_s (x - mu) / sigma + y_b (Huang & Belongie 2017, eq. 8; Karras 2019, eq. 1).

    x: [N, C, H, W]; scale, shift: [N, C]. Mean and deviation are each map's own.
    """
    deviation, mean = torch.std_mean(x.to(torch.float32), dim=(2, 3), correction=0, keepdim=True)
    gain = scale[:, :, None, None] / (deviation + INSTANCE_EPSILON)
    return ((x - mean) * gain + shift[:, :, None, None]).to(x.dtype)


class AdaINLayer(SynthesisLayer):
    """A synthesis layer as StyleGAN's first version has it (Karras et al. 2019, figure 1b).

    Convolution, noise, bias and activation know nothing of w; then each map is normalised and gets
    the style's own mean and deviation. For comparison with demodulation, which replaced it because
    normalised maps drew droplets (Karras et al. 2020, section 2).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: tuple[int, int],
        kernel_size: int = 3,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, w_dim, size, kernel_size, **options)
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        # y_s and y_b of every map, 1 and 0 at the start.
        self.affine = FullyConnectedLayer(
            w_dim, 2 * out_channels, bias_init=[1.0] * out_channels + [0.0] * out_channels
        )

    def forward(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        options: SynthesisOptions,
        gain: float = 1,
    ) -> torch.Tensor:
        """[N, in_channels, h, w], [N, w_dim] => [N, out_channels, *size]."""
        x = conv2d_resample(
            x,
            (self.weight * self.weight_gain).to(x.dtype),
            self.resample_filter,
            up=self.up,
            padding=self.padding,
            flip_weight=self.up == 1,  # as in SynthesisLayer
            factors=self.factors,
        )
        noise = self._noise(x, options)
        if noise is not None:
            x = x + noise.to(x.dtype)
        x = bias_act(x, self.bias, act=self.activation, overwrite=True)
        scale, shift = self.affine(w).chunk(2, dim=1)
        x = adain(x, scale * gain, shift * gain)
        clamp = self.conv_clamp
        return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


# How styles reach the feature maps.
MODULATIONS: dict[str, type[SynthesisLayer]] = {
    "demodulate": SynthesisLayer,
    "adain": AdaINLayer,
}


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
        return bias_act(x, self.bias, clamp=self.conv_clamp, overwrite=True)


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
        modulation: str = "demodulate",
    ) -> None:
        super().__init__()
        size = image_size(resolution, square)
        kind = MODULATIONS[modulation]
        self.size = size
        self.out_channels = out_channels
        self.is_first = in_channels == 0
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.half_type = torch.float16
        self.fp16_channels_last = fp16_channels_last
        self.has_torgb = is_last or architecture == "skip"
        self.num_conv = 1 if self.is_first else 2
        self.num_torgb = int(self.has_torgb)
        self.register_buffer("resample_filter", setup_filter(list(resample_filter)))

        def layer(channels: int, **kwargs: Any) -> SynthesisLayer:
            return kind(
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
        dtype, layout = half_format(self, ws.device, options.force_fp32)

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
        check_choice("modulation", block_kwargs.get("modulation", "demodulate"), MODULATIONS)
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
        x = img = None
        row = 0
        for block in self.blocks:
            x = block.features(x, ws[:, row:], options)
            row += block.num_conv
            # The image layer shares its row with the next block's first convolution.
            img = block.image(x, img, ws[:, row], options) if row < self.num_ws else img
        assert img is not None
        return img

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


class Generator(LatentGenerator):
    """StyleGAN2's generator; further arguments are those of `SynthesisNetwork` and its blocks."""

    synthesis_class = SynthesisNetwork
    synthesis: SynthesisNetwork

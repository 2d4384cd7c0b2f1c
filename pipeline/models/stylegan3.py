"""StyleGAN3 generator, the alias-free one, in both variants (Karras et al. 2021).

-T is equivariant to translation, -R (`conv_kernel=1, use_radial_filters=True`, twice the
channels) to rotation too. Its discriminator is StyleGAN2's. Knows nothing about training or files.
Constructor arguments and names of weights are those of the published checkpoints, so that weights
can be carried over by name. Images are NCHW float32 in [-1, 1].

Every layer's signal is a continuous one, sampled at the layer's own rate over the unit square
plus a margin; frequencies are in cycles per image side. Half precision is used on a GPU only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from pipeline.errors import ModelError
from pipeline.models.features import FeatureFrame, layer_index
from pipeline.models.filter_design import design_lowpass_filter
from pipeline.models.latent_generator import LatentGenerator
from pipeline.models.layers import FullyConnectedLayer
from pipeline.models.precision import half_format
from torch_utils.distributed import batch_mean
from torch_utils.ops.conv2d import modulated_conv2d
from torch_utils.ops.filtered_lrelu import filtered_lrelu

# Number of the layer whose output the drag editor follows; at 512 px it has an eighth of the
# image's sampling rate.
DRAG_LAYER = 5


@dataclass(frozen=True)
class Signal:
    """A layer's sampling: rate and size in samples, band in cycles per image side."""

    cutoff: float
    half_width: float  # of the low-pass filter's transition band
    sampling_rate: int  # samples per image side
    size: int  # samples, margin included
    channels: int


@dataclass(frozen=True)
class SignalPlan:
    """The arguments that decide the signals of all layers (section 3.2, figure 4, appendix D)."""

    img_resolution: int
    img_channels: int
    channel_base: int = 32768
    channel_max: int = 512
    num_layers: int = 14  # without the image layer
    num_critical: int = 2  # last layers whose cutoff is at half their sampling rate
    first_cutoff: float = 2
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3  # last stop band edge relative to the last cutoff
    margin_size: int = 10  # samples around the image

    def __post_init__(self) -> None:
        if self.img_resolution < 16 or self.img_resolution & (self.img_resolution - 1):
            raise ModelError(
                f"img_resolution={self.img_resolution} is not possible: StyleGAN3 takes a power "
                f"of two from 16 on, such as 64, 128, 256 or 512."
            )
        if not 0 <= self.num_critical < self.num_layers:
            raise ModelError(
                f"num_critical={self.num_critical} is not possible with num_layers="
                f"{self.num_layers}; it must be at least 0 and less than that."
            )

    def signals(self) -> list[Signal]:
        """The signal behind each layer, num_layers + 1 of them, the image last."""
        last_cutoff = self.img_resolution / 2
        last_stopband = last_cutoff * self.last_stopband_rel
        signals = []
        for index in range(self.num_layers + 1):
            # Cutoff and stop band grow geometrically up to the critically sampled layers.
            progress = min(index / (self.num_layers - self.num_critical), 1)
            cutoff = self.first_cutoff * (last_cutoff / self.first_cutoff) ** progress
            stopband = self.first_stopband * (last_stopband / self.first_stopband) ** progress
            # The next power of two that holds the stop band, but no more than the image needs.
            rate = 2 ** math.ceil(math.log2(min(2 * stopband, self.img_resolution)))
            at_end = index >= self.num_layers - 1
            is_image = index == self.num_layers
            channels = min(self.channel_base / 2 / cutoff, self.channel_max)
            signals.append(
                Signal(
                    cutoff=cutoff,
                    half_width=max(stopband, rate / 2) - cutoff,
                    sampling_rate=rate,
                    size=self.img_resolution if at_end else rate + 2 * self.margin_size,
                    channels=self.img_channels if is_image else round(channels),
                )
            )
        return signals


class SynthesisInput(nn.Module):
    """Fourier features, shifted and rotated by w (section 3.2 "Fourier features", appendix F)."""

    transform: torch.Tensor
    freqs: torch.Tensor
    phases: torch.Tensor

    def __init__(
        self, w_dim: int, channels: int, size: int, sampling_rate: float, bandwidth: float
    ) -> None:
        super().__init__()
        self.channels = channels
        self.size = size
        self.sampling_rate = sampling_rate
        self.bandwidth = bandwidth
        # Uniform in the disc of frequencies below the bandwidth.
        angle = 2 * math.pi * torch.rand([channels])
        radius = bandwidth * torch.rand([channels]).sqrt()
        freqs = torch.stack([angle.cos(), angle.sin()], dim=1) * radius[:, None]
        self.weight = nn.Parameter(torch.randn([channels, channels]))
        # At the start every w gives (1, 0, 0, 0): no rotation, no shift.
        self.affine = FullyConnectedLayer(w_dim, 4, weight_init=0, bias_init=[1, 0, 0, 0])
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", torch.rand([channels]) - 0.5)

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """[N, w_dim] => [N, channels, size, size].

        The buffer `transform` is the user's: an inverse 3x3 transformation of the image plane,
        in image sides, applied on top of the rotation and shift that w asks for.
        """
        matrix = self._inverse_motion(w) @ self.transform  # [N, 3, 3]
        # f . (A x + t) = (f A) . x + f . t : rotate the frequencies, shift the phases.
        phases = self.phases + (self.freqs @ matrix[:, :2, 2:]).squeeze(2)
        freqs = self.freqs @ matrix[:, :2, :2]  # [N, channels, 2]
        # Frequencies that the transformation moved out of the band fade to 0 at half the rate.
        room = self.sampling_rate / 2 - self.bandwidth
        amplitudes = (1 - (freqs.norm(dim=2) - self.bandwidth) / room).clamp(0, 1)

        x = self._positions(freqs)
        waves = x @ freqs.unsqueeze(1).transpose(2, 3) + phases[:, None, None, :]
        waves = torch.sin(2 * math.pi * waves) * amplitudes[:, None, None, :]
        waves = waves @ (self.weight / math.sqrt(self.channels)).t()
        return waves.permute(0, 3, 1, 2)

    def _inverse_motion(self, w: torch.Tensor) -> torch.Tensor:
        """Rotation by (r_c, r_s), then shift by (t_x, t_y), inverted; all four learned from w."""
        numbers: torch.Tensor = self.affine(w)
        numbers = numbers / numbers[:, :2].norm(dim=1, keepdim=True)
        cos, sin, shift_x, shift_y = numbers.unbind(dim=1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        rotation = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1)
        shift = torch.stack([one, zero, -shift_x, zero, one, -shift_y, zero, zero, one], dim=1)
        return rotation.view(-1, 3, 3) @ shift.view(-1, 3, 3)

    def _positions(self, like: torch.Tensor) -> torch.Tensor:
        """(x, y) of every sample in image sides from the centre, [1, size, size, 2]."""
        line = (torch.arange(self.size, device=like.device, dtype=like.dtype) + 0.5) - self.size / 2
        y, x = torch.meshgrid(line, line, indexing="ij")
        return torch.stack([x, y], dim=2)[None] / self.sampling_rate


class SynthesisLayer(nn.Module):
    """Modulated convolution and filtered leaky ReLU between two signals (figure 4b)."""

    magnitude_ema: torch.Tensor
    up_filter: torch.Tensor | None
    down_filter: torch.Tensor | None
    factors: torch.dtype | None = None  # of the convolution, see `conv2d_resample`

    def __init__(
        self,
        w_dim: int,
        before: Signal,
        after: Signal,
        is_torgb: bool,
        is_critically_sampled: bool,
        use_fp16: bool = False,
        conv_kernel: int = 3,
        filter_size: int = 6,
        lrelu_upsampling: int = 2,
        use_radial_filters: bool = False,
        conv_clamp: float | None = 256,
        magnitude_ema_beta: float = 0.999,
    ) -> None:
        super().__init__()
        self.after = after
        self.is_torgb = is_torgb
        self.use_fp16 = use_fp16
        self.half_type = torch.float16
        self.fp16_channels_last = False
        self.conv_clamp = conv_clamp
        self.magnitude_ema_beta = magnitude_ema_beta
        kernel = 1 if is_torgb else conv_kernel
        self.conv_padding = kernel - 1
        self.style_gain = 1 / math.sqrt(before.channels * kernel**2) if is_torgb else 1.0
        self.affine = FullyConnectedLayer(w_dim, before.channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn([after.channels, before.channels, kernel, kernel]))
        self.bias = nn.Parameter(torch.zeros([after.channels]))
        self.register_buffer("magnitude_ema", torch.ones([]))

        # The nonlinearity runs at a rate that leaves room for the frequencies it creates.
        inner_rate = max(before.sampling_rate, after.sampling_rate)
        inner_rate *= 1 if is_torgb else lrelu_upsampling
        self.up_factor = inner_rate // before.sampling_rate
        self.down_factor = inner_rate // after.sampling_rate
        up_taps = filter_size * self.up_factor if self.up_factor > 1 else 1
        down_taps = filter_size * self.down_factor if self.down_factor > 1 else 1
        up_filter = design_lowpass_filter(up_taps, before.cutoff, 2 * before.half_width, inner_rate)
        down_filter = design_lowpass_filter(
            down_taps,
            after.cutoff,
            2 * after.half_width,
            inner_rate,
            radial=use_radial_filters and not is_critically_sampled,
        )
        self.register_buffer("up_filter", up_filter)
        self.register_buffer("down_filter", down_filter)

        # What the inner signal lacks or has too much at each side, so that exactly `after.size`
        # samples come out and the image's centre stays where it is.
        inner_size = (after.size - 1) * self.down_factor + 1 + up_taps - 1 + down_taps - 1
        total = inner_size - (before.size + self.conv_padding) * self.up_factor
        low = (total + self.up_factor) // 2
        self.padding = [low, total - low, low, total - low]

    def forward(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        update_emas: bool = False,
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
    ) -> torch.Tensor:
        """[N, in_channels, size, size], [N, w_dim] => [N, out_channels, out_size, out_size]."""
        if update_emas:
            magnitude = batch_mean(x.detach().to(torch.float32).square().mean())
            self.magnitude_ema.copy_(magnitude.lerp(self.magnitude_ema, self.magnitude_ema_beta))
        dtype, layout = half_format(self, x.device, force_fp32)
        x = modulated_conv2d(
            x.to(dtype, memory_format=layout),
            self.weight,
            self.affine(w) * self.style_gain,
            padding=self.conv_padding,
            demodulate=not self.is_torgb,
            input_gain=self.magnitude_ema.rsqrt(),
            fused=fused_modconv,
            factors=self.factors,
        )
        return filtered_lrelu(
            x,
            fu=self.up_filter,
            fd=self.down_filter,
            b=self.bias,
            up=self.up_factor,
            down=self.down_factor,
            padding=self.padding,
            gain=1 if self.is_torgb else math.sqrt(2),
            slope=1 if self.is_torgb else 0.2,
            clamp=self.conv_clamp,
        )


class SynthesisNetwork(nn.Module):
    """Per-layer w to an image: Fourier input, then layers named L<number>_<size>_<channels>.

    Args:
        w_dim: width of w.
        img_resolution, img_channels: of the images.
        channel_base, channel_max, num_layers, num_critical, first_cutoff, first_stopband,
            last_stopband_rel, margin_size: see `SignalPlan`.
        output_scale: factor of the image.
        num_fp16_res: so many of the highest sampling rates run in half precision on a GPU.
        layer_kwargs: further arguments of `SynthesisLayer`.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_layers: int = 14,
        num_critical: int = 2,
        first_cutoff: float = 2,
        first_stopband: float = 2**2.1,
        last_stopband_rel: float = 2**0.3,
        margin_size: int = 10,
        output_scale: float = 0.25,
        num_fp16_res: int = 4,
        **layer_kwargs: Any,
    ) -> None:
        super().__init__()
        plan = SignalPlan(
            img_resolution, img_channels, channel_base, channel_max, num_layers, num_critical,
            first_cutoff, first_stopband, last_stopband_rel, margin_size,
        )  # fmt: skip
        self.w_dim = w_dim
        self.num_ws = num_layers + 2
        self.img_resolution = img_resolution
        self.img_size = (img_resolution, img_resolution)
        self.img_channels = img_channels
        self.output_scale = output_scale
        signals = plan.signals()
        first = signals[0]
        self.input = SynthesisInput(
            w_dim, first.channels, first.size, first.sampling_rate, first.cutoff
        )
        self.layer_names: list[str] = []
        self.signals = signals  # of the layers' outputs, by position in layer_names
        for index, after in enumerate(signals):
            layer = SynthesisLayer(
                w_dim,
                before=signals[max(index - 1, 0)],  # the input's signal is that of layer 0
                after=after,
                is_torgb=index == num_layers,
                is_critically_sampled=index >= num_layers - num_critical,
                use_fp16=after.sampling_rate * 2**num_fp16_res > img_resolution,
                **layer_kwargs,
            )
            name = f"L{index}_{after.size}_{after.channels}"
            self.add_module(name, layer)
            self.layer_names.append(name)

    @property
    def drag_layer(self) -> str:
        """The layer whose features the drag editor follows."""
        return self.layer_names[min(DRAG_LAYER, len(self.layer_names) - 1)]

    def forward(
        self,
        ws: torch.Tensor,
        noise_mode: str = "const",
        update_emas: bool = False,
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Synthesise images.

        Args:
            ws: [N, num_ws, w_dim]; row 0 drives the Fourier input, row i + 1 layer i.
            noise_mode, generator: accepted for the sake of one signature; there is no noise.
            update_emas: move the running mean of each layer's input magnitude.
            force_fp32: no half precision, also on a GPU.
            fused_modconv: see `modulated_conv2d`; None: the faster form.

        Returns [N, img_channels, img_resolution, img_resolution] float32, about [-1, 1].
        """
        image = ws
        for _, output in self._outputs(ws, update_emas, force_fp32, fused_modconv):
            image = output  # the last one is it
        return image.to(torch.float32) * self.output_scale

    def features(
        self,
        ws: torch.Tensor,
        layer: str | int,
        noise_mode: str = "const",
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Output of one layer (a name of `layer_names` or its number), running no further.

        The map includes the margin around the image; `feature_frame` says where the image lies.
        Only `feature_frame(layer).ws_rows` leading rows of ws are looked at. NCHW float32.
        """
        wanted = layer_index(layer, self.layer_names)
        for index, x in self._outputs(ws, False, force_fp32, fused_modconv):
            if index == wanted:
                return x.to(torch.float32)
        raise AssertionError("layer_index bounds the layer's number")

    def feature_frame(self, layer: str | int) -> FeatureFrame:
        """Where a layer's output lies in the image, and which ws rows it depends on."""
        index = layer_index(layer, self.layer_names)
        signal = self.signals[index]
        return FeatureFrame(
            name=self.layer_names[index],
            channels=signal.channels,
            height=signal.size,
            width=signal.size,
            scale=signal.sampling_rate / self.img_resolution,
            offset=(signal.size - signal.sampling_rate) / 2,
            ws_rows=index + 2,  # the input has a row of its own
        )

    def _outputs(
        self, ws: torch.Tensor, update_emas: bool, force_fp32: bool, fused_modconv: bool | None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """(position in layer_names, output) of each layer, as they are made."""
        ws = ws.to(torch.float32)
        x = self.input(ws[:, 0])
        for index, name in enumerate(self.layer_names):
            layer = self.get_submodule(name)
            x = layer(x, ws[:, index + 1], update_emas, force_fp32, fused_modconv)
            yield index, x


class Generator(LatentGenerator):
    """StyleGAN3's generator; further arguments are those of `SynthesisNetwork` and its layers."""

    synthesis_class = SynthesisNetwork
    mapping_defaults: ClassVar[Mapping[str, Any]] = {"num_layers": 2}
    synthesis: SynthesisNetwork

    def set_magnitude_ema_beta(self, beta: float) -> None:
        """Decay an update of every layer's magnitude average; kept with the architecture."""
        for module in self.modules():
            if isinstance(module, SynthesisLayer):
                module.magnitude_ema_beta = beta
        self.init_kwargs["magnitude_ema_beta"] = beta

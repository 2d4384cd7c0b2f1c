"""Convolution together with up- or downsampling, and the style-modulated convolution.

Knows nothing about layers. Differentiable any number of times.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from torch_utils.ops import conv3x3, mixed_conv2d
from torch_utils.ops.upfirdn2d import (
    Padding,
    downsample2d,
    downsampling_padding,
    parse_padding,
    upfirdn2d,
    upsample2d,
    upsampling_padding,
)

# Number formats whose matrix products torch hands to the fastest library of the machine.
_MULTIPLIED = (torch.float32, torch.float64)


def conv2d_resample(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    groups: int = 1,
    flip_weight: bool = True,
    factors: torch.dtype | None = None,
) -> torch.Tensor:
    """Upsample by `up`, pad, convolve, downsample by `down`, each with the low-pass filter f.

    Args:
        x: NCHW images.
        w: weights [out_channels, in_channels / groups, height, width].
        f: low-pass filter of `upfirdn2d.setup_filter`, or None.
        up, down: integer factors.
        padding: with respect to the upsampled image; (taps - 1) / 2 keeps the size.
        groups: of the convolution.
        flip_weight: True correlates (as torch's conv2d), False convolves.
        factors: torch.bfloat16: float32 images on a CPU are multiplied in it (`mixed_conv2d`).
    """
    height, width = w.shape[2:]
    pad = parse_padding(padding)
    if height == width == 1 and max(pad) == min(pad) == 0:
        # A 1x1 convolution commutes with filtering: do it where the image is smaller.
        if down > 1 and up == 1:
            return _conv2d(downsample2d(x, f, down), w, groups, flip_weight, factors)
        if up > 1 and down == 1:
            return upsample2d(_conv2d(x, w, groups, flip_weight, factors), f, up)
    if up > 1:
        total = list(upsampling_padding(f, up, pad))
        if down > 1:
            total = list(downsampling_padding(f, down, total))
        x = _upsampling_conv2d(x, w, f, up, total, groups, flip_weight, factors)
        return upfirdn2d(x, f, down=down) if down > 1 else x
    if down > 1:
        x = upfirdn2d(x, f, padding=downsampling_padding(f, down, pad))
        return _conv2d(x, w, groups, flip_weight, factors, stride=down)
    if pad[0] == pad[1] and pad[2] == pad[3] and min(pad) >= 0:
        return _conv2d(x, w, groups, flip_weight, factors, padding=(pad[2], pad[0]))
    return _conv2d(F.pad(x, pad), w, groups, flip_weight, factors)


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    resample_filter: torch.Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    input_gain: torch.Tensor | float | None = None,
    fused: bool | None = None,
    factors: torch.dtype | None = None,
) -> torch.Tensor:
    """Convolution whose weights are scaled per image and input channel.

    Karras et al. 2020, section 2.2, equations 1 and 3.

    Args:
        x: images [N, in_channels, H, W].
        weight: [out_channels, in_channels, height, width], shared by all images.
        styles: scale of each image's input channels [N, in_channels].
        noise: added to the result, broadcastable to its shape; or None.
        up, down, padding, flip_weight, factors: as in `conv2d_resample`.
        resample_filter: low-pass filter for up/down.
        demodulate: scale each output channel so that unit-variance input gives unit variance.
        input_gain: further factor of the input that demodulation does not see (the magnitude
            tracking of Karras et al. 2021, appendix): scalar, [in_channels], or [N, in_channels].
        fused: True scales the weights and convolves each image with its own (one grouped
            convolution); False scales the activations before and after one shared convolution.
            Both give the same values. None: the faster one (for a single image whichever are
            fewer, otherwise the activations).
    """
    batch = x.shape[0]
    if fused is None:
        fused = batch == 1 and _weights_are_fewer(x, weight, up, down)
    if demodulate and x.dtype == torch.float16:
        weight, styles = _normalize_magnitude(weight, styles)
    demodulation = _demodulation(weight, styles) if demodulate else None
    if input_gain is not None:
        styles = styles * input_gain

    def convolve(images: torch.Tensor, weights: torch.Tensor, groups: int) -> torch.Tensor:
        return conv2d_resample(
            images, weights.to(x.dtype), resample_filter, up, down, padding, groups, flip_weight,
            factors,
        )  # fmt: skip

    if not fused:
        y = convolve(x * styles.to(x.dtype)[:, :, None, None], weight, groups=1)
        scale = None if demodulation is None else demodulation.to(x.dtype)[:, :, None, None]
        return scale_and_add(y, scale, noise)
    weights = weight[None] * styles[:, None, :, None, None]  # [N, out, in, height, width]
    if demodulation is not None:
        weights = weights * demodulation[:, :, None, None, None]
    y = convolve(x.reshape(1, -1, *x.shape[2:]), weights.flatten(0, 1), groups=batch)
    y = y.reshape(batch, -1, *y.shape[2:])
    # In place: nobody else has seen the convolution's result, and no gradient looks at it.
    return y if noise is None else y.add_(noise.to(y.dtype))


def scale_and_add(
    x: torch.Tensor, scale: torch.Tensor | None, offset: torch.Tensor | None
) -> torch.Tensor:
    """x * scale + offset with broadcasting; None leaves a step out."""
    if scale is None:
        return x if offset is None else x + offset.to(x.dtype)
    if offset is None:
        return x * scale
    return torch.addcmul(offset.to(x.dtype), x, scale)


def _weights_are_fewer(x: torch.Tensor, weight: torch.Tensor, up: int, down: int) -> bool:
    """Whether scaling the weights by styles and demodulation is less work than scaling images."""
    out_channels, in_channels = weight.shape[:2]
    pixels = x.shape[2] * x.shape[3]
    return 2 * weight.numel() < pixels * (in_channels + out_channels * up**2 / down**2)


def _demodulation(weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """1 / root of the sum of squares of the scaled weights [N, out_channels] (eq. 3)."""
    return (styles.square() @ _energy(weight).t() + 1e-8).rsqrt()


def _energy(weight: torch.Tensor) -> torch.Tensor:
    """Sum of squares of each kernel [out, in]."""
    taps = weight.flatten(2)
    if taps.shape[2] == 1:
        return taps[..., 0].square()
    learns = torch.is_grad_enabled() and weight.requires_grad
    if learns or weight.device.type != "cpu":
        return taps.square().sum(2)
    # A sum along so short a dimension is slower than products of the taps, but those have a
    # gradient that takes three times as long, and on a GPU they would be a batch of tiny products.
    return torch.einsum("oik,oik->oi", taps, taps)


def _normalize_magnitude(
    weight: torch.Tensor, styles: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale weights and styles to magnitudes that half precision holds (Karras et al. 2020b, D.1).

    Demodulation undoes the scale of each output channel's weights and of each image's styles.
    """
    fan_in = weight[0].numel()
    weight = weight / (fan_in**0.5 * weight.abs().amax(dim=[1, 2, 3], keepdim=True))
    return weight, styles / styles.abs().amax(dim=1, keepdim=True)


def _conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    groups: int,
    flip_weight: bool,
    factors: torch.dtype | None,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
) -> torch.Tensor:
    if not flip_weight and w.shape[2] * w.shape[3] > 1:
        w = w.flip([2, 3])
    if mixed_conv2d.serves(x, w, factors):
        return mixed_conv2d.conv2d(x, w, stride, padding, groups)
    if stride == 1 and conv3x3.serves(x, w, padding, groups):
        return conv3x3.conv3x3(x, w, padding[0])
    if w.shape[2:] == (1, 1) and stride == 1 and padding == (0, 0) and _multiplies_faster(x):
        return _mix_channels(x, w, groups)
    return F.conv2d(x, w, stride=stride, padding=padding, groups=groups)


def _multiplies_faster(x: torch.Tensor) -> bool:
    """Whether a 1x1 convolution of x is quicker as a matrix product (measured: up to twice)."""
    return x.device.type == "cpu" and x.dtype in _MULTIPLIED and x.is_contiguous()


def _mix_channels(x: torch.Tensor, w: torch.Tensor, groups: int) -> torch.Tensor:
    """1x1 convolution: each pixel's channels times w [out, in / groups, 1, 1]."""
    batch, channels, height, width = x.shape
    pixels = x.reshape(batch, groups, channels // groups, height * width)
    factors = w.reshape(groups, w.shape[0] // groups, w.shape[1])
    if batch == 1:
        product = torch.bmm(factors, pixels[0])
    elif groups == 1:
        product = torch.bmm(factors.expand(batch, -1, -1), pixels[:, 0])
    else:
        product = torch.matmul(factors, pixels)
    return product.reshape(batch, w.shape[0], height, width)


def _upsampling_conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None,
    up: int,
    pad: list[int],
    groups: int,
    flip_weight: bool,
    factors: torch.dtype | None,
) -> torch.Tensor:
    """Zero-insert, pad by [x0, x1, y0, y1], convolve with w and with f.

    The weights come first, as a transposed convolution on the small image; the filter then runs
    over its result. `pad` shrinks by what the transposed convolution already covers: taps - 1
    before the first pixel, and taps - up behind the last.
    """
    height, width = w.shape[2:]
    if flip_weight:
        w = w.flip([2, 3])
    # [out, in / groups, ...] -> [in, out / groups, ...], as conv_transpose2d wants it.
    w = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    pad = [pad[0] - width + 1, pad[1] - width + up, pad[2] - height + 1, pad[3] - height + up]
    crop_x, crop_y = max(min(-pad[0], -pad[1]), 0), max(min(-pad[2], -pad[3]), 0)
    crop = (crop_y, crop_x)
    if mixed_conv2d.serves(x, w, factors):
        x = mixed_conv2d.conv2d(x, w, up, crop, groups, transposed=True)
    else:
        x = F.conv_transpose2d(x, w, stride=up, padding=crop, groups=groups)
    pad = [pad[0] + crop_x, pad[1] + crop_x, pad[2] + crop_y, pad[3] + crop_y]
    return upfirdn2d(x, f, padding=pad, gain=up**2)

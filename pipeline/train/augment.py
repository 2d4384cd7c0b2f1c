"""Adaptive discriminator augmentation (ADA): the pipe of 15 augmentations and its controller.

Implements Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data":
the pipeline of appendix B and the overfitting heuristic r_t of section 3. Every image that the
discriminator sees passes through the pipe; the strength p is the probability of each
augmentation. The pipe is differentiable (twice, as R1 needs).

Drawing and applying are apart: `AugmentPipe.draw` makes small matrices on the CPU,
`AugmentPipe.apply` moves pixels and draws nothing, so the same parameters can be replayed.
Knows nothing about networks, losses or where p comes from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ConfigError, check_choice
from torch_utils import rng
from torch_utils.device import send
from torch_utils.ops.grid_sample import grid_sample
from torch_utils.ops.upfirdn2d import downsample2d, upsample2d

# The groups of the paper, and their sums: a name is a string of group letters.
_BLIT = ("xflip", "rotate90", "xint")
_GEOM = ("scale", "rotate", "aniso", "xfrac")
_COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
GROUPS: Mapping[str, tuple[str, ...]] = {
    "blit": _BLIT,
    "geom": _GEOM,
    "color": _COLOR,
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
    "bg": _BLIT + _GEOM,
    "bgc": _BLIT + _GEOM + _COLOR,
    "bgcf": (*_BLIT, *_GEOM, *_COLOR, "imgfilter"),
    "bgcfn": (*_BLIT, *_GEOM, *_COLOR, "imgfilter", "noise"),
    "bgcfnc": (*_BLIT, *_GEOM, *_COLOR, "imgfilter", "noise", "cutout"),
}

# Low-pass filters of two orthogonal wavelets (Daubechies' symlets with 6 and 2 vanishing
# moments, the usual tables): the paper resamples with sym6 and builds its filter bank from sym2.
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
SYM2 = (
    -0.12940952255092145,
    0.22414386804185735,
    0.836516303737469,
    0.48296291314469025,
)

# Half the length of SYM6 at twice the resolution, in image pixels.
_RESAMPLE_REACH_PX = len(SYM6) // 4

# sym6 is not quite symmetric: its weight lies half a tap before its middle, so an image upsampled
# with it sits this far to the upper left. Transforms must turn about the image's true centre.
_SYM6_SHIFT_PX = 0.25


@dataclass(frozen=True)
class AugmentParameters:
    """What happens to each of N images; None stands for "nothing in the whole batch".

    inverse_geometry: N×3×3, maps an output position to the input position it is read from, in
        pixels relative to the image's centre (x right, y down, homogeneous).
    color: N×4×4 matrix on homogeneous RGB.
    band_gains: N×4 amplification of the bands [0, π/8], [π/8, π/4], [π/4, π/2], [π/2, π].
    noise: N×C×H×W, added to the images.
    cutout: N×2 centre (x, y) of the erased square as a share of width and height; NaN = none.
    """

    inverse_geometry: Tensor | None = None
    color: Tensor | None = None
    band_gains: Tensor | None = None
    noise: Tensor | None = None
    cutout: Tensor | None = None


class AugmentPipe(nn.Module):
    """The augmentations of the ADA paper's appendix B.

    The first fifteen arguments are multipliers of the probability p, one an augmentation
    (0 switches it off); the rest are the strengths, defaults as in the paper.
    """

    def __init__(
        self,
        xflip: float = 0,  # mirror left-right, half of those chosen
        rotate90: float = 0,  # turn by a multiple of 90 degrees
        xint: float = 0,  # shift by whole pixels
        scale: float = 0,  # isotropic scaling
        rotate: float = 0,  # any angle, before and after the anisotropic scaling
        aniso: float = 0,  # stretch one axis by what the other shrinks
        xfrac: float = 0,  # shift by fractions of a pixel
        brightness: float = 0,
        contrast: float = 0,
        lumaflip: float = 0,  # reflect the luma axis, half of those chosen
        hue: float = 0,  # rotate about the luma axis
        saturation: float = 0,
        imgfilter: float = 0,  # amplify or damp frequency bands
        noise: float = 0,  # additive Gaussian noise
        cutout: float = 0,  # erase a square
        xint_max: float = 0.125,  # largest whole-pixel shift, share of the width
        scale_std: float = 0.2,  # log2 standard deviation
        rotate_max: float = 1,  # 1 = the full circle
        aniso_std: float = 0.2,  # log2 standard deviation
        xfrac_std: float = 0.125,  # share of the width
        brightness_std: float = 0.2,
        contrast_std: float = 0.5,  # log2 standard deviation
        hue_max: float = 1,  # 1 = the full circle
        saturation_std: float = 1,  # log2 standard deviation
        imgfilter_bands: tuple[float, ...] = (1, 1, 1, 1),  # probability multiplier a band
        imgfilter_std: float = 1,  # log2 standard deviation
        noise_std: float = 0.1,  # standard deviation of the noise's own standard deviation
        cutout_size: float = 0.5,  # side of the square, share of the image
    ) -> None:
        super().__init__()
        self.xflip = float(xflip)
        self.rotate90 = float(rotate90)
        self.xint = float(xint)
        self.scale = float(scale)
        self.rotate = float(rotate)
        self.aniso = float(aniso)
        self.xfrac = float(xfrac)
        self.brightness = float(brightness)
        self.contrast = float(contrast)
        self.lumaflip = float(lumaflip)
        self.hue = float(hue)
        self.saturation = float(saturation)
        self.imgfilter = float(imgfilter)
        self.noise = float(noise)
        self.cutout = float(cutout)
        self.xint_max = float(xint_max)
        self.scale_std = float(scale_std)
        self.rotate_max = float(rotate_max)
        self.aniso_std = float(aniso_std)
        self.xfrac_std = float(xfrac_std)
        self.brightness_std = float(brightness_std)
        self.contrast_std = float(contrast_std)
        self.hue_max = float(hue_max)
        self.saturation_std = float(saturation_std)
        self.imgfilter_bands = tuple(float(value) for value in imgfilter_bands)
        self.imgfilter_std = float(imgfilter_std)
        self.noise_std = float(noise_std)
        self.cutout_size = float(cutout_size)
        if len(self.imgfilter_bands) != 4:
            raise ConfigError(f"imgfilter_bands has {len(self.imgfilter_bands)} values; give 4.")

        resample = torch.tensor(SYM6, dtype=torch.float64)
        self.Hz_geom: Tensor
        self.Hz_fbank: Tensor
        self.register_buffer("Hz_geom", (resample / resample.sum()).float(), persistent=False)
        self.register_buffer("Hz_fbank", band_filters().float(), persistent=False)

    @classmethod
    def from_group(cls, name: str) -> AugmentPipe:
        """The pipe with one of the paper's groups ("bgc", "color", ...) at multiplier 1."""
        check_choice("augment.pipe", name, GROUPS)
        multipliers: dict[str, Any] = dict.fromkeys(GROUPS[name], 1.0)
        return cls(**multipliers)

    def forward(
        self,
        images: Tensor,
        p: float,
        generator: torch.Generator | None = None,
        percentile: float | None = None,
    ) -> Tensor:
        """Augment N×C×H×W images (C 1 or 3, range about [-1, 1]) with strength p in [0, 1].

        `generator` is a CPU generator (None: torch's global one). `percentile` in (0, 1) fixes
        every drawn value to that percentile, for tests. At p = 0 the images return untouched.
        """
        if p <= 0:
            return images
        return self.apply_parameters(images, self.draw(images, p, generator, percentile))

    def draw(
        self,
        images: Tensor,
        p: float,
        generator: torch.Generator | None = None,
        percentile: float | None = None,
    ) -> AugmentParameters:
        """Draw what happens to each image; `images` gives shape and device only."""
        count, channels, height, width = images.shape
        draws = _Draws(count, p, generator, percentile)
        geometry = self._draw_geometry(draws, width, height)
        color = self._draw_color(draws, channels)
        gains = self._draw_band_gains(draws)
        noise = self._draw_noise(draws, (channels, height, width))
        cutout = self._draw_cutout(draws)
        device = images.device
        return AugmentParameters(
            inverse_geometry=geometry,
            color=None if color is None else send(color, device),
            band_gains=None if gains is None else send(gains, device),
            noise=None if noise is None else send(noise, device),
            cutout=None if cutout is None else send(cutout, device),
        )

    def apply_parameters(self, images: Tensor, parameters: AugmentParameters) -> Tensor:
        """Carry out drawn parameters on N×C×H×W images."""
        if parameters.inverse_geometry is not None:
            images = self._warp(images, parameters.inverse_geometry)
        if parameters.color is not None:
            images = _recolor(images, parameters.color)
        if parameters.band_gains is not None:
            images = self._filter(images, parameters.band_gains)
        if parameters.noise is not None:
            images = images + parameters.noise
        if parameters.cutout is not None:
            images = images * _cutout_mask(images, parameters.cutout, self.cutout_size)
        return images

    # ---- drawing (appendix B.1-B.3 of the paper, in its order) ----

    def _draw_geometry(self, draws: _Draws, width: int, height: int) -> Tensor | None:
        """N×3×3 inverse of the composed geometric transform; None if no augmentation is on."""
        inverse = torch.eye(3).repeat(draws.count, 1, 1)
        if not any(getattr(self, name) > 0 for name in _BLIT + _GEOM):
            return None
        one = torch.ones(draws.count)

        if self.xflip > 0:
            flip = draws.gated(self.xflip, (draws.uniform() * 2).floor(), 0)
            inverse = inverse @ _scale2d(1 - 2 * flip, one)
        if self.rotate90 > 0:
            quarters = draws.gated(self.rotate90, (draws.uniform() * 4).floor(), 0)
            inverse = inverse @ _rotate2d(quarters * (math.pi / 2))
        if self.xint > 0:
            shift = draws.gated(self.xint, (draws.uniform(2) * 2 - 1) * self.xint_max, 0)
            inverse = inverse @ _translate2d(
                -(shift[:, 0] * width).round(), -(shift[:, 1] * height).round()
            )
        if self.scale > 0:
            factor = draws.gated(self.scale, (draws.normal() * self.scale_std).exp2(), 1)
            inverse = inverse @ _scale2d(1 / factor, 1 / factor)
        # Rotating twice, each with this probability, touches an image with probability p.
        rotate_share = 1 - math.sqrt(max(1 - self.rotate * draws.p, 0.0))
        if self.rotate > 0:
            inverse = inverse @ self._draw_rotation(draws, rotate_share)
        if self.aniso > 0:
            factor = draws.gated(self.aniso, (draws.normal() * self.aniso_std).exp2(), 1)
            inverse = inverse @ _scale2d(1 / factor, factor)
        if self.rotate > 0:
            inverse = inverse @ self._draw_rotation(draws, rotate_share, second=True)
        if self.xfrac > 0:
            shift = draws.gated(self.xfrac, draws.normal(2) * self.xfrac_std, 0)
            inverse = inverse @ _translate2d(-shift[:, 0] * width, -shift[:, 1] * height)
        return inverse

    def _draw_rotation(self, draws: _Draws, share: float, second: bool = False) -> Tensor:
        angle = (draws.uniform() * 2 - 1) * (math.pi * self.rotate_max)
        if second and draws.percentile is not None:
            angle = torch.zeros_like(angle)  # a fixed percentile must not turn twice
        chosen = draws.chosen(share)
        return _rotate2d(torch.where(chosen, angle, torch.zeros_like(angle)))

    def _draw_color(self, draws: _Draws, channels: int) -> Tensor | None:
        """N×4×4 composed colour transform; None if no augmentation is on."""
        if not any(getattr(self, name) > 0 for name in _COLOR):
            return None
        identity = torch.eye(4)
        color = identity.repeat(draws.count, 1, 1)
        luma_axis = torch.tensor([1.0, 1.0, 1.0, 0.0]) / math.sqrt(3)
        luma = torch.outer(luma_axis, luma_axis)

        if self.brightness > 0:
            offset = draws.gated(self.brightness, draws.normal() * self.brightness_std, 0)
            color = _translate3d(offset) @ color
        if self.contrast > 0:
            factor = draws.gated(self.contrast, (draws.normal() * self.contrast_std).exp2(), 1)
            color = _scale3d(factor) @ color
        if self.lumaflip > 0:
            flip = draws.gated(self.lumaflip, (draws.uniform() * 2).floor(), 0)
            color = (identity - 2 * luma * flip[:, None, None]) @ color  # Householder
        if channels == 1:  # grey has neither hue nor saturation
            return color
        if self.hue > 0:
            angle = (draws.uniform() * 2 - 1) * (math.pi * self.hue_max)
            color = _rotate3d(luma_axis, draws.gated(self.hue, angle, 0)) @ color
        if self.saturation > 0:
            factor = (draws.normal() * self.saturation_std).exp2()
            factor = draws.gated(self.saturation, factor, 1)
            color = (luma + (identity - luma) * factor[:, None, None]) @ color
        return color

    def _draw_band_gains(self, draws: _Draws) -> Tensor | None:
        """N×4 gains; each band in turn is scaled and the total power kept (appendix B.3)."""
        if self.imgfilter <= 0:
            return None
        # Expected power of natural images (1/f) in the four bands.
        power = torch.tensor([10.0, 1.0, 1.0, 1.0]) / 13
        gains = torch.ones(draws.count, 4)
        for band, multiplier in enumerate(self.imgfilter_bands):
            gain = (draws.normal() * self.imgfilter_std).exp2()
            gain = draws.gated(self.imgfilter * multiplier, gain, 1)
            step = torch.ones(draws.count, 4)
            step[:, band] = gain
            gains = gains * step / (power * step.square()).sum(dim=1, keepdim=True).sqrt()
        return gains

    def _draw_noise(self, draws: _Draws, shape: tuple[int, int, int]) -> Tensor | None:
        """N×C×H×W noise whose standard deviation is half-normal, image by image."""
        if self.noise <= 0:
            return None
        sigma = draws.gated(self.noise, draws.half_normal() * self.noise_std, 0)
        pixels = rng.randn((draws.count, *shape), generator=draws.generator)
        return pixels * sigma[:, None, None, None]

    def _draw_cutout(self, draws: _Draws) -> Tensor | None:
        """N×2 centres; NaN where nothing is erased."""
        if self.cutout <= 0:
            return None
        chosen = draws.chosen(self.cutout * draws.p)[:, None]
        centre = draws.uniform(2)
        return torch.where(chosen, centre, torch.full_like(centre, math.nan))

    # ---- applying ----

    def _warp(self, images: Tensor, inverse: Tensor) -> Tensor:
        """Resample along N×3×3 `inverse` (a CPU tensor) as appendix B.2 describes.

        Reflection padding, upsampling by 2 with sym6, bilinear reading, downsampling. Resampling
        with the identity gives the image back (the wavelet is orthogonal), so images that are
        not touched are left out: at small p nearly all of them.
        """
        moved = (inverse != torch.eye(3)).flatten(1).any(dim=1)
        if not bool(moved.any()):
            return images
        if bool(moved.all()):
            return self._warp_all(images, inverse)
        rows = moved.nonzero()[:, 0]
        there = send(rows, images.device)
        return images.index_copy(0, there, self._warp_all(images[there], inverse[rows]))

    def _warp_all(self, images: Tensor, inverse: Tensor) -> Tensor:
        height, width = images.shape[2:]
        reach = _RESAMPLE_REACH_PX
        margin_x, margin_y = _margins(inverse, width, height)
        images = _reflect_pad(images, margin_x, margin_y)
        images = upsample2d(images, self.Hz_geom, up=2)

        there = torch.eye(3)
        there[:2, 2] = -_SYM6_SHIFT_PX
        back = torch.eye(3)
        back[:2, 2] = _SYM6_SHIFT_PX
        inverse = there @ inverse @ back
        # affine_grid speaks of [-1, 1] over the output and input extents.
        to_pixels = torch.tensor([width / 2 + reach, height / 2 + reach, 1.0])
        to_unit = 1 / torch.tensor([width / 2 + margin_x, height / 2 + margin_y, 1.0])
        theta = to_unit[:, None] * inverse * to_pixels
        size = [images.shape[0], images.shape[1], 2 * (height + 2 * reach), 2 * (width + 2 * reach)]
        grid = F.affine_grid(send(theta[:, :2], images.device), size, align_corners=False)
        images = grid_sample(images, grid)
        # Crop what was computed for the filter's sake; the flipped filter undoes sym6's phase.
        return downsample2d(images, self.Hz_geom, down=2, padding=-2 * reach, flip_filter=True)

    def _filter(self, images: Tensor, gains: Tensor) -> Tensor:
        """Convolve each image with its own sum of bands, first along x, then along y."""
        count, channels, height, width = images.shape
        taps = gains @ self.Hz_fbank  # N × taps
        reach = taps.shape[1] // 2
        kernel = taps.repeat_interleave(channels, dim=0)[:, None, None, :]
        images = images.reshape(1, count * channels, height, width)
        images = F.conv2d(_reflect_pad(images, reach, 0), kernel, groups=count * channels)
        images = F.conv2d(
            _reflect_pad(images, 0, reach), kernel.transpose(2, 3), groups=count * channels
        )
        return images.reshape(count, channels, height, width)


@dataclass
class AdaController:
    """Drives p so that the discriminator's overfitting indicator r_t stays at `target`.

    r_t = E[sign(D(real))] (section 3 of the paper); p moves by a constant amount an update, so
    that it takes `speed_kimg` thousand images from 0 to 1. p never leaves [0, 1].
    """

    p: float
    target: float = 0.6
    speed_kimg: float = 500.0

    def update(self, mean_sign: float, images: int) -> float:
        """Adjust p by the mean sign over the last `images` images; returns the new p."""
        direction = (mean_sign > self.target) - (mean_sign < self.target)
        self.p = min(max(self.p + direction * images / (self.speed_kimg * 1000), 0.0), 1.0)
        return self.p


def band_filters() -> Tensor:
    """4×43 float64 symmetric filters, one a band, that sum to the unit impulse.

    From sym2's low-pass H(z): the half-band pair H(z)H(1/z)/2 and H(-z)H(-1/z)/2, applied at
    every octave (appendix B.2 of the paper, after the wavelet decomposition).
    """
    low = torch.tensor(SYM2, dtype=torch.float64)
    high = low * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    low_half = _convolve(low, low.flip(0)) / 2
    high_half = _convolve(high, high.flip(0)) / 2

    bands: list[Tensor] = [high_half]
    residue = low_half
    for octave in (2, 4):
        bands.append(_convolve(residue, _spread(high_half, octave)))
        residue = _convolve(residue, _spread(low_half, octave))
    bands.append(residue)
    longest = len(residue)
    centred = [F.pad(band, [(longest - len(band)) // 2] * 2) for band in reversed(bands)]
    return torch.stack(centred)


def _convolve(first: Tensor, second: Tensor) -> Tensor:
    """Full convolution of two 1-D filters."""
    return F.conv1d(first[None, None], second.flip(0)[None, None], padding=len(second) - 1)[0, 0]


def _spread(taps: Tensor, factor: int) -> Tensor:
    """H(z) => H(z^factor): zeros between the taps."""
    spread = taps.new_zeros((len(taps) - 1) * factor + 1)
    spread[::factor] = taps
    return spread


class _Draws:
    """Random values for a batch of `count`, or all at one percentile."""

    def __init__(
        self,
        count: int,
        p: float,
        generator: torch.Generator | None,
        percentile: float | None,
    ) -> None:
        self.count = count
        self.p = p
        self.generator = generator
        self.percentile = percentile

    def uniform(self, columns: int = 1) -> Tensor:
        """N (or N×columns) values in [0, 1)."""
        values = rng.rand((self.count, columns), generator=self.generator)
        if self.percentile is not None:
            values = torch.full_like(values, self.percentile)
        return values[:, 0] if columns == 1 else values

    def normal(self, columns: int = 1) -> Tensor:
        """N (or N×columns) normal values; a percentile u gives erfinv(2u - 1)."""
        values = rng.randn((self.count, columns), generator=self.generator)
        if self.percentile is not None:
            values = torch.erfinv(torch.full_like(values, self.percentile * 2 - 1))
        return values[:, 0] if columns == 1 else values

    def half_normal(self) -> Tensor:
        """N values |x|, x normal; a percentile u gives erfinv(u)."""
        values = rng.randn((self.count,), generator=self.generator).abs()
        if self.percentile is not None:
            values = torch.erfinv(torch.full_like(values, self.percentile))
        return values

    def chosen(self, probability: float) -> Tensor:
        """N booleans, true with `probability`."""
        return rng.rand((self.count,), generator=self.generator) < probability

    def gated(self, multiplier: float, values: Tensor, neutral: float) -> Tensor:
        """`values` where the augmentation was chosen (probability multiplier · p)."""
        chosen = self.chosen(multiplier * self.p)
        if values.ndim == 2:
            chosen = chosen[:, None]
        return torch.where(chosen, values, torch.full_like(values, neutral))


def _matrix(rows: list[list[Tensor | float]], count: int) -> Tensor:
    """N×R×C matrices from entries that are numbers or N values."""
    filled = [
        [
            entry if isinstance(entry, Tensor) else torch.full((count,), float(entry))
            for entry in row
        ]
        for row in rows
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in filled], dim=-2)


def _translate2d(x: Tensor, y: Tensor) -> Tensor:
    return _matrix([[1, 0, x], [0, 1, y], [0, 0, 1]], len(x))


def _scale2d(x: Tensor, y: Tensor) -> Tensor:
    return _matrix([[x, 0, 0], [0, y, 0], [0, 0, 1]], len(x))


def _rotate2d(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], len(angle))


def _translate3d(offset: Tensor) -> Tensor:
    rows: list[list[Tensor | float]] = [
        [1, 0, 0, offset],
        [0, 1, 0, offset],
        [0, 0, 1, offset],
        [0, 0, 0, 1],
    ]
    return _matrix(rows, len(offset))


def _scale3d(factor: Tensor) -> Tensor:
    rows: list[list[Tensor | float]] = [
        [factor, 0, 0, 0],
        [0, factor, 0, 0],
        [0, 0, factor, 0],
        [0, 0, 0, 1],
    ]
    return _matrix(rows, len(factor))


def _rotate3d(axis: Tensor, angle: Tensor) -> Tensor:
    """N×4×4 rotations about a unit `axis` (Rodrigues' formula)."""
    x, y, z = (float(value) for value in axis[:3])
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    along = torch.outer(axis[:3], axis[:3])
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    rotation = torch.eye(4).repeat(len(angle), 1, 1)
    rotation[:, :3, :3] = torch.eye(3) * cos + cross * sin + along * (1 - cos)
    return rotation


def _margins(inverse: Tensor, width: int, height: int) -> tuple[int, int]:
    """Pixels of padding that the transforms read outside the image, (x, y).

    Never more than reflection can give (size - 1); beyond that the transform reads zeros.
    """
    reach = _RESAMPLE_REACH_PX
    x, y = width / 2 + reach, height / 2 + reach
    corners = torch.tensor([[-x, -y, 1], [x, -y, 1], [-x, y, 1], [x, y, 1]]).T
    extent = (inverse @ corners)[:, :2].abs().amax(dim=(0, 2))  # max |x|, max |y|
    need = extent - torch.tensor([width / 2, height / 2]) + reach + 1
    margin_x, margin_y = (int(value) for value in need.ceil().tolist())
    return min(max(margin_x, 0), width - 1), min(max(margin_y, 0), height - 1)


def _reflect_pad(images: Tensor, x: int, y: int) -> Tensor:
    """Reflection padding by any amount (torch allows at most size - 1 at a time)."""
    while x > 0 or y > 0:
        step_x = min(x, images.shape[3] - 1)
        step_y = min(y, images.shape[2] - 1)
        images = F.pad(images, [step_x, step_x, step_y, step_y], mode="reflect")
        x, y = x - step_x, y - step_y
    return images


def _recolor(images: Tensor, color: Tensor) -> Tensor:
    """Apply N×4×4 colour matrices; grey counts as R = G = B and stays grey (the mean)."""
    count, channels, height, width = images.shape
    matrix, offset = color[:, :3, :3], color[:, :3, 3:]
    if channels == 1:
        matrix = matrix.sum(dim=2, keepdim=True).mean(dim=1, keepdim=True)
        offset = offset.mean(dim=1, keepdim=True)
    pixels = images.reshape(count, channels, height * width)
    return (matrix @ pixels + offset).reshape(images.shape)


def _cutout_mask(images: Tensor, centre: Tensor, size: float) -> Tensor:
    """N×1×H×W of ones, zero in the square; a NaN centre erases nothing."""
    height, width = images.shape[2:]
    x = (torch.arange(width, device=images.device) + 0.5) / width
    y = (torch.arange(height, device=images.device) + 0.5) / height
    inside_x = (x - centre[:, :1]).abs() < size / 2  # N × W
    inside_y = (y - centre[:, 1:]).abs() < size / 2  # N × H
    inside = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    return (~inside).to(images.dtype)

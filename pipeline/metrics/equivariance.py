"""EQ-T and EQ-R: does the picture move and turn as its input does? (Karras 2021, eq. 3, appendix E)

    EQ = 10 log10( I_max^2 / E[ (g(move(z_0); w) - move(g(z_0; w)))^2 ] ) dB

over latents w, motions and the pixels that are known in both pictures; I_max = 2 for images in
[-1, 1]. Moving a picture by whole pixels is exact. By parts of one, or turning it, takes a
reconstruction of the continuous picture: windowed sinc here. A turned picture's frequencies fill a
turned square, so that for EQ-R both pictures are limited to what lies in both squares.

The input of StyleGAN3 is a map of waves, which is moved in closed form. That of StyleGAN2 is a
learned constant, which is resampled; the paper gives no figure for it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ModelError, check_choice
from pipeline.metrics.estimate import Estimate, bootstrap
from pipeline.metrics.sampling import Sampler
from pipeline.models import stylegan2, stylegan3
from pipeline.models.build import Generator
from torch_utils.distributed import ALONE, World

# Whole pixels, parts of a pixel, turns.
KINDS = ("eq_t", "eq_t_frac", "eq_r")

# Images in [-1, 1].
I_MAX = 2.0
# Shifts reach an eighth of the picture's side to each direction (appendix E.1).
MAX_SHIFT = 1 / 8
# Lobes of the windowed sinc. With 3 (Lanczos) the filter's own error hides what is better than
# about 45 dB; wider ones leave fewer pixels of a small picture untouched by its border.
LOBES = 6
TURN_LOBES = 3
# The turning filter's window, and some pixels whose window lies inside at every angle.
SMALLEST_TURNED_PX = 24
# Entries of the turning kernel's table a pixel; between them it is interpolated linearly.
_TABLE = 16
# Pixels of a turned picture that are compared, evenly chosen: each takes a window of hundreds.
_PIXELS = 4096


@dataclass(frozen=True)
class Motions:
    """How N pictures move: turned about the centre by `angle` (radians, from x towards y), then
    shifted by (x, y) pixels, `shift` N x 2."""

    angle: Tensor
    shift: Tensor

    @classmethod
    def draw(cls, kind: str, count: int, size: tuple[int, int], draws: torch.Generator) -> Motions:
        """Motions of one of KINDS for pictures of (height, width) pixels."""
        check_choice("kind", kind, KINDS)
        if kind == "eq_r":
            angle = torch.rand(count, generator=draws, dtype=torch.float64) * 2 * math.pi
            return cls(angle, torch.zeros(count, 2, dtype=torch.float64))
        height, width = size
        reach = torch.tensor([width, height], dtype=torch.float64) * MAX_SHIFT
        shift = (torch.rand(count, 2, generator=draws, dtype=torch.float64) * 2 - 1) * reach
        shift = shift.round() if kind == "eq_t" else shift
        return cls(torch.zeros(count, dtype=torch.float64), shift)

    def inverse(self) -> tuple[Tensor, Tensor]:
        """(N x 2 x 2 matrices, N x 2 offsets): where in the unmoved picture a point (x, y) of the
        moved one comes from, both in pixels from the centre."""
        cos, sin = self.angle.cos(), self.angle.sin()
        matrix = torch.stack([cos, sin, -sin, cos], dim=1).reshape(-1, 2, 2)
        return matrix, -(matrix @ self.shift[:, :, None]).squeeze(2)


@contextlib.contextmanager
def moved_input(network: Generator, motions: Motions) -> Iterator[None]:
    """While active the network synthesises from its moved input, image i by motion i."""
    matrix, offset = motions.inverse()
    synthesis = network.synthesis
    if isinstance(synthesis, stylegan3.SynthesisNetwork):
        inner = synthesis.input
        before = inner.transform
        transform = torch.eye(3, dtype=torch.float64).repeat(len(matrix), 1, 1)
        transform[:, :2, :2] = matrix
        transform[:, :2, 2] = offset / synthesis.img_resolution
        inner.transform = transform.to(before)
        try:
            yield
        finally:
            inner.transform = before
        return
    if not isinstance(synthesis, stylegan2.SynthesisNetwork):
        raise ModelError("Equivariance is measured of StyleGAN2 and StyleGAN3 generators.")
    first = synthesis.blocks[0]
    constant = first.const
    first.const = nn.Parameter(_moved_constant(constant, matrix, offset, synthesis.img_size))
    try:
        yield
    finally:
        first.const = constant


def _moved_constant(
    constant: Tensor, matrix: Tensor, offset: Tensor, img_size: tuple[int, int]
) -> Tensor:
    """C x h x w => N x C x h x w, resampled (bicubic, the border goes on)."""
    height, width = img_size
    half = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    # From pixels to grid_sample's [-1, 1].
    theta = torch.cat([matrix * half[None, None, :] / half[None, :, None],
                       (offset / half)[:, :, None]], dim=2)  # fmt: skip
    maps = constant.detach()[None].expand(len(matrix), -1, -1, -1)
    grid = F.affine_grid(theta.to(maps), list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, mode="bicubic", padding_mode="border", align_corners=False)


def squared_errors(
    sampler: Sampler, kinds: Sequence[str], total: int, *, first: int = 0, world: World = ALONE
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """(number of the first image, errors) of this process's batches out of `total` images.

    Errors by kind are N x 2: sum of squares, how many; `first`: see `Sampler.numbers`.
    """
    for batch, begin, count in sampler.numbers(total, first, world):
        yield begin, _errors_of_batch(sampler, kinds, batch, count)


@torch.inference_mode()
def _errors_of_batch(
    sampler: Sampler, kinds: Sequence[str], batch: int, count: int
) -> dict[str, Tensor]:
    network = sampler.network
    draws = sampler.draws(batch, "equivariance")
    z = sampler.latents(sampler.batch, draws)[:count]
    c = sampler.conditions(sampler.batch, draws)[:count]
    ws = network.mapping(z, c, truncation_psi=sampler.truncation_psi)

    def synthesise() -> Tensor:
        made: Tensor = network.synthesis(ws, noise_mode="const", force_fp32=True)
        return made.cpu()

    still = synthesise()
    errors = {}
    for kind in kinds:
        size = (still.shape[2], still.shape[3])
        motions = Motions.draw(kind, count, size, sampler.draws(batch, kind))
        with moved_input(network, motions):
            moved = synthesise()
        rows = [
            error_of_pair(still[i], moved[i], float(motions.angle[i]), motions.shift[i].tolist())
            for i in range(count)
        ]
        errors[kind] = torch.tensor(rows, dtype=torch.float64)
    return errors


def error_of_pair(
    still: Tensor, moved: Tensor, angle: float, shift: Sequence[float]
) -> tuple[float, int]:
    """(sum of squared differences, values compared) of the moved `still` and `moved`, C x H x W."""
    if angle:
        expected, actual = turned_pair(still, moved, angle)
    else:
        whole, known = shifted(still, shift[0], shift[1])
        expected, actual = whole[:, known], moved[:, known]
    difference = (expected - actual).double()
    return float(difference.square().sum()), difference.numel()


def shifted(image: Tensor, x: float, y: float) -> tuple[Tensor, Tensor]:
    """C x H x W moved by (x, y) pixels, and H x W: where it is known."""
    rows, rows_known = _shift_matrix(image.shape[1], y)
    columns, columns_known = _shift_matrix(image.shape[2], x)
    result = rows.to(image) @ image @ columns.to(image).T
    return result, rows_known[:, None] & columns_known[None, :]


def _shift_matrix(size: int, shift: float) -> tuple[Tensor, Tensor]:
    """The size x size matrix that moves a line by `shift`, and which outputs it knows wholly."""
    position = torch.arange(size, dtype=torch.float64)
    distance = position[:, None] - shift - position[None, :]
    weights = windowed_sinc(distance, LOBES)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
    # A shift by whole pixels needs one sample only, any other the whole window.
    reach = LOBES - 1 if shift % 1 else 0
    source = position - shift
    return weights, (source.floor() >= reach) & (source.ceil() <= size - 1 - reach)


def windowed_sinc(x: Tensor, lobes: int) -> Tensor:
    """sinc(x) sinc(x / lobes) within |x| < lobes, else 0 (Lanczos)."""
    return torch.where(x.abs() < lobes, torch.sinc(x) * torch.sinc(x / lobes), 0.0)


def turned_pair(still: Tensor, moved: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Both pictures limited to the frequencies they share, the first turned onto the second.

    Two times C x P: the values at P of the pixels that are known in both pictures.
    ModelError where there are none.
    """
    height, width = still.shape[1:]
    kernel = _TurningKernel(angle)
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    own = torch.stack([x, y], dim=2).reshape(-1, 2).double()
    source = (own - centre) @ kernel.back.T + centre
    known = torch.ones(height * width, dtype=torch.bool)
    for points in (own, source):
        limit = torch.tensor([width, height]) - 1 - kernel.reach
        known &= ((points >= kernel.reach) & (points <= limit)).all(dim=1)
    places = known.nonzero().squeeze(1)
    if not len(places):
        raise ModelError(
            f"Pictures of {width}x{height} are too small to measure EQ-R: the filter alone spans "
            f"{2 * kernel.reach + 1} pixels."
        )
    if len(places) > _PIXELS:
        places = places[torch.linspace(0, len(places) - 1, _PIXELS).long()]
    # `still` is read in its own frame; `moved` through the same kernel, seen from that frame.
    return (
        kernel.gather(still, source[places], turned=False),
        kernel.gather(moved, own[places], turned=True),
    )


class _TurningKernel:
    """K(v) = integral of h(s) h(R(v - s)) ds, h the separable windowed sinc of a pixel grid.

    To read a picture with K is to reconstruct it from its own grid and to limit it to the square
    of frequencies that a grid turned by `angle` holds.
    """

    def __init__(self, angle: float) -> None:
        cos, sin = math.cos(angle), math.sin(angle)
        self.back = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
        # The window's corner, turned, reaches farthest.
        self.reach = math.ceil(TURN_LOBES * (1 + abs(cos) + abs(sin)))
        line = torch.arange(-self.reach * _TABLE, self.reach * _TABLE + 1, dtype=torch.float64)
        y, x = torch.meshgrid(line / _TABLE, line / _TABLE, indexing="ij")
        turned = torch.stack([x, y], dim=2) @ self.back  # R v, written for rows
        own = windowed_sinc(x, TURN_LOBES) * windowed_sinc(y, TURN_LOBES)
        other = windowed_sinc(turned[..., 0], TURN_LOBES) * windowed_sinc(
            turned[..., 1], TURN_LOBES
        )
        size = 2 * len(line)
        spectrum = torch.fft.rfft2(own, (size, size)) * torch.fft.rfft2(other, (size, size))
        whole = torch.fft.irfft2(spectrum, (size, size))
        middle = slice(len(line) // 2, len(line) // 2 + len(line))
        self._table = (whole[middle, middle] / _TABLE**2).float()[None, None]

    def gather(self, image: Tensor, points: Tensor, *, turned: bool) -> Tensor:
        """C x H x W read at P points (x, y, whole window inside): C x P.

        turned: the picture's grid is the turned one, so that distances are turned back first.
        """
        width = image.shape[2]
        flat = image.reshape(image.shape[0], -1)
        line = torch.arange(-self.reach, self.reach + 1)
        offset_y, offset_x = torch.meshgrid(line, line, indexing="ij")
        offsets = torch.stack([offset_x, offset_y], dim=2).reshape(-1, 2)
        base = points.round().long()
        pixels = base[:, None, :] + offsets[None]
        distance = points[:, None, :] - pixels
        weights = self._look_up(distance @ self.back.T if turned else distance)
        weights = weights / weights.sum(dim=1, keepdim=True)
        index = pixels[..., 1] * width + pixels[..., 0]
        # A rounded base may put the window's outermost column, whose weight is 0, outside.
        index = index.clamp(0, flat.shape[1] - 1)
        return torch.stack([(channel[index] * weights).sum(dim=1) for channel in flat])

    def _look_up(self, distance: Tensor) -> Tensor:
        """Table values at P x T points in pixels; 0 outside the table."""
        span = self.reach
        grid = (distance / span).float()[None]
        found = F.grid_sample(
            self._table, grid, mode="bilinear", padding_mode="zeros", align_corners=True
        )
        return found[0, 0]


def decibels(errors: Tensor, *, seed: int = 0) -> Estimate:
    """EQ in dB of N x 2 (sum of squares, how many), with a bootstrap interval over the images.

    Without any error at all the ratio is that to single precision's rounding.
    """
    floor = (I_MAX * torch.finfo(torch.float32).eps) ** 2

    def ratio(sets: Tensor) -> Tensor:
        totals = sets.sum(dim=1)
        mean = (totals[:, 0] / totals[:, 1]).clamp(min=floor)
        return 10 * torch.log10(I_MAX**2 / mean)

    return bootstrap(errors, ratio, seed=seed)

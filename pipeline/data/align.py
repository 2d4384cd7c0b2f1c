"""Similarity crops: cut a levelled square out of a picture, and put an edited one back.

Knows geometry and resampling only; nothing about faces, files or networks. Coordinates are
continuous pixels (x right, y down; pixel (row i, column j) covers [j, j+1) x [i, i+1)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pipeline.errors import DataError

# Lanczos-3 reaches three output pixels to either side; the patch that is resized carries that much
# more than the crop, so that the crop's border is made from real neighbours.
LANCZOS_SUPPORT = 3
# Shrinking by more than this is done in two steps (box average, then Lanczos): the difference
# cannot be seen, and a 100-megapixel upload does not have to be rotated at full size.
DIRECT_SHRINK_LIMIT = 6.0
# OpenCV warps no picture with a side this long (a comic in one long strip has one).
OPENCV_LONGEST_PX = 32767
# Share of the crop's side over which an edited face fades into the original picture.
SEAM = 0.08


@dataclass(frozen=True)
class CropTransform:
    """Where a crop lies in its picture: a rectangle, possibly turned, possibly leaving the picture.

    Pictures of any size and crops of any resolution share one transform, as it maps the picture's
    pixels to the crop's *fractions*: (0, 0) is the crop's top left corner, (1, 1) the bottom right.
    """

    center_x: float  # centre of the crop, in the picture's continuous pixels
    center_y: float
    width: float  # sides of the crop, in the picture's pixels, before turning
    height: float
    roll_degrees: float = 0.0  # the crop's own x axis, clockwise from the picture's (y is down)

    def __post_init__(self) -> None:
        values = (self.center_x, self.center_y, self.width, self.height, self.roll_degrees)
        if not all(math.isfinite(value) for value in values):
            raise DataError(f"A crop needs finite numbers, but was given {self.to_json()}.")
        if self.width <= 0 or self.height <= 0:
            raise DataError(
                f"A crop needs sides above 0 px, but was given {self.width:g} x {self.height:g}."
            )

    @classmethod
    def square(
        cls, center_x: float, center_y: float, side: float, roll_degrees: float = 0.0
    ) -> CropTransform:
        """A square crop around a centre."""
        return cls(center_x, center_y, side, side, roll_degrees)

    @classmethod
    def whole(cls, width: int, height: int, aspect: float = 1.0) -> CropTransform:
        """The largest upright crop, `aspect` times as high as wide, in the middle of a picture of
        width x height pixels."""
        across = min(float(width), height / aspect)
        return cls(width / 2, height / 2, across, across * aspect)

    @property
    def matrix(self) -> np.ndarray:
        """2 x 3 float64 matrix from the picture's pixels to the crop's fractions."""
        cos, sin = _cos_sin(self.roll_degrees)
        turn = np.array([[cos / self.width, sin / self.width],
                         [-sin / self.height, cos / self.height]])  # fmt: skip
        shift = 0.5 - turn @ np.array([self.center_x, self.center_y])
        return np.concatenate([turn, shift[:, None]], axis=1)

    def apply(self, points: np.ndarray, resolution: float | None = None) -> np.ndarray:
        """Points ... x 2 of the picture, in the crop: fractions, or pixels of a crop that is
        `resolution` px wide."""
        matrix = self.matrix
        return (np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]) * self._scale(
            resolution
        )

    def inverse(self, points: np.ndarray, resolution: float | None = None) -> np.ndarray:
        """Points ... x 2 of the crop (fractions, or pixels of a crop `resolution` px wide), in the
        picture's pixels."""
        offset = (np.asarray(points, np.float64) / self._scale(resolution) - 0.5) * np.array(
            [self.width, self.height]
        )
        cos, sin = _cos_sin(self.roll_degrees)
        turn = np.array([[cos, -sin], [sin, cos]])
        return offset @ turn.T + np.array([self.center_x, self.center_y])

    def corners(self) -> np.ndarray:
        """4 x 2: top left, top right, bottom right, bottom left, in the picture's pixels."""
        return self.inverse(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))

    def scaled(self, factor: float) -> CropTransform:
        """The same crop of the same picture enlarged by `factor`."""
        return CropTransform(
            self.center_x * factor,
            self.center_y * factor,
            self.width * factor,
            self.height * factor,
            self.roll_degrees,
        )

    def output_size(self, resolution: int) -> tuple[int, int]:
        """(width, height) in pixels of this crop when it is `resolution` px wide."""
        return resolution, max(1, round(resolution * self.height / self.width))

    def to_json(self) -> dict[str, float]:
        """Plain numbers by field name; `from_json` reads them back exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CropTransform:
        """The inverse of `to_json`; DataError when a field is missing or no number."""
        try:
            return cls(**{name: float(data[name]) for name in cls.__dataclass_fields__})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"A crop transform needs the numbers {', '.join(cls.__dataclass_fields__)}, "
                f"but reads {dict(data) if isinstance(data, Mapping) else data!r}."
            ) from error

    def _scale(self, resolution: float | None) -> np.ndarray:
        if resolution is None:
            return np.ones(2)
        return np.array([resolution, resolution * self.height / self.width])


def crop(image: np.ndarray, transform: CropTransform, resolution: int) -> np.ndarray:
    """Cut `transform` out of `image` (H x W x 3 uint8), `resolution` px wide.

    The patch is levelled at the picture's own scale (Lanczos-4), then resized with Lanczos-3 whose
    support grows with the shrink factor, so that nothing aliases. Outside the picture its mirror
    image is seen.
    """
    _check_rgb(image)
    shrink = transform.width / resolution
    if shrink > DIRECT_SHRINK_LIMIT:
        factor = int(shrink / 3)  # leaves Lanczos a threefold shrink: no visible difference
        image = np.asarray(Image.fromarray(image).reduce(factor))
        transform = transform.scaled(1 / factor)
        shrink /= factor
    margin = math.ceil(LANCZOS_SUPPORT * max(1.0, shrink)) + 1
    # The patch's origin relative to the crop's centre, on the picture's own pixel grid: an upright
    # crop is then a plain copy of pixels.
    left = math.floor(transform.center_x - transform.width / 2) - margin - transform.center_x
    top = math.floor(transform.center_y - transform.height / 2) - margin - transform.center_y
    width = math.ceil(transform.width) + 2 * margin + 1
    height = math.ceil(transform.height) + 2 * margin + 1
    cos, sin = _cos_sin(transform.roll_degrees)
    turn = np.array([[cos, -sin], [sin, cos]])  # patch => picture
    # OpenCV counts from pixel centres, hence the halves.
    shift = (
        np.array([transform.center_x, transform.center_y])
        + turn @ np.array([left + 0.5, top + 0.5])
        - 0.5
    )
    patch = warp_reflected(
        image,
        np.concatenate([turn, shift[:, None]], axis=1),
        (width, height),
        # Between whole pixels every interpolation copies; this one is thirty times faster.
        cv2.INTER_NEAREST if transform.roll_degrees == 0 else cv2.INTER_LANCZOS4,
    )
    x0, y0 = -transform.width / 2 - left, -transform.height / 2 - top
    box = (x0, y0, x0 + transform.width, y0 + transform.height)
    size = transform.output_size(resolution)
    if size == (transform.width, transform.height) and x0.is_integer() and y0.is_integer():
        return patch[int(y0) : int(y0) + size[1], int(x0) : int(x0) + size[0]].copy()
    return np.asarray(Image.fromarray(patch).resize(size, Image.Resampling.LANCZOS, box=box))


def warp_reflected(
    image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], interpolation: int
) -> np.ndarray:
    """`image` read along an affine map; outside it its mirror image is seen.

    Args:
        matrix: 2 x 3, from the result's pixel centres to the image's, as OpenCV counts them.
        size: (width, height) of the result.
        interpolation: OpenCV's flag.
    """
    if max(image.shape[:2]) >= OPENCV_LONGEST_PX:
        image, matrix = _only_what_is_read(image, matrix, size)
    return cv2.warpAffine(
        image,
        matrix,
        size,
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )


def _only_what_is_read(
    image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The part of a long image that a warp reads, and the matrix that fits the part."""
    ends = np.array([[0, 0, 1], [size[0], 0, 1], [0, size[1], 1], [*size, 1]]) @ matrix.T
    ranges = []
    for axis, length in ((0, image.shape[1]), (1, image.shape[0])):
        reach = 8  # Lanczos-4 looks this far to either side, halves and rounding included
        low = math.floor(ends[:, axis].min()) - reach
        high = math.ceil(ends[:, axis].max()) + reach
        # What lies outside is read from its mirror image inside.
        low, high = min(low, 2 * length - high), max(high, -low)
        ranges.append((min(max(low, 0), length - 1), max(min(high, length), 1)))
    (x0, x1), (y0, y1) = ranges
    matrix = matrix - np.array([[0, 0, x0], [0, 0, y0]])
    return np.ascontiguousarray(image[y0:y1, x0:x1]), matrix


def paste_back(
    original: np.ndarray,
    edited_face: np.ndarray,
    transform: CropTransform,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Put an edited crop back into the picture that it was cut from.

    Args:
        original: the full picture, H x W x 3 uint8.
        edited_face: the crop at any resolution, h x w x 3 uint8.
        transform: where the crop was cut.
        mask: h x w float in [0, 1] over `edited_face`, 0 where the original is to stay;
            None pastes the whole crop. See `change_mask`.

    Returns:
        A new picture, H x W x 3 uint8. The face fades in over the outer 8 % of the crop; pixels
        outside the crop, and those that the mask leaves at 0, equal the original bit for bit.
    """
    _check_rgb(original)
    _check_rgb(edited_face)
    result = original.copy()
    area = area_of(original, transform)
    if area is None:
        return result
    x0, y0, x1, y1 = area
    weight = seam_weight(transform, area)
    if mask is not None:
        weight = weight * into_picture(_check_mask(mask, edited_face), transform, area)
    face = into_picture(edited_face, transform, area)
    before = original[y0:y1, x0:x1].astype(np.float32)
    blended = before + weight[..., None] * (face.astype(np.float32) - before)
    result[y0:y1, x0:x1] = np.clip(np.rint(blended), 0, 255).astype(np.uint8)
    return result


def area_of(picture: np.ndarray, transform: CropTransform) -> tuple[int, int, int, int] | None:
    """The upright rectangle (x0, y0, x1, y1) of the picture's pixels that holds the crop; None
    where the crop lies wholly outside."""
    height, width = picture.shape[:2]
    corners = transform.corners()
    x0, y0 = (max(0, math.floor(value)) for value in corners.min(axis=0))
    x1, y1 = np.minimum(np.ceil(corners.max(axis=0)).astype(int), (width, height)).tolist()
    return None if x0 >= x1 or y0 >= y1 else (x0, y0, x1, y1)


def seam_weight(transform: CropTransform, area: tuple[int, int, int, int]) -> np.ndarray:
    """H x W float32 over `area`: 0 on and outside the crop's border, 1 from `SEAM` inwards."""
    x0, y0, x1, y1 = area
    columns, rows = np.meshgrid(np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5)
    fractions = transform.apply(np.stack([columns, rows], axis=-1))
    inside = np.minimum(fractions, 1.0 - fractions).min(axis=-1)
    return _smooth_step(np.clip(inside / SEAM, 0.0, 1.0)).astype(np.float32)


def into_picture(
    field: np.ndarray, transform: CropTransform, area: tuple[int, int, int, int]
) -> np.ndarray:
    """What is known over a crop, in the picture's pixels of `area` (x0, y0, x1, y1).

    Args:
        field: a face (h x w x 3 uint8: Lanczos), or a mask or any smooth field (float32 h x w or
            h x w x k: bilinear, which keeps a mask within [0, 1] and its zeros zero).
    """
    is_face = field.dtype == np.uint8
    height, width = field.shape[:2]
    target = (max(1, round(transform.width)), max(1, round(transform.height)))
    if target[0] < width or target[1] < height:
        # Shrinking: prefilter first, then only turn and shift.
        if is_face:
            field = np.asarray(Image.fromarray(field).resize(target, Image.Resampling.LANCZOS))
        else:
            field = cv2.resize(field, target, interpolation=cv2.INTER_AREA)
        height, width = field.shape[:2]
    to_field = np.diag([width, height]) @ transform.matrix
    x0, y0, x1, y1 = area
    matrix = to_field.copy()
    matrix[:, 2] += to_field[:, :2] @ np.array([x0 + 0.5, y0 + 0.5]) - 0.5
    return cv2.warpAffine(
        field,
        matrix,
        (x1 - x0, y1 - y0),
        flags=(cv2.INTER_LANCZOS4 if is_face else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def change_mask(
    before: np.ndarray, after: np.ndarray, threshold: float = 6.0, grow: float = 0.03
) -> np.ndarray:
    """Where an edit changed a face: h x w float32 in [0, 1], soft, exactly 0 where it did not.

    Args:
        before, after: the face before and after the edit, h x w x 3 uint8, of one size.
        threshold: mean absolute difference in grey levels (of 255) that counts as a change.
        grow: how far the mask reaches beyond the change, as a share of the face's width; half of
            it is solid, half fades out.
    """
    if before.shape != after.shape:
        raise DataError(
            f"The faces before and after an edit must have one size, not {before.shape[:2]} "
            f"and {after.shape[:2]}."
        )
    difference = np.abs(before.astype(np.float32) - after.astype(np.float32)).mean(axis=2)
    # A small average keeps single noisy pixels from tearing holes into the original.
    changed = (cv2.blur(difference, (3, 3)) > threshold).astype(np.uint8)
    reach = max(1, round(grow * before.shape[1]))
    distance = cv2.distanceTransform(1 - changed, cv2.DIST_L2, 5)
    nearness = np.clip(2.0 - 2.0 * np.minimum(distance, reach) / reach, 0.0, 1.0)
    return _smooth_step(nearness).astype(np.float32)


def _cos_sin(degrees: float) -> tuple[float, float]:
    # Exactly upright stays exactly upright.
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def _smooth_step(value: np.ndarray) -> np.ndarray:
    return value * value * (3.0 - 2.0 * value)


def _check_rgb(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise DataError(
            f"A picture must be height x width x 3 of uint8, not {image.shape} of {image.dtype}."
        )


def _check_mask(mask: np.ndarray, face: np.ndarray) -> np.ndarray:
    if mask.shape != face.shape[:2]:
        raise DataError(f"The mask is {mask.shape}, but the face it covers is {face.shape[:2]}.")
    return np.clip(mask, 0.0, 1.0).astype(np.float32)

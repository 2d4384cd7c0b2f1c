"""Image files of every kind, as RGB arrays; or one clear reason why not.

Everything here may be hostile: the file's claims are checked before its pixels are unpacked. Knows
nothing about faces or folders.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError

from pipeline.errors import ConfigError

# Formats that are opened: those that Pillow decodes by itself. (It would hand PostScript to an
# outside program.)
FORMATS = (
    "PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM",
)  # fmt: skip


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Length and kind before a chunk's data, a checksum behind it.
PNG_AROUND = 12
# Transparency, colour profile, orientation, animation: `decode` makes other pixels of them.
PNG_CHANGES_PIXELS = (b"tRNS", b"iCCP", b"eXIf", b"acTL")
# Texts that may hold an orientation.
PNG_TEXTS_THAT_TURN = (b"Raw profile type", b"XML:com.adobe.xmp")


class Rejected(Exception):
    """A picture that cannot be used; the message is the reason, for rejects.jsonl.

    `kind` names the commonest ones: unknown_format, many_pixels; "" for all others.
    """

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class PictureLimits:
    """What is accepted as a picture."""

    max_megapixels: float = 100.0
    min_side_px: int = 16
    background: tuple[int, int, int] = (255, 255, 255)  # behind transparent pixels


def parse_colour(text: str) -> tuple[int, int, int]:
    """RGB of "#rrggbb" or of a colour name; ConfigError for anything else."""
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise ConfigError(
            f"preprocess.background={text} is no colour; write it as '#rrggbb' or by name (white)."
        ) from None
    return red, green, blue


def decode(data: bytes, limits: PictureLimits) -> np.ndarray:
    """The picture that a file's bytes hold: H x W x 3 uint8, upright, on an opaque background.

    Of an animation the first frame. Raises Rejected with the reason for anything unusable.
    """
    if not data:
        raise Rejected("the file is empty")
    try:
        with warnings.catch_warnings():
            # Sizes are judged by `limits`, damaged metadata by whether the pixels can be read.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image, limits)
                image.load()
                upright = _upright(image)
                return np.ascontiguousarray(_to_rgb(upright, limits.background))
    except Rejected:
        raise
    except UnidentifiedImageError:
        raise Rejected("not a picture in a known format", "unknown_format") from None
    except Image.DecompressionBombError:
        reason = "the picture is too large (a decompression bomb)"
        raise Rejected(reason, "many_pixels") from None
    except MemoryError:
        raise Rejected("the picture does not fit into memory") from None
    # Pillow's decoders raise whatever their format's parser stumbled over.
    except (OSError, SyntaxError, ValueError, struct.error, EOFError, ArithmeticError) as error:
        raise Rejected(f"the picture is damaged or cut short ({_one_line(error)})") from None
    except Exception as error:
        name = type(error).__name__
        raise Rejected(f"the picture cannot be read ({name}: {_one_line(error)})") from None


def bare_png(data: bytes) -> bytes | None:
    """A PNG file's own pixels, without anything else that the file says; None where they are not
    what `decode` gives (other kinds of PNG, profiles, transparency), or the file is no PNG.

    To be asked of files that `decode` could read. What is compressed already need not be again.
    """
    if not data.startswith(PNG_SIGNATURE):
        return None
    parts, at, kinds = [PNG_SIGNATURE], len(PNG_SIGNATURE), []
    while at + PNG_AROUND <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        end = at + PNG_AROUND + length
        turned = data.startswith(PNG_TEXTS_THAT_TURN, at + 8)
        if kind in PNG_CHANGES_PIXELS or turned or end > len(data):
            return None
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            parts.append(data[at:end])
            kinds.append(kind)
        at = end
        if kind == b"IEND":
            break
    # Size, then 8 bits, RGB, compression, filter, not interlaced.
    header = data[len(PNG_SIGNATURE) + 16 : len(PNG_SIGNATURE) + 21]
    ordered = kinds[:1] == [b"IHDR"] and kinds[-1:] == [b"IEND"] and set(kinds[1:-1]) == {b"IDAT"}
    return b"".join(parts) if ordered and header == b"\x08\x02\x00\x00\x00" else None


def _check_size(image: Image.Image, limits: PictureLimits) -> None:
    width, height = image.size
    megapixels = width * height / 1e6
    if megapixels > limits.max_megapixels:
        raise Rejected(
            f"{width}x{height} px are {megapixels:.0f} megapixels, above max_megapixels="
            f"{limits.max_megapixels:g}",
            "many_pixels",
        )
    if min(width, height) < limits.min_side_px:
        raise Rejected(
            f"{width}x{height} px is too small for a face (use a picture of at least "
            f"{limits.min_side_px} px a side)"
        )


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data asks; damaged EXIF data asks for nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        image = Image.fromarray(_to_eight_bits(np.asarray(image), image.mode))
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("LA", "La", "RGBa"):
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        backdrop = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(backdrop, image)
    return np.asarray(_standard_colours(image).convert("RGB"))


def _to_eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """16-bit integers, or floats in [0, 1] or of any range, as uint8."""
    numbers = values.astype(np.float64)
    if mode == "F":
        numbers = np.nan_to_num(numbers)
        low, high = min(0.0, numbers.min()), max(1.0, numbers.max())
        scaled = (numbers - low) / (high - low) * 255
    else:
        scaled = numbers / 257 if numbers.max() > 255 else numbers
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _standard_colours(image: Image.Image) -> Image.Image:
    """CMYK, and RGB of a wide gamut, by the file's own colour profile to sRGB."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        converted = ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    # A profile that cannot be used is ignored, as viewers do.
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    return image if converted is None else converted


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__

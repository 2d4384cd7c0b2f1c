"""Pictures and films as data URIs of sensible size. Knows nothing of what they show."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

# Small pictures (networks' outputs) are kept exactly; larger ones are photographs of a page to
# the eye, where WebP at this quality shows no difference.
LOSSLESS_PIXELS = 160 * 160
WEBP_QUALITY = 86
VIDEO_TYPES = {".mp4": "video/mp4", ".webm": "video/webm"}


@dataclass(frozen=True)
class Picture:
    """A picture in the page: data URI, size in the page, width of the original."""

    src: str
    width: int
    height: int
    original_width: int
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Film:
    """An animation in the page: a video (`is_video`), or a moving picture (WebP, GIF)."""

    src: str
    is_video: bool
    mime: str


def data_uri(mime: str, data: bytes) -> str:
    """RFC 2397 with base64."""
    return f"data:{mime};base64," + base64.b64encode(data).decode("ascii")


def open_picture(path: Path) -> Image.Image | None:
    """The picture's first frame as RGB, or None where the file is missing or cannot be read."""
    try:
        with warnings.catch_warnings():
            # A picture near Pillow's bomb limit is no picture of ours.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                if opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info:
                    rgba = opened.convert("RGBA")
                    white = Image.new("RGBA", rgba.size, "white")
                    return Image.alpha_composite(white, rgba).convert("RGB")
                return opened.convert("RGB")
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ):
        return None


def embed_picture(
    path: Path, alt: str, max_px: int, caption: str = "", half: str = ""
) -> Picture | None:
    """The picture with its longest side at most `max_px`, or None if it cannot be read.

    WebP: lossless where small, else visually lossless. `half`: only its "left" or "right" one.
    """
    image = open_picture(path)
    if image is None:
        return None
    if half:
        middle = image.width // 2
        image = image.crop(
            (0, 0, middle, image.height)
            if half == "left"
            else (middle, 0, image.width, image.height)
        )
    original = image.size
    scale = max_px / max(original)
    if scale < 1:
        size = (max(1, round(original[0] * scale)), max(1, round(original[1] * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    lossless = image.width * image.height <= LOSSLESS_PIXELS
    image.save(buffer, "WEBP", lossless=lossless, quality=WEBP_QUALITY, method=4)
    uri = data_uri("image/webp", buffer.getvalue())
    return Picture(uri, image.width, image.height, original[0], alt, caption)


def embed_film(paths: Sequence[Path], max_bytes: int) -> Film | None:
    """The first of these films (.mp4, .webm, .webp, .gif) that exists and is not too large."""
    for path in paths:
        if not path.is_file() or not 0 < path.stat().st_size <= max_bytes:
            continue
        mime = VIDEO_TYPES.get(path.suffix, f"image/{path.suffix[1:]}")
        return Film(data_uri(mime, path.read_bytes()), path.suffix in VIDEO_TYPES, mime)
    return None

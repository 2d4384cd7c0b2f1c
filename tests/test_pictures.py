"""Image files of every kind, and hostile ones: pixels come out right, or a reason does."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from pipeline.data.pictures import PictureLimits, Rejected, bare_png, decode, parse_colour
from pipeline.errors import ConfigError

LIMITS = PictureLimits(max_megapixels=2, min_side_px=8, background=(10, 200, 30))


def sample(width: int = 24, height: int = 16) -> Image.Image:
    """A smooth picture whose four corners differ."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=format, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("PPM", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 20),
        ("JPEG", {"quality": 98, "subsampling": 0}, 6),
        ("GIF", {}, 40),
    ],
)
def test_formats(format: str, options: dict, tolerance: int) -> None:
    picture = sample()
    pixels = decode(saved(picture, format, **options), LIMITS)
    assert pixels.shape == (16, 24, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.asarray(picture)).max() <= tolerance


def test_animations_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    for format in ("GIF", "WEBP", "PNG"):
        data = saved(frames[0], format, save_all=True, append_images=frames[1:])
        red, _, blue = decode(data, LIMITS)[8, 8]
        assert red > 200
        assert blue < 60


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_shows_the_chosen_background(mode: str) -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    image.paste((80, 80, 80, 255), (0, 0, 8, 16))
    format = "TIFF" if mode == "PA" else "PNG"
    if mode == "PA":
        image = image.quantize(8)
        data = saved(image, "PNG")
    else:
        data = saved(image.convert(mode), format)
    pixels = decode(data, LIMITS)
    assert np.abs(pixels[8, 4].astype(int) - 80).max() <= 2
    assert pixels[8, 12].tolist() == [10, 200, 30]


def test_half_transparent_pixels_are_mixed() -> None:
    data = saved(Image.new("RGBA", (8, 8), (255, 0, 0, 128)), "PNG")
    assert np.abs(decode(data, LIMITS)[0, 0].astype(int) - [133, 100, 15]).max() <= 2


def test_palette_with_a_transparent_colour() -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, 8, 16))
    pixels = decode(saved(image, "PNG", transparency=0), LIMITS)
    assert pixels[0, 0].tolist() == [0, 0, 255]
    assert pixels[0, 12].tolist() == [10, 200, 30]


def test_grey_and_black_and_white() -> None:
    grey = sample().convert("L")
    assert np.array_equal(decode(saved(grey, "PNG"), LIMITS)[:, :, 1], np.asarray(grey))
    assert set(np.unique(decode(saved(grey.convert("1"), "PNG"), LIMITS))) == {0, 255}


def test_sixteen_bit_grey_and_colour() -> None:
    values = np.linspace(0, 65535, 16 * 16).reshape(16, 16).astype(np.uint16)
    for format in ("PNG", "TIFF"):
        pixels = decode(saved(Image.fromarray(values), format), LIMITS)
        assert np.abs(pixels[:, :, 0] - values / 257).max() <= 1
    pixels = decode(png_bytes(np.repeat(values[:, :, None], 3, axis=2)), LIMITS)
    assert np.abs(pixels[:, :, 2] - values / 257).max() <= 1


def png_bytes(values: np.ndarray) -> bytes:
    """A 16-bit RGB PNG, which Pillow cannot write."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_float_tiff() -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    pixels = decode(saved(Image.fromarray(values), "TIFF"), LIMITS)
    assert np.abs(pixels[:, :, 0] / 255 - values).max() < 0.01


def test_cmyk_jpeg() -> None:
    data = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    red, green, blue = decode(data, LIMITS)[8, 8].tolist()
    assert red > 200
    assert max(green, blue) < 60


def test_colour_profiles_are_applied_and_broken_ones_ignored() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    for icc in (b"broken", profile.tobytes()):
        pixels = decode(saved(sample(), "PNG", icc_profile=icc), LIMITS)
        assert np.array_equal(pixels, np.asarray(sample()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = sample()
    # The inverse of what a viewer does with that orientation.
    for method in {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }.get(orientation, []):
        turned = turned.transpose(method)
    for format, options in (("PNG", {}), ("JPEG", {"quality": 98, "subsampling": 0})):
        pixels = decode(saved(turned, format, exif=exif, **options), LIMITS)
        assert np.abs(pixels.astype(int) - np.asarray(sample())).max() <= 6


def test_broken_exif_is_ignored() -> None:
    data = saved(sample(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(data, LIMITS).shape == (16, 24, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am text", "not a picture"),
        (b"%PDF-1.4", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"\x89PNG\r\n\x1a\n", "(damaged|not a picture)"),
        (b"PK\x03\x04 a zip in the zip", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    ],
)
def test_what_is_no_picture(data: bytes, reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        decode(data, LIMITS)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = saved(Image.fromarray(noise), format)
    with pytest.raises(Rejected, match=r"(damaged|not a picture|cannot be read)"):
        decode(data[: len(data) // 2], LIMITS)


def test_decompression_bombs_are_refused_by_their_claim() -> None:
    for side in (2_000, 20_000, 60_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
        with pytest.raises(Rejected, match=r"(megapixels|too large)"):
            decode(bomb, LIMITS)


def test_text_bomb_in_a_png() -> None:
    text = b"key\0\0" + zlib.compress(b"a" * 80_000_000, 9)
    data = saved(sample(), "PNG")
    bomb = data[:33] + chunk(b"zTXt", text) + data[33:]
    with pytest.raises(Rejected):
        decode(bomb, LIMITS)


def test_tiny_and_narrow_pictures() -> None:
    for size in ((1, 1), (7, 500), (500, 3)):
        with pytest.raises(Rejected, match="too small"):
            decode(saved(Image.new("RGB", size), "PNG"), LIMITS)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_give_pixels_or_a_reason(data: st.DataObject) -> None:
    """Whatever is overwritten or cut off, the answer is a picture or Rejected, nothing else."""
    format = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]))
    content = bytearray(saved(sample(), format))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        pixels = decode(bytes(content[:cut]), LIMITS)
    except Rejected:
        return
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.dtype == np.uint8


def test_colours() -> None:
    assert parse_colour("#ff8000") == (255, 128, 0)
    assert parse_colour("white") == (255, 255, 255)
    with pytest.raises(ConfigError, match="background=whitish"):
        parse_colour("whitish")


def turned(kind: str) -> dict:
    """Options that make Pillow write a PNG with something beside its pixels."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "somebody who wants to stay unknown")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return {
        "plain": {},
        "text": {"pnginfo": texts},
        "resolution": {"dpi": (300, 300)},
        "transparent": {"transparency": (0, 0, 255)},
        "exif": {"exif": exif},
        "profile": {"icc_profile": profile},
    }[kind]


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(["RGB", "RGB", "RGB", "L", "P", "RGBA", "1", "I;16"]),
    kind=st.sampled_from(["plain", "text", "resolution", "transparent", "exif", "profile"]),
    level=st.integers(0, 9),
    trailing=st.binary(max_size=20),
)
def test_a_bare_png_has_the_same_pixels_and_nothing_else(
    mode: str, kind: str, level: int, trailing: bytes
) -> None:
    options = turned(kind) if mode == "RGB" else {}
    data = saved(sample().convert(mode), "PNG", compress_level=level, **options) + trailing
    bare = bare_png(data)
    if mode != "RGB" or kind in ("transparent", "exif", "profile"):
        assert bare is None
        return
    assert bare is not None
    np.testing.assert_array_equal(decode(bare, LIMITS), decode(data, LIMITS))
    assert b"somebody" not in bare
    assert b"pHYs" not in bare
    assert bare_png(bare) == bare


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_png_is_no_bare_png_or_a_readable_one(data: st.DataObject) -> None:
    whole = saved(sample(), "PNG")
    at = data.draw(st.integers(0, len(whole)))
    broken = whole[:at] + data.draw(st.binary(max_size=6)) + whole[at + 3 :]
    bare = bare_png(broken)
    try:
        pixels = decode(broken, LIMITS)
    except Rejected:
        return  # the file is left out; its bytes are not asked for
    if bare is not None:
        np.testing.assert_array_equal(decode(bare, LIMITS), pixels)


def test_other_files_are_no_bare_png() -> None:
    for data in (b"", b"\x89PNG\r\n\x1a\n", saved(sample(), "JPEG"), saved(sample(), "BMP")):
        assert bare_png(data) is None

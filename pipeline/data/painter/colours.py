"""Colours of a drawing: cel-shading tones derived from one base colour.

A colour is (red, green, blue), each 0..1, sRGB. Knows nothing about shapes.
"""

from __future__ import annotations

import colorsys
from functools import lru_cache

Colour = tuple[float, float, float]

WHITE: Colour = (1.0, 1.0, 1.0)
# Shadows of a lit scene drift towards the sky's violet-blue; colourists call it the cool shadow.
_SHADOW_HUE = 0.70
_LIGHT_HUE = 0.13


def from_hex(text: str) -> Colour:
    """The colour of "#rrggbb"."""
    value = int(text.removeprefix("#"), 16)
    return ((value >> 16) / 255, ((value >> 8) & 255) / 255, (value & 255) / 255)


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    """From `a` (amount 0) to `b` (amount 1), linearly."""
    keep = 1.0 - amount
    return (
        a[0] * keep + b[0] * amount,
        a[1] * keep + b[1] * amount,
        a[2] * keep + b[2] * amount,
    )


def _towards_hue(hue: float, target: float, amount: float) -> float:
    """`hue` (0..1, cyclic) moved towards `target` along the shorter way, at most 0.08."""
    step = (target - hue + 0.5) % 1.0 - 0.5
    return (hue + max(-0.08, min(0.08, step)) * amount) % 1.0


def shade(colour: Colour, amount: float) -> Colour:
    """A darker, slightly cooler and more saturated tone; amount 0..1 (0.3: cel shadow)."""
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    richer = min(1.0, saturation + 0.28 * amount * (0.25 + saturation))
    return colorsys.hsv_to_rgb(
        _towards_hue(hue, _SHADOW_HUE, amount), richer, value * (1 - 0.92 * amount)
    )


def lighten(colour: Colour, amount: float) -> Colour:
    """A lighter, slightly warmer tone; amount 0..1 (0.5: highlight)."""
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    return colorsys.hsv_to_rgb(
        _towards_hue(hue, _LIGHT_HUE, amount * 0.3),
        saturation * (1 - 0.75 * amount),
        value + (1 - value) * min(1.0, 1.1 * amount),
    )


def from_hsv(hue: float, saturation: float, value: float) -> Colour:
    """Colour of hue (0..1, cyclic), saturation and value (0..1)."""
    return colorsys.hsv_to_rgb(hue % 1.0, min(1.0, max(0.0, saturation)), min(1.0, max(0.0, value)))


@lru_cache(maxsize=4096)
def argb(colour: Colour, alpha: float = 1.0) -> int:
    """0xAARRGGBB of a colour and an opacity 0..1."""
    red, green, blue = (int(min(1.0, max(0.0, channel)) * 255 + 0.5) for channel in colour)
    return (int(min(1.0, max(0.0, alpha)) * 255 + 0.5) << 24) | (red << 16) | (green << 8) | blue

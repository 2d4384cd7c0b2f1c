"""Light of a picture: where it comes from, its colour, the tones it gives, the final grading."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.painter.canvas import Drawing
from pipeline.data.painter.colours import WHITE, Colour, from_hex


@dataclass(frozen=True)
class Light:
    """Light direction and colour.

    `side` -1 from the picture's left .. 1 from the right; `height` 0 level .. 1 from above;
    `contrast` 0 flat .. 1 hard shadows; `tint` multiplies the whole picture; `rim` colours the
    edge away from the main light (None: no rim light); `saturation` 0 grey .. 1 as painted;
    `haze` 0 .. 1 how far blacks are lifted; `veil` 0 .. 1 a soft gleam from the light's corner.
    """

    side: float = -0.5
    height: float = 0.7
    contrast: float = 0.6
    tint: Colour = WHITE
    rim: Colour | None = None
    saturation: float = 1.0
    haze: float = 0.0
    veil: float = 0.0


# Name -> tint; the moods a TV series shows.
_TINTS: tuple[tuple[str, float], ...] = (
    ("#ffffff", 4.0),  # daylight
    ("#fff1dc", 1.5),  # lamp
    ("#ffdcc0", 0.7),  # evening
    ("#eef2fa", 1.0),  # overcast
    ("#dfe3ea", 0.6),  # shade
    ("#c9c6d6", 0.4),  # dusk
)


def random_light(rng: np.random.Generator) -> Light:
    """A light drawn from `rng`."""
    weights = np.array([weight for _, weight in _TINTS])
    tint = from_hex(_TINTS[int(rng.choice(len(_TINTS), p=weights / weights.sum()))][0])
    return Light(
        side=float(rng.uniform(-1, 1)),
        height=float(rng.uniform(0.4, 1.0)),
        contrast=float(rng.uniform(0.35, 1.0)),
        tint=tint,
        rim=from_hex("#fff6e0") if rng.random() < 0.2 else None,
        saturation=float(rng.uniform(0.72, 1.02)),
        haze=float(rng.uniform(0.0, 0.09)),
        veil=float(rng.uniform(0.1, 0.4)) if rng.random() < 0.4 else 0.0,
    )


def grade(drawing: Drawing, light: Light) -> None:
    """The compositor's last steps: the light's veil, its tint, saturation and lifted blacks."""
    if light.veil > 0:
        width, height = drawing.width, drawing.height
        corner = ((0.5 + 0.6 * light.side) * width, -0.05 * height)
        far = ((0.5 - 0.5 * light.side) * width, 0.85 * height)
        drawing.veil(corner, far, light.tint, 0.55 * light.veil)
    if light.tint != WHITE:
        drawing.wash(light.tint)
    drawing.set_grade(light.saturation, light.haze)

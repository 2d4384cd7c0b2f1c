"""Light of a picture: where it comes from, its colour, and the tones it gives surfaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.painter.colours import WHITE, Colour, from_hex


@dataclass(frozen=True)
class Light:
    """Light direction and colour.

    `side` -1 from the picture's left .. 1 from the right; `height` 0 level .. 1 from above;
    `contrast` 0 flat .. 1 hard shadows; `tint` multiplies the whole picture; `rim` colours the
    edge away from the main light (None: no rim light).
    """

    side: float = -0.5
    height: float = 0.7
    contrast: float = 0.6
    tint: Colour = WHITE
    rim: Colour | None = None


# Name -> tint; the moods a TV series shows.
_TINTS: tuple[tuple[str, float], ...] = (
    ("#ffffff", 5.0),  # daylight
    ("#fff1dc", 1.5),  # lamp
    ("#ffe2cc", 0.8),  # evening
    ("#f3f6ff", 0.9),  # overcast
    ("#f0e9ea", 0.4),  # night
)


def random_light(rng: np.random.Generator) -> Light:
    """A light drawn from `rng`."""
    weights = np.array([weight for _, weight in _TINTS])
    tint = from_hex(_TINTS[int(rng.choice(len(_TINTS), p=weights / weights.sum()))][0])
    return Light(
        side=float(rng.uniform(-1, 1)),
        height=float(rng.uniform(0.4, 1.0)),
        contrast=float(rng.uniform(0.35, 0.9)),
        tint=tint,
        rim=from_hex("#fff6e0") if rng.random() < 0.3 else None,
    )

"""What happens to the pixels of a face before the reader sees it: light, colours, lines, damage.

Each function takes and gives H×W×3 uint8. Knows nothing about where the face lies, but `occlude`
says which landmarks it covered.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Change = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def recolour(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Other hues, saturation and value for all, as if by another palette."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-90, 90) * rng.random()) % 180
    hsv[..., 1] *= rng.uniform(0.3, 1.4)
    hsv[..., 2] *= rng.uniform(0.7, 1.2)
    return cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)


def tone(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Gamma, contrast and a gain a channel: under- and overexposed, tinted."""
    ramp = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.uniform(-0.7, 0.8))
    gain = np.exp(rng.normal(0, 0.12, 3))
    contrast, level = np.exp(rng.uniform(-0.7, 0.3)), rng.uniform(0.15, 0.85)
    table = np.clip(((ramp - level) * contrast + level) * gain, 0, 1) * 255
    return cv2.LUT(image, table.astype(np.uint8)[None])


def shade_across(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A soft or hard change of light across the picture."""
    height, width = image.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.linspace(-1, 1, width)[None, :], np.linspace(-1, 1, height)[:, None]
    along = x * np.cos(angle) + y * np.sin(angle) + rng.uniform(-0.5, 0.5)
    hardness = rng.choice([1.0, 3.0, 30.0])
    share = 1 / (1 + np.exp(np.clip(-hardness * along, -40, 40)))
    light = 1 - share[..., None] * (1 - rng.uniform(0.45, 1.1, 3))
    return np.clip(image * light, 0, 255).astype(np.uint8)


def grey(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Black and white, sometimes on tinted paper."""
    value = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    paper = rng.uniform(0.8, 1.0, 3) if rng.random() < 0.3 else np.ones(3)
    return (value * paper).astype(np.uint8)


def lines_only(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A line drawing: dark where the picture is darker than its surroundings."""
    value = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    around = cv2.blur(value, (int(rng.integers(3, 8)),) * 2)
    drawn = cv2.divide(value, np.maximum(around, 1), scale=255)
    if rng.random() < 0.5:  # keep deep blacks, as inked drawings do
        drawn = np.minimum(drawn, np.clip(value.astype(np.int32) * 3, 0, 255).astype(np.uint8))
    return cv2.cvtColor(drawn, cv2.COLOR_GRAY2RGB)


def weigh_lines(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Thicker or thinner dark lines."""
    kernel = np.ones((2, 2), np.uint8)
    return (cv2.erode if rng.random() < 0.4 else cv2.dilate)(image, kernel)


def soften(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Out of focus."""
    return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.7)))


def sharpen(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Overdone unsharp mask."""
    soft = cv2.GaussianBlur(image, (0, 0), 1.0)
    amount = float(rng.uniform(0.5, 1.5))
    return cv2.addWeighted(image, 1 + amount, soft, -amount, 0)


def shrink(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Fewer pixels, enlarged again."""
    size = image.shape[:2][::-1]
    small = max(24, int(size[0] * rng.uniform(0.3, 0.9)))
    shrunk = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    how = cv2.INTER_LINEAR if rng.random() < 0.7 else cv2.INTER_NEAREST
    return cv2.resize(shrunk, size, interpolation=how)


def roughen(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Noise, a grey one or a coloured one."""
    channels = 1 if rng.random() < 0.5 else 3
    noise = rng.standard_normal((*image.shape[:2], channels), dtype=np.float32)
    return np.clip(image + noise * rng.uniform(3, 20), 0, 255).astype(np.uint8)


def compress(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A JPEG of poor quality."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 85))])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


# How often each is done at strength 1, in this order.
CHANGES: tuple[tuple[float, Change], ...] = (
    (0.60, recolour),
    (0.60, tone),
    (0.30, shade_across),
    (0.12, grey),
    (0.06, lines_only),
    (0.15, weigh_lines),
    (0.10, sharpen),
    (0.25, soften),
    (0.20, shrink),
    (0.20, roughen),
    (0.25, compress),
)


def change_colours(rng: np.random.Generator, image: np.ndarray, strength: float) -> np.ndarray:
    """Some of CHANGES, more often with more strength; not writable in place."""
    for chance, change in CHANGES:
        if rng.random() < chance * strength:
            image = change(rng, image)
    return image


def occlude(
    rng: np.random.Generator, image: np.ndarray, landmarks: np.ndarray, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Now and then something flat lies over the face: a hand, a strand, a bubble.

    Args:
        landmarks: 28×2 px of the image.

    Returns:
        The image, and 28 bool: which landmarks are covered now.
    """
    size = image.shape[0]
    cover = np.zeros(image.shape[:2], np.uint8)
    if rng.random() < 0.35 * strength:
        for _ in range(int(rng.integers(1, 3))):
            centre = landmarks[int(rng.integers(len(landmarks)))] + rng.normal(0, 0.10, 2) * size
            _blot(rng, cover, centre, size)
        # A colour out of the picture, as hands and hair have, or any.
        x, y = rng.integers(0, size, 2)
        colour = image[y, x] if rng.random() < 0.7 else rng.integers(0, 256, 3)
        image = np.where(cover[..., None] > 0, colour.astype(np.uint8), image)
        if rng.random() < 0.6:  # outlined, as everything in drawings is
            edge = cv2.morphologyEx(cover, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
            image[edge] = image[edge] // 4
    columns, rows = np.clip(landmarks, 0, size - 1).astype(int).T
    return image, cover[rows, columns] > 0


def _blot(rng: np.random.Generator, cover: np.ndarray, centre: np.ndarray, size: int) -> None:
    x, y = (int(value) for value in centre)
    if rng.random() < 0.5:
        axes = tuple(int(size * value) for value in rng.uniform(0.04, 0.18, 2))
        cv2.ellipse(cover, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    else:  # a strand
        end = centre + rng.normal(0, 0.5, 2) * size
        width = max(1, int(size * rng.uniform(0.01, 0.08)))
        cv2.line(cover, (x, y), (int(end[0]), int(end[1])), 255, width)

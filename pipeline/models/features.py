"""Where a network's feature maps lie in the image.

Knows nothing about networks. Coordinates are continuous pixels: x right, y down, the pixel in
row i and column j covers [j, j+1) x [i, i+1).
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ModelError, nearest


@dataclass(frozen=True)
class FeatureFrame:
    """Geometry of one layer's output.

    An image position p (x or y) lies at `p * scale + offset` on the feature map. `offset` is the
    margin in feature pixels that StyleGAN3's maps carry around the image; 0 for StyleGAN2.
    """

    name: str
    channels: int
    height: int
    width: int
    scale: float  # feature pixels per image pixel
    offset: float  # feature pixels, the same for x and y
    ws_rows: int  # number of leading rows of ws that influence this layer


def layer_index(layer: str | int, names: list[str]) -> int:
    """Position of a layer given by name or by number; ModelError if there is none such."""
    if isinstance(layer, int) and 0 <= layer < len(names):
        return layer
    if layer in names:
        return names.index(str(layer))
    raise ModelError(
        f"this network has no layer {layer!r}; the nearest is {nearest(layer, names)} "
        f"(it has {', '.join(names)})."
    )

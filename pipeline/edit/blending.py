"""The picture of a drag under a mask: what is kept is the start's, what is free the drag's.

From the dragged layer on, every layer's map is blended with the start's by the mask, so that later
layers draw one whole out of both and no seam shows; the finished picture is blended once more, so
that where the mask keeps wholly nothing changes by a single bit. Layers before the dragged one are
left alone: their pixels are so large that blending them would hold the free part back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.edit.sampling import mask_weights
from pipeline.models import stylegan3
from pipeline.models.features import FeatureFrame, layer_index


class Blend:
    """Pictures (1 × 3 × H × W in [-1, 1]) of ws, blended with those of `start_ws` by a mask.

    Args:
        mask: H × W in [0, 1] over the picture, 1 keeps.
        layer: the dragged layer's name.
        picture_of: ws -> picture, run with the generator's constant noise.
    """

    def __init__(
        self,
        generator: Any,
        start_ws: Tensor,
        mask: Tensor,
        layer: str,
        picture_of: Callable[[Any, Tensor], Tensor],
    ) -> None:
        self._generator = generator
        self._picture_of = picture_of
        self._mask = mask
        self._modules = _layers_from(generator, layer)
        self._kept: dict[str, Tensor] = {}
        with torch.no_grad():
            self._base = self._run(start_ws, self._record)

    def picture(self, ws: Tensor) -> Tensor:
        """The blended pictures of `ws` (N × num_ws × w_dim), differentiable by it."""
        drawn = self._run(ws, self._blended)
        # Written so that a weight of 1 gives the base's very numbers.
        return torch.where(self._mask == 1, self._base, drawn + self._mask * (self._base - drawn))

    def _run(self, ws: Tensor, act: Callable[[str, FeatureFrame, Tensor], Tensor]) -> Tensor:
        # The studio files an emotion beside a drag: what other threads draw is not ours to change.
        ours = threading.get_ident()
        hooks = []
        for name, (module, frame) in self._modules.items():

            def hook(
                _: nn.Module, __: Any, out: Tensor, name: str = name, frame: FeatureFrame = frame
            ) -> Tensor:
                return act(name, frame, out) if threading.get_ident() == ours else out

            hooks.append(module.register_forward_hook(hook))
        try:
            return self._picture_of(self._generator, ws)
        finally:
            for handle in hooks:
                handle.remove()

    def _record(self, name: str, frame: FeatureFrame, out: Tensor) -> Tensor:
        self._kept[name] = out
        return out

    def _blended(self, name: str, frame: FeatureFrame, out: Tensor) -> Tensor:
        weights = mask_weights(self._mask, frame, (out.shape[2], out.shape[3])).to(out)
        return out + weights * (self._kept[name] - out)


def _layers_from(generator: Any, layer: str) -> dict[str, tuple[nn.Module, FeatureFrame]]:
    """The modules that make the maps from `layer` on, and where these lie in the picture."""
    synthesis = generator.synthesis
    first = layer_index(layer, synthesis.layer_names)
    # The last of a StyleGAN3's layers is the picture itself.
    end = len(synthesis.layer_names) - isinstance(generator, stylegan3.Generator)
    found: dict[str, tuple[nn.Module, FeatureFrame]] = {}
    for name in synthesis.layer_names[first:end]:
        module = synthesis.get_submodule(name)
        # A StyleGAN2's block ends with its second convolution.
        found[name] = (getattr(module, "conv1", module), synthesis.feature_frame(name))
    return found

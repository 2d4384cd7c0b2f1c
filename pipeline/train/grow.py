"""A model of small pictures becomes the start of one for larger pictures.

Progressive growing (Karras et al. 2018, "Progressive Growing of GANs", section 2) without its
fading in: StyleGAN2's skip generator sums an image of every resolution, so a new block whose image
layer is zero leaves each picture as it was, only enlarged. The discriminator's new blocks have
random weights. What a few cores can train at 32 pixels need not be learned again at 128.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models import stylegan2, stylegan3


def grown_generator(
    generator: stylegan2.Generator | stylegan3.Generator, resolution: int
) -> stylegan2.Generator:
    """The generator with blocks added up to `resolution`; its pictures are the old ones, enlarged.

    The new convolutions have random weights (torch's global random numbers). ConfigError for a
    generator that cannot grow: StyleGAN3, or another architecture than skip.
    """
    if not isinstance(generator, stylegan2.Generator):
        raise ConfigError(
            "grow=true: a StyleGAN3 has no blocks that could be added; only StyleGAN2 grows."
        )
    if any(block.architecture != "skip" for block in generator.synthesis.blocks):
        raise ConfigError(
            "grow=true needs a generator with network.g_architecture=skip, whose image is a sum "
            "over all resolutions; this model has another one."
        )
    larger = cast(stylegan2.Generator, _with_old_weights(generator, resolution))
    for block in larger.synthesis.blocks:
        if block.size[0] > generator.img_resolution:
            nn.init.zeros_(block.torgb.weight)
            nn.init.zeros_(block.torgb.bias)
    return larger


def grown_average(averaged: nn.Module, larger: stylegan2.Generator) -> stylegan2.Generator:
    """The averaged generator with the blocks that `larger` (its generator, grown) got."""
    average = cast(stylegan2.Generator, _with_old_weights(averaged, larger.img_resolution))
    old = averaged.state_dict().keys()
    added = {name: value for name, value in larger.state_dict().items() if name not in old}
    average.load_state_dict(added, strict=False)
    return average


def grown_discriminator(
    discriminator: stylegan2.Discriminator, resolution: int
) -> stylegan2.Discriminator:
    """The discriminator for images of `resolution`; blocks before the old ones are random."""
    return cast(stylegan2.Discriminator, _with_old_weights(discriminator, resolution))


def _with_old_weights(network: nn.Module, resolution: int) -> nn.Module:
    """A network of the same settings at `resolution`, with all the weights that both have."""
    settings = {**vars(network)["init_kwargs"], "img_resolution": resolution}
    larger = type(network)(**settings)
    names = larger.state_dict().keys()
    common = {name: value for name, value in network.state_dict().items() if name in names}
    larger.load_state_dict(common, strict=False)
    return larger.to(next(iter(common.values()), torch.empty(0)).device)

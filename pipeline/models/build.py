"""Settings to networks with random weights.

The weights come from torch's global random numbers: seed them first.
"""

from __future__ import annotations

from typing import Any

from pipeline.errors import ConfigError
from pipeline.models import stylegan2, stylegan3
from pipeline.models.checkpoint import NetworkDescription
from pipeline.models.config import NetworkConfig

Generator = stylegan2.Generator | stylegan3.Generator

# Critically sampled layers of StyleGAN3, and the least number of channels a layer may have.
NUM_CRITICAL = 2
LEAST_CHANNELS = 4


def architecture_of(generator: NetworkDescription) -> str:
    """What NetworkConfig calls the architecture of a generator that a model holds."""
    if generator.class_name == "stylegan2.Generator":
        return "stylegan2"
    return "stylegan3-r" if generator.arguments.get("conv_kernel") == 1 else "stylegan3-t"


def build(
    config: NetworkConfig, resolution: int, channels: int, c_dim: int, square: bool = True
) -> tuple[Generator, stylegan2.Discriminator]:
    """(generator, discriminator) for images of `resolution` pixels height.

    Args:
        config: the networks' shape.
        resolution: height of the images, a power of two (StyleGAN3: from 16 on).
        channels: of the images, 3 for RGB, 1 for grey.
        c_dim: width of the labels; 0: none.
        square: False for images twice as high as wide (StyleGAN2 only).

    Raises:
        ConfigError: if the networks would have too few channels, or the shape is not possible.
        ModelError: if the resolution is not possible.
    """
    _check_channels("network.channel_base", config.channel_base, resolution)
    discriminator = build_discriminator(config, resolution, channels, c_dim, square)
    common: dict[str, Any] = {
        "z_dim": config.z_dim,
        "c_dim": c_dim,
        "w_dim": config.w_dim,
        "img_resolution": resolution,
        "img_channels": channels,
        "mapping_kwargs": {"num_layers": config.mapping_layers},
        "channel_base": config.channel_base,
        "channel_max": config.channel_max,
        "conv_clamp": config.conv_clamp,
        "num_fp16_res": config.num_fp16_res,
    }
    if config.architecture == "stylegan2":
        # Left out where it is the usual one, so that files name only what is special.
        special: dict[str, Any] = (
            {} if config.modulation == "demodulate" else {"modulation": config.modulation}
        )
        generator: Generator = stylegan2.Generator(
            **common,
            **special,
            architecture=config.g_architecture,
            use_noise=config.use_noise,
            square=square,
        )
        return generator, discriminator
    if not square:
        raise ConfigError(
            f"network.architecture={config.architecture} makes square images only; use stylegan2."
        )
    rotation = config.architecture == "stylegan3-r"
    generator = stylegan3.Generator(
        **common,
        num_layers=config.synthesis_layers,
        num_critical=NUM_CRITICAL,
        margin_size=config.margin_size,
        filter_size=config.filter_size,
        conv_kernel=1 if rotation else 3,
        use_radial_filters=rotation,
    )
    return generator, discriminator


def build_discriminator(
    config: NetworkConfig, resolution: int, channels: int, c_dim: int, square: bool = True
) -> stylegan2.Discriminator:
    """A discriminator alone; arguments and errors as of `build`."""
    _check_channels("network.d_channel_base", config.d_channel_base, resolution)
    return stylegan2.Discriminator(
        c_dim=c_dim,
        img_resolution=resolution,
        img_channels=channels,
        architecture=config.d_architecture,
        channel_base=config.d_channel_base,
        channel_max=config.d_channel_max,
        num_fp16_res=config.num_fp16_res,
        conv_clamp=config.conv_clamp,
        square=square,
        mapping_kwargs={"num_layers": config.d_mapping_layers},
        epilogue_kwargs={
            "mbstd_group_size": config.mbstd_group,
            "mbstd_num_channels": config.mbstd_channels,
        },
    )


def _check_channels(key: str, base: int, resolution: int) -> None:
    if base // resolution < LEAST_CHANNELS:
        raise ConfigError(
            f"{key}={base} leaves {base // resolution} channels at {resolution} px; use at least "
            f"{LEAST_CHANNELS * resolution}."
        )

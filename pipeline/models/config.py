"""Settings of the networks' shape, and of the import stage. Plain values; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from pipeline.errors import ConfigError, check_choice, check_range

NETWORKS = ("stylegan2", "stylegan3-t", "stylegan3-r")
MODULATIONS = ("demodulate", "adain")
BLOCK_ARCHITECTURES = ("orig", "skip", "resnet")


@dataclass
class NetworkConfig:
    """Shape of generator and discriminator; resolution and labels come from the dataset."""

    # stylegan2, stylegan3-t (equivariant to translation) or stylegan3-r (to rotation as well).
    architecture: str = "stylegan3-t"
    # Generator channels at resolution r: channel_base / r, at most channel_max.
    channel_base: int = 32768
    channel_max: int = 512
    # Width of the latent z, of the intermediate latent w, and depth between them.
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 2
    # Largest magnitude of activations in G and D; null: unlimited (fails in half precision).
    conv_clamp: float | None = 256
    # So many of the highest resolutions run in half precision, on a GPU only.
    num_fp16_res: int = 4
    # StyleGAN2 generator: skip, resnet or orig.
    g_architecture: str = "skip"
    # StyleGAN2 generator: demodulate, or adain as in StyleGAN's first version.
    modulation: str = "demodulate"
    # StyleGAN2 generator: noise inputs.
    use_noise: bool = True
    # StyleGAN3: layers before the image layer.
    synthesis_layers: int = 14
    # StyleGAN3: samples around the image.
    margin_size: int = 10
    # StyleGAN3: taps per sample of the low-pass filters.
    filter_size: int = 6
    # Discriminator: orig, skip or resnet; its channels.
    d_architecture: str = "resnet"
    d_channel_base: int = 32768
    d_channel_max: int = 512
    # Discriminator: images a group of the minibatch statistics, and how many channels they fill.
    mbstd_group: int = 4
    mbstd_channels: int = 1
    # Discriminator: layers that map the label.
    d_mapping_layers: int = 8

    def __post_init__(self) -> None:
        check_choice("network.architecture", self.architecture, NETWORKS)
        check_choice("network.modulation", self.modulation, MODULATIONS)
        if self.modulation == "adain" and self.architecture != "stylegan2":
            raise ConfigError(
                f"network.modulation=adain is StyleGAN2's option; {self.architecture} has none: "
                "use network=stylegan2, or leave it out."
            )
        check_choice("network.g_architecture", self.g_architecture, BLOCK_ARCHITECTURES)
        check_choice("network.d_architecture", self.d_architecture, BLOCK_ARCHITECTURES)
        for key in ("channel_base", "d_channel_base"):
            check_range(f"network.{key}", getattr(self, key), 16, 2**20)
        for key in ("channel_max", "d_channel_max"):
            check_range(f"network.{key}", getattr(self, key), 1, 2**14)
        for key in ("z_dim", "w_dim"):
            check_range(f"network.{key}", getattr(self, key), 1, 2**14)
        for key in ("mapping_layers", "d_mapping_layers"):
            check_range(f"network.{key}", getattr(self, key), 1, 32)
        if self.conv_clamp is not None:
            check_range("network.conv_clamp", self.conv_clamp, 0, low_open=True)
        check_range("network.num_fp16_res", self.num_fp16_res, 0, 16)
        check_range("network.synthesis_layers", self.synthesis_layers, 4, 32)
        check_range("network.margin_size", self.margin_size, 0, 64)
        check_range("network.filter_size", self.filter_size, 2, 32)
        check_range("network.mbstd_group", self.mbstd_group, 1, 64)
        check_range("network.mbstd_channels", self.mbstd_channels, 0, 64)


@dataclass
class ImportConfig:
    """A network file of another program becomes a model."""

    # The model's name.
    name: str = MISSING
    # Path of the file: a network pickle, or PTI's .pt.
    pkl: str = MISSING

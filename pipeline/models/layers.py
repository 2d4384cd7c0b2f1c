"""Layers that the StyleGAN2 and StyleGAN3 networks share: fully connected, mapping network.

Knows nothing about images. Weights keep unit variance at the start and are scaled when used
("equalised learning rate", Karras et al. 2018, section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from torch_utils.distributed import batch_mean
from torch_utils.ops.bias_act import bias_act


class FullyConnectedLayer(nn.Module):
    """y = act(x W^T + b), W and b scaled at run time.

    Args:
        in_features, out_features: widths.
        bias: whether there is one.
        activation: a name of `bias_act.ACTIVATIONS`.
        lr_multiplier: learning-rate factor relative to the rest of the network; the stored
            values are larger by its inverse.
        weight_init: standard deviation of the weights before scaling.
        bias_init: start value of the bias in effect, one number or one per output.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "linear",
        lr_multiplier: float = 1,
        weight_init: float = 1,
        bias_init: float | Sequence[float] = 0,
    ) -> None:
        super().__init__()
        self.activation = activation
        deviation = weight_init / lr_multiplier
        self.weight = nn.Parameter(torch.normal(0.0, deviation, size=[out_features, in_features]))
        start = torch.as_tensor(bias_init, dtype=torch.float32) / lr_multiplier
        self.bias = nn.Parameter(start.expand(out_features).clone()) if bias else None
        self.weight_gain = lr_multiplier / math.sqrt(in_features) if in_features else 1.0
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in_features] => [N, out_features]."""
        weight = self.weight.to(x.dtype) * self.weight_gain
        bias = None if self.bias is None else self.bias.to(x.dtype) * self.bias_gain
        return bias_act(F.linear(x, weight, bias), act=self.activation)


def normalize_second_moment(x: torch.Tensor) -> torch.Tensor:
    """Scale each row of [N, C] to a mean square of 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class MappingNetwork(nn.Module):
    """Latent z and label c to intermediate latents w (Karras et al. 2019, section 2; 2020b, C).

    Args:
        z_dim: width of z; 0: no z, w depends on the label alone.
        c_dim: width of the label; 0: none.
        w_dim: width of w.
        num_ws: how often w is repeated, once a synthesis layer; None: not at all.
        num_layers: depth.
        embed_features: width of the embedded label; None: w_dim.
        layer_features: width of the hidden layers; None: w_dim.
        activation: of the hidden layers and the last.
        lr_multiplier: of the layers after the embedding.
        w_avg_beta: decay of the running mean of w per update; None: no mean is kept.
    """

    w_avg: torch.Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.998,
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.num_ws = num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        embed_features = w_dim if embed_features is None else embed_features
        layer_features = w_dim if layer_features is None else layer_features
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features)
        widths = [z_dim + (embed_features if c_dim > 0 else 0)]
        widths += [layer_features] * (num_layers - 1) + [w_dim]
        for index in range(num_layers):
            layer = FullyConnectedLayer(
                widths[index],
                widths[index + 1],
                activation=activation,
                lr_multiplier=lr_multiplier,
            )
            self.add_module(f"fc{index}", layer)
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros([w_dim]))

    def forward(
        self,
        z: torch.Tensor | None,
        c: torch.Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """Latents to w.

        Args:
            z: [N, z_dim], unit normal; ignored (may be None) where z_dim is 0.
            c: [N, c_dim], one-hot or soft labels; ignored (may be None) where c_dim is 0.
            truncation_psi: 1 leaves w, 0 gives the mean w (Karras et al. 2019, B).
            truncation_cutoff: truncate only so many leading layers; None: all.
            update_emas: move the running mean of w towards this batch's mean.

        Returns [N, num_ws, w_dim], or [N, w_dim] where num_ws is None.
        """
        parts = []
        if self.z_dim > 0:
            assert z is not None
            parts.append(normalize_second_moment(z.to(torch.float32)))
        if self.c_dim > 0:
            assert c is not None
            parts.append(normalize_second_moment(self.embed(c.to(torch.float32))))
        x = torch.cat(parts, dim=1)
        for index in range(self.num_layers):
            x = self.get_submodule(f"fc{index}")(x)
        if update_emas and self.w_avg_beta is not None:
            mean = batch_mean(x.detach().mean(dim=0))
            self.w_avg.copy_(mean.lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is None:
            return x
        ws = x.unsqueeze(1).repeat(1, self.num_ws, 1)
        if truncation_psi == 1:
            return ws
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        return torch.cat([self.w_avg.lerp(ws[:, :cutoff], truncation_psi), ws[:, cutoff:]], dim=1)

"""Whether two pictures show the same face: similarity of a network's embeddings.

No network that is trained to tell drawn faces apart ships with the project, so a general one
stands in: its figure ranks pictures of one face against each other, and is no yes or no. Whoever
writes it down names the network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.metrics.features import FeatureNetwork
from torch_utils.pixels import to_uint8


def similarity(network: FeatureNetwork, a: Tensor, b: Tensor) -> float:
    """Cosine of the embeddings of two images, 1 x C x H x W in [-1, 1]; 1: the same."""
    both = torch.cat([a, b])
    pixels = torch.from_numpy(to_uint8(both)).permute(0, 3, 1, 2)
    one, other = network(pixels).features
    return float(F.cosine_similarity(one, other, dim=0))

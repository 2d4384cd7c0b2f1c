"""What the reader is trained to: one number for a batch, and its parts by name."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data import landmarks as lm
from pipeline.models.face_reader import ReaderOutput
from pipeline.train.reader.batches import Batch

# Width of the heat that is wanted around a landmark, in cells.
SIGMA = 1.0
# A face of no width (landmarks outside each other's reach) must not divide by nothing.
SMALLEST_WIDTH = 0.05
# Weights of the parts. Landmarks count most; their distances are small numbers.
WEIGHTS = {
    "landmarks": 10.0,
    "heat": 0.5,
    "errors": 0.1,
    "visibility": 0.5,
    "expression": 1.0,
    "angles": 2.0,
}
LABEL_SMOOTHING = 0.05


def losses(out: ReaderOutput, truth: Batch) -> dict[str, Tensor]:
    """Each part's mean over the batch, unweighted."""
    inside = ((truth.landmarks > 0) & (truth.landmarks < 1)).all(dim=2).float()
    count = inside.sum().clamp(min=1)
    distance = (out.landmarks - truth.landmarks).square().sum(dim=2).clamp(min=1e-12).sqrt()
    width = face_widths(truth.landmarks).clamp(min=SMALLEST_WIDTH)[:, None]
    wanted = _heat(truth.landmarks, out.heat.shape[2], out.heat.shape[3])
    # Kullback-Leibler divergence of the heat that is wanted and the heat that is there.
    heat = (wanted * (wanted.clamp(min=1e-12).log() - out.heat)).sum(dim=(2, 3))
    # Negative log-likelihood of a Laplace distribution of that scale.
    errors = out.log_error + distance.detach() * (-out.log_error).exp()
    return {
        "landmarks": (distance / width * inside).sum() / count,
        "heat": (heat * inside).sum() / count,
        "errors": (errors * inside).sum() / count,
        "visibility": F.binary_cross_entropy_with_logits(out.visibility, truth.visible),
        "expression": F.cross_entropy(
            out.expression, truth.expressions, label_smoothing=LABEL_SMOOTHING
        ),
        "angles": F.smooth_l1_loss(out.angles, truth.angles, beta=0.2),
    }


def total(parts: dict[str, Tensor]) -> Tensor:
    """The number that is made small."""
    return torch.stack([WEIGHTS[name] * value for name, value in parts.items()]).sum()


def face_widths(landmarks: Tensor) -> Tensor:
    """N×28×2 => N: from cheek to cheek, as `landmarks.face_width`."""
    across = landmarks[:, lm.INDEX["contour_right"]] - landmarks[:, lm.INDEX["contour_left"]]
    return across.square().sum(dim=1).sqrt()


def _heat(landmarks: Tensor, height: int, width: int) -> Tensor:
    """N×P×height×width: a normal distribution around each landmark, summing to 1."""
    columns = torch.arange(width, device=landmarks.device) + 0.5
    rows = torch.arange(height, device=landmarks.device) + 0.5
    x = -((columns - landmarks[..., :1] * width) ** 2) / (2 * SIGMA**2)
    y = -((rows - landmarks[..., 1:] * height) ** 2) / (2 * SIGMA**2)
    return y.softmax(dim=2)[..., :, None] * x.softmax(dim=2)[..., None, :]

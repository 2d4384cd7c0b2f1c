"""Directions: how a model's latents must change for its faces to change in one respect.

    directions.safetensors  mean, spread       w = mean + spread u, u of unit variance
                            weights, bias      measures = bias + weights u  (ridge regression)
                            noise              what each measure leaves unexplained, variance
                            expression_weights expressions' logits = ... u  (logistic regression)
    directions.json         names of measures and expressions, rows of ws, cross-validated scores,
                            the model's digest

Measures are the 28 landmarks (shares of the picture's side), the log odds of the expressions, the
head's angles, and coarse colours of the picture. A goal is a wanted change of all of them: what the
goal does not name is to stay. The likeliest latents with that change are

    u = W^T (W W^T + N)^-1 dy,

the conditional mean of a Gaussian u given noisy linear measurements (Bishop 2006, eq. 2.116). So
each direction is conditioned against the head's angles and the other expressions at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.data import landmarks as lm
from pipeline.data.face_reader import TensorReading
from pipeline.errors import ArtifactError

FORMAT = 1
TENSORS, ABOUT = "directions.safetensors", "directions.json"
# Probabilities below this are all the same "no".
LEAST_CHANCE = 2e-3
# Cells of the coarse picture, a side.
COLOURS = 4
# Degrees that count as much as a landmark's way over the whole picture.
_ANGLE_UNIT = 90.0


@dataclass(frozen=True, eq=False)
class Directions:
    """See the module; `rows`: first and one past the last row of ws that a direction moves."""

    mean: Tensor  # w_dim
    spread: Tensor  # w_dim × w_dim, lower triangular
    weights: Tensor  # M × w_dim
    bias: Tensor  # M
    noise: Tensor  # M
    expression_weights: Tensor  # E × w_dim
    measures: tuple[str, ...]
    expressions: tuple[str, ...]
    rows: tuple[int, int]
    about: Mapping[str, Any]

    def solve(self, change: Tensor) -> Tensor:
        """w_dim: the likeliest change of w for this change of the measures (M)."""
        matrix = self.weights @ self.weights.T
        matrix.diagonal().add_(self.noise)
        u: Tensor = self.weights.T @ torch.linalg.solve(matrix, change.to(self.weights))
        return self.spread @ u

    def towards(self, shares: Mapping[str, float], away: Mapping[str, float]) -> Tensor:
        """w_dim: the change of w that raises these expressions' logits (name -> share) against
        those of `away`, of unit length among likely latents."""
        wanted = self.expression_weights.new_zeros(len(self.expressions))
        for sign, named in ((1.0, shares), (-1.0, away)):
            for name, share in named.items():
                if name in self.expressions:
                    wanted[self.expressions.index(name)] += sign * share
        u = wanted @ self.expression_weights
        return self.spread @ (u / u.norm().clamp_min(1e-9))

    def save(self, folder: Path) -> None:
        """Write both files."""
        tensors = {name: getattr(self, name).float().contiguous() for name in _TENSOR_NAMES}
        save_file(tensors, folder / TENSORS)
        about = {
            "format": FORMAT,
            "measures": list(self.measures),
            "expressions": list(self.expressions),
            "rows": list(self.rows),
            **self.about,
        }
        text = json.dumps(about, indent=1) + "\n"
        (folder / ABOUT).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Directions:
        """Read a folder; ArtifactError where it is damaged."""
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            tensors = load_file(folder / TENSORS)
            if about.pop("format") != FORMAT:
                raise ValueError("it is of another format")
            found = cls(
                **{name: tensors[name] for name in _TENSOR_NAMES},
                measures=tuple(about.pop("measures")),
                expressions=tuple(about.pop("expressions")),
                rows=tuple(about.pop("rows")),
                about=about,
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ArtifactError(
                f"{folder} holds no directions that can be read ({error}); learn them again: "
                "make directions."
            ) from error
        return found


_TENSOR_NAMES = ("mean", "spread", "weights", "bias", "noise", "expression_weights")


def measure_names(expressions: Sequence[str]) -> tuple[str, ...]:
    """Names of the measures, in order."""
    points = [f"{name}.{axis}" for name in lm.NAMES for axis in "xy"]
    cells = [f"colour.{row}.{column}.{c}" for row in range(COLOURS) for column in range(COLOURS)
             for c in "rgb"]  # fmt: skip
    return (*points, *(f"odds.{name}" for name in expressions), "yaw", "pitch", "roll", *cells)


def measured(reading: TensorReading, images: Tensor) -> Tensor:
    """N × M: the measures of N images (N×3×H×W in [-1, 1]) and what was read of them."""
    side = float(max(images.shape[2:]))
    colours = torch.nn.functional.adaptive_avg_pool2d(images, COLOURS)
    return torch.cat(
        [
            reading.landmarks.flatten(1) / side,
            log_odds(reading.expressions),
            reading.angles / _ANGLE_UNIT,
            # Row, column, colour, as `measure_names` has them.
            colours.permute(0, 2, 3, 1).flatten(1),
        ],
        dim=1,
    )


def log_odds(chances: Tensor) -> Tensor:
    """Probabilities => their log odds, limited to what can be told apart."""
    kept = chances.clamp(LEAST_CHANCE, 1 - LEAST_CHANCE)
    return (kept / (1 - kept)).log()

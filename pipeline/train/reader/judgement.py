"""How well a reader reads faces it has not seen: figures and a sheet to look at.

Faces are those of other characters, painted by another seed in the painter's usual poses. They
are read as `FaceReader` reads portraits, undistorted; `distorted` ones by a single look, as in
training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.data import landmarks as lm
from pipeline.data.face_reader import FaceReader
from pipeline.data.overlay import draw_landmarks, resized
from pipeline.models.face_reader import FaceReaderNetwork
from pipeline.train.logbook import tile
from pipeline.train.reader.batches import DistortedFaces
from pipeline.train.reader.objective import face_widths
from pipeline.train.reader.paintings import ANGLE_NAMES, EXPRESSION_NAMES, Paintings

BATCH = 20
SHEET_COLUMNS, SHEET_ROWS = 8, 4
SHEET_CELL = 256


@dataclass(frozen=True)
class Judgement:
    """What came of reading n held-out faces."""

    landmarks: np.ndarray  # n×28×2, px, as read
    errors: np.ndarray  # n×28, shares of the face's width
    expected: np.ndarray  # n×28, the reader's own expectation of them
    visible: np.ndarray  # n×28 bool, as read
    expressions: np.ndarray  # n, as read
    angles: np.ndarray  # n×3 degrees, as read

    def figures(self, paintings: Paintings) -> dict[str, float]:
        """Means over the faces; errors in per cent of the face's width."""
        count = len(self.errors)
        truth = paintings.truth
        right = self.expressions == truth.expressions[:count]
        turned = np.abs(self.angles - truth.angles[:count])
        by_face = 100 * self.errors.mean(axis=1)
        return {
            "landmark_error": float(by_face.mean()),
            "landmark_error_median": float(np.median(by_face)),
            "landmark_error_p95": float(np.quantile(by_face, 0.95)),
            "landmark_error_expected": float(100 * self.expected.mean()),
            "expression_accuracy": float(right.mean()),
            "visibility_accuracy": float((self.visible == truth.visible[:count]).mean()),
            **{f"{name}_error": float(turned[:, i].mean()) for i, name in enumerate(ANGLE_NAMES)},
        }

    def by_part(self) -> dict[str, float]:
        """Mean error of each part's landmarks, per cent of the face's width."""
        return {
            name: round(float(100 * self.errors[:, points].mean()), 3)
            for name, points in lm.PARTS.items()
        }

    def confusion(self, paintings: Paintings) -> dict[str, dict[str, int]]:
        """Painted expression -> expression as read -> number of faces."""
        table: dict[str, dict[str, int]] = {name: {} for name in EXPRESSION_NAMES}
        count = len(self.expressions)
        for true, read in zip(paintings.truth.expressions[:count], self.expressions, strict=True):
            row = table[EXPRESSION_NAMES[true]]
            row[EXPRESSION_NAMES[read]] = row.get(EXPRESSION_NAMES[read], 0) + 1
        return table


def judge(network: FaceReaderNetwork, paintings: Paintings, count: int) -> Judgement:
    """Read the first `count` paintings."""
    device = next(network.parameters()).device
    reader = FaceReader(network, EXPRESSION_NAMES, device)
    parts = []
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        pixels = np.stack([paintings.image(number) for number in numbers])
        images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            read = reader.tensors(images)
        parts.append([value.cpu().numpy() for value in read])
    landmarks, expected, visible, chances, angles = (
        np.concatenate(values) for values in zip(*parts, strict=True)
    )
    true = paintings.truth.landmarks[:count]
    widths = np.array([lm.face_width(points) for points in true])[:, None]
    return Judgement(
        landmarks=landmarks,
        errors=np.linalg.norm(landmarks - true, axis=2) / widths,
        expected=expected / widths,
        visible=visible > 0.5,
        expressions=chances.argmax(axis=1),
        angles=angles,
    )


def judge_distorted(
    network: FaceReaderNetwork, faces: DistortedFaces, count: int
) -> dict[str, float]:
    """One look at `count` distorted faces: the task of training, on faces it has not seen."""
    network.eval()
    errors, right = [], []
    device = next(network.parameters()).device
    for first in range(0, count, BATCH):
        batch = faces.batch(first, min(BATCH, count - first)).to(device)
        with torch.inference_mode():
            out = network(batch.images)
        width = face_widths(batch.landmarks)[:, None]
        distance = (out.landmarks - batch.landmarks).norm(dim=2) / width
        inside = ((batch.landmarks > 0) & (batch.landmarks < 1)).all(dim=2)
        errors.append(distance[inside])
        right.append(out.expression.argmax(dim=1) == batch.expressions)
    return {
        "distorted_landmark_error": float(100 * torch.cat(errors).mean()),
        "distorted_expression_accuracy": float(torch.cat(right).float().mean()),
    }


def write_sheet(path: Path, paintings: Paintings, landmarks: np.ndarray) -> None:
    """Held-out faces with the landmarks as they were read."""
    cells = []
    for number in range(min(SHEET_COLUMNS * SHEET_ROWS, len(landmarks))):
        image, scale = resized(paintings.image(number), SHEET_CELL)
        cells.append(draw_landmarks(image, landmarks[number] * scale))
    Image.fromarray(tile(np.stack(cells), SHEET_COLUMNS)).save(path)

"""A drag's pictures and the face in them, for strategies that steer by what is seen.

Knows the generator, the face reader and how a mask is blended; nothing of handles or steps.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data import landmarks as lm
from pipeline.data.face_reader import CONFIDENT, FaceReader
from pipeline.data.landmarks import Points
from pipeline.edit.blending import Blend
from pipeline.edit.drag import LatentPrior, Seen, Survey
from pipeline.invert.pti import picture_of

# Longest side of the small pictures in which change is measured.
SMALL_PX = 16
# The most faces that a survey looks at: of up to 128 px or on a GPU, and of larger ones.
SAMPLES, FEWEST_SAMPLES = 64, 24
# How far they lie from the face, in standard deviations of w.
SURVEY_SPREAD = 0.7
_BATCH = 16


class GeneratorView:
    """Pictures of a generator; see `pipeline.edit.drag.View`."""

    def __init__(self, generator: Any, layer: str, prior: LatentPrior) -> None:
        self._generator = generator
        self._layer = layer
        self._prior = prior
        self._blend: tuple[Tensor, Tensor, Blend] | None = None
        self._start: tuple[Tensor, Tensor] | None = None
        self._first: tuple[Tensor, Tensor | None, Seen] | None = None
        self._survey: tuple[Tensor, tuple[int, int], Tensor | None, int, Survey] | None = None

    @cached_property
    def _reader(self) -> FaceReader:
        return FaceReader.shipped(next(self._generator.parameters()).device)

    @torch.no_grad()
    def see(self, ws: Tensor, start_ws: Tensor, mask: Tensor | None) -> Seen:
        """The picture of ws (1 × num_ws × w_dim) and the face in it."""
        first = torch.equal(ws, start_ws)
        if first and self._first is not None:
            there, masked, seen = self._first
            if torch.equal(there, ws) and _same(masked, mask):
                return seen
        plain = picture_of(self._generator, ws)
        shown = plain if mask is None else self._blended(ws, start_ws, mask)
        landmarks, errors = self._read(shown, mirror=True, near=None)
        small = _small(plain)[0]
        if first:
            self._start = (start_ws, small)
        seen = Seen(landmarks[0], float(errors), small - self._start_small(start_ws))
        if first:
            self._first = (ws, mask, seen)
        return seen

    def landmarks(self, ws: Tensor, start_ws: Tensor, mask: Tensor | None) -> Tensor:
        """28×2 px, without the second opinion of a mirror image; differentiable by ws."""
        if mask is None:
            shown = picture_of(self._generator, ws)
        else:
            shown = self._blended(ws, start_ws, mask)
        return self._read(shown, mirror=False, near=None)[0][0]

    @torch.no_grad()
    def survey(
        self, start_ws: Tensor, rows: tuple[int, int], mask: Tensor | None, faces: int
    ) -> Survey:
        """Faces near the start's, drawn from a fixed seed; kept for the next drag from there."""
        if self._survey is not None:
            ws, asked, masked, count, survey = self._survey
            same = (asked, count) == (rows, faces) and _same(masked, mask)
            if same and torch.equal(ws, start_ws):
                return survey
        survey = self._look_around(start_ws, rows, mask, faces)
        self._survey = (start_ws, rows, mask, faces, survey)
        return survey

    def _look_around(
        self, start_ws: Tensor, rows: tuple[int, int], mask: Tensor | None, faces: int
    ) -> Survey:
        start = self.see(start_ws, start_ws, mask)
        near = start.landmarks.double().cpu().numpy()
        readable = start.error <= CONFIDENT
        base = self._start_small(start_ws)
        draws = torch.Generator().manual_seed(0)
        spread = self._prior.spread.double().cpu()
        count = min(faces, self._samples())
        normal = torch.randn(count, len(spread), generator=draws, dtype=torch.float64)
        moves = SURVEY_SPREAD * normal @ spread.t()
        kept, places, changes = [], [], []
        for some in moves.split(_BATCH):
            ws = start_ws.repeat(len(some), 1, 1)
            ws[:, rows[0] : rows[1]] += some[:, None].to(ws)
            plain = picture_of(self._generator, ws)
            sure = torch.ones(len(some), dtype=torch.bool)
            if readable:
                seen = plain if mask is None else self._blended(ws, start_ws, mask)
                points, errors = self._read(seen, mirror=False, near=near)
                sure = (errors <= 2 * CONFIDENT).cpu()
                places.append(points.flatten(1).double().cpu()[sure])
            kept.append(some[sure])
            changes.append((_small(plain) - base).double().cpu()[sure])
        return Survey(torch.cat(kept), torch.cat(places) if readable else None, torch.cat(changes))

    def _start_small(self, start_ws: Tensor) -> Tensor:
        if self._start is None or not torch.equal(self._start[0], start_ws):
            self._start = (start_ws, _small(picture_of(self._generator, start_ws))[0])
        return self._start[1]

    def _samples(self) -> int:
        if next(self._generator.parameters()).device.type != "cpu":
            return SAMPLES
        share = (128 / self._generator.img_resolution) ** 2
        return max(FEWEST_SAMPLES, min(SAMPLES, round(SAMPLES * share)))

    def _blended(self, ws: Tensor, start_ws: Tensor, mask: Tensor) -> Tensor:
        if self._blend is None or not (
            _same(self._blend[1], mask) and torch.equal(self._blend[0], start_ws)
        ):
            blend = Blend(self._generator, start_ws, mask, self._layer, picture_of)
            self._blend = (start_ws, mask, blend)
        return self._blend[2].picture(ws)

    def _read(self, pictures: Tensor, mirror: bool, near: Points | None) -> tuple[Tensor, Tensor]:
        read = self._reader.tensors(pictures.clamp(-1, 1), mirror, near)
        ends = read.landmarks[:, [lm.INDEX["contour_left"], lm.INDEX["contour_right"]]].detach()
        width = (ends[:, 0] - ends[:, 1]).norm(dim=1).clamp_min(1.0)
        return read.landmarks, read.errors.detach().mean(1) / width


def _small(pictures: Tensor) -> Tensor:
    """N × 3 × H × W in [-1, 1] -> N × 3 × h × w in [0, 255], averaged over squares."""
    height, width = pictures.shape[2:]
    share = min(1.0, SMALL_PX / max(height, width))
    size = (max(1, round(height * share)), max(1, round(width * share)))
    return (F.adaptive_avg_pool2d(pictures.clamp(-1, 1), size) + 1) * 127.5


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one is other or (one.shape == other.shape and torch.equal(one, other))

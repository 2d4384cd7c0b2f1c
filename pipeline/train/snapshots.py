"""What is done at every snapshot: samples to look at, a score, and the best one so far kept aside.

    snapshots.json       a verdict a snapshot (publication.py)
    best/<images>/       the networks of the best ones so far, while training
    memorisation.png     of the published model: samples beside their nearest training images

Everything drawn follows from the seed, so every snapshot is judged by the same latents.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import weights
from pipeline.console import say
from pipeline.data.image_zip import ImageZip
from pipeline.errors import ModelError
from pipeline.metrics import perceptual
from pipeline.metrics.heldout import HeldOutScore
from pipeline.models import checkpoint
from pipeline.train.choice import Chosen
from pipeline.train.config import TrainConfig
from pipeline.train.images import TrainingImages
from pipeline.train.memorisation import Nearest, TrainingSet, write_sheet
from pipeline.train.publication import Record, Verdict, best, guard, read_record, write_record
from torch_utils import rng
from torch_utils.pixels import to_uint8

BEST = "best"
# Samples are made so many at a time, whatever the batch.
SAMPLE_BATCH = 16
# More rows than this make no grid that anybody looks at.
MOST_CHARACTERS = 16
# More training images than this are not compared with; which ones are, the seed decides.
MOST_COMPARED = 1000
# More held-out images than this make the score slower, hardly surer.
MOST_HELD_OUT = 1000
# Fewer held-out images give no score.
FEWEST_HELD_OUT = 2
PERCEPTUAL = "lpips-alex"
# The best snapshot, and the one that was the best before: a training that goes back to an earlier
# state may have to do without the newest.
KEPT_BEST = 2


@dataclass(frozen=True)
class FixedLatents:
    """The same latents and labels at every snapshot, so that one sees them change."""

    z: Tensor
    c: Tensor

    @classmethod
    def draw(
        cls, count: int, images: TrainingImages, z_dim: int, seed: int, purpose: str
    ) -> FixedLatents:
        """Latents from the seed; labels with the set's frequencies."""
        draws = rng.generator(seed, 0, 0, purpose)
        z = torch.randn(count, z_dim, generator=draws)
        return cls(z, images.draw_labels(count, draws))

    @classmethod
    def grid(
        cls, size: tuple[int, int], images: TrainingImages, z_dim: int, seed: int
    ) -> FixedLatents:
        """Latents of a grid of (columns, rows), row by row; of several characters one a row.

        Each column is one latent then, and there are as many rows as characters.
        """
        columns, rows = size
        if images.classes < 2:
            return cls.draw(columns * rows, images, z_dim, seed, "samples")
        z = torch.randn(columns, z_dim, generator=rng.generator(seed, 0, 0, "samples"))
        shown = shown_classes(images.classes)
        c = torch.eye(images.classes)[shown].repeat_interleave(columns, dim=0)
        return cls(z.repeat(len(shown), 1), c)

    @torch.no_grad()
    def render(self, generator: nn.Module, device: torch.device) -> Tensor:
        """N×C×H×W images in [-1, 1] on the CPU."""
        parts = zip(self.z.split(SAMPLE_BATCH), self.c.split(SAMPLE_BATCH), strict=True)
        made = [generator(z.to(device), c.to(device), noise_mode="const").cpu() for z, c in parts]
        return torch.cat(made)


def shown_classes(count: int) -> list[int]:
    """The classes that a grid shows: all, or an even choice of them."""
    rows = min(count, MOST_CHARACTERS)
    return [row * count // rows for row in range(rows)]


def reals_grid(size: tuple[int, int], images: TrainingImages) -> np.ndarray:
    """Training images laid out as `FixedLatents.grid` lays out samples, N×H×W×C uint8."""
    columns, rows = size
    if images.classes < 2:
        found = images.first(columns * rows)
    else:
        found = torch.cat([images.first_of(one, columns) for one in shown_classes(images.classes)])
    return found.numpy().transpose(0, 2, 3, 1)


class Judge:
    """Scores snapshots, and keeps the best one of them in the folder `out`.

    `measure` at every snapshot, `publish` at the end. Without held-out images or weights of a
    perceptual network nothing is scored, which is said once; the last snapshot is the model then.
    """

    def __init__(
        self,
        config: TrainConfig,
        images: TrainingImages,
        archive: ImageZip,
        chosen: Chosen,
        out: Path,
        device: torch.device,
    ) -> None:
        self._config = config
        self._images = images
        self._archive = archive
        self._chosen = chosen
        self._out = out
        self._device = device
        self._score: HeldOutScore | None = None
        self._training: TrainingSet | None = None
        compared = torch.randperm(
            len(chosen.train), generator=rng.generator(config.seed, 0, 0, "compared")
        )[:MOST_COMPARED]
        self._compared = [chosen.train[place] for place in sorted(compared.tolist())]
        self._why_not = self._obstacle()
        self.verdicts: list[Verdict] = []

    def begin(self, images_seen: int) -> None:
        """Take up the verdicts up to there; later ones come again."""
        known = read_record(self._out).verdicts
        self.verdicts = [verdict for verdict in known if verdict.images_seen <= images_seen]
        if self._why_not:
            say(f"{self._config.STAGE}: no snapshot is scored: {self._why_not}.")

    def measure(self, networks: Mapping[str, nn.Module], images_seen: int) -> dict[str, float]:
        """Score a snapshot, and keep its networks where it is the best so far."""
        if self._why_not:
            return {}
        if self._score is None:
            self._score = HeldOutScore.of(self._heldout(), device=self._device)
            self._training = self._training_set()
        assert self._training is not None
        fakes = self._samples(networks["G_ema"], self._config.score_samples)
        estimate = self._score(fakes)
        copied = self._training.nearest(fakes).copied
        # In units of what the training had to cover; its error where it began at the goal.
        first = self.verdicts[0] if self.verdicts else None
        scale = estimate.value if first is None else first.score
        error = (estimate.high - estimate.low) if first is None else (first.high - first.low)
        guarded = guard(
            estimate.value,
            copied,
            allowed=self._config.copies_allowed,
            scale=max(scale, error),
        )
        verdict = Verdict(images_seen, estimate.value, estimate.low, estimate.high, copied, guarded)
        self.verdicts = [*self.verdicts, verdict]
        if self._config.publish == "best" and best(self.verdicts) == verdict:
            self._keep(networks, images_seen)
        write_record(self._out, Record(tuple(self.verdicts)))
        return {
            "heldout_score": verdict.score,
            "heldout_score_low": verdict.low,
            "heldout_score_high": verdict.high,
            "copied": verdict.copied,
            "guarded_score": verdict.guarded,
        }

    def publish(self, networks: Mapping[str, nn.Module], images_seen: int) -> None:
        """Write the model: the best snapshot, or `networks`, with its memorisation sheet.

        A second call, by a run that was cut off after the first, changes nothing.
        """
        record = read_record(self._out)
        if record.published is not None and (self._out / checkpoint.ARCHITECTURE_FILE).is_file():
            return
        chosen = best([one for one in self.verdicts if self._folder(one.images_seen).is_dir()])
        if chosen is not None:
            folder = self._folder(chosen.images_seen)
            networks = checkpoint.load(folder, list(networks), self._device)
            images_seen = chosen.images_seen
        self._write_sheet(networks["G_ema"])
        checkpoint.save(self._out, networks, half=self._config.store_half)
        write_record(self._out, Record(tuple(self.verdicts), images_seen))
        shutil.rmtree(self._out / BEST, ignore_errors=True)

    def _keep(self, networks: Mapping[str, nn.Module], images_seen: int) -> None:
        folder = self._folder(images_seen)
        shutil.rmtree(folder, ignore_errors=True)
        checkpoint.save(folder, networks)
        # Later ones are of a way that was given up.
        now = [old for old in sorted(folder.parent.iterdir()) if old.name <= folder.name]
        for old in folder.parent.iterdir():
            if old not in now[-KEPT_BEST:]:
                shutil.rmtree(old)

    def _folder(self, images_seen: int) -> Path:
        return self._out / BEST / f"{images_seen:09d}"

    def _obstacle(self) -> str:
        if not self._config.score_samples:
            return f"{self._config.STAGE}.score_samples=0"
        if len(self._chosen.heldout) < FEWEST_HELD_OUT:
            return (
                f"the dataset holds out {len(self._chosen.heldout)} images; keep some with "
                f"{self._config.STAGE}.min_heldout=4"
            )
        if weights.find(PERCEPTUAL) is None:
            return (
                f"the weights of {PERCEPTUAL} are not on this machine; "
                "`python -m scripts.fetch_weights` fetches them"
            )
        return ""

    def _heldout(self) -> Iterator[Tensor]:
        return self._read(self._chosen.heldout[:MOST_HELD_OUT])

    def _training_set(self) -> TrainingSet:
        metric = perceptual.load(PERCEPTUAL, self._device)
        return TrainingSet(
            metric, self._read(self._compared), mirrored=self._config.xflip, device=self._device
        )

    def _read(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """uint8 N×C×H×W batches of the dataset's images."""
        for first in range(0, len(indices), SAMPLE_BATCH):
            some = [self._archive.read(index) for index in indices[first : first + SAMPLE_BATCH]]
            yield torch.from_numpy(np.stack(some).transpose(0, 3, 1, 2).copy())

    def _samples(self, generator: nn.Module, count: int) -> list[Tensor]:
        """uint8 N×3×H×W batches of the averaged generator's images."""
        z_dim = generator.get_submodule("mapping").z_dim
        assert isinstance(z_dim, int)
        latents = FixedLatents.draw(count, self._images, z_dim, self._config.seed, "score")
        pixels = to_uint8(latents.render(generator, self._device)).transpose(0, 3, 1, 2)
        return list(torch.from_numpy(pixels.copy()).split(SAMPLE_BATCH))

    def _write_sheet(self, generator: nn.Module) -> None:
        if not self._config.score_samples or weights.find(PERCEPTUAL) is None:
            return
        try:
            training = self._training or self._training_set()
        except ModelError:  # the weights went while it trained
            return
        fakes = self._samples(generator, self._config.score_samples)
        nearest: Nearest = training.nearest(fakes)
        names = [self._archive.names[index] for index in self._compared]
        samples = torch.cat(fakes).numpy().transpose(0, 2, 3, 1)

        def read(number: int) -> np.ndarray:
            pixels = self._archive.read(self._compared[number])
            return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels

        write_sheet(self._out, nearest, samples, read, names, PERCEPTUAL)

"""The reader stage: painted faces in, a face reader out.

    the painter -> work/train, work/heldout -> training -> architecture.json, reader.safetensors,
                                                           reader.json, heldout.json, heldout.png

`stats.jsonl` is the learning curve. What is painted and the states to go on from lie in `work/`
of the draft and go when the reader is complete. A run that was cut off goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pipeline.console import catch_stop, progress, say
from pipeline.data import landmarks as lm
from pipeline.data.face_reader import NETWORK, FaceReader, save
from pipeline.errors import Interrupted, ModelError
from pipeline.files import put_text
from pipeline.models import checkpoint
from pipeline.models.face_reader import FaceReaderNetwork, channels_last
from pipeline.train.averaged_state import AveragedState
from pipeline.train.logbook import Logbook
from pipeline.train.plain_loop import AGAIN, PlainLoop
from pipeline.train.reader.batches import Batch, DistortedFaces, read_ahead
from pipeline.train.reader.config import ReaderConfig
from pipeline.train.reader.judgement import judge, judge_distorted, write_sheet
from pipeline.train.reader.objective import losses, total
from pipeline.train.reader.paintings import (
    EXPRESSION_NAMES,
    Paintings,
    PaintingSet,
    paint_missing,
)
from pipeline.train.stage import threads
from torch_utils.device import choose_device, describe
from torch_utils.rng import derive_seed, seed_global

WORK, STATES = "work", "states"
FIGURES, SHEET = "heldout.json", "heldout.png"
# At a look while training, so many held-out faces are read.
LOOKS = 200


@dataclass(frozen=True)
class Job:
    """What one run of the stage works on."""

    config: ReaderConfig
    out: Path
    device: torch.device
    train: Paintings
    heldout: Paintings

    def faces(self, paintings: Paintings, purpose: str) -> DistortedFaces:
        """Distorted faces of `paintings`, by a seed of that purpose's own."""
        config = self.config
        seed = derive_seed(config.seed, "reader", purpose)
        return DistortedFaces(paintings, seed, self.input_px, config.distortion)

    @property
    def input_px(self) -> int:
        """Side of the network's input (a reader to start from may have another than is set)."""
        return self.config.input_px


def run(
    config: ReaderConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Train a reader into `out`, from `inputs["resume_from"]` if that is given."""
    out.mkdir(parents=True, exist_ok=True)
    work = out / WORK
    if (out / FIGURES).is_file() and not work.exists():
        return _metrics(out)
    network = _network(config, inputs.get("resume_from"))
    device = choose_device(config.device)
    with threads(config.threads), catch_stop() as stop:
        train, heldout = _painted(config, work, stop)
        job = Job(config, out, device, train, heldout)
        state = _state(channels_last(network.to(device)), config.learning_rate)
        went_on = state.restore(work / STATES)
        begin = f"going on from {state.images_seen / 1000:g} kimg" if went_on else "starting"
        say(
            f"reader: {sum(p.numel() for p in network.parameters()) / 1e6:.2f} M parameters at "
            f"{network.input_px} px on {len(train)} painted faces, {config.kimg:g} kimg in batches "
            f"of {config.batch}; {begin} on {describe(device)}."
        )
        _train(job, state, stop)
    _finish(job, state.averaged)
    shutil.rmtree(work)
    return _metrics(out)


def _state(network: FaceReaderNetwork, rate: float) -> AveragedState[FaceReaderNetwork]:
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-4
    )
    return AveragedState.begin("reader", network, optimizer)


def check(config: ReaderConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse a reader to start from that is none, before anything is painted."""
    _network(config, inputs.get("resume_from"))


def _network(config: ReaderConfig, base: Path | None) -> FaceReaderNetwork:
    if base is None:
        seed_global(config.seed, 0, 0, "reader")
        return FaceReaderNetwork(
            input_px=config.input_px,
            channels=config.channels,
            blocks=config.blocks,
            parts=[[part.start, part.stop] for part in lm.PARTS.values()],
            expressions=len(EXPRESSION_NAMES),
        )
    known = FaceReader.load(base)
    network = cast(FaceReaderNetwork, checkpoint.load(base, (NETWORK,))[NETWORK])
    if known.expressions != EXPRESSION_NAMES or network.input_px != config.input_px:
        raise ModelError(
            f"reader.resume_from={config.resume_from} reads {len(known.expressions)} expressions "
            f"at {network.input_px} px, and here are {len(EXPRESSION_NAMES)} at "
            f"{config.input_px} px; set reader.input_px={network.input_px}, or begin anew."
        )
    return network.requires_grad_(True)


def _painted(
    config: ReaderConfig, work: Path, stop: Callable[[], bool]
) -> tuple[Paintings, Paintings]:
    """The faces to train on and those to judge by, painted as far as they are not there."""
    sets = [
        _painting_set(config, work, "train", config.paintings, config.pose_spread),
        _painting_set(config, work, "heldout", config.heldout, 1.0),
    ]
    missing = sum(not one.is_painted(chunk) for one in sets for chunk in one.chunks())
    processes = (os.cpu_count() or 1) if config.workers is None else config.workers
    if missing:
        with progress("reader: painting", missing, "hundreds of faces") as bar:
            for one in sets:
                for _ in paint_missing(one, processes, stop):
                    bar.advance(1)
                if stop():
                    raise Interrupted(f"reader: stopped while painting; {AGAIN}")
    return Paintings(sets[0]), Paintings(sets[1])


def _painting_set(
    config: ReaderConfig, work: Path, name: str, count: int, pose_spread: float
) -> PaintingSet:
    seed = derive_seed(config.seed, "reader", "paintings", name)
    return PaintingSet(work / name, seed, count, config.picture_px, pose_spread)


def _train(job: Job, state: AveragedState[FaceReaderNetwork], stop: Callable[[], bool]) -> None:
    config = job.config
    length = round(config.kimg * 1000)
    logbook = Logbook(job.out, state.images_seen, events=False)
    faces = job.faces(job.train, "order")

    def make(start: int) -> Batch:
        # The last batch may be larger than what is left: every step has the same size.
        return faces.batch(start, config.batch)

    def step(batch: Batch) -> Mapping[str, Tensor]:
        return _step(job, state, batch.to(job.device))

    def look() -> Mapping[str, float]:
        return _look(job, state)

    with progress("reader", (length - state.images_seen) / 1000, "kimg") as bar:
        batches = read_ahead(make, range(state.images_seen, length, config.batch))
        try:
            PlainLoop(
                state, batches, step, look, job.out / WORK / STATES, logbook, bar, stop, length,
                config.batch, config.ema_kimg, config.log_kimg, config.save_kimg,
            ).run()  # fmt: skip
        finally:
            logbook.close()


def _step(job: Job, state: AveragedState[FaceReaderNetwork], batch: Batch) -> dict[str, Tensor]:
    seed_global(job.config.seed, 0, state.images_seen, "dropout")
    images = batch.images.contiguous(memory_format=torch.channels_last)
    bf16 = job.config.precision == "bf16"
    with torch.autocast(job.device.type, torch.bfloat16, enabled=bf16):
        out = state.network(images)
    parts = losses(out, batch)
    state.optimizer.zero_grad(set_to_none=True)
    total(parts).backward()
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), 5.0)
    state.optimizer.step()
    return {name: value.detach() for name, value in parts.items()}


def _look(job: Job, state: AveragedState[FaceReaderNetwork]) -> dict[str, float]:
    """How well the averaged network reads held-out faces, as painted and distorted."""
    count = min(LOOKS, len(job.heldout))
    figures = judge(state.averaged, job.heldout, count).figures(job.heldout)
    say(
        f"reader: {state.images_seen / 1000:g} kimg: landmarks "
        f"{figures['landmark_error']:.2f} % of the face's width off, expressions "
        f"{100 * figures['expression_accuracy']:.1f} % right."
    )
    both = figures | _distorted(job, state.averaged, count)
    return {f"heldout_{name}": value for name, value in both.items()}


def _distorted(job: Job, network: FaceReaderNetwork, count: int) -> dict[str, float]:
    return judge_distorted(network, job.faces(job.heldout, "heldout"), count)


def _finish(job: Job, network: FaceReaderNetwork) -> None:
    """Write the reader and judge what was written: half precision is part of it."""
    save(job.out, network, EXPRESSION_NAMES)
    stored = cast(FaceReaderNetwork, checkpoint.load(job.out, (NETWORK,), job.device)[NETWORK])
    count = len(job.heldout)
    judgement = judge(stored, job.heldout, count)
    write_sheet(job.out / SHEET, job.heldout, judgement.landmarks)
    content = {
        "faces": count,
        "figures": {**judgement.figures(job.heldout), **_distorted(job, stored, count)},
        "landmark_error_by_part": judgement.by_part(),
        "expressions_read": judgement.confusion(job.heldout),
    }
    put_text(job.out / FIGURES, json.dumps(content, indent=1) + "\n")


def _metrics(out: Path) -> dict[str, float | int | str]:
    content: dict[str, Any] = json.loads((out / FIGURES).read_text(encoding="utf-8"))
    figures = {name: float(f"{value:.5g}") for name, value in content["figures"].items()}
    return {"heldout_faces": int(content["faces"]), **figures}

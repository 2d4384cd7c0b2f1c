"""The pretrain stage: dataset -> model, a start for train or a model of its own.

    dataset -> autoencoder (encoder + generator) -> where the latents lie -> mapping network
            -> architecture.json, G, G_ema, E (and D) as .safetensors, crop_rule.json, pretrain.json

`stats.jsonl` and `samples/` (held-out pictures above what became of them; at the end random
pictures) are the learning curve. E is the averaged encoder: inversions begin with it, and another
run of this stage that starts from the model goes on with it; with another character's pictures that
carries the model over to the character within minutes. States to go on from lie in `work/` of
the draft. On a few CPU cores an adversary takes long to find out where faces and eyes are, and a
small one may never find more than one pose; from here it has only to sharpen.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pipeline.console import catch_stop, progress, say
from pipeline.data.crop_rule import read_crop_rule
from pipeline.data.dataset import Dataset
from pipeline.errors import ConfigError, Interrupted, ModelError
from pipeline.files import put_text
from pipeline.metrics import perceptual
from pipeline.metrics.closeness import psnr_db
from pipeline.models import checkpoint
from pipeline.models.build import Generator, build
from pipeline.models.picture_encoder import OWN, PictureEncoder
from pipeline.models.precision import choose_precision, set_precision
from pipeline.models.stylegan2 import Discriminator
from pipeline.train.averaged_state import AveragedState
from pipeline.train.images import TrainingImages
from pipeline.train.logbook import Logbook
from pipeline.train.plain_loop import AGAIN, PlainLoop
from pipeline.train.pretrain import mapping
from pipeline.train.pretrain.autoencoder import Autoencoder, Task, new_encoder
from pipeline.train.pretrain.config import PretrainConfig
from pipeline.train.stage import threads
from torch_utils import rng
from torch_utils.device import choose_device, describe

WORK = "work"
FIGURES = "pretrain.json"
# Pictures of a look that are shown.
SHOWN = 8


@dataclass(frozen=True)
class Job:
    """What one run of the stage works on."""

    config: PretrainConfig
    out: Path
    device: torch.device
    precision: str
    images: TrainingImages
    heldout: Tensor  # N x C x H x W in [-1, 1]
    metric: perceptual.PerceptualDistance
    looks_at: str  # what those are called
    # Rows and columns of the inner face, where the dataset says how it is framed.
    face_box: tuple[slice, slice] | None

    @property
    def bf16(self) -> bool:
        """Whether the encoder convolves in bfloat16."""
        return self.precision in ("bf16", "fp16")


def check(config: PretrainConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what can be told without training: the device and its numbers."""
    _precision(config, choose_device(config.device))


def run(
    config: PretrainConfig, inputs: Mapping[str, Path], out: Path
) -> dict[str, float | int | str]:
    """Make the start of a model of `inputs["dataset"]` in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    if (out / FIGURES).is_file() and not (out / WORK).exists():
        return _figures(out)
    with threads(config.threads), catch_stop() as stop:
        job = _job(config, inputs, out)
        state = _state(job, inputs.get("resume_from"))
        went_on = state.restore(out / WORK)
        begin = f"going on from {state.images_seen / 1000:g} kimg" if went_on else "starting"
        say(
            f"pretrain: {config.network.architecture} at {job.images.width} px on "
            f"{len(job.images)} images, {config.kimg:g} kimg in batches of {config.batch}, "
            f"distances by {job.metric.name}, {job.precision}; {begin} on {describe(job.device)}."
        )
        figures = _train(job, state, stop)
        figures |= _finish(job, state, stop)
    if rule := read_crop_rule(inputs["dataset"]):
        rule.write(out)
    put_text(out / FIGURES, json.dumps(figures, indent=1) + "\n")
    shutil.rmtree(out / WORK)
    return _figures(out)


def _precision(config: PretrainConfig, device: torch.device) -> str:
    try:
        return choose_precision(config.precision, device)
    except ValueError as error:
        raise ConfigError(f"pretrain.precision={config.precision}: {error}.") from error


def _job(config: PretrainConfig, inputs: Mapping[str, Path], out: Path) -> Job:
    device = choose_device(config.device)
    precision = _precision(config, device)
    dataset = Dataset(inputs["dataset"])
    images = TrainingImages(
        dataset.images,
        dataset.train_indices,
        seed=rng.derive_seed(config.seed, "pretrain"),
        cache_bytes=round(config.cache_gb * 1e9),
    )
    # Without held-out pictures those it learns are better than none.
    looks_at = (
        "held-out pictures" if dataset.heldout_indices else "training pictures (none held out)"
    )
    chosen = (dataset.heldout_indices or dataset.train_indices)[: config.looks]
    heldout = TrainingImages(dataset.images, chosen, seed=0).first(len(chosen))
    metric = perceptual.load(config.perceptual, device, mixed=precision != "fp32")
    rule = read_crop_rule(inputs["dataset"])
    return Job(
        config, out, device, precision, images, heldout.to(device).float() / 127.5 - 1, metric,
        looks_at, rule.face_box(images.height, images.width) if rule else None,
    )  # fmt: skip


def _state(job: Job, base: Path | None) -> AveragedState[Autoencoder]:
    config, images = job.config, job.images
    rng.seed_global(config.seed, 0, 0, "pretrain weights")
    shape = (images.height, images.channels, 0, images.height != 2 * images.width)
    generator, discriminator = build(config.network, *shape)
    kept: set[str] = set()
    if base is not None:
        generator = _generator_of(config, base, images)
        kept = set(checkpoint.read_architecture(base))
        if "D" in kept:
            discriminator = cast(Discriminator, checkpoint.load(base, ["D"])["D"])
    encoder = new_encoder(generator, config.breadth)
    if base is not None and OWN in kept:
        encoder = cast(PictureEncoder, checkpoint.load(base, [OWN])[OWN])
    adversary = discriminator if config.adversarial > 0 else None
    network = Autoencoder(generator, adversary, encoder).to(job.device)
    network.strength = config.augment.p or 0.0
    network.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    set_precision(network, job.precision, False, job.device)
    groups: list[dict[str, Any]] = [
        {"params": [*network.generator.synthesis.parameters()], "lr": config.generator_lr},
        {"params": [*network.encoder.parameters()], "lr": config.encoder_lr},
    ]
    if adversary is not None:
        rate = config.discriminator_lr
        groups.append({"params": [*adversary.parameters()], "lr": rate, "betas": (0.0, 0.99)})
    return AveragedState.begin("pretrain", network, torch.optim.Adam(groups, betas=(0.9, 0.99)))


def _generator_of(config: PretrainConfig, base: Path, images: TrainingImages) -> Generator:
    """The averaged generator of a model; ModelError where it makes other pictures."""
    generator = cast(Generator, checkpoint.load(base)["G_ema"])
    height, width = generator.synthesis.img_size
    made = (width, height, generator.img_channels, generator.c_dim)
    if made != (images.width, images.height, images.channels, 0):
        raise ModelError(
            f"pretrain.resume_from={config.resume_from} makes pictures of {width}x{height} px with "
            f"{generator.img_channels} channels and {generator.c_dim} label values, but those of "
            f"{config.dataset} are {images.width}x{images.height} with {images.channels} and none."
        )
    return generator


def _train(job: Job, state: AveragedState[Autoencoder], stop: Callable[[], bool]) -> dict[str, Any]:
    """The autoencoder to its end; how near it comes to held-out pictures."""
    config = job.config
    length = round(config.kimg * 1000)
    logbook = Logbook(job.out, state.images_seen)
    task = Task.of(config, job.metric, job.bf16, job.face_box, job.device)
    drawing = [*state.network.generator.parameters(), *state.network.encoder.parameters()]

    def batches() -> Iterator[tuple[int, Tensor]]:
        for start in range(state.images_seen, length, config.batch):
            yield start, job.images.batch(start, config.batch)[0].to(job.device)

    def step(images: Tensor) -> Mapping[str, Tensor]:
        rng.seed_global(config.seed, 0, state.images_seen, "pretrain noise")
        state.optimizer.zero_grad(set_to_none=True)
        parts = task.backward(state.network, images, state.images_seen)
        torch.nn.utils.clip_grad_norm_(drawing, 5.0)
        state.optimizer.step()
        return parts

    def look() -> Mapping[str, float]:
        figures, made = _look(job, state.averaged)
        shown = torch.cat([job.heldout[:SHOWN], made[:SHOWN]])
        logbook.write_samples(state.images_seen, shown.clamp(-1, 1), min(SHOWN, len(made)))
        say(
            f"pretrain: {state.images_seen / 1000:g} kimg: {job.looks_at} "
            f"{figures['heldout_psnr_db']:.1f} dB, perceptual distance "
            f"{figures['heldout_perceptual']:.3f}."
        )
        return figures

    with progress("pretrain", (length - state.images_seen) / 1000, "kimg") as bar:
        try:
            PlainLoop(
                state, batches(), step, look, job.out / WORK, logbook, bar, stop, length,
                config.batch, config.ema_kimg, config.log_kimg, config.save_kimg,
            ).run()  # fmt: skip
        finally:
            logbook.close()
    return {"images_seen": state.images_seen, **_look(job, state.averaged)[0]}


@torch.no_grad()
def _look(job: Job, network: Autoencoder) -> tuple[dict[str, float], Tensor]:
    """How near held-out pictures come back, and those pictures."""
    made, far, psnr = [], 0.0, 0.0
    for some in job.heldout.split(8):
        images = network.draw(network.encode(some, job.bf16)).clamp(-1, 1)
        features = job.metric.features
        far += float(job.metric.distance(features(images), features(some)).sum())
        psnr += sum(psnr_db(a, b) for a, b in zip(images, some, strict=True))
        made.append(images)
    count = len(job.heldout)
    return {"heldout_psnr_db": psnr / count, "heldout_perceptual": far / count}, torch.cat(made)


def _finish(
    job: Job, state: AveragedState[Autoencoder], stop: Callable[[], bool]
) -> dict[str, float]:
    """Teach the mapping network where the latents lie; write the generator and its pictures."""
    config, network = job.config, state.averaged
    generator: Any = network.generator
    with torch.no_grad():
        latents = torch.cat(
            [
                network.encode(job.images.batch(start, config.batch)[0].to(job.device), job.bf16)
                for start in range(0, len(job.images), config.batch)
            ]
        )
    distances: list[float] = []
    with progress("pretrain: mapping", config.mapping_steps, "steps") as bar:
        for distance in mapping.fit(
            generator.mapping,
            latents,
            steps=config.mapping_steps,
            batch=config.mapping_batch,
            rate=config.mapping_rate,
            noise=config.noise,
            seed=config.seed,
            stop=stop,
        ):
            distances.append(distance)
            bar.advance(1, distance=distance)
    if len(distances) < config.mapping_steps:
        raise Interrupted(f"pretrain: stopped, all but the mapping network is saved; {AGAIN}")
    generator.mapping.w_avg.copy_(latents.mean(dim=0))
    last = distances[-max(1, len(distances) // 20) :]
    state.network.generator.mapping.load_state_dict(generator.mapping.state_dict())
    networks = {"G": state.network.generator, "G_ema": generator, OWN: network.encoder}
    if state.network.discriminator is not None:
        networks["D"] = state.network.discriminator
    checkpoint.save(job.out, networks, half=config.store_half)
    logbook = Logbook(job.out, state.images_seen + 1, events=False)
    logbook.write_samples(state.images_seen + 1, _random_pictures(job, network), SHOWN)
    logbook.close()
    return {"mapping_distance": sum(last) / len(last)}


@torch.no_grad()
def _random_pictures(job: Job, network: Autoencoder) -> Tensor:
    mapping_network: Any = network.generator.mapping
    draws = rng.generator(job.config.seed, 0, 0, "pretrain pictures")
    z = torch.randn(4 * SHOWN, mapping_network.z_dim, generator=draws).to(job.device)
    w = mapping_network(z, None)[:, 0]
    return torch.cat([network.draw(some) for some in w.split(8)]).clamp(-1, 1)


def _figures(out: Path) -> dict[str, float | int | str]:
    content: dict[str, Any] = json.loads((out / FIGURES).read_text(encoding="utf-8"))
    return {name: float(f"{value:.5g}") for name, value in content.items()}

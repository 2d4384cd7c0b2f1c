"""Settings of the reader stage. Plain values; knows nothing of tensors or files."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.errors import ConfigError, check_choice, check_range

PRECISIONS = ("fp32", "bf16")


@dataclass
class ReaderConfig:
    """Painted faces in, a face reader out."""

    # Name of the reader that is made.
    name: str = "reader"
    # Every random number follows from it.
    seed: int = 0
    # Where tensors live: auto | cpu | cuda.
    device: str = "auto"
    # Reader to start from; null: from random weights.
    resume_from: str | None = None
    # Faces that are painted for training, each of another character; they are distorted anew
    # whenever they are used.
    paintings: int = 12000
    # Faces of further characters that the reader is judged by.
    heldout: int = 500
    # Side of the paintings, in px.
    picture_px: int = 192
    # Turns of the painted heads, as a factor of the painter's usual ones.
    pose_spread: float = 1.3
    # Strength of all distortions; 0 shows the paintings as they are.
    distortion: float = 1.0
    # Side of the network's input, in px.
    input_px: int = 128
    # Widths at 1/2, 1/4, 1/8 and 1/16 of the input's side.
    channels: list[int] = field(default_factory=lambda: [24, 48, 96, 160])
    # Residual blocks at 1/4, 1/8 and 1/16 of the input's side.
    blocks: list[int] = field(default_factory=lambda: [2, 3, 3])
    # Length of the training, in thousand images seen.
    kimg: float = 160.0
    # Images a step.
    batch: int = 32
    # Adam's, at its highest; it rises over the first twentieth and falls to 0 at the end.
    learning_rate: float = 0.002
    # Half-life of the averaged weights, in thousand images; those are the reader.
    ema_kimg: float = 2.0
    # Number format of the network's convolutions while training: fp32, or bf16, which is faster on
    # processors and GPUs that have it.
    precision: str = "bf16"
    # Thousand images between lines of statistics, ...
    log_kimg: float = 1.0
    # ... and between looks at the held-out faces, with which a state to go on from is saved.
    save_kimg: float = 10.0
    # Processes that paint; null: one a core; 0: none but this one.
    workers: int | None = None
    # Threads that compute; null: as many as torch takes.
    threads: int | None = None

    def __post_init__(self) -> None:
        check_range("reader.paintings", self.paintings, 1, 10_000_000)
        check_range("reader.heldout", self.heldout, 1, 1_000_000)
        check_range("reader.picture_px", self.picture_px, 64, 1024)
        check_range("reader.pose_spread", self.pose_spread, 0, 5)
        check_range("reader.distortion", self.distortion, 0, 2)
        check_range("reader.input_px", self.input_px, 32, 512)
        check_range("reader.kimg", self.kimg, 0, 1e6, low_open=True)
        # Batch norm needs more than one image.
        check_range("reader.batch", self.batch, 2, 65536)
        check_range("reader.learning_rate", self.learning_rate, 0, 1, low_open=True)
        check_range("reader.ema_kimg", self.ema_kimg, 0, 1e6)
        check_choice("reader.precision", self.precision, PRECISIONS)
        check_range("reader.log_kimg", self.log_kimg, 0, 1e6, low_open=True)
        check_range("reader.save_kimg", self.save_kimg, 0, 1e6, low_open=True)
        if self.workers is not None:
            check_range("reader.workers", self.workers, 0, 1024)
        if self.threads is not None:
            check_range("reader.threads", self.threads, 1, 1024)
        if self.input_px % 16:
            raise ConfigError(
                f"reader.input_px={self.input_px} is not possible; use a multiple of 16."
            )
        for name, values, count in (("channels", self.channels, 4), ("blocks", self.blocks, 3)):
            if len(values) != count:
                raise ConfigError(f"reader.{name} needs {count} numbers, not {len(values)}.")

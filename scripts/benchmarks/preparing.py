"""Rows of what happens before and around the networks: preprocessing, and starting a command."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data import stage
from pipeline.data.config import PreprocessConfig, SourceConfig
from pipeline.data.dataset import IMAGES
from pipeline.data.painter import sample_face
from scripts.benchmarks.rows import Check, Outcome, Row, Setting

PROCESSES = 2
# Different drawings, and files that each of them is written to.
DRAWINGS, COPIES = 40, 50
SIDE = 512
SCRIPTS = Path(__file__).resolve().parent.parent
# Says whether torch was loaded for the help of a command.
HELP = (
    "import contextlib, io, runpy, sys\n"
    "name = sys.argv[1]\n"
    "sys.argv = [name, '--help']\n"
    "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
    "    runpy.run_module(name, run_name='__main__')\n"
    "print('torch' in sys.modules)\n"
)


def _preprocess(setting: Setting) -> Outcome:
    drawings, copies = (4, 2) if setting.quick else (DRAWINGS, COPIES)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "drawings"
        folder.mkdir()
        files = list(_write_drawings(folder, drawings, copies))
        ours, public, decoding = [], [], []
        for repeat in range(setting.repeats):
            ours.append(_seconds_of_stage(folder, Path(scratch) / f"ours{repeat}"))
            few = files[: 10 * drawings]
            public.append(_seconds_of_public_tool(few, Path(scratch) / "public.zip") / len(few))
            decoding.append(_seconds_of_decoding(few) / len(few))
    rate = len(files) / float(np.median(ours))
    decode_rate = 1 / float(np.median(decoding))
    return Outcome(
        ours_seconds=float(np.median(ours)) / len(files),
        reference_seconds=float(np.median(public)),
        checks=(Check("images a second", rate, 100, unit=""),),
        samples={"ours, whole stage": tuple(ours), "public tool, an image": tuple(public)},
        figures={
            "images": len(files),
            "public tool, one process (images/s)": round(1 / float(np.median(public)), 1),
            "decoding alone, one core (images/s)": round(decode_rate, 1),
            "share of what two cores could decode": round(rate / (PROCESSES * decode_rate), 2),
        },
        note="the whole stage, processes started and contact sheet made",
    )


def _write_drawings(folder: Path, drawings: int, copies: int) -> Iterator[Path]:
    for index in range(drawings):
        stream = io.BytesIO()
        Image.fromarray(sample_face(0, index, size=SIDE).image).save(stream, format="PNG")
        for copy in range(copies):
            path = folder / f"drawing{index:03d}-{copy:03d}.png"
            path.write_bytes(stream.getvalue())
            yield path


def _seconds_of_stage(folder: Path, out: Path) -> float:
    config = PreprocessConfig(
        name="bench",
        source=SourceConfig(kind="folder", path=str(folder)),
        resolution=SIDE,
        detectors=[],
        on_no_face="whole",
        duplicate_bits=-1,
        workers=PROCESSES,
    )
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        stage.run(config, {}, out)
    seconds = time.perf_counter() - started
    (out / IMAGES).unlink()
    return seconds


def _seconds_of_public_tool(files: list[Path], out: Path) -> float:
    """Decode, then store an uncompressed PNG in a zip, as StyleGAN's tool does, one by one."""
    started = time.perf_counter()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path in files:
            with Image.open(path) as image:
                pixels = np.array(image)
            stream = io.BytesIO()
            Image.fromarray(pixels, "RGB").save(stream, format="PNG", compress_level=0)
            archive.writestr(path.name, stream.getvalue())
    return time.perf_counter() - started


def _seconds_of_decoding(files: list[Path]) -> float:
    started = time.perf_counter()
    for path in files:
        with Image.open(path) as image:
            np.asarray(image)
    return time.perf_counter() - started


def _start(setting: Setting) -> Outcome:
    names = sorted(path.stem for path in SCRIPTS.glob("*.py") if path.stem != "__init__")
    commands = {"import pipeline": ["-c", "import pipeline"]}
    commands |= {f"{name} --help": ["-m", f"scripts.{name}", "--help"] for name in names}
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(setting.repeats):
        for name, command in commands.items():
            started = time.perf_counter()
            _python(*command)
            samples[name].append(time.perf_counter() - started)
    heavy = [name for name in names if _python("-c", HELP, f"scripts.{name}").strip() != "False"]
    medians = {name: float(np.median(taken)) for name, taken in samples.items()}
    slowest = max(medians, key=lambda name: medians[name])
    return Outcome(
        ours_seconds=medians[slowest],
        checks=(
            Check("for the slowest", medians[slowest], 1, at_least=False, unit=" s"),
            Check("commands load torch for help", len(heavy), 0, at_least=False, unit=""),
        ),
        samples={name: tuple(taken) for name, taken in samples.items()},
        figures={"slowest": slowest, "commands": len(names)},
    )


def _python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=SCRIPTS.parent,
        env={**os.environ, "PYTHONPATH": str(SCRIPTS.parent)},
    )
    return done.stdout


ROWS = (
    Row(
        key="preprocess",
        title="preprocess without detection, 512x512 PNG to zip, 2 processes",
        target="≥ 100 images/s",
        measure=_preprocess,
        most_repeats=2,
    ),
    Row(
        key="start",
        title="import of the package, `--help` of any command",
        target="< 1 s, torch not imported for help",
        measure=_start,
        most_repeats=5,
    ),
)

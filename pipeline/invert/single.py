"""The inversion of one picture: aligned, its pivot found, the generator tuned, all written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline.console import say
from pipeline.errors import ArtifactError
from pipeline.invert import inversion, picture
from pipeline.invert.phases import Pivot, Stop, find_pivot, tune
from pipeline.invert.resume import State, Workspace
from pipeline.invert.subject import Subject
from pipeline.invert.tuning import View
from pipeline.invert.writing import Metrics, Result, write
from pipeline.models.characters import names_of
from torch_utils.pixels import to_tensor


@dataclass
class Found:
    """What the first phase leaves, and the second one's state where an earlier run had come so
    far."""

    result: Result
    state: State


def invert(subject: Subject, path: Path, out: Path, stop: Stop) -> Metrics:
    """Both phases over the picture in `path`, and its inversion in `out`."""
    if metrics := finished_before(out, subject.model_folder):
        return metrics
    files = Workspace(out)
    found = find(subject, path, out, files, stop)
    result = found.result
    kept = result.pivot.tensors()
    tuned = tune(subject, [result.view], result.character, files, stop, found.state, kept)
    files.write_trace()
    metrics = write(subject, result, tuned, out)
    files.clear()
    return metrics


def find(subject: Subject, path: Path, out: Path, files: Workspace, stop: Stop) -> Found:
    """The first phase; the pivot is in the saved state when it returns."""
    width, height = subject.size
    config = subject.config
    prepared = picture.prepare(path, width, height, config.align, subject.rule, config.crop)
    out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(prepared.source).save(out / "source.png")
    Image.fromarray(prepared.aligned).save(out / "aligned.png")
    say(f"invert: {prepared.word}.")
    target = to_tensor(prepared.aligned, subject.generator.img_channels).to(subject.device)
    character = subject.character
    if subject.generator.c_dim:
        if character is None:
            character = subject.nearest_character(target)
        name = names_of(subject.model_folder, subject.generator.c_dim)[character]
        say(f"invert: the picture is taken for the character {name}.")
    state = files.load()
    if state is not None:
        say(f"invert: going on with {state.phase} at step {state.step}.")
    if state is not None and state.phase == "tune":
        pivot = Pivot.from_state(state, subject)
    else:
        pivot = find_pivot(subject, target, character, files, stop, state)
        seconds = {"project": pivot.seconds, "tune": 0.0}
        state = State("tune", 0, seconds, pivot.tensors())
        files.save(state)  # the pivot is never lost again
    view = View(target, pivot.ws, pivot.buffers, subject.term(target))
    return Found(Result(prepared, view, character, pivot), state)


def finished_before(out: Path, model_folder: Path) -> Metrics:
    """The metrics of an earlier run that was cut off after its last file; {} if none was."""
    if Workspace(out).in_use or not (out / "inversion.json").is_file():
        return {}
    try:
        found = inversion.Inversion.load(out, model_folder)
    except ArtifactError:
        return {}  # not whole: a power cut
    metrics: Metrics = found.info["metrics"]
    return metrics

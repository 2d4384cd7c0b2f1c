"""The invert stage: model + uploaded picture (or a folder of them) -> inversion.

Aligns each picture as preprocess aligned the training set, finds its pivot, tunes the generator
around it, writes the inversion. Interrupted, it goes on from the last saved state; on a CPU the
result is then the same, bit for bit, as without the interruption. One picture is `single`'s work,
a folder of them `folder`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.console import catch_stop, say
from pipeline.invert import folder, picture, single, weight_forms
from pipeline.invert.config import InvertConfig
from pipeline.invert.subject import Subject, check_placement, crop_rule
from pipeline.invert.writing import Metrics
from pipeline.models import checkpoint
from pipeline.models.characters import find_character
from torch_utils.device import choose_device, describe


def check(config: InvertConfig, inputs: Mapping[str, Path]) -> None:
    """Refuse what can be told without weights and detectors: device, class, layers, picture."""
    choose_device(config.device)
    generator: Any = checkpoint.blank(inputs["model"], "G_ema")
    find_character("invert.label", config.label, inputs["model"], generator.c_dim)
    check_placement(config, generator)
    weight_forms.tuned_parameters(generator, config.tune.layers)
    if inputs["image"].is_dir():
        folder.pictures_in(inputs["image"])
    else:
        picture.read(inputs["image"], crop_rule(config, inputs["model"]).background)


def run(config: InvertConfig, inputs: Mapping[str, Path], out: Path) -> Metrics:
    """Invert `inputs["image"]` with the model in `inputs["model"]`; see `inversion` for `out`."""
    if metrics := single.finished_before(out, inputs["model"]):
        return metrics
    subject = Subject.read(config, inputs, choose_device(config.device))
    say(
        f"invert: distances by {subject.metric.name}; the start is {subject.start}; on "
        f"{describe(subject.device)}."
    )
    out.mkdir(parents=True, exist_ok=True)
    with catch_stop() as stop:
        if inputs["image"].is_dir():
            return folder.invert(subject, inputs["image"], out, stop)
        return single.invert(subject, inputs["image"], out, stop)

"""The table of stages: what each is called, takes, makes, and where its code lies.

The road is read here: preprocess -> train -> invert -> edit -> report. A stage's code is named as
"module:attribute" and imported only when it runs, so that help and refusals stay quick (config
modules import no torch). Knows nothing about the store, nor about Hydra.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import check_choice

Metrics = dict[str, float | int | str]
RunFunction = Callable[[Any, Mapping[str, Path], Path], Metrics]


@dataclass(frozen=True)
class Stage:
    """One stage: `run(config, inputs, out) -> metrics`, and what the runner must know about it."""

    # Name on the command line, of conf/stages/<name>.yaml, and of its node in the config.
    name: str
    # Counts changes of the code that change what the stage makes; part of every run's identity,
    # so raising it makes finished runs stale.
    version: int
    # Kind of artifact it makes.
    produces: str
    # Config dataclass, "module:Class".
    config: str
    # Run function, "module:function"; imported when the stage runs.
    run: str
    # Refuses, by raising, what `run` would refuse, before anything is begun or announced:
    # "module:function" called with (config, inputs). For what can be told quickly; `run` refuses
    # the rest.
    check: str | None = None
    # The same before the first stage of a command begins, which may take hours: "module:function"
    # called with (config, {name: config} of the command's stages before this one).
    foresee: str | None = None
    # Whether several processes of one run share its work (torch_utils/distributed.py): `run` is
    # then called in all of them, else in the first alone. Only the first writes.
    parallel: bool = False
    # Config keys that hold references to artifacts -> the kind they must have.
    inputs: Mapping[str, str] = field(default_factory=dict)
    # Those of them that, where null (if they may be absent: where "auto"), are a parent of another
    # input, named before them: key -> (input, its parent).
    inherited: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    # Those of them that are left out while no artifact of that name exists; with a word, where the
    # name is another than the run's own.
    may_be_absent: tuple[str, ...] = ()
    # Config keys (dotted) that hold paths of raw files or folders; their content is hashed.
    sources: tuple[str, ...] = ()
    # Brings raw files here that no key names: "module:function", called with the config before the
    # run's identity is known; returns {key of `sources`: (path, what it is called on record)}.
    fetch: str | None = None
    # Config keys (dotted) that cannot change the result, and are left out of the identity.
    transient: tuple[str, ...] = ()
    # Config keys (dotted) whose values may hold any signs; like the paths in `sources` they are
    # taken from the command line as they are, without Hydra's grammar.
    free_text: tuple[str, ...] = ()
    # What it does, for the help.
    summary: str = ""

    def config_class(self) -> type:
        """The stage's config dataclass."""
        return load(self.config)

    def run_function(self) -> RunFunction:
        """The stage's run function (imports what the stage needs)."""
        return load(self.run)


@dataclass(frozen=True)
class Group:
    """A part of the config that several stages share, chosen by name: `network=stylegan3-t`."""

    name: str
    # Config dataclass, "module:Class".
    config: str

    def config_class(self) -> type:
        """The group's config dataclass."""
        return load(self.config)


GROUPS: tuple[Group, ...] = (
    Group("network", "pipeline.models.config:NetworkConfig"),
    Group("source", "pipeline.data.config:SourceConfig"),
    Group("augment", "pipeline.train.config:AugmentConfig"),
)

STAGES: tuple[Stage, ...] = (
    Stage(
        name="preprocess",
        summary="drawings -> dataset: faces found, levelled, cropped, resized",
        version=1,
        produces="dataset",
        config="pipeline.data.config:PreprocessConfig",
        run="pipeline.data.stage:run",
        check="pipeline.data.stage:check",
        fetch="pipeline.data.sources:fetch",
        inputs={"like": "model"},
        sources=("source.path",),
        transient=("workers",),
    ),
    Stage(
        name="pretrain",
        summary="dataset -> model: a generator's start without an adversary, for few CPU cores",
        version=2,
        produces="model",
        config="pipeline.train.pretrain.config:PretrainConfig",
        run="pipeline.train.pretrain.stage:run",
        check="pipeline.train.pretrain.stage:check",
        inputs={"dataset": "dataset", "resume_from": "model"},
        transient=("device", "cache_gb", "threads"),
    ),
    Stage(
        name="train",
        summary="dataset -> model: StyleGAN2 or 3, from scratch or from another model",
        version=1,
        produces="model",
        config="pipeline.train.config:TrainConfig",
        run="pipeline.train.stage:run",
        check="pipeline.train.stage:check",
        parallel=True,
        inputs={"dataset": "dataset", "resume_from": "model"},
        transient=("device", "cache_gb", "threads", "rollbacks", "cuda_graphs", "compile"),
    ),
    Stage(
        name="finetune",
        summary="model + dataset of a new character -> model: train, for few images",
        version=1,
        produces="model",
        config="pipeline.train.config:FinetuneConfig",
        run="pipeline.train.stage:run",
        check="pipeline.train.stage:check",
        parallel=True,
        inputs={"dataset": "dataset", "resume_from": "model"},
        transient=("device", "cache_gb", "threads", "rollbacks", "cuda_graphs", "compile"),
    ),
    Stage(
        name="reader",
        summary="the painter -> reader: landmarks, expression and angles of drawn faces",
        version=1,
        produces="reader",
        config="pipeline.train.reader.config:ReaderConfig",
        run="pipeline.train.reader.stage:run",
        check="pipeline.train.reader.stage:check",
        inputs={"resume_from": "reader"},
        transient=("device", "workers", "threads"),
    ),
    Stage(
        name="import",
        summary="network pickle of another program (.pkl, PTI's .pt) -> model",
        version=1,
        produces="model",
        config="pipeline.models.config:ImportConfig",
        run="pipeline.models.stage:run",
        check="pipeline.models.stage:check",
        sources=("pkl",),
    ),
    Stage(
        name="encoder",
        summary="model -> encoder: finds the model's latent for a picture, so that invert is quick",
        version=1,
        produces="encoder",
        config="pipeline.invert.encoder_config:EncoderConfig",
        run="pipeline.invert.encoder_stage:run",
        check="pipeline.invert.encoder_stage:check",
        inputs={"model": "model", "dataset": "dataset", "resume_from": "encoder"},
        transient=("device", "save_every"),
    ),
    Stage(
        name="invert",
        summary="model + uploaded picture -> inversion: its latent, and a model tuned to it",
        version=4,
        produces="inversion",
        config="pipeline.invert.config:InvertConfig",
        run="pipeline.invert.stage:run",
        check="pipeline.invert.stage:check",
        inputs={"model": "model", "encoder": "encoder"},
        may_be_absent=("encoder",),
        sources=("image",),
        transient=("device", "save_every"),
    ),
    Stage(
        name="directions",
        summary="model -> directions: how latents change for a smile, an open eye, a turned head",
        version=1,
        produces="directions",
        config="pipeline.edit.emotion_config:DirectionsConfig",
        run="pipeline.edit.emotions.learn:run",
        check="pipeline.edit.emotions.learn:check",
        inputs={"model": "model"},
        transient=("device",),
    ),
    Stage(
        name="edit",
        summary="inversion + points or an emotion -> edit: the changed face, back in its picture",
        version=3,
        produces="edit",
        config="pipeline.edit.config:EditConfig",
        run="pipeline.edit.stage:run",
        check="pipeline.edit.stage:check",
        foresee="pipeline.edit.foresight:foresee_edit",
        inputs={"inversion": "inversion", "model": "model", "directions": "directions"},
        inherited={"model": ("inversion", "model")},
        may_be_absent=("directions",),
        sources=("recipe",),
        transient=("device", "save_every"),
        free_text=("points", "emotion.name", "emotion.sliders"),
    ),
    Stage(
        name="emotions",
        summary="inversion -> emotions: a sheet of the character in every emotion, and a loop",
        version=1,
        produces="emotions",
        config="pipeline.edit.emotion_config:EmotionsConfig",
        run="pipeline.edit.emotions.sheet:run",
        check="pipeline.edit.emotions.sheet:check",
        inputs={"inversion": "inversion", "model": "model", "directions": "directions"},
        inherited={"model": ("inversion", "model")},
        may_be_absent=("directions",),
        transient=("device",),
        free_text=("title", "subtitle"),
    ),
    Stage(
        name="animate",
        summary="inversion -> animation: the face blinks, talks, nods or turns",
        version=1,
        produces="animation",
        config="pipeline.edit.emotion_config:AnimateConfig",
        run="pipeline.edit.emotions.animate:run",
        check="pipeline.edit.emotions.animate:check",
        foresee="pipeline.edit.foresight:foresee_animation",
        inputs={"inversion": "inversion", "model": "model", "directions": "directions"},
        inherited={"model": ("inversion", "model")},
        may_be_absent=("directions",),
        sources=("file",),
        transient=("device",),
    ),
    Stage(
        name="batch",
        summary="inversions, seeds -> batch: one emotion or recipe for all, a contact sheet",
        version=3,
        produces="batch",
        config="pipeline.edit.emotion_config:BatchConfig",
        run="pipeline.edit.emotions.batch:run",
        check="pipeline.edit.emotions.batch:check",
        foresee="pipeline.edit.foresight:foresee_batch",
        inputs={"inversion": "inversion", "model": "model", "directions": "directions"},
        inherited={"model": ("inversion", "model")},
        may_be_absent=("inversion", "directions"),
        sources=("recipe",),
        transient=("device",),
        free_text=("seeds", "emotion.name", "emotion.sliders"),
    ),
    Stage(
        name="evaluate",
        summary="model + dataset -> evaluation: FID, KID, precision, recall, IS, PPL, EQ-T, EQ-R",
        version=1,
        produces="evaluation",
        config="pipeline.evaluate.config:EvaluateConfig",
        run="pipeline.evaluate.evaluation:run",
        check="pipeline.evaluate.evaluation:check",
        parallel=True,
        inputs={"model": "model", "dataset": "dataset"},
        inherited={"dataset": ("model", "dataset")},
        sources=("features_file",),
        transient=("device",),
    ),
    Stage(
        name="samples",
        summary="model -> samples: grid, truncation, style mixing, latent walk, characters",
        version=1,
        produces="samples",
        config="pipeline.evaluate.config:SamplesConfig",
        run="pipeline.evaluate.samples:run",
        check="pipeline.evaluate.samples:check",
        inputs={"model": "model"},
        transient=("device",),
    ),
    Stage(
        name="drag_bench",
        summary="model -> drag_bench: every way of dragging on the same pairs, by landmarks",
        version=3,
        produces="drag_bench",
        config="pipeline.evaluate.config:DragBenchConfig",
        run="pipeline.evaluate.drag_bench:run",
        check="pipeline.evaluate.drag_bench:check",
        inputs={"model": "model", "judge": "reader"},
        transient=("device",),
    ),
    Stage(
        name="emotion_bench",
        summary="model -> emotion_bench: every way of reaching an emotion, against painted truth",
        version=2,
        produces="emotion_bench",
        config="pipeline.evaluate.config:EmotionBenchConfig",
        run="pipeline.evaluate.emotion_bench:run",
        check="pipeline.evaluate.emotion_bench:check",
        inputs={"model": "model", "directions": "directions"},
        may_be_absent=("directions",),
        transient=("device",),
    ),
    Stage(
        name="report",
        summary="all of these -> report: one HTML page",
        version=2,
        produces="report",
        config="pipeline.evaluate.config:ReportConfig",
        run="pipeline.evaluate.stage:run",
        check="pipeline.evaluate.stage:check",
        inputs={
            "dataset": "dataset",
            "model": "model",
            "edit": "edit",
            "inversion": "inversion",
            "evaluation": "evaluation",
            "drag_bench": "drag_bench",
        },
        inherited={"inversion": ("edit", "inversion")},
        may_be_absent=("dataset", "model", "inversion", "edit", "evaluation", "drag_bench"),
    ),
)


def find_stage(name: str, stages: tuple[Stage, ...] = STAGES) -> Stage:
    """The stage called `name`; ConfigError naming the nearest one if there is none."""
    table = {stage.name: stage for stage in stages}
    check_choice("stage", name, table)
    return table[name]


def producer(kind: str, stages: tuple[Stage, ...] = STAGES) -> Stage | None:
    """The stage that makes artifacts of `kind`, if one does."""
    return next((stage for stage in stages if stage.produces == kind), None)


def load(path: str) -> Any:
    """The attribute that "module:attribute" names."""
    module, attribute = path.split(":")
    return getattr(importlib.import_module(module), attribute)

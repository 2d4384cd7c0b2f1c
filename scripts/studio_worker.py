"""A worker process of the studio, started by it: python -m scripts.studio_worker

Speaks over its standard input and output (see pipeline/edit/framing.py); everything that is
printed goes to standard error. Here the studio meets the table of stages and the store.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.edit.emotions import Goal
    from pipeline.edit.studio.makers import Wanted
    from pipeline.invert.subject import Watch


@click.command(help=__doc__)
@click.option("--store", default="artifacts", type=click.Path(path_type=Path), show_default=True)
@click.option("--model", required=True, help="Reference or folder of the model to begin with.")
@click.option("--device", default="auto", show_default=True)
@click.option("--invert-steps", default=160, show_default=True, help="Steps of each half.")
def main(store: Path, model: str, device: str, invert_steps: int) -> None:
    # Whatever a library prints must not land among the messages.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    from pipeline.edit.worker import serve
    from pipeline.models import checkpoint

    makers = StageMakers(store, device, model, invert_steps)
    # Loaded once before anybody asks: the first session then opens at once.
    checkpoint.load(makers.model(makers.shown), names=("G_ema",))
    status = 0
    try:
        serve(sys.stdin.buffer, out, makers, makers.shown, device)
    except Exception:
        traceback.print_exc()
        status = 1
    # The thread that reads may still wait for the pipe, which an orderly end would wait for, too.
    sys.stderr.flush()
    os._exit(status)


@dataclass
class StageMakers:
    """`Makers` of the studio by the runner: artifacts, reused, resumed, with lineage."""

    root: Path
    device: str
    first: str  # the model that the studio was started with: a reference or a folder
    invert_steps: int  # of each half, finding and tuning

    @cached_property
    def shown(self) -> str:
        """What pages call the first model."""
        from pipeline.artifacts.store import Store
        from pipeline.edit.shipped import shown_name

        store = Store(self.root)
        return shown_name(store, store.find(self.first).folder)

    def _where(self, reference: str) -> str:
        return self.first if reference == self.shown else reference

    def model(self, reference: str) -> Path:
        from pipeline.artifacts.store import Store

        return Store(self.root).find(self._where(reference)).folder

    def offers(self, reference: str) -> bool:
        from pipeline.artifacts.store import Store

        listed = (str(artifact) for artifact in Store(self.root).artifacts("model"))
        return reference == self.shown or reference in listed

    def model_of_digest(self, digest: str) -> str | None:
        from pipeline.artifacts.store import Store
        from pipeline.errors import ArtifactError
        from pipeline.invert.inversion import model_digest

        store = Store(self.root)
        listed = [str(artifact) for artifact in reversed(store.artifacts("model"))]
        for reference in (self.shown, *listed):
            with contextlib.suppress(ArtifactError):
                if model_digest(self.model(reference)) == digest:
                    return reference
        return None

    def import_model(self, path: Path, name: str, stop: Wanted) -> str:
        from scripts.studio_import import import_bounded

        return import_bounded(path, name, self.root, stop)

    def invert(
        self, model: str, picture: Path, crop: str, name: str, watch: Watch, stop: Wanted
    ) -> Path:
        from pipeline.invert.config import InvertConfig

        config = InvertConfig(
            name=name, model=self._where(model), image=str(picture), crop=crop, device=self.device
        )
        config.project.steps = config.tune.steps = self.invert_steps
        return self._run("invert", config, partial(_watched, watch=watch, stop=stop))

    def keep(self, model: str, inversion: Path | None, folder: Path, name: str) -> tuple[str, Path]:
        from pipeline.artifacts.store import Artifact, Store
        from pipeline.edit import take
        from pipeline.runner import run_stage
        from pipeline.stages import Stage

        stage = Stage(
            name="take",
            version=4,
            produces="edit",
            config="pipeline.edit.take:TakeConfig",
            run="pipeline.edit.take:run",
            inputs={"inversion": "inversion", "model": "model"},
            sources=("take",),
        )
        given = None if inversion is None else str(inversion)
        config = take.TakeConfig(
            name=name, take=str(folder), model=self._where(model), inversion=given
        )
        artifact: Artifact = run_stage(stage, config, Store(self.root)).artifact
        return artifact.reference, artifact.folder

    def keep_emotion(
        self, model: str, inversion: Path | None, seed: int | None, goal: Goal, name: str
    ) -> tuple[str, Path]:
        from pipeline.edit.config import EditConfig
        from pipeline.edit.emotion_config import EmotionConfig

        wanted = EmotionConfig(
            name=" + ".join(f"{key} {value:g}" for key, value in goal.emotions.items()) or None,
            sliders=", ".join(f"{key}={value:g}" for key, value in goal.sliders.items()) or None,
            mirror=goal.mirror,
        )
        given = None if inversion is None else str(inversion)
        config = EditConfig(
            name=name, model=self._where(model), inversion=given, seed_face=None if given else seed,
            device=self.device, emotion=wanted,
        )  # fmt: skip
        return self._made("edit", config)

    def sheet(
        self, model: str, inversion: Path, name: str, emotions: list[str] | None
    ) -> tuple[str, Path]:
        from pipeline.edit.emotion_config import EmotionsConfig

        config = EmotionsConfig(
            name=name, inversion=str(inversion), model=self._where(model), device=self.device,
            **({} if emotions is None else {"emotions": emotions}),  # type: ignore[arg-type]
        )  # fmt: skip
        return self._made("emotions", config)

    def _made(self, stage: str, config: Any) -> tuple[str, Path]:
        from pipeline.artifacts.store import Store
        from pipeline.runner import run_stage
        from pipeline.stages import find_stage

        artifact = run_stage(find_stage(stage), config, Store(self.root)).artifact
        return artifact.reference, artifact.folder

    def _run(self, name: str, config: Any, work: Callable[..., Any]) -> Path:
        from pipeline.artifacts.store import Store
        from pipeline.runner import run_stage
        from pipeline.stages import Stage, find_stage

        class Watched(Stage):
            """The stage, run so that somebody may look on and stop it."""

            def run_function(self) -> Any:
                return work

        stage = Watched(**vars(find_stage(name)))
        return run_stage(stage, config, Store(self.root)).artifact.folder


def _watched(
    config: Any, inputs: Any, out: Path, watch: Watch, stop: Wanted
) -> dict[str, float | int | str]:
    """The invert stage's own work on one picture, watched."""
    from pipeline.invert import single
    from pipeline.invert.subject import Subject
    from torch_utils.device import choose_device

    subject = Subject.read(config, inputs, choose_device(config.device))
    subject.watch = watch
    out.mkdir(parents=True, exist_ok=True)
    return single.invert(subject, inputs["image"], out, stop)


if __name__ == "__main__":
    main()

"""Run stages: python -m scripts.run stage=train character=ganyu network=stylegan3-t train.kimg=100

Hydra puts the config together, the runner does the work. Bad input ends in one sentence on stderr
and exit code 2, an unforeseen error in one sentence that says where its traceback lies and exit
code 1, a stop by Ctrl-C or SIGTERM in exit code 130. Imports no torch before a stage runs.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from pipeline import launch
from pipeline.artifacts.store import Store
from pipeline.console import complain, say
from pipeline.errors import AnimedragError, ConfigError
from pipeline.runner import first_line, follow_stage, foresee, run_stage
from pipeline.settings import (
    check_keys,
    chosen_stages,
    explain,
    is_config_problem,
    register,
    root_schema,
    stage_config,
)
from pipeline.stages import GROUPS, STAGES, Group, Stage
from torch_utils.ranks import ranks

CONF = Path(__file__).resolve().parent.parent / "conf"


def run(settings: DictConfig, stages: tuple[Stage, ...] = STAGES) -> None:
    """Run the stages that the composed config names."""
    store = Store(Path(settings.store).expanduser())
    chosen = [(stage, stage_config(settings, stage)) for stage in chosen_stages(settings, stages)]
    made: dict[str, str] = {}
    foresee(chosen)
    with launch.crew() as crew:
        for stage, config in chosen:
            if crew is None or crew.is_first:
                _take(stage, config, made)
                artifact = run_stage(stage, config, store, stages, crew).artifact
                made[f"{stage.produces}/{config.name}"] = artifact.reference
            else:
                follow_stage(stage, config, crew)


def _take(stage: Stage, config: Any, made: Mapping[str, str]) -> None:
    """Let the stage take what an earlier one of the same command made, or reused, under the name
    that it asks for: that need not be the latest of the name."""
    for key in stage.inputs:
        reference = getattr(config, key, None)
        if reference is not None and reference in made:
            setattr(config, key, made[reference])


def main(
    stages: tuple[Stage, ...] = STAGES,
    groups: tuple[Group, ...] = GROUPS,
    conf: Path = CONF,
) -> int:
    """Run the command line; returns the exit code."""
    # Threads that wait for work go to sleep soon instead of spinning: on a machine that is also
    # doing something else, spinning made a training step six times slower. Read by OpenMP when
    # torch is imported, so it has to be said here.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        if {"-h", "--help"} & set(sys.argv[1:]):
            # Hydra's own help takes seconds, for it searches every group of every plugin.
            say(help_text(stages, groups, conf))
            return 0
        _run_with_hydra(stages, groups, conf)
    except AnimedragError as error:
        _tell(error)
        return error.exit_code
    except KeyboardInterrupt:
        complain("Stopped.")
        return 130
    except BrokenPipeError:
        return 1  # whoever read the output has had enough (| head)
    except Exception as error:
        complain(_unforeseen(error))
        return 1
    finally:
        _let_go_of_stdout()
    return 0


def _let_go_of_stdout() -> None:
    """Python would complain, while it exits, about output that nobody takes any more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(error: AnimedragError) -> None:
    """Say what is wrong, unless it has been said, or another process of this run does."""
    if error.told or not str(error):
        return
    if not isinstance(error, launch.CrewLost) and int(os.environ.get("RANK", "0")):
        # All processes have read the same wrong settings; the first one says so.
        launch.let_first_speak()
        return
    complain(str(error))


def _run_with_hydra(stages: tuple[Stage, ...], groups: tuple[Group, ...], conf: Path) -> None:
    """Let Hydra put the config together and run it, once or as a sweep."""
    schema = root_schema(stages, groups)
    failure: list[AnimedragError] = []

    def task(settings: DictConfig) -> None:
        try:
            check_keys(settings, schema)
            launch.adopt_submitit()
            run(settings, stages)
        except AnimedragError as error:
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                failure.append(error)  # raised below, past Hydra, which would add its own words
                return
            # Hydra reports only the first failure, and only after the whole sweep.
            job = HydraConfig.get().job
            complain(f"Job {job.num} ({job.override_dirname}): {error}")
            error.told = True
            raise

    register(stages, groups)
    sys.argv[1:] = quoted(sys.argv[1:], stages)
    if ranks().size > 1:
        sys.argv[1:] = for_several(sys.argv[1:], ranks().is_first)
    # Hydra would print a traceback, or its own words, and exit by itself.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    command = hydra.main(version_base="1.3", config_path=str(conf.resolve()), config_name="config")
    try:
        with contextlib.redirect_stderr(_WithoutHydrasWords(sys.stderr)):
            command(task)()
    except Exception as error:
        if is_config_problem(error):
            raise explain(error, schema) from error
        raise
    if failure:
        raise failure[0]


class _WithoutHydrasWords(io.TextIOBase):
    """stderr, less the line with which Hydra announces a job's error: the error has a sentence."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if text.startswith("Error executing job with overrides: "):
            return len(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding


def help_text(stages: tuple[Stage, ...], groups: tuple[Group, ...], conf: Path) -> str:
    """What can be run and chosen, and where the settings are to be seen."""
    choices = [*(group.name for group in groups), "experiment"]
    lines = [
        "Run stages: python -m scripts.run stage=NAME [key=value ...]",
        "  python -m scripts.run stage=train character=ganyu network=stylegan3-t train.kimg=100",
        "",
        "Stages:",
        *(f"  {stage.name:<12} {stage.summary}" for stage in stages),
        "",
        "Choices:",
    ]
    for name in choices:
        options = sorted(path.stem for path in (conf / name).glob("*.yaml"))
        lines.append(f"  {name + '=':<12} {', '.join(options) or 'none yet'}")
    return "\n".join(
        [
            *lines,
            "",
            "Every stage's settings have its name in front: train.kimg=100.",
            "  --cfg job               print all settings and run nothing (-p train: of one stage)",
            "  --multirun              run every combination of values given with commas",
            "  hydra/launcher=...      spread them: processes (this machine), slurm (a cluster)",
            "  --hydra-help            Hydra's own flags",
        ]
    )


def quoted(arguments: list[str], stages: tuple[Stage, ...] = STAGES) -> list[str]:
    """The command line with paths and free text quoted for Hydra.

    So that "invert.image=ganyu (2).png" needs no second pair of quotes. Quoted values stay as they
    are, and so do null, interpolations, and in a sweep lists of paths, parted by commas.
    """
    paths = {f"{stage.name}.{key}" for stage in stages for key in stage.sources}
    paths |= {key for stage in stages for key in stage.sources if "." in key}
    texts = {f"{stage.name}.{key}" for stage in stages for key in stage.free_text}
    sweep = bool({"-m", "--multirun"} & set(arguments))

    def quote(argument: str) -> str:
        key, _, value = argument.partition("=")
        listed = sweep and "," in value and key not in texts
        plain = value in ("", "null", "???") or re.search(r"""^['"]|\$\{|\\$""", value)
        if key not in paths | texts or listed or plain:
            return argument
        return f"{key}='{value.replace(chr(39), chr(92) + chr(39))}'"

    return [quote(argument) for argument in arguments]


def for_several(arguments: list[str], is_first: bool) -> list[str]:
    """The command line of one of several processes: Hydra's records are the first one's."""
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError(
            "--multirun runs one command many times, torchrun one command in many processes; "
            "start them one after the other, or let a cluster do both (docs/distributed.md)."
        )
    return arguments if is_first else [*arguments, "hydra.output_subdir=null", "hydra.run.dir=."]


def _unforeseen(error: Exception) -> str:
    text = "".join(traceback.format_exception(error))
    log = Path("runs") / f"error-{os.getpid()}.log"
    try:
        log.parent.mkdir(exist_ok=True)
        log.write_text(text, encoding="utf-8")
    except OSError:  # perhaps the very reason: a folder that cannot be written to
        with tempfile.NamedTemporaryFile(
            "w", prefix="animedrag-error-", suffix=".log", delete=False, encoding="utf-8"
        ) as stream:
            stream.write(text)
        log = Path(stream.name)
    return f"Unexpected error ({type(error).__name__}: {first_line(error)}); details are in {log}."


if __name__ == "__main__":
    launch.end(main())

"""Runs a stage: resolves its inputs, names the run, reuses, resumes or runs it, and commits.

The only place that knows both stages and the store. Knows nothing about Hydra.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.artifacts.draft import Draft, disk_errors
from pipeline.artifacts.manifest import MANIFEST_NAME, Parent, Plan, Source, read_source
from pipeline.artifacts.reference import check_name, parse
from pipeline.artifacts.store import Artifact, Store, changed_files, quick_check
from pipeline.console import duration, say, sigterm_interrupts
from pipeline.errors import AnimedragError, ArtifactError, ConfigError, Interrupted
from pipeline.launch import Crew, Order
from pipeline.stages import STAGES, Stage, load, producer

# As a reference: whichever belongs to the input that the key inherits from.
AUTO = "auto"
# What ships with the code, each in a folder of its name.
SHIPPED = Path(__file__).resolve().parent.parent / "assets"


class StageFailed(AnimedragError):
    """A stage met an error nobody foresaw; the message says where the traceback lies."""

    exit_code = 1


class OutOfMemory(AnimedragError):
    """A stage's work does not fit into the memory of the CPU or the GPU."""

    exit_code = 1


@dataclass(frozen=True)
class Outcome:
    """What `run_stage` did: the artifact, and whether it was "reused", "resumed" or "run"."""

    artifact: Artifact
    how: str


def run_stage(
    stage: Stage,
    config: Any,
    store: Store,
    stages: tuple[Stage, ...] = STAGES,
    crew: Crew | None = None,
) -> Outcome:
    """Make what `stage` makes of `config` (its config dataclass), unless it is there already.

    With a `crew` this is its first process, and the others are in `follow_stage`. AnimedragError
    for everything that is about the user's input or machine; the draft stays then, and the same
    call goes on from it.
    """
    outcome = _run_stage(stage, config, store, stages, crew)
    if crew is not None:
        crew.send(Order())
    return outcome


def foresee(stages: Sequence[tuple[Stage, Any]]) -> None:
    """Refuse now what a later one of these stages (each with its config) would refuse in the end.

    Raises:
        DataError: a raw file is not there; and whatever the stages' own `foresee` raises.
    """
    before: dict[str, Any] = {}
    for stage, config in stages:
        for key in stage.sources:
            path = value_at(config, key)
            if path is not None and not Path(str(path)).expanduser().exists():
                _read_source(stage, key, Path(str(path)).expanduser())  # says so
        if stage.foresee is not None and before:
            load(stage.foresee)(config, before)
        before[stage.name] = config


def follow_stage(stage: Stage, config: Any, crew: Crew) -> None:
    """Take part, as another than the first process, in what the first one does of `stage`."""
    with sigterm_interrupts(), _stoppable(stage):
        while (work := crew.receive().work) is not None:
            inputs, out = work
            log = out.parent / f"error-{crew.ranks.rank}.log"
            with _unforeseen(stage, log):
                stage.run_function()(config, inputs, out)


def _run_stage(
    stage: Stage,
    config: Any,
    store: Store,
    stages: tuple[Stage, ...],
    crew: Crew | None,
) -> Outcome:
    inputs, plan = _plan(stage, config, store, stages)
    finished = store.find_finished(plan)
    if finished is not None:
        return _reused(stage, finished)
    with sigterm_interrupts(), _stoppable(stage):
        _check_parents(stage, plan, store)
        if stage.check is not None:
            load(stage.check)(config, inputs)
        draft = _open_draft(stage, plan, store)
        try:
            finished = store.find_finished(plan)
            if finished is not None:  # by the process we waited for
                draft.discard()
                return _reused(stage, finished)
            with disk_errors(store.root):
                store.hold_parents(plan)
            return _work(stage, config, inputs, plan, draft, crew)
        finally:
            draft.close()


@contextlib.contextmanager
def _stoppable(stage: Stage) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"{stage.name} was stopped; run the same command again to continue."
        ) from error
    except BrokenPipeError as error:
        raise Interrupted(
            f"{stage.name} was stopped, because nobody reads its output any more (as under | head);"
            " run the same command again to continue."
        ) from error


def _check_parents(stage: Stage, plan: Plan, store: Store) -> None:
    """Refuse to make anything of an artifact whose bytes are not those that were recorded."""
    for key, parent in plan.parents.items():
        artifact = Artifact(store.folder_of(parent))
        problem = next(iter(changed_files(artifact)), None)
        if problem is not None:
            raise ArtifactError(
                f"{stage.name}.{key}: {problem.rstrip('.')}; nothing is made of it. Bring it back "
                f"from a copy, or delete {artifact.folder} and make it again."
            )


def _open_draft(stage: Stage, plan: Plan, store: Store) -> Draft:
    def wait(holder: str) -> None:
        say(f"{stage.name}: process {holder} is running the same; waiting until it ends.")

    with disk_errors(store.root):
        try:
            return store.draft(plan, wait)
        except (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError) as error:
            raise ArtifactError(
                f"{error.filename} cannot be written ({error.strerror}); "
                "set store= to a folder of yours."
            ) from error


def _reused(stage: Stage, artifact: Artifact) -> Outcome:
    say(f"{stage.name}: reused {artifact.reference}; nothing that decides the result has changed.")
    return Outcome(artifact, "reused")


def _work(
    stage: Stage,
    config: Any,
    inputs: dict[str, Path],
    plan: Plan,
    draft: Draft,
    crew: Crew | None,
) -> Outcome:
    metrics = draft.finished_metrics()
    how = "resumed" if draft.begun else "run"
    if metrics is not None:
        say(f"{stage.name}: resumed; it had finished, and only its result was to be filed.")
    else:
        if draft.begun:
            say(f"{stage.name}: resumed after {duration(draft.seconds)} of earlier work.")
        else:
            say(f"{stage.name}: making {plan.kind}/{plan.name}.")
        if crew is not None and stage.parallel:
            crew.send(Order((inputs, draft.out)))
        with _unforeseen(stage, draft.error_log):
            metrics = plain_metrics(stage.run_function()(config, inputs, draft.out))
    artifact = Artifact(draft.commit(metrics))
    manifest = artifact.manifest
    took = duration(manifest.wall_seconds)
    say(f"{stage.name}: made {manifest.reference} in {took}; it is in {artifact.folder}")
    return Outcome(artifact, how)


@contextlib.contextmanager
def _unforeseen(stage: Stage, log: Path) -> Iterator[None]:
    """Turn an error that nobody foresaw into a sentence; its traceback goes into `log`."""
    try:
        with disk_errors(log.parent):
            yield
    except (AnimedragError, BrokenPipeError):
        raise
    except Exception as error:
        if _is_out_of_memory(error):
            raise OutOfMemory(
                f"{stage.name} needs more memory than there is ({first_line(error)[:160]}); make "
                "what it works on smaller (a batch, a size), or end other programs that hold "
                "memory; then run the command again."
            ) from error
        with disk_errors(log.parent):
            log.write_text(traceback.format_exc(), encoding="utf-8")
        raise StageFailed(
            f"{stage.name} stopped at an unexpected error ({type(error).__name__}: "
            f"{first_line(error)}); details are in {log}."
        ) from error


def _plan(
    stage: Stage, config: Any, store: Store, stages: tuple[Stage, ...]
) -> tuple[dict[str, Path], Plan]:
    """The folders the stage will see, and the plan of the run."""
    check_name(config.name)
    artifacts: dict[str, Artifact] = {}
    parents: dict[str, Parent] = {}
    sources: dict[str, Source] = {}
    inputs: dict[str, Path] = {}
    for key, kind in stage.inputs.items():
        reference = value_at(config, key)
        if reference == AUTO and key in stage.inherited:
            reference = _belonging(stage, key, kind, config.name, artifacts, store)
        elif reference is not None:
            reference = _in_full(str(reference), kind, store)
        if reference is not None and key in stage.may_be_absent:
            reference = _if_there(stage, kind, str(reference), config.name, store)
        if reference is None and key in stage.inherited and key not in stage.may_be_absent:
            reference = _inherited(stage, key, artifacts, store)
        if reference is not None:
            artifact = _find_input(stage, key, kind, str(reference), store, stages)
            artifacts[key] = artifact
            parents[key] = store.parent_of(artifact)
            inputs[key] = artifact.folder
    fetched = load(stage.fetch)(config) if stage.fetch is not None else {}
    for key in stage.sources:
        path = value_at(config, key)
        if key in fetched:
            inputs[key], name = fetched[key]
            sources[key] = replace(_read_source(stage, key, inputs[key]), path=name)
        elif path is not None:
            inputs[key] = Path(str(path)).expanduser()
            sources[key] = _read_source(stage, key, inputs[key])
    plan = Plan(
        kind=stage.produces,
        name=config.name,
        stage=stage.name,
        stage_version=stage.version,
        config=plain_config(config),
        # The references and paths are stood for by the digests of what they name.
        ignored=(*stage.transient, *stage.inputs, *stage.sources),
        parents=parents,
        sources=sources,
    )
    return inputs, plan


def _in_full(reference: str, kind: str, store: Store) -> str:
    """KIND/NAME for a bare NAME (or NAME:v2), as the kind is clear; of what ships, its folder."""
    name = reference.partition(":")[0]
    if "/" in reference or (name not in store.names(kind) and Path(reference).exists()):
        return reference
    if name not in store.names(kind) and (SHIPPED / reference / MANIFEST_NAME).is_file():
        return str(SHIPPED / reference)
    return f"{kind}/{reference}"


def _if_there(stage: Stage, kind: str, reference: str, name: str, store: Store) -> str | None:
    """The reference, or None where no artifact of that name exists yet: with a word, unless it is
    the run's own name, which the settings give by themselves and the user need not know of."""
    if reference in {f"{kind}/{name}" for name in store.names(kind)} or ":" in reference:
        return reference
    if not reference.startswith(f"{kind}/"):
        return reference  # a path, or another kind: checked like any input
    if reference != f"{kind}/{name}":
        say(f"{stage.name}: there is no {reference} yet, so it is left out.")
    return None


def _belonging(
    stage: Stage,
    key: str,
    kind: str,
    name: str,
    artifacts: Mapping[str, Artifact],
    store: Store,
) -> str | None:
    """What belongs to the input that inherits it: the artifact that this one was made from (None
    if it was made from none, or that is gone); without that input, what has the run's own name."""
    child, parent_key = stage.inherited[key]
    if child not in artifacts:
        return f"{kind}/{name}"
    parent = artifacts[child].manifest.plan.parents.get(parent_key)
    return None if parent is None or not store.folder_of(parent).is_dir() else str(parent)


def _inherited(
    stage: Stage, key: str, artifacts: Mapping[str, Artifact], store: Store
) -> str | None:
    """The folder of the artifact that another input was made from; None where there is none."""
    child, name = stage.inherited[key]
    if child not in artifacts:
        return None
    parent = artifacts[child].manifest.plan.parents.get(name)
    if parent is None:
        return None
    folder = store.folder_of(parent)
    if not folder.is_dir():
        raise ArtifactError(
            f"{artifacts[child].manifest.reference} was made from {parent}, which is not in "
            f"{store.root}; "
            f"say what to take instead: {stage.name}.{key}={parent.kind}/NAME."
        )
    return str(folder)


def _read_source(stage: Stage, key: str, path: Path) -> Source:
    try:
        return read_source(path)
    except AnimedragError as error:
        # A dotted key lies in a group, which is set at the root: source.path.
        setting = key if "." in key else f"{stage.name}.{key}"
        raise type(error)(f"{setting}: {error}") from error


def _find_input(
    stage: Stage,
    key: str,
    kind: str,
    reference: str,
    store: Store,
    stages: tuple[Stage, ...],
) -> Artifact:
    setting = f"{stage.name}.{key}"
    if Path(reference).is_file():
        advice = "; `make import PKL=... NAME=x` makes model/x of a network file"
        raise ConfigError(
            f"{setting}={reference} is a file, not an artifact{advice if kind == 'model' else ''}."
        )
    try:
        artifact = store.find(reference)
        found = artifact.manifest.plan.kind
        damage = quick_check(artifact)
    except ArtifactError as error:
        advice = _advice(setting, reference, kind, store, stages)
        raise ArtifactError(f"{setting}={reference}: {str(error).rstrip('.')}{advice}.") from error
    if found != kind:
        raise ConfigError(
            f"{setting}={reference} is of kind {found}, but {stage.name} needs one of kind {kind}; "
            f"use for example {setting}={kind}/{artifact.manifest.plan.name}."
        )
    if damage:
        raise ArtifactError(
            f"{setting}: {artifact} is damaged ({damage}); "
            f"see python -m scripts.artifacts verify {artifact}."
        )
    return artifact


def _advice(
    setting: str, reference: str, kind: str, store: Store, stages: tuple[Stage, ...]
) -> str:
    """What to run so that the missing artifact exists, "" if no stage makes its kind."""
    maker = producer(kind, stages)
    try:
        name = parse(reference).name
    except ArtifactError:
        return ""
    if maker is None or name in store.names(kind):
        return ""
    ships = SHIPPED / "starter"
    other = f", or take the one that ships: {setting}=starter" if kind == "model" else ""
    return f"; run `make {maker.name} CHARACTER={name}` first{other if ships.is_dir() else ''}"


def value_at(config: Any, key: str) -> Any:
    """The value at the dotted `key` of nested dataclasses (or mappings)."""
    for part in key.split("."):
        config = config[part] if isinstance(config, Mapping) else getattr(config, part)
    return config


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether the CPU's or the GPU's memory is used up; torch is not imported to find out."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def plain_config(config: Any) -> dict[str, Any]:
    """The config dataclass as JSON values."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def plain_metrics(metrics: Mapping[str, Any]) -> dict[str, float | int | str]:
    """Metrics as JSON values: numpy's and torch's scalars unpacked, NaN and inf as text."""
    return {
        str(key): _plain(value if isinstance(value, str | int | float) else value.item())
        for key, value in metrics.items()
    }


def first_line(error: BaseException) -> str:
    """The first line of the error's message."""
    return (str(error).strip().splitlines() or ["no message"])[0]

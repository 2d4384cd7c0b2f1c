"""Settings: the schema of the whole config, and what is wrong with one in a sentence.

The config holds every stage's settings under the stage's name, so an experiment can set several
stages and the command line says `train.kimg=100`. The schema is put together from the table of
stages. Hydra refuses what does not fit it, but in the words of its own insides; `explain` says the
same in one sentence that names the nearest valid choice. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import (
    CompactHydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    InterpolationToMissingValueError,
    OmegaConfBaseException,
    ValidationError,
)

from pipeline.errors import AnimedragError, ConfigError, check_choice, nearest
from pipeline.stages import GROUPS, STAGES, Group, Stage, find_stage

SCHEMA_NAME = "schema"
DEVICES = ("auto", "cpu", "cuda")

_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
}


def root_schema(
    stages: tuple[Stage, ...] = STAGES, groups: tuple[Group, ...] = GROUPS
) -> type[Any]:
    """The dataclass of the whole config: what all stages share, the groups, and every stage."""
    fields: list[tuple[str, Any, Any]] = [
        ("stage", Any, MISSING),  # a name, or a list of names
        ("character", str, MISSING),
        ("seed", int, MISSING),
        ("store", str, MISSING),
        ("device", str, MISSING),
    ]
    parts: tuple[Group | Stage, ...] = (*groups, *stages)
    for part in parts:
        fields.append((part.name, part.config_class(), MISSING))
    return dataclasses.make_dataclass("Settings", fields)


def register(stages: tuple[Stage, ...] = STAGES, groups: tuple[Group, ...] = GROUPS) -> None:
    """Make the schema known to Hydra, under the name conf/config.yaml gives first."""
    ConfigStore.instance().store(name=SCHEMA_NAME, node=root_schema(stages, groups))


def chosen_stages(settings: DictConfig, stages: tuple[Stage, ...] = STAGES) -> list[Stage]:
    """The stages that `stage=` names, in that order; ConfigError if none or a wrong one."""
    listed = ", ".join(stage.name for stage in stages)
    if OmegaConf.is_missing(settings, "stage") or not settings.stage:
        raise ConfigError(f"No stage was chosen; add stage={stages[0].name} (valid: {listed}).")
    chosen = settings.stage
    names = list(chosen) if OmegaConf.is_list(chosen) else [chosen]
    return [find_stage(str(name), stages) for name in names]


def stage_config(settings: DictConfig, stage: Stage) -> Any:
    """The stage's config dataclass, validated; ConfigError if a value is missing or impossible."""
    check_choice("device", settings.device, DEVICES)
    node = settings[stage.name]
    missing = sorted(OmegaConf.missing_keys(node))
    if missing:
        key = f"{stage.name}.{missing[0]}"
        raise ConfigError(f"{key} has no value; add {key}=... to the command.")
    try:
        return OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise explain(error, type(settings)) from error


def explain(error: BaseException, schema: type[Any] | DictConfig | None) -> ConfigError:
    """What `error`, raised while a config was put together, means to its author, in one sentence.

    `schema` is the root schema, for the names that would have been valid (None: no names known).
    """
    for cause in _chain(error):
        sentence = _sentence(cause, schema)
        if sentence:
            return ConfigError(_place(error) + sentence)
    return ConfigError(_place(error) + _one_line(str(error)))


def _sentence(error: BaseException, schema: Any) -> str:
    """The sentence for this exception alone, "" if it says nothing to the user."""
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _missing_option(error)
    if isinstance(error, OverrideParseException):
        return _unreadable_override(error, schema)
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return _unknown_key(error.full_key or str(error.key), schema)
    if isinstance(error, InterpolationToMissingValueError | InterpolationResolutionError):
        return f"{error.full_key}={_raw_value(error)} cannot be resolved: {_one_line(str(error))}"
    if isinstance(error, ValidationError):
        return _impossible_value(error, schema)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}, is no valid YAML: {error.problem}."
    if isinstance(error, CompactHydraException):
        unmatched = re.search(r"Could not override '([^'@]+)[^']*'", str(error))
        if unmatched:
            return _unknown_key(unmatched.group(1), schema)
    return ""


def _missing_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not group or not error.options:
        return _one_line(str(error))
    listed = ", ".join(error.options)
    return (
        f"{group}={option} is not possible; the nearest valid value is "
        f"{nearest(option, error.options)} (valid: {listed})."
    )


def _unreadable_override(error: OverrideParseException, schema: Any) -> str:
    override = error.override
    if "=" not in override and schema is not None:
        return (
            f"{override!r} is no setting; write key=value, for example stage={override} "
            f"or {nearest(override, _keys(schema))}=...."
        )
    return f"{override!r} cannot be read as key=value ({_one_line(error.message)})"


def _unknown_key(key: str, schema: Any) -> str:
    close = nearest_key(key, schema) if schema is not None else ""
    hint = f"; the nearest valid one is {close}" if close else ""
    return f"There is no setting {key}{hint}."


def nearest_key(key: str, schema: Any) -> str:
    """The valid dotted key that `key` most probably stands for."""
    keys = list(_keys(schema))
    parent, _, leaf = key.rpartition(".")
    siblings = {other.rpartition(".")[2]: other for other in keys if _parent(other) == parent}
    close = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6)
    if close:
        return siblings[close[0]]
    # The right setting of another part: kimg or stage.kimg for train.kimg.
    namesakes = [other for other in keys if other.rpartition(".")[2] == leaf]
    if namesakes:
        return nearest(key, namesakes)
    return nearest(key, keys)


def _parent(key: str) -> str:
    return key.rpartition(".")[0]


def _keys(schema: Any) -> Iterator[str]:
    """Every dotted key of a dataclass and the dataclasses in it."""
    for name, nested in _fields(schema):
        yield name
        if nested is not None:
            yield from (f"{name}.{key}" for key in _keys(nested))


def _fields(schema: Any) -> Iterator[tuple[str, type[Any] | None]]:
    node = OmegaConf.structured(schema)
    for name in node:
        field_type = OmegaConf.get_type(node, name) or _declared(schema, str(name))
        yield str(name), field_type if dataclasses.is_dataclass(field_type) else None


def _declared(schema: Any, name: str) -> Any:
    import typing

    return typing.get_type_hints(schema).get(name)


def _impossible_value(error: ValidationError, schema: Any) -> str:
    key = error.full_key or str(error.key)
    value = error.value if error.value is not None else _quoted(str(error))
    wanted = _WANTED.get(_type_name(error), "")
    if not wanted:
        return f"{key}={value} is not possible: {_one_line(str(error))}"
    return f"{key}={value} is not possible; it must be {wanted}."


def _type_name(error: OmegaConfBaseException) -> str:
    found = re.search(r"converted to (Integer|Float|Boolean|String)|not a '?(bool)", str(error))
    names = {"Integer": "int", "Float": "float", "Boolean": "bool", "String": "str"}
    if found:
        return names.get(found.group(1) or "", "bool")
    return ""


def _quoted(text: str) -> str:
    found = re.search(r"'([^']*)'", text)
    return found.group(1) if found else "this value"


def _raw_value(error: OmegaConfBaseException) -> str:
    found = re.search(r"\$\{[^}]*\}", str(error))
    return found.group(0) if found else "..."


def _place(error: BaseException) -> str:
    """The file the mistake is in, where the error says so; "" for the command line."""
    for cause in _chain(error):
        found = re.search(r"In '([^']+)': \w+ raised while composing", str(cause))
        if found and found.group(1) != "config":
            return f"conf/{found.group(1)}.yaml: "
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines()]
    body = "; ".join(line.rstrip(".") for line in lines if line)
    return body + "."


def is_config_problem(error: BaseException) -> bool:
    """Whether `error` came from putting the config together, not from running with it."""
    kinds = (CompactHydraException, OmegaConfBaseException, yaml.YAMLError, AnimedragError)
    return isinstance(error, kinds)

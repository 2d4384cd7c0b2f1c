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
import typing
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

from pipeline.errors import ConfigError, check_choice, nearest
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
    # make_dataclass refuses Python's keywords, and one stage is called import; the class is never
    # instantiated, so it needs no methods that would spell these names out.
    body = {name: default for name, _, default in fields}
    body["__annotations__"] = {name: field_type for name, field_type, _ in fields}
    return dataclasses.dataclass(init=False, repr=False, eq=False)(type("Settings", (), body))


def register(stages: tuple[Stage, ...] = STAGES, groups: tuple[Group, ...] = GROUPS) -> None:
    """Make the schema known to Hydra, under the name conf/config.yaml gives first."""
    schema = OmegaConf.structured(root_schema(stages, groups))
    for stage in stages:
        node = OmegaConf.structured(stage.config_class())
        for name, field_type in typing.get_type_hints(stage.config_class()).items():
            if dataclasses.is_dataclass(field_type):
                # A file may say ${network} or ${preprocess.framing} here, which OmegaConf takes
                # only where nothing is yet.
                node[name] = MISSING
        schema[stage.name] = node
    ConfigStore.instance().store(name=SCHEMA_NAME, node=schema)


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
    try:
        check_choice("device", settings.device, DEVICES)
        node = settings[stage.name]
        for key in sorted(OmegaConf.missing_keys(node)):
            # A shared part is set at the root: source.path, not preprocess.source.path.
            inner = key.removeprefix(f"{stage.name}.")
            key = inner if inner != key and inner.partition(".")[0] in settings else key
            raise ConfigError(f"{key} has no value; add {key}=... to the command.")
        return OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise explain(error, None) from error
    except ConfigError as error:
        raise ConfigError(_with_stage(str(error), settings, stage)) from error


def _with_stage(sentence: str, settings: DictConfig, stage: Stage) -> str:
    """The sentence with its leading `key=` as the command line spells it: `train.key=`."""
    found = re.match(r"(\w+)[\w.]*(=| )", sentence)
    if found is None or found.group(1) in settings or found.group(1) not in settings[stage.name]:
        return sentence
    return f"{stage.name}.{sentence}"


def check_keys(settings: DictConfig, schema: type[Any]) -> None:
    """Raise ConfigError for a key the schema does not have (Hydra lets `+key=value` add any)."""
    valid = set(_keys(schema))
    for key in _composed_keys(OmegaConf.to_container(settings, resolve=False), schema):
        if key not in valid:
            raise ConfigError(_unknown_key(key, schema))


def _composed_keys(node: Any, schema: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of a composed config, as deep as the schema's dataclasses go."""
    nested = dict(_fields(schema))
    for name, value in node.items():
        yield f"{prefix}{name}"
        inner = nested.get(str(name))
        if inner is not None and isinstance(value, dict):
            yield from _composed_keys(value, inner, f"{prefix}{name}.")


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
        return f"{error.full_key} cannot be resolved: {_one_line(str(error))}"
    if isinstance(error, ValidationError):
        return _impossible_value(error)
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
    if "=" in override:
        return (
            f"{override!r} cannot be read as key=value; put values with signs such as , = ( ) or "
            "spaces between two kinds of quotes: key='\"a (b)\"'."
        )
    if schema is not None and override in dict(_fields(schema)):
        return f"{override!r} has no value; write stage={override} or {override}.SETTING=VALUE."
    return f"{override!r} has no value; write key=value, for example stage=train."


def _unknown_key(key: str, schema: Any) -> str:
    close = nearest_key(key, schema) if schema is not None else ""
    hint = f"; the nearest valid one is {close}" if close else ""
    return f"There is no setting {key}{hint}."


def nearest_key(key: str, schema: Any) -> str:
    """The valid dotted key that `key` most probably stands for."""
    keys = list(_keys(schema))
    parent, _, leaf = key.rpartition(".")
    siblings = {other.rpartition(".")[2]: other for other in keys if _parent(other) == parent}
    # The right setting of another part: kimg or stage.kimg for train.kimg.
    namesakes = [other for other in keys if other.rpartition(".")[2] == leaf]
    very_close = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.8)
    close = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6)
    if very_close or (close and not namesakes):
        return siblings[(very_close or close)[0]]
    return nearest(key, namesakes or keys)


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
    return typing.get_type_hints(schema).get(name)


def _impossible_value(error: ValidationError) -> str:
    key = error.full_key or error.key
    value = error.value if error.value is not None else _quoted(str(error))
    wanted = _WANTED.get(_type_name(error), "")
    if not key:
        return _one_line(str(error))
    if "is not a subclass of" in str(error):
        return f"{key}={value} is not possible; set its parts, {key}.SETTING=VALUE."
    if "is not a ListConfig" in str(error):
        return f"{key}={value} is not possible; it must be a list such as [1,2]."
    if not wanted:
        return f"{key}={value} is not possible: {_one_line(str(error))}"
    return f"{key}={value} is not possible; it must be {wanted}."


def _type_name(error: OmegaConfBaseException) -> str:
    found = re.search(r"converted to (Integer|Float|Boolean|String)|not a valid (bool)", str(error))
    names = {"Integer": "int", "Float": "float", "Boolean": "bool", "String": "str"}
    if found:
        return names.get(found.group(1) or "", "bool")
    return ""


def _quoted(text: str) -> str:
    found = re.search(r"'([^']*)'", text)
    return found.group(1) if found else "this value"


def _place(error: BaseException) -> str:
    """The file the mistake is in, where the error says so; "" for the command line."""
    for cause in _chain(error):
        found = re.match(r"In '([^']+)': ", str(cause))
        if found and found.group(1) not in ("config", "hydra/config"):
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
    lines = [line.strip().rstrip(".") for line in text.strip().splitlines()]
    # OmegaConf's last lines tell of its types.
    internal = ("full_key:", "reference_type", "object_type")
    return "; ".join(line for line in lines if line and not line.startswith(internal)) + "."


def is_config_problem(error: BaseException) -> bool:
    """Whether `error` came from putting the config together, not from running with it."""
    return isinstance(error, CompactHydraException | OmegaConfBaseException | yaml.YAMLError)

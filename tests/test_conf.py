"""conf/ as it is: it composes, covers the schemas, is commented, and needs no torch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from pipeline.errors import ConfigError
from pipeline.settings import chosen_stages, nearest_key, register, root_schema, stage_config
from pipeline.stages import GROUPS, STAGES, Group, Stage, find_stage, producer
from scripts.run import quoted

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
OPTIONS = [
    (group.name, path.stem)
    for group in GROUPS
    for path in sorted((CONF / group.name).glob("*.yaml"))
]
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> DictConfig:
    return compose("config", overrides=list(overrides))


def filled(settings: DictConfig, stage: Stage) -> Any:
    """The stage's config, with something in place of what only the user can say."""
    if stage.name == "edit" and settings.edit.points is None and settings.edit.recipe is None:
        settings.edit.points = "10,10>12,10"
    for key in OmegaConf.missing_keys(settings[stage.name]):
        OmegaConf.update(settings, key, "given")
    return stage_config(settings, stage)


def shown(path: Path) -> str:
    return path.relative_to(CONF).as_posix()


def keys_of(node: yaml.Node | None, trail: str = "") -> Iterator[tuple[str, int]]:
    """Dotted name and line (from 0) of every key in a YAML document."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{trail}{key.value}"
            yield name, key.start_mark.line
            if name != "defaults":  # choices, not settings
                yield from keys_of(value, f"{name}.")


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_every_default_has_a_comment(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    bare = []
    for key, line in keys_of(yaml.compose("\n".join(lines))):
        above = lines[line - 1].strip() if line else ""
        if key != "defaults" and "#" not in lines[line] and not above.startswith("#"):
            bare.append(f"{shown(path)}:{line + 1} {key}")
    assert bare == []


def settings_in(path: Path) -> dict[str, Any]:
    """The settings a YAML file gives, with those of the files it builds on."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    merged: dict[str, Any] = {}
    for base in content.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            merged |= settings_in(path.with_name(f"{base}.yaml"))
    return merged | content


def missing_from(settings: dict[str, Any], schema: type[Any], trail: str = "") -> Iterator[str]:
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        name = f"{trail}{field.name}"
        if field.name not in settings:
            yield name
        elif dataclasses.is_dataclass(hints[field.name]) and isinstance(settings[field.name], dict):
            yield from missing_from(settings[field.name], hints[field.name], f"{name}.")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stages_file_gives_every_setting(stage: Stage) -> None:
    settings = settings_in(CONF / "stages" / f"{stage.name}.yaml")
    assert list(missing_from(settings, stage.config_class())) == []


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_a_groups_files_give_every_setting_between_them(group: Group) -> None:
    given: dict[str, Any] = {}
    for path in sorted((CONF / group.name).glob("*.yaml")):
        given |= settings_in(path)
    assert list(missing_from(given, group.config_class())) == []


def test_every_group_has_options() -> None:
    assert {group for group, _ in OPTIONS} == {group.name for group in GROUPS}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_stage_composes_with_every_option(group: str, option: str) -> None:
    settings = composed(f"{group}={option}")
    for stage in STAGES:
        config = filled(settings, stage)
        assert isinstance(config, stage.config_class())
        assert config.name == settings.character


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_stage_composes_with_every_experiment(name: str) -> None:
    settings = composed(f"experiment={name}")
    for stage in STAGES:
        assert isinstance(filled(settings, stage), stage.config_class())


@pytest.mark.parametrize("launcher", ["processes", "slurm"])
def test_launchers_compose(launcher: str) -> None:
    settings = compose("config", overrides=[f"hydra/launcher={launcher}"], return_hydra_config=True)
    assert settings.hydra.launcher._target_


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_the_table_names_settings_that_exist(stage: Stage) -> None:
    schema = {field.name for field in dataclasses.fields(stage.config_class())}
    valid = {key for key, _ in keys_of(yaml.compose(OmegaConf.to_yaml(composed()[stage.name])))}
    assert "name" in schema
    for key in (*stage.inputs, *stage.sources, *stage.transient):
        head, _, _ = key.partition(".")
        assert head in schema
        assert key in valid or head in {group.name for group in GROUPS}
        if head != key and head in {group.name for group in GROUPS}:
            assert key.partition(".")[2] in composed()[head]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_inputs_are_made_by_a_stage_of_the_table(stage: Stage) -> None:
    assert all(producer(kind) is not None for kind in stage.inputs.values())


def test_character_names_everything() -> None:
    settings = composed("character=keqing", "seed=5")
    assert {settings[stage.name].name for stage in STAGES} == {"keqing"}
    assert settings.train.dataset == "dataset/keqing"
    assert settings.train.seed == 5


def test_stages_are_chosen_by_name_or_list() -> None:
    assert [stage.name for stage in chosen_stages(composed("stage=train"))] == ["train"]
    several = chosen_stages(composed("stage=[preprocess,train]"))
    assert [stage.name for stage in several] == ["preprocess", "train"]
    with pytest.raises(ConfigError, match="nearest valid value is train"):
        find_stage("trian")


@pytest.mark.parametrize(
    ("key", "expected"),
    [("trian", "train"), ("train.datset", "train.dataset"), ("netwrok", "network")],
)
def test_the_nearest_key(key: str, expected: str) -> None:
    assert nearest_key(key, root_schema()) == expected


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("invert.image=a (2).png", "invert.image='a (2).png'"),
        ("source.path=my folder/x=y.zip", "source.path='my folder/x=y.zip'"),
        ("source.path=Ganyu's, all.zip", "source.path='Ganyu\\'s, all.zip'"),
        ("edit.points=1,2>3,4;5,6>7,8", "edit.points='1,2>3,4;5,6>7,8'"),
        ("invert.image='quoted'", "invert.image='quoted'"),
        ("invert.image=${source.path}", "invert.image=${source.path}"),
        ("edit.recipe=null", "edit.recipe=null"),
        ("train.kimg=3", "train.kimg=3"),
        ("--help", "--help"),
    ],
)
def test_paths_and_points_need_no_second_quotes(argument: str, expected: str) -> None:
    assert quoted([argument]) == [expected]
    if "=" in argument:
        key, _, value = argument.partition("=")
        settings = OmegaConf.to_container(composed(expected), resolve=False)
        for part in key.split("."):
            settings = settings[part]
        assert str(settings) in (value.strip("'"), "None", "3.0")


def test_lists_of_paths_sweep() -> None:
    assert quoted(["-m", "invert.image=a.png,b.png"]) == ["-m", "invert.image=a.png,b.png"]
    assert quoted(["-m", "edit.points=1,2>3,4"]) == ["-m", "edit.points='1,2>3,4'"]


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["stage=train", "train.x=1"]])
def test_no_torch_before_a_stage_runs(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from scripts.run import main\n"
        "try: code = main()\n"
        "except SystemExit as done: code = done.code\n"
        "heavy = {'torch', 'numpy', 'cv2', 'skia'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy), 'code:', code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    expected = 2 if "train.x=1" in arguments else 0
    assert done.stdout.splitlines()[-1] == f"heavy: [] code: {expected}", done.stderr
    if "--help" in arguments:
        assert "stage=train character=ganyu" in done.stdout

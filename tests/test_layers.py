"""Imports point one way (the order of STYLE.md), and config modules are light."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module imports only its own layer and what stands above it.
LAYERS = (
    "torch_utils",
    "pipeline.errors",
    "pipeline.console",
    "pipeline.files",
    "pipeline.weights",
    "pipeline.artifacts",
    "pipeline.models",
    "pipeline.metrics",
    "pipeline.data",
    "pipeline.train",
    "pipeline.invert",
    "pipeline.edit",
    "pipeline.evaluate",
    "pipeline.stages",
    "pipeline.settings",
    "pipeline.launch",
    "pipeline.runner",
    "scripts",
)
OURS = ("torch_utils", "pipeline", "scripts")
# Helpers that say nothing about the work may be used by the low layers too.
COMMON = {"pipeline.errors", "pipeline.console", "pipeline.files"}


def modules() -> list[Path]:
    return sorted(
        path
        for folder in OURS
        for path in (ROOT / folder).rglob("*.py")
        if "__pycache__" not in path.parts
    )


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str | None:
    """The layer a module belongs to; None for the packages that hold layers."""
    found = [layer for layer in LAYERS if module == layer or module.startswith(f"{layer}.")]
    return max(found, key=len, default=None)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything of ours that the file imports, wherever in the file."""
    module = name_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            # `from pipeline.data import faces` names a module of ours, too.
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] in OURS:
                yield node.lineno, name


def violations(path: Path) -> list[str]:
    own = layer_of(name_of(path))
    if own is None:
        return []
    wrong = []
    for line, name in imports(path):
        other = layer_of(name)
        allowed = other is None or other in COMMON or LAYERS.index(other) <= LAYERS.index(own)
        if not allowed:
            wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    return wrong


def test_every_module_has_a_layer() -> None:
    packages = {"pipeline"}
    lost = [name for path in modules() if layer_of(name := name_of(path)) is None]
    assert set(lost) <= packages


def test_imports_point_one_way() -> None:
    assert len(modules()) > 20
    assert [line for path in modules() for line in violations(path)] == []


@pytest.mark.parametrize(
    ("module", "text", "wrong"),
    [
        ("pipeline/models/x.py", "from pipeline.train import loop", True),
        ("pipeline/models/x.py", "def f():\n    import pipeline.runner", True),
        ("pipeline/models/x.py", "from ..edit.drag import step", True),
        ("pipeline/models/x.py", "from .stylegan2 import Generator", False),
        ("pipeline/models/x.py", "from torch_utils.ops import bias_act", False),
        ("torch_utils/x.py", "from pipeline import models", True),
        ("torch_utils/x.py", "from pipeline.errors import ConfigError", False),
    ],
)
def test_the_test_sees_wrong_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, text: str, wrong: bool
) -> None:
    path = tmp_path / module
    path.parent.mkdir(parents=True)
    path.write_text(text)
    monkeypatch.setattr("test_layers.ROOT", tmp_path)
    assert bool(violations(path)) is wrong

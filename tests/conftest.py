"""Shared fixtures: where reference values and real drawings lie; one thread a test process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Tests run in several processes; more threads than cores only make each other wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

GoldenLoader = Callable[[str], tuple[dict[str, np.ndarray], dict[str, Any]]]


@pytest.fixture(autouse=True)
def denormals() -> None:
    """Every test begins with the processor's own rules for tiny numbers, whatever a stage that ran
    in this process before has set (torch_utils.device): hypothesis draws no floats without them."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> GoldenLoader:
    """Loader of a reference fixture by name, e.g. "nets/sg2_g_32_u": (arrays, description)."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"reference values not present: {folder}")

    def load(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        with np.load(folder / f"{name}.npz") as arrays:
            values = {key: arrays[key] for key in arrays.files}
        return values, json.loads((folder / f"{name}.json").read_text())

    return load


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of reference values; skips where it is missing."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"reference values not present: {folder}")
    return folder


@pytest.fixture(scope="session")
def drawings_dir() -> Path:
    """The folder of real drawings (drawings/, ganyu/, scenes/); skips where it is missing."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"real drawings not present: {folder}")
    return folder

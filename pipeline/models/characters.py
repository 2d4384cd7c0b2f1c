"""The characters that a dataset shows and a conditional model draws: their names, by class number.

Preprocess writes them beside the labels, train copies them into the model, and whoever asks a model
for a character finds it here. A model without the file (an imported one) knows numbers only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import ConfigError, ModelError, nearest

FILE = "characters.json"
FORMAT = 1
# More names than this do not fit into a sentence.
SHOWN = 8


def write_characters(folder: Path, names: Sequence[str]) -> None:
    """Write the names, class 0 first, into a dataset's or model's folder."""
    content = {"format": FORMAT, "names": list(names)}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")


def read_characters(folder: Path) -> list[str]:
    """The names in a dataset's or model's folder; none where there is no such file."""
    path = folder / FILE
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = content["names"]
        if content["format"] != FORMAT or not all(isinstance(name, str) for name in names):
            raise ValueError("another format")
        return list(names)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged ({error}); make the artifact again.") from error


def names_of(folder: Path, c_dim: int) -> list[str]:
    """A name for each of `c_dim` classes: those in the folder, or numbers."""
    names = read_characters(folder)
    return names if len(names) == c_dim else [str(number) for number in range(c_dim)]


def find_character(setting: str, wanted: str | None, folder: Path, c_dim: int) -> int | None:
    """Number of the class that `wanted` names, by name or number; None where it names none.

    ConfigError, in words of the `setting`, where the model in `folder` has no such class.
    """
    if wanted is None:
        return None
    if c_dim == 0:
        raise ConfigError(
            f"{setting}={wanted} is not possible: this model has no classes; leave it null."
        )
    names = names_of(folder, c_dim)
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < c_dim:
        return int(wanted)
    listed = ", ".join(names[:SHOWN]) + (", ..." if c_dim > SHOWN else "")
    raise ConfigError(
        f"{setting}={wanted} is not possible; the nearest character of this model is "
        f"{nearest(wanted, names)} (it knows {listed}; numbers 0 to {c_dim - 1} do too)."
    )


def one_hot(number: int | None, c_dim: int, count: int = 1) -> Tensor:
    """`count` rows of the class, count × c_dim; zeros where `number` is None."""
    labels = torch.zeros(count, c_dim)
    if number is not None:
        labels[:, number] = 1
    return labels

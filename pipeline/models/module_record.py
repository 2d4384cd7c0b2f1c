"""A network as a pickle describes it: neutral records of class names, attributes and tensors.

Knows nothing about pickles, files, or our own networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.errors import ModelError

# Official networks nest about 10 modules deep, and have a few hundred.
MAX_MODULE_DEPTH = 32
MAX_MODULES = 10_000
# Values in a module's attributes, however often they share each other.
MAX_ATTRIBUTE_VALUES = 10_000


class ArrayRecord:
    """A numpy array; None until the pickle has said what is in it."""

    value: np.ndarray | None = None


@dataclass(eq=False, repr=False)  # both would walk all that it holds, however often it is shared
class ModuleRecord:
    """One network, sub-network or layer as the pickle describes it.

    class_name: the writer's class, e.g. "Generator".
    state: the object's attributes by name; `_parameters`, `_buffers` and `_modules` among them.
    """

    class_name: str
    state: dict[str, Any]

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """Keywords the writer passed to the constructor (defaults are not among them)."""
        value = plain(self.state.get("_init_kwargs", {}))
        if not isinstance(value, dict):
            raise ModelError(f"{self.class_name}: the constructor's arguments are not a table.")
        return value

    def attributes(self) -> dict[str, Any]:
        """The layer's own attributes as plain values; tables, hooks and arguments left out.

        Values of other kinds than networks have (see `plain`) are left out as well.
        """
        found = {}
        for name, value in self.state.items():
            if isinstance(name, str) and not name.startswith("_") and name != "training":
                simple = plain(value)
                if simple is not UNKNOWN:
                    found[name] = simple
        return found

    def modules(self) -> dict[str, ModuleRecord]:
        """Direct sub-modules by name."""
        children = self.state.get("_modules", {})
        if not isinstance(children, dict) or not all(
            isinstance(name, str) and isinstance(child, ModuleRecord)
            for name, child in children.items()
        ):
            raise ModelError(f"{self.class_name}: its sub-modules are not modules.")
        return children

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every parameter and buffer under its dotted name (the official state_dict name)."""
        return {
            f"{path}.{name}" if path else name: tensor
            for path, record in self.walk().items()
            for name, tensor in record._own_tensors()
        }

    def walk(self) -> dict[str, ModuleRecord]:
        """This module ("") and all below it by their dotted paths."""
        found: dict[str, ModuleRecord] = {}
        seen: set[int] = set()
        waiting: list[tuple[str, ModuleRecord]] = [("", self)]
        while waiting:
            path, record = waiting.pop()
            # A module that is used twice could make a short file a network without end.
            if id(record) in seen:
                raise ModelError(f"the module {path or 'at its top'} is part of itself or shared.")
            if len(found) >= MAX_MODULES or path.count(".") >= MAX_MODULE_DEPTH:
                raise ModelError("its modules are too many, or nested too deeply, for a network.")
            seen.add(id(record))
            found[path] = record
            children = [(f"{path}.{name}" if path else name, child)
                        for name, child in record.modules().items()]  # fmt: skip
            waiting.extend(reversed(children))
        return found

    def _own_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for table in ("_parameters", "_buffers"):
            entries = self.state.get(table, {})
            if not isinstance(entries, dict):
                raise ModelError(f"{self.class_name}: its {table} are not a table.")
            for name, value in entries.items():
                if value is None:
                    continue
                if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                    raise ModelError(f"{self.class_name}: its {table} hold what is no tensor.")
                yield name, value


# Stands for a value of a kind that no network has.
UNKNOWN = object()


def plain(value: object) -> Any:
    """The value as None, bool, int, float, str, list, dict (keys str) or numpy array.

    numpy's scalars and tuples become plain numbers and lists; UNKNOWN for anything else, and for
    more than MAX_ATTRIBUTE_VALUES values.
    """
    left = MAX_ATTRIBUTE_VALUES

    def convert(item: object, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > MAX_MODULE_DEPTH:
            raise OverflowError
        if isinstance(item, np.generic):
            item = item.item()
        if item is None or isinstance(item, bool | int | float | str):
            return item
        if isinstance(item, ArrayRecord):
            return item.value
        if isinstance(item, np.ndarray):
            return item
        if isinstance(item, list | tuple):
            return [convert(member, depth + 1) for member in item]
        if isinstance(item, dict) and all(isinstance(key, str) for key in item):
            return {key: convert(member, depth + 1) for key, member in item.items()}
        raise OverflowError

    try:
        return convert(value, 0)
    except OverflowError:
        return UNKNOWN

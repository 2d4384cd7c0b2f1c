"""What an unpickler reaches in place of the real globals of a network pickle: a closed table.

Each stand-in checks its arguments; none touches anything outside this module. Storages are parsed
by hand from their bytes: torch unpickles nothing. What they are called on has been through
`nvidia_opcodes.py`.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
import torch

from pipeline.errors import ModelError
from pipeline.models.module_record import ArrayRecord, ModuleRecord
from pipeline.models.nvidia_opcodes import (
    STORAGE_OPCODES,
    refuse_global,
    scan,
)

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

STORAGE_DTYPES: Mapping[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

# What a tensor object costs beside its elements; the shortest file that makes one has more bytes.
TENSOR_COST = 250

_NUMPY_CODES = frozenset("f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1".split())


class _Storage:
    """Elements of one storage, as a flat tensor over the file's bytes."""

    def __init__(self, elements: torch.Tensor) -> None:
        self.elements = elements

    def __setstate__(self, state: object) -> None:
        raise ModelError("a storage is changed after it was made.")


class _Dtype:
    """numpy.dtype in waiting: the byte order arrives by BUILD."""

    def __init__(self, code: str) -> None:
        self.dtype = np.dtype("<" + code)

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) >= 5 and state[1] in ("<", "|", "=")):
            raise ModelError("a numpy type has an unknown layout.")
        if any(item is not None for item in state[2:5]):
            raise ModelError("a numpy type has fields, which networks never use.")


class _Array(ArrayRecord):
    """numpy.ndarray in waiting: shape and bytes arrive by BUILD."""

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise ModelError("a numpy array has an unknown layout.")
        _, shape, dtype, fortran, data = state
        if not (isinstance(shape, tuple) and isinstance(dtype, _Dtype) and isinstance(data, bytes)):
            raise ModelError("a numpy array has an unknown layout.")
        if not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ModelError("a numpy array has an impossible shape.")
        flat = np.frombuffer(data, dtype.dtype)
        self.value = flat.reshape(shape, order="F" if fortran else "C")


class _EasyDict(dict[str, Any]):
    """dnnlib.util.EasyDict: a dict; the attribute access it had is not needed."""

    def __setstate__(self, state: object) -> None:
        raise ModelError("a settings table is changed in an unknown way.")


class _Budget:
    """Bytes that stand-ins may still copy: each byte of an honest file is copied twice or less.

    Without it, a file could name one long string a million times.
    """

    def __init__(self, file_size: int) -> None:
        self._left = 4 * file_size + 100_000

    def spend(self, size: int) -> None:
        """ModelError if the file has used up its share."""
        self._left -= size
        if self._left < 0:
            raise ModelError("it expands to far more than its size.")


def shown(value: object) -> str:
    """A value for a message: what lists hold is left out, since it may be without bound."""
    return repr(value)[:60] if isinstance(value, str | int | None) else type(value).__name__


def _reconstruct_module(budget: _Budget, *args: object) -> ModuleRecord:
    if len(args) != 1 or not isinstance(args[0], dict):
        raise ModelError("a module's record has an unknown form.")
    meta = args[0]
    if meta.get("type") != "class" or meta.get("version") != 6:
        raise ModelError(
            f"a module's record is of type {shown(meta.get('type'))}, version "
            f"{shown(meta.get('version'))}; only classes of version 6 are known."
        )
    class_name, state = meta.get("class_name"), meta.get("state")
    if not isinstance(class_name, str) or not isinstance(state, dict):
        raise ModelError("a module's record lacks its class or its state.")
    budget.spend(8 * len(state))
    for name, hooks in state.items():
        if isinstance(name, str) and name.startswith("_") and "_hooks" in name and hooks:
            raise ModelError(f"{class_name} carries hooks, which networks never do.")
    complete = {
        name: value.value if isinstance(value, _Array) else value for name, value in state.items()
    }
    return ModuleRecord(class_name, complete)


def _rebuild_parameter(*args: object) -> torch.Tensor:
    if len(args) not in (2, 3) or not isinstance(args[0], torch.Tensor):
        raise ModelError("a parameter has an unknown form.")
    return args[0]


def _rebuild_tensor(budget: _Budget, *args: object) -> torch.Tensor:
    if len(args) not in (6, 7) or not isinstance(args[0], _Storage):
        raise ModelError("a tensor has an unknown form.")
    budget.spend(TENSOR_COST)
    storage, offset, size, stride = args[0], args[1], args[2], args[3]
    if not (isinstance(offset, int) and isinstance(size, tuple) and isinstance(stride, tuple)):
        raise ModelError("a tensor has an unknown form.")
    if len(size) != len(stride) or len(size) > 8:
        raise ModelError("a tensor's size and strides do not match.")
    if not all(isinstance(n, int) and 0 <= n < 2**40 for n in (offset, *size, *stride)):
        raise ModelError("a tensor has an impossible size.")
    # Elements must lie densely and once each: sorted by stride, every stride is the product of the
    # sizes before it. Anything else could make a small file expand without bound.
    expected = 1
    for step, extent in sorted(zip(stride, size, strict=True)):
        if extent > 1 and step != expected:
            raise ModelError("a tensor's elements overlap or have gaps.")
        expected *= max(extent, 1)
    count = int(np.prod(size, dtype=object)) if size else 1
    if offset + count > storage.elements.numel():
        raise ModelError("a tensor reaches past its storage.")
    return storage.elements.as_strided(size, stride, offset)


def _storage_from_bytes(budget: _Budget, *args: object) -> _Storage:
    if len(args) != 1 or not isinstance(args[0], bytes):
        raise ModelError("a storage has an unknown form.")
    budget.spend(len(args[0]))
    return _parse_legacy_storage(args[0])


def _numpy_scalar(*args: object) -> Any:
    if len(args) != 2 or not isinstance(args[0], _Dtype) or not isinstance(args[1], bytes):
        raise ModelError("a numpy number has an unknown form.")
    if len(args[1]) != args[0].dtype.itemsize:
        raise ModelError("a numpy number has the wrong length.")
    return np.frombuffer(args[1], args[0].dtype)[0]


def _ndarray(*_: object) -> None:
    """Marks numpy.ndarray where it appears as an argument; never called."""


def _numpy_reconstruct(*args: object) -> _Array:
    if len(args) != 3 or args[0] is not _ndarray or args[1] != (0,):
        raise ModelError("a numpy array has an unknown form.")
    return _Array()


def _numpy_dtype(*args: object) -> _Dtype:
    if not args or not isinstance(args[0], str) or args[0].lstrip("<|=") not in _NUMPY_CODES:
        kind = shown(args[0]) if args else "unnamed"
        raise ModelError(f"numpy type {kind} is not one that networks use.")
    return _Dtype(args[0].lstrip("<|="))


def _ordered_dict(budget: _Budget, *args: object) -> OrderedDict[Any, Any]:
    if not args:
        return OrderedDict()
    pairs = args[0]
    if len(args) != 1 or not isinstance(pairs, list):
        raise ModelError("an ordered table has an unknown form.")
    budget.spend(8 * len(pairs))
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise ModelError("an ordered table has an unknown form.")
    # Other keys than texts could be made to have equal hashes, and the table endlessly slow.
    if not all(isinstance(key, str) for key, _ in pairs):
        raise ModelError("a table has keys that are neither texts nor numbers.")
    return OrderedDict((key, value) for key, value in pairs)


def _set(budget: _Budget, *args: object) -> set[Any]:
    if not args:
        return set()
    if len(args) > 1 or not isinstance(args[0], list):
        raise ModelError("a set has an unknown form.")
    budget.spend(8 * len(args[0]))
    if not all(isinstance(member, str) for member in args[0]):
        raise ModelError("a set has members that are no texts.")
    return set(args[0])


def _encode(budget: _Budget, *args: object) -> bytes:
    if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1"):
        raise ModelError("bytes have an unknown form.")
    budget.spend(len(args[0]))
    return args[0].encode("latin1")


def _no_bytes(*args: object) -> bytes:
    # How protocol 2 spells b"".
    if args:
        raise ModelError("bytes have an unknown form.")
    return b""


def _size(*args: object) -> tuple[int, ...]:
    if len(args) != 1 or not isinstance(args[0], list | tuple):
        raise ModelError("a size has an unknown form.")
    if len(args[0]) > 8 or not all(isinstance(extent, int) for extent in args[0]):
        raise ModelError("a size has an unknown form.")
    return tuple(args[0])


def _device(*args: object) -> str:
    if not all(isinstance(part, str | int) for part in args) or len(args) not in (1, 2):
        raise ModelError("a device has an unknown form.")
    return ":".join(str(part) for part in args)


# What these make grows with their arguments: they are given the file's budget first.
_COPYING = frozenset(
    (_reconstruct_module, _rebuild_tensor, _storage_from_bytes, _ordered_dict, _set, _encode)
)

_STAND_INS: Mapping[tuple[str, str], Callable[..., Any] | type] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _reconstruct_module,
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "_reconstruct"): _numpy_reconstruct,
    ("numpy.core.multiarray", "_reconstruct"): _numpy_reconstruct,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _numpy_dtype,
    ("dnnlib.util", "EasyDict"): _EasyDict,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("_codecs", "encode"): _encode,
    # Harmless values that some writers keep among a layer's attributes.
    ("__builtin__", "bytes"): _no_bytes,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
}

# The names that a network pickle may use, and those of the pickles in a storage's header; PTI's
# file holds both.
GLOBALS = frozenset(_STAND_INS)
STORAGE_GLOBALS = frozenset(("torch", kind) for kind in STORAGE_DTYPES)


class Unpickler(pickle.Unpickler):
    """Unpickler that reaches the stand-ins above and nothing else."""

    def __init__(
        self, stream: IO[bytes], size: int, storages: Callable[[str], bytes] | None = None
    ) -> None:
        super().__init__(stream)
        self._budget = _Budget(size)
        self._storages = storages
        self._read: dict[tuple[torch.dtype, str, int], _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if self._storages is not None and module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        if (module, name) not in _STAND_INS:
            refuse_global(module, name)
        stand_in = _STAND_INS[module, name]
        return functools.partial(stand_in, self._budget) if stand_in in _COPYING else stand_in

    def persistent_load(self, identifier: object) -> _Storage:
        if self._storages is None:
            raise ModelError("it refers to data outside the file.")
        dtype, key, count = identified = _storage_identifier(identifier)
        if identified not in self._read:
            data = self._storages(key)
            self._budget.spend(len(data))
            self._read[identified] = _Storage(_elements(data, dtype, count))
        return self._read[identified]


def _storage_identifier(identifier: object) -> tuple[torch.dtype, str, int]:
    """Check ("storage", dtype, key, location, count[, None]); the location is ignored."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
        raise ModelError("a storage has an unknown form.")
    tag, dtype, key, _, count = identifier[:5]
    valid = tag == "storage" and isinstance(dtype, torch.dtype) and isinstance(key, str)
    if not valid or not isinstance(count, int) or not 0 <= count < 2**40:
        raise ModelError("a storage has an unknown form.")
    return dtype, key, count


def _elements(data: bytes | memoryview, dtype: torch.dtype, count: int) -> torch.Tensor:
    """Little-endian bytes as a flat tensor that shares their memory."""
    if len(data) != count * dtype.itemsize:
        raise ModelError(f"a storage of {count} elements has {len(data)} bytes.")
    if count == 0:
        return torch.empty(0, dtype=dtype)
    # numpy's array over read-only bytes would make torch warn; a bytearray is a copy torch may own.
    return torch.frombuffer(bytearray(data), dtype=dtype)


class _HeaderUnpickler(pickle.Unpickler):
    """Reads the five small pickles in front of a legacy storage's elements."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        refuse_global(module, name)

    def persistent_load(self, identifier: object) -> tuple[torch.dtype, str, int]:
        return _storage_identifier(identifier)


def _parse_legacy_storage(data: bytes) -> _Storage:
    """Parse what `torch.save(storage)` wrote before the zip format (five pickles, count, data)."""
    stream = io.BytesIO(data)

    def next_pickle() -> Any:
        start = stream.tell()
        scan(stream, STORAGE_OPCODES, STORAGE_GLOBALS, len(data) - start)
        stream.seek(start)
        return _HeaderUnpickler(stream).load()

    if next_pickle() != LEGACY_MAGIC or next_pickle() != LEGACY_PROTOCOL:
        raise ModelError("a storage does not start as torch writes it.")
    system = next_pickle()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ModelError("a storage is not little-endian.")
    header = next_pickle()
    if not isinstance(header, tuple) or len(header) != 3:
        raise ModelError("a storage has no header.")
    dtype, key, count = header
    if next_pickle() != [key]:
        raise ModelError("a storage's key does not match its header.")
    body = memoryview(data)[stream.tell() :]
    if len(body) < 8 or int.from_bytes(body[:8], "little", signed=True) != count:
        raise ModelError("a storage's length does not match its header.")
    return _Storage(_elements(body[8:], dtype, count))

"""The one reader of NVIDIA-format network pickles and of PTI's `.pt` files; runs no code in them.

Knows the pickle dialects of stylegan2-ada-pytorch, stylegan3 and stylegan-human (protocols 2 to 5)
and the zip that `torch.save(G)` writes. Returns neutral records: class names, attributes, tensors.
Knows nothing of our networks; `interchange.py` turns records into them.

Safety rests on three steps, in this order:
1. every opcode is read without executing it, and must be on a closed list, with its length and
   memo index inside bounds (a pickle can otherwise make the unpickler allocate at will);
2. `find_class` knows a closed table and returns stand-ins of this module, never the real global,
   so REDUCE can call nothing else, and each stand-in checks its arguments;
3. storages are parsed by hand from their bytes: torch unpickles nothing.
"""

from __future__ import annotations

import functools
import io
import mmap
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import numpy as np
import torch

from pipeline.errors import ModelError

# A 30 M-parameter pickle has about 50,000 opcodes; this bounds time and memo on a hostile file.
MAX_OPCODES = 500_000
# Official networks nest about 10 modules deep, and have a few hundred.
MAX_MODULE_DEPTH = 32
MAX_MODULES = 10_000
# Members of a tuple, those of the tuples in it included: a tensor has about 20. Hashing and
# comparing walk all of them, however often the memo made them share.
MAX_TUPLE_MEMBERS = 256
# Values in a module's attributes, likewise.
MAX_ATTRIBUTE_VALUES = 10_000

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

_ALLOWED_OPCODES = frozenset(
    "PROTO FRAME MARK STOP EMPTY_DICT EMPTY_LIST EMPTY_SET EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "SETITEM SETITEMS APPEND APPENDS NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT "
    "SHORT_BINUNICODE BINUNICODE SHORT_BINBYTES BINBYTES BINBYTES8 GLOBAL STACK_GLOBAL REDUCE "
    "NEWOBJ BUILD MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET ADDITEMS".split()
)
_STORAGE_OPCODES = _ALLOWED_OPCODES | {"BINPERSID"}

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

_NUMPY_CODES = frozenset("f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1".split())


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
        if isinstance(item, _Array):
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


@dataclass
class NetworkPickle:
    """What a network file holds: its networks by key ("G", "D", "G_ema", ...).

    container: "pickle" (a snapshot) or "torch zip" (PTI's `.pt`).
    """

    networks: dict[str, ModuleRecord]
    extra: dict[str, Any] = field(default_factory=dict)
    container: str = "pickle"


def read(path: Path) -> NetworkPickle:
    """Read a network pickle or a PTI `.pt`.

    Raises ModelError, with one sentence, on anything that is not a well-formed one.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    if size == 0:
        raise ModelError(f"{path} is empty, not a network pickle.")
    try:
        if zipfile.is_zipfile(path):
            return _read_torch_zip(path, size)
        return _read_pickle(path, size)
    except ModelError as error:
        reason = str(error)
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError) as error:
        reason = f"it is damaged or not a network pickle ({error})."
    except (AttributeError, OverflowError, MemoryError, RecursionError, OSError) as error:
        reason = f"it is not a well-formed network pickle ({type(error).__name__})."
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        reason = f"its zip is damaged ({error})."
    # The reason may quote the file: keep it to one line of sensible length.
    reason = " ".join(reason.split())
    raise ModelError(f"{path.name} was refused: {reason[:300]}")


# ---------------------------------------------------------------------------------------------
# Step 1: opcodes, unexecuted.


def _scan(stream: IO[bytes], allowed: Iterable[str], remaining: int) -> None:
    """Walk one pickle's opcodes up to STOP; refuse what the format never uses.

    remaining: bytes that are left in `stream`, the bound on every length in the pickle.
    """
    allowed = frozenset(allowed)
    sizes = _TupleSizes()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream), start=1):
        if count > MAX_OPCODES:
            raise ModelError("it has more instructions than any network needs.")
        if opcode.name not in allowed:
            raise ModelError(f"it uses the pickle instruction {opcode.name}, as no network does.")
        if isinstance(argument, int):
            if opcode.name in ("BINPUT", "LONG_BINPUT") and argument > count:
                # The unpickler would grow its memo to this index.
                raise ModelError("its memo indices are not those of a network pickle.")
            if opcode.name == "FRAME" and argument > remaining:
                raise ModelError("a frame is longer than the file.")
            if argument.bit_length() > 80:
                raise ModelError("it holds an integer that networks never hold.")
        if isinstance(argument, str | bytes) and len(argument) > remaining:
            raise ModelError("a string is longer than the file.")
        sizes.step(opcode.name, argument)


class _TupleSizes:
    """Follows the unpickler's stack to bound what tuples hold, tuples within tuples counted.

    A dozen bytes a level double a tuple by way of the memo, and hashing it as a key of a table
    would then take for ever; a tuple nested a million deep would exhaust the stack of the hashing
    code. Only tuples can be both keys and nested, so only their sizes are counted; all else is 1.
    """

    _POPS: ClassVar[Mapping[str, int]] = {
        "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "EMPTY_TUPLE": 0, "STACK_GLOBAL": 2, "REDUCE": 2,
        "NEWOBJ": 2, "BUILD": 2, "APPEND": 2, "SETITEM": 3, "BINPERSID": 1,
    }  # fmt: skip
    _TO_MARK: ClassVar[frozenset[str]] = frozenset(("TUPLE", "SETITEMS", "APPENDS", "ADDITEMS"))
    _NO_CHANGE: ClassVar[frozenset[str]] = frozenset(("PROTO", "FRAME", "STOP"))

    def __init__(self) -> None:
        self._stack: list[int] = []
        self._marks: list[int] = []
        self._memo: dict[int, int] = {}

    def step(self, name: str, argument: object) -> None:
        """Follow one instruction; ModelError if it finds no operands, or a tuple is too large."""
        if name in self._NO_CHANGE:
            return
        if name == "MARK":
            self._marks.append(len(self._stack))
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            index = len(self._memo) if name == "MEMOIZE" else argument
            self._memo[cast(int, index)] = self._top()
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo.get(cast(int, argument), 1))
        elif name in self._TO_MARK:
            if not self._marks:
                raise ModelError("its instructions do not fit together.")
            members = self._take(len(self._stack) - self._marks.pop())
            self._push(name, members)
            if name != "TUPLE":  # the table or list that the members go into stays
                self._take(1)
                self._top()
        else:
            self._push(name, self._take(self._POPS.get(name, 0)))

    def _take(self, count: int) -> list[int]:
        floor = self._marks[-1] if self._marks else 0
        if count < 0 or len(self._stack) - count < floor:
            raise ModelError("its instructions do not fit together.")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _top(self) -> int:
        if not self._stack:
            raise ModelError("its instructions do not fit together.")
        return self._stack[-1]

    def _push(self, name: str, members: list[int]) -> None:
        size = 1 + sum(members) if "TUPLE" in name else 1
        if size > MAX_TUPLE_MEMBERS:
            raise ModelError("a tuple holds more than any in a network.")
        self._stack.append(size)


# ---------------------------------------------------------------------------------------------
# Step 2: stand-ins. Each validates its arguments; none touches anything outside this module.


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


class _Array:
    """numpy.ndarray in waiting: shape and bytes arrive by BUILD."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

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


def _shown(value: object) -> str:
    """A value for a message: what lists hold is left out, since it may be without bound."""
    return repr(value)[:60] if isinstance(value, str | int | None) else type(value).__name__


def _reconstruct_module(*args: object) -> ModuleRecord:
    if len(args) != 1 or not isinstance(args[0], dict):
        raise ModelError("a module's record has an unknown form.")
    meta = args[0]
    if meta.get("type") != "class" or meta.get("version") != 6:
        raise ModelError(
            f"a module's record is of type {_shown(meta.get('type'))}, version "
            f"{_shown(meta.get('version'))}; only classes of version 6 are known."
        )
    class_name, state = meta.get("class_name"), meta.get("state")
    if not isinstance(class_name, str) or not isinstance(state, dict):
        raise ModelError("a module's record lacks its class or its state.")
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


def _rebuild_tensor(*args: object) -> torch.Tensor:
    if len(args) not in (6, 7) or not isinstance(args[0], _Storage):
        raise ModelError("a tensor has an unknown form.")
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


class _NdarrayType:
    """Marks numpy.ndarray where it appears as an argument."""


def _numpy_reconstruct(*args: object) -> _Array:
    if len(args) != 3 or args[0] is not _NdarrayType or args[1] != (0,):
        raise ModelError("a numpy array has an unknown form.")
    return _Array()


def _numpy_dtype(*args: object) -> _Dtype:
    if not args or not isinstance(args[0], str) or args[0].lstrip("<|=") not in _NUMPY_CODES:
        kind = _shown(args[0]) if args else "unnamed"
        raise ModelError(f"numpy type {kind} is not one that networks use.")
    return _Dtype(args[0].lstrip("<|="))


def _ordered_dict(budget: _Budget, *args: object) -> OrderedDict[Any, Any]:
    if not args:
        return OrderedDict()
    pairs = args[0]
    if len(args) != 1 or not isinstance(pairs, list):
        raise ModelError("an ordered table has an unknown form.")
    budget.spend(len(pairs))
    return OrderedDict((key, value) for key, value in pairs)


def _set(budget: _Budget, *args: object) -> set[Any]:
    if not args:
        return set()
    if len(args) > 1 or not isinstance(args[0], list):
        raise ModelError("a set has an unknown form.")
    budget.spend(len(args[0]))
    return set(args[0])


def _encode(budget: _Budget, *args: object) -> bytes:
    if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1"):
        raise ModelError("bytes have an unknown form.")
    budget.spend(len(args[0]))
    return args[0].encode("latin1")


# What these make grows with their arguments: they are given the file's budget first.
_COPYING = frozenset((_storage_from_bytes, _ordered_dict, _set, _encode))

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
    ("numpy", "ndarray"): _NdarrayType,
    ("numpy", "dtype"): _numpy_dtype,
    ("dnnlib.util", "EasyDict"): _EasyDict,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """Unpickler that reaches the stand-ins above and nothing else."""

    def __init__(
        self, stream: IO[bytes], size: int, storages: Callable[[str], bytes] | None = None
    ) -> None:
        super().__init__(stream)
        self._budget = _Budget(size)
        self._storages = storages
        self._read: dict[tuple[torch.dtype, str, int], _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith(("dnnlib.tflib", "training.networks_stylegan")) and name == "Network":
            raise ModelError(
                "it holds TensorFlow networks (the original StyleGAN2); convert it with the "
                "legacy.py of stylegan2-ada-pytorch or stylegan3 and import what that writes."
            )
        if self._storages is not None and module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        try:
            stand_in = _STAND_INS[module, name]
        except KeyError:
            raise ModelError(
                f"it asks for {module}.{name}, which no network needs; it may be malicious."
            ) from None
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


# ---------------------------------------------------------------------------------------------
# Step 3: storages.


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
        raise ModelError(f"a storage asks for {module}.{name}; it may be malicious.")

    def persistent_load(self, identifier: object) -> tuple[torch.dtype, str, int]:
        return _storage_identifier(identifier)


def _parse_legacy_storage(data: bytes) -> _Storage:
    """Parse what `torch.save(storage)` wrote before the zip format (five pickles, count, data)."""
    stream = io.BytesIO(data)

    def next_pickle() -> Any:
        start = stream.tell()
        _scan(stream, _STORAGE_OPCODES, len(data) - start)
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


# ---------------------------------------------------------------------------------------------
# The two containers.


def _read_pickle(path: Path, size: int) -> NetworkPickle:
    with path.open("rb") as file:
        # mmap: a read past the end is cut short instead of allocated.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            _scan(view, _ALLOWED_OPCODES, size)  # type: ignore[arg-type]
            if view.tell() != size:
                raise ModelError("something follows the pickle's end.")
        file.seek(0)
        content = _Unpickler(file, size).load()
    return _networks(content, size)


def _read_torch_zip(path: Path, size: int) -> NetworkPickle:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ModelError("it is a zip, but not one that torch.save(G) wrote.")
        if sum(info.file_size for info in members.values()) > size:
            raise ModelError("its zip members are larger than the file.")
        folder = pickles[0].split("/")[0]
        data = archive.read(pickles[0])
        stream = io.BytesIO(data)
        _scan(stream, _STORAGE_OPCODES, len(data))
        stream.seek(0)

        def storage(key: str) -> bytes:
            name = f"{folder}/data/{key}"
            if name not in members:
                raise ModelError(f"its storage {key!r} is missing.")
            return archive.read(name)

        content = _Unpickler(stream, size, storage).load()
    if isinstance(content, ModuleRecord):
        content = {"G_ema": content}
    found = _networks(content, size)
    found.container = "torch zip"
    return found


def _networks(content: object, size: int) -> NetworkPickle:
    """Sort a pickle's top-level table into networks and the rest, and bound what they hold."""
    if isinstance(content, tuple):
        raise ModelError(
            "it holds a tuple of networks, as TensorFlow's StyleGAN2 wrote; convert it with the "
            "legacy.py of stylegan2-ada-pytorch or stylegan3 and import what that writes."
        )
    if not isinstance(content, dict):
        raise ModelError("it holds no table of networks.")
    networks = {
        str(key): value for key, value in content.items() if isinstance(value, ModuleRecord)
    }
    if "G_ema" not in networks and "G" not in networks:
        keys = ", ".join(map(_shown, content)) or "none"
        raise ModelError(f"it holds no generator (keys: {keys}).")
    held = sum(
        tensor.numel() * tensor.element_size()
        for network in networks.values()
        for tensor in network.tensors().values()
    )
    if held > size:
        raise ModelError("its tensors are larger than the file: they share storages.")
    extra = {str(key): value for key, value in content.items() if str(key) not in networks}
    return NetworkPickle(networks, extra)

"""Writes network records as a pickle that the stylegan3 and DragGAN programs load.

Knows the format (protocol 4) and nothing of networks. Written instruction by instruction, so that
it names their functions and classes without having them. Where their own pickles carry the source
of their classes, ours carry one line that imports them: the programs bring their own.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
import torch

from pipeline.errors import ModelError
from pipeline.models.module_record import ModuleRecord
from pipeline.models.nvidia_stand_ins import LEGACY_MAGIC, LEGACY_PROTOCOL, STORAGE_DTYPES

_KINDS = {dtype: kind for kind, dtype in STORAGE_DTYPES.items()}
_SIZES = {"protocol_version": LEGACY_PROTOCOL, "little_endian": True}
_TYPE_SIZES = {"short": 2, "int": 4, "long": 4}


def write(
    stream: IO[bytes],
    networks: Mapping[str, ModuleRecord],
    source_line: Callable[[ModuleRecord], str],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write one pickle with the networks by their keys, then what else is to be in its table.

    Args:
        source_line: the line of Python that, for a network's record, imports the classes of
            its parts; called for each of `networks`.

    Raises:
        ModelError: if a record holds a value of a kind that the format does not know.
    """
    writer = _Writer(stream)
    stream.write(pickle.PROTO + b"\x04" + pickle.EMPTY_DICT + pickle.MARK)
    for key, record in networks.items():
        writer.value(key)
        writer.module(record, source_line(record))
    for key, value in (extra or {}).items():
        writer.value(key)
        writer.value(value)
    stream.write(pickle.SETITEMS + pickle.STOP)


class _Writer:
    """Emits values; strings and globals are written once and fetched from the memo after that."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._memo: dict[str | tuple[str, str], int] = {}
        self._storages = 0

    def value(self, value: Any) -> None:
        """Any value of a record but modules and parameters."""
        put = self._stream.write
        if isinstance(value, np.generic):
            value = value.item()
        if value is None:
            put(pickle.NONE)
        elif isinstance(value, bool):
            put(pickle.NEWTRUE if value else pickle.NEWFALSE)
        elif isinstance(value, int):
            self._integer(value)
        elif isinstance(value, float):
            put(pickle.BINFLOAT + struct.pack(">d", value))
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, OrderedDict) and not value:
            self._call("collections", "OrderedDict", ())
        elif isinstance(value, dict):
            self._table(value, self.value)
        elif isinstance(value, list):
            put(pickle.EMPTY_LIST + pickle.MARK)
            for item in value:
                self.value(item)
            put(pickle.APPENDS)
        elif isinstance(value, tuple):
            self._tuple(value)
        elif isinstance(value, set) and not value:
            put(pickle.EMPTY_SET)
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, torch.Tensor):
            self._tensor(value)
        else:
            raise ModelError(f"a {type(value).__name__} cannot be part of a network pickle.")

    def module(self, record: ModuleRecord, source: str) -> None:
        """A module, as a call of the function that rebuilds it from its class and state."""
        put = self._stream.write
        self._global("torch_utils.persistence", "_reconstruct_persistent_obj")
        put(pickle.EMPTY_DICT + pickle.MARK)
        head = {
            "type": "class",
            "version": 6,
            "module_src": source,
            "class_name": record.class_name,
        }
        for key, value in head.items():
            self.value(key)
            self.value(value)
        self.value("state")
        put(pickle.EMPTY_DICT + pickle.MARK)
        for name, value in record.state.items():
            self.value(name)
            if name == "_parameters":
                self._table(value, self._parameter)
            elif name == "_modules":
                self._table(value, lambda child: self.module(child, source))
            else:
                self.value(value)
        put(pickle.SETITEMS + pickle.SETITEMS + pickle.TUPLE1 + pickle.REDUCE)

    def _table(self, table: Mapping[str, Any], emit: Callable[[Any], None]) -> None:
        self._stream.write(pickle.EMPTY_DICT + pickle.MARK)
        for key, value in table.items():
            self.value(key)
            emit(value)
        self._stream.write(pickle.SETITEMS)

    def _tuple(self, value: tuple[Any, ...]) -> None:
        if not value:
            self._stream.write(pickle.EMPTY_TUPLE)
            return
        self._stream.write(pickle.MARK)
        for item in value:
            self.value(item)
        self._stream.write(pickle.TUPLE)

    def _integer(self, value: int) -> None:
        if 0 <= value < 256:
            self._stream.write(pickle.BININT1 + struct.pack("<B", value))
        elif -(2**31) <= value < 2**31:
            self._stream.write(pickle.BININT + struct.pack("<i", value))
        else:
            data = pickle.encode_long(value)
            self._stream.write(pickle.LONG1 + struct.pack("<B", len(data)) + data)

    def _text(self, value: str) -> None:
        if self._fetch(value):
            return
        data = value.encode("utf-8")
        if len(data) < 256:
            self._stream.write(pickle.SHORT_BINUNICODE + struct.pack("<B", len(data)) + data)
        else:
            self._stream.write(pickle.BINUNICODE + struct.pack("<I", len(data)) + data)
        self._remember(value)

    def _global(self, module: str, name: str) -> None:
        if self._fetch((module, name)):
            return
        self._text(module)
        self._text(name)
        self._stream.write(pickle.STACK_GLOBAL)
        self._remember((module, name))

    def _fetch(self, key: str | tuple[str, str]) -> bool:
        index = self._memo.get(key)
        if index is None:
            return False
        short = index < 256
        get = pickle.BINGET if short else pickle.LONG_BINGET
        self._stream.write(get + struct.pack("<B" if short else "<I", index))
        return True

    def _remember(self, key: str | tuple[str, str]) -> None:
        self._memo[key] = len(self._memo)
        self._stream.write(pickle.MEMOIZE)

    def _call(self, module: str, name: str, arguments: tuple[Any, ...]) -> None:
        self._global(module, name)
        self._tuple(arguments)
        self._stream.write(pickle.REDUCE)

    def _bytes(self, data: bytes) -> None:
        if len(data) < 2**32:
            self._stream.write(pickle.BINBYTES + struct.pack("<I", len(data)))
        else:
            self._stream.write(pickle.BINBYTES8 + struct.pack("<Q", len(data)))
        self._stream.write(data)

    def _array(self, array: np.ndarray) -> None:
        # numpy.core exists under this name for pickles of all numpy versions.
        put = self._stream.write
        self._global("numpy.core.multiarray", "_reconstruct")
        put(pickle.MARK)
        self._global("numpy", "ndarray")
        self.value((0,))
        self._bytes(b"b")
        put(pickle.TUPLE + pickle.REDUCE + pickle.MARK)
        self.value(1)
        self.value(array.shape)
        self._call("numpy", "dtype", (array.dtype.str[1:], False, True))
        self.value((3, "<", None, None, None, -1, -1, 0))
        put(pickle.BUILD)
        self.value(False)
        self._bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())
        put(pickle.TUPLE + pickle.BUILD)

    def _parameter(self, tensor: torch.Tensor) -> None:
        put = self._stream.write
        self._global("torch._utils", "_rebuild_parameter")
        put(pickle.MARK)
        self._tensor(tensor)
        self.value(False)  # as in their snapshots: gradients off
        self.value(OrderedDict())
        put(pickle.TUPLE + pickle.REDUCE)

    def _tensor(self, tensor: torch.Tensor) -> None:
        put = self._stream.write
        tensor = tensor.detach().cpu().contiguous()
        self._global("torch._utils", "_rebuild_tensor_v2")
        put(pickle.MARK)
        self._global("torch.storage", "_load_from_bytes")
        self._bytes(self._storage(tensor))
        put(pickle.TUPLE1 + pickle.REDUCE)
        self.value(0)
        self.value(tuple(tensor.shape))
        self.value(tuple(tensor.stride()))
        self.value(False)
        self.value(OrderedDict())
        put(pickle.TUPLE + pickle.REDUCE)

    def _storage(self, tensor: torch.Tensor) -> bytes:
        """The elements as torch wrote a storage before its zip format: five pickles, then data."""
        if tensor.dtype not in _KINDS:
            raise ModelError(f"a tensor of {tensor.dtype} cannot be part of a network pickle.")
        key = str(self._storages)
        self._storages += 1
        kind = _KINDS[tensor.dtype]
        name = struct.pack("<I", len(key)) + key.encode("ascii")
        reference = (
            b"\x80\x02(X\x07\x00\x00\x00storage" + b"ctorch\n" + kind.encode("ascii") + b"\n"
            + b"X" + name + b"X\x03\x00\x00\x00cpu"
            + pickle.dumps(tensor.numel(), 2)[2:-1] + b"NtQ."
        )  # fmt: skip
        parts = [pickle.dumps(value, 2) for value in (LEGACY_MAGIC, LEGACY_PROTOCOL)]
        parts.append(pickle.dumps({**_SIZES, "type_sizes": _TYPE_SIZES}, 2))
        parts += [reference, pickle.dumps([key], 2), struct.pack("<q", tensor.numel())]
        data = tensor.numpy()
        parts.append(data.astype(data.dtype.newbyteorder("<"), copy=False).tobytes())
        return b"".join(parts)

"""The pickle reader: official files read exactly, hostile ones refused, no code ever run."""

from __future__ import annotations

import builtins
import functools
import io
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ModelError
from pipeline.models.module_record import ModuleRecord
from pipeline.models.nvidia_pkl import read

PICKLES = (
    "sg2ada_c_aug",
    "sg2ada_u",
    "sg2ada_u-oldstyle",
    "sg2ada_u-protocol3",
    "sg3_stylegan2_u_aug",
    "sg3_stylegan3t_u",
    "sg3_stylegan3t_u-protocol3",
)


@pytest.mark.parametrize("name", PICKLES)
def test_reads_every_tensor_exactly(
    name: str, golden: Callable[..., Any], golden_dir: Path
) -> None:
    content = read(golden_dir / "pkl_nosource" / f"{name}.pkl")
    expected, _ = golden(f"pkl_nosource/{name.split('-')[0]}")
    compared = 0
    for key, network in content.networks.items():
        for tensor_name, tensor in network.tensors().items():
            np.testing.assert_array_equal(tensor.numpy(), expected[f"{key}/{tensor_name}"])
            compared += 1
    assert compared == sum(key.split("/")[0] in content.networks for key in expected)


def test_reads_the_whole_module_file_of_pti(golden_dir: Path) -> None:
    content = read(golden_dir / "pkl_nosource" / "pti_model.pt")
    twin = read(golden_dir / "pkl_nosource" / "sg2ada_u.pkl")
    assert list(content.networks) == ["G_ema"]
    names = set(content.networks["G_ema"].tensors())
    assert names == set(twin.networks["G_ema"].tensors())


class _Name:
    """A global of an official pickle, named but not imported."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, *arguments: Any) -> _Made:
        return _Made(self, arguments)


class _Made:
    """What a global was called with, and what BUILD added."""

    def __init__(self, maker: _Name, arguments: tuple[Any, ...]) -> None:
        self.maker, self.arguments, self.state = maker, arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _EasyDict(dict[str, Any]):
    """Stands for the class of that name, which pickles make by NEWOBJ."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _EasyDict if name == "EasyDict" else _Name(module, name)


# The pickler in Python, which can be taught other names (typeshed does not know it).
_PythonPickler: Any = getattr(pickle, "_Pickler")  # noqa: B009


class _Writer(_PythonPickler):
    """Writes what `_Reader` read, in any protocol, as the official program's Python would."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, _Made):
            state = () if value.state is None else (value.state,)
            return (value.maker, value.arguments, *state)
        return value.name if isinstance(value, _Name) else NotImplemented

    def save_global(self, value: Any, name: str | None = None) -> None:
        module, name = ("dnnlib.util", "EasyDict") if value is _EasyDict else (None, name)
        if isinstance(value, _Name):
            module, name = value.module, value.name
            if self.proto < 3:  # Python 2's name
                module = {"builtins": "__builtin__"}.get(module, module)
        if module is None:
            super().save_global(value, name)
        elif self.proto >= 4:
            self.save(module)
            self.save(name)
            self.write(pickle.STACK_GLOBAL)
            self.memoize(value)
        else:
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
            self.memoize(value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["sg2ada_c_aug", "sg3_stylegan3t_u"])
def test_every_protocol_reads_the_same(
    name: str, protocol: int, golden_dir: Path, tmp_path: Path
) -> None:
    """The official objects, written anew in the protocol: all that is in them comes back."""
    official = golden_dir / "pkl_nosource" / f"{name}.pkl"
    with official.open("rb") as stream:
        content = _Reader(stream).load()
    path = tmp_path / "again.pkl"
    with path.open("wb") as stream:
        _Writer(stream, protocol).dump(content)
    assert path.read_bytes()[:2] == b"\x80" + bytes([protocol])
    again, before = read(path), read(official)
    assert list(again.networks) == list(before.networks)
    for key, network in before.networks.items():
        parts, others = network.walk(), again.networks[key].walk()
        assert parts.keys() == others.keys()
        for place, part in parts.items():
            assert others[place].class_name == part.class_name
            assert repr(others[place].attributes()) == repr(part.attributes())
            assert repr(others[place].init_kwargs) == repr(part.init_kwargs)
        tensors = again.networks[key].tensors()
        assert tensors.keys() == network.tensors().keys()
        for tensor_name, tensor in network.tensors().items():
            np.testing.assert_array_equal(tensors[tensor_name].numpy(), tensor.numpy())


# ---------------------------------------------------------------------------------------------
# Hostile files.


class _Calls:
    """An object whose pickle calls a function when it is read by an ordinary unpickler."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def refuse(tmp_path: Path, data: bytes) -> str:
    """The sentence with which `data` is refused."""
    path = tmp_path / "file.pkl"
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read(path)
    message = str(caught.value)
    assert "file.pkl" in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {marker}",)),
        (builtins.eval, ("open('{marker}', 'w')",)),
        (builtins.getattr, (os, "system")),
        (pickle.loads, (b"N.",)),
    ],
)
def test_other_globals_never_run(
    tmp_path: Path, protocol: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    marker = tmp_path / "ran"
    arguments = tuple(a.format(marker=marker) if isinstance(a, str) else a for a in arguments)
    if os in arguments:
        arguments = ("", "upper")
    message = refuse(tmp_path, pickle.dumps({"G_ema": _Calls(function, *arguments)}, protocol))
    assert "malicious" in message
    assert not marker.exists()


def test_nested_storage_pickles_are_not_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    inner = pickle.dumps(_Calls(os.system, f"touch {marker}"), 2)
    outer = (
        b"\x80\x04}\x8c\x05G_ema\x8c\x0dtorch.storage\x8c\x10_load_from_bytes\x93"
        + b"B" + struct.pack("<I", len(inner)) + inner + b"\x85Rs."
    )  # fmt: skip
    refuse(tmp_path, outer)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not a pickle", "not"),
        (b"\x80\x04N.", "no table"),
        (b"\x80\x04}.", "no generator"),
        (b"\x80\x04).", "TensorFlow"),
        (b"\x80\x02cdnnlib.tflib.network\nNetwork\n)\x81.", "TensorFlow"),
        # Python 2's way to call anything, extension codes, persistent ids, duplicates.
        (b"(ios\nsystem\n.", "INST"),
        (b"\x80\x04\x82\x01.", "EXT1"),
        (b"\x80\x04Px\n.", "PERSID"),
        (b"\x80\x04}2.", "DUP"),
        # An index that would make the unpickler's memo grow to gigabytes.
        (b"\x80\x04}r\xff\xff\xff\x7f.", "memo"),
        # Lengths past the file's end.
        (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.", "frame"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "damaged"),
        (b"\x80\x04}.trailing", "follows"),
        (b"\x80\x04\x8a\xff" + b"\x7f" * 255 + b".", "integer"),
    ],
)
def test_malformed_files_are_refused_with_a_reason(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    assert reason in refuse(tmp_path, data)


def named(module: str, name: str) -> bytes:
    """Instructions that leave a global."""
    texts = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)]
    return texts[0] + texts[1] + b"\x93"


EASY_DICT = named("dnnlib.util", "EasyDict")
ORDERED = named("collections", "OrderedDict")
RECORD = named("torch_utils.persistence", "_reconstruct_persistent_obj")
STATE = b"}\x8c\x01aNs"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        # BUILD sets attributes of whatever it is given: functions, classes, bound arguments.
        (RECORD + STATE + b"b", "BUILD"),
        (RECORD + b"N" + STATE + b"\x86b", "BUILD"),
        (EASY_DICT + b"N" + STATE + b"\x86b", "BUILD"),
        (ORDERED + RECORD + b")}N" + b"\x87\x85b", "BUILD"),
        (ORDERED + b")R" + STATE + b"b", "BUILD"),
        (EASY_DICT + b")\x81" + STATE + b"b", "BUILD"),
        (b"}" + STATE + b"b", "BUILD"),
        (b"]" + STATE + b"b", "BUILD"),
        (b"K\x01" + STATE + b"b", "BUILD"),
        # Only the settings table is made by NEWOBJ, and empty.
        (ORDERED + b")\x81", "NEWOBJ"),
        (named("numpy", "ndarray") + b")\x81", "NEWOBJ"),
        (EASY_DICT + b"}\x85\x81", "NEWOBJ"),
        (b"})\x81", "NEWOBJ"),
        # Only functions of the table are called.
        (EASY_DICT + b"}\x85R", "REDUCE"),
        (named("numpy", "ndarray") + b")R", "REDUCE"),
        (b"})R", "REDUCE"),
        (ORDERED + b")R)R", "REDUCE"),
        (ORDERED + b"]R", "REDUCE"),
        # Members go into lists and tables only, under texts and numbers.
        (ORDERED + b"NNs", "no list or table"),
        (ORDERED + b"(NNu", "no list or table"),
        (b"}Na", "no list or table"),
        (b"](NNu", "no list or table"),
        (b"})Ns", "keys"),
        (b"}]Ns", "keys"),
        (b"}\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01Ns", "keys"),
        (b"}G\x3f\xf0\x00\x00\x00\x00\x00\x00Ns", "keys"),
        (ORDERED + b"]K\x01N\x86a\x85R", "keys"),
        (named("builtins", "set") + b"]K\x01a\x85R", "set"),
        # Names that are no texts; dots in names; sets by another instruction.
        (b"NN\x93", "name"),
        (named("torch_utils.persistence", "os.system"), "malicious"),
        (named("pipeline.models.nvidia_pkl", "read"), "malicious"),
        (b"\x8f(\x90", "ADDITEMS"),
        (b"h\x05", "memo"),
    ],
)
def test_tricks_with_single_instructions_are_refused(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    assert reason in refuse(tmp_path, b"\x80\x04" + data + b".")
    # Inside a network that is otherwise whole, too.
    inside = b"\x80\x04}\x8c\x05G_ema" + RECORD + b"}\x8c\x05state}\x8c\x01x"
    assert reason in refuse(tmp_path, inside + data.replace(b"h\x05", b"h\xfe") + b"ss\x85Rs.")


def _table(entries: int) -> bytes:
    texts = b"".join(b"\x8c\x05" + f"{i:05}".encode() + b"N" for i in range(entries))
    return b"}(" + texts + b"u"


def test_short_calls_that_copy_long_tables_are_refused(tmp_path: Path) -> None:
    """A few bytes a call must not make copies without end: of a state, a list, a tensor."""
    meta = b"}(\x8c\x04type\x8c\x05class\x8c\x07versionK\x06\x8c\x0aclass_name\x8c\x01G"
    meta += b"\x8c\x05state" + _table(20_000) + b"u\x85\x94"
    many = b"\x80\x04" + RECORD + b"\x94" + meta + b"](" + b"h\x00h\x01R" * 30_000 + b"e."
    assert "expands" in refuse(tmp_path, many)
    pairs = b"](" + b"\x8c\x01aN\x86" * 20_000 + b"e\x85\x94"
    many = b"\x80\x04" + ORDERED + b"\x94" + pairs + b"](" + b"h\x00h\x01R" * 30_000 + b"e."
    assert "expands" in refuse(tmp_path, many)
    one = _tensor_pickle(b"K\x04\x85", b"K\x01\x85")
    start, end = one.index(b"\x8c\x0ctorch._utils"), one.rindex(b"R", 0, one.rindex(b"ss"))
    call = one[start:end].replace(b"_v2\x93", b"_v2\x93\x94").removesuffix(b"t") + b"t\x94"
    many = b"\x80\x04](" + call + b"R" + b"h\x00h\x01R" * 30_000 + b"e."
    assert "expands" in refuse(tmp_path, many)


def test_a_million_nested_containers_are_refused_quickly(tmp_path: Path) -> None:
    refuse(tmp_path, b"\x80\x04" + b"]" * 1_000_000 + b"a" * 999_999 + b".")
    refuse(tmp_path, b"\x80\x04)" + b"\x85" * 3_000_000 + b".")


def _doubling(levels: int, start: bytes) -> bytes:
    """Instructions that leave a tuple of 2 ** levels members, in a few bytes a level."""
    steps = [b"h" + bytes([i]) * 1 + b"h" + bytes([i]) + b"\x86\x94" for i in range(levels)]
    return start + b"\x94" + b"".join(steps)


def test_doubling_tuples_are_refused_quickly(tmp_path: Path) -> None:
    # As the key of a table: hashing it would take 2 ** 40 steps.
    assert "tuple" in refuse(tmp_path, b"\x80\x04" + _doubling(40, b")") + b"}h\x28Ns.")
    # 100,000 deep, as a key: hashing it would exhaust the C stack.
    assert "tuple" in refuse(tmp_path, b"\x80\x04)" + b"\x85" * 100_000 + b"}\x940h\x00Ns.")


def test_lists_that_double_are_not_shown_in_messages(tmp_path: Path) -> None:
    lists = b"]\x94" + b"".join(b"]\x94(" + (b"h" + bytes([i])) * 2 + b"e" for i in range(40))
    dtype = b"\x8c\x05numpy\x8c\x05dtype\x93h\x28\x85R."
    assert "numpy type list" in refuse(tmp_path, b"\x80\x04" + lists + dtype)


def test_a_string_named_often_is_refused(tmp_path: Path) -> None:
    text = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000 + b"\x94"
    call = b"\x8c\x07_codecs\x8c\x06encode\x93\x94"
    # The same million of characters as bytes, 10,000 times: 10 GB.
    many = b"](" + b"h\x01h\x00\x8c\x06latin1\x86R" * 10_000 + b"e."
    assert "expands" in refuse(tmp_path, b"\x80\x04" + text + call + many)


@pytest.mark.parametrize(
    "data", [b"\x80\x04(.", b"\x80\x04\x85.", b"\x80\x04}e.", b"\x80\x04(}Ns."]
)
def test_instructions_without_operands_are_refused(tmp_path: Path, data: bytes) -> None:
    refuse(tmp_path, data)


def test_modules_that_contain_themselves_are_refused(tmp_path: Path, golden_dir: Path) -> None:
    # state = {"_modules": {"child": <the module itself>}} by way of the memo is impossible (the
    # module exists only after its state), so the loop goes through the shared _modules table.
    record = b"\x8c\x17torch_utils.persistence\x8c\x1a_reconstruct_persistent_obj\x93"
    loop = (
        b"\x80\x04}\x8c\x05G_ema" + record
        + b"}(\x8c\x04type\x8c\x05class\x8c\x07versionK\x06\x8c\x0aclass_name\x8c\x01G\x8c\x05state"
        + b"}\x8c\x08_modules}\x94su\x85R\x94h\x00\x8c\x05childh\x01s0s."
    )  # fmt: skip
    refuse(tmp_path, loop)


def _tensor_pickle(size: bytes, stride: bytes, offset: int = 0, count: int = 4) -> bytes:
    """A pickle whose one module has one tensor over a storage of `count` floats."""

    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    def module_global(module: str, name: str) -> bytes:
        return text(module) + text(name) + b"\x93"

    buffer = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        buffer.write(pickle.dumps(value, 2))
    header = (
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
        b"X\x03\x00\x00\x00cpuK" + bytes([count]) + b"Nt\x51."
    )
    buffer.write(header)
    buffer.write(pickle.dumps(["0"], 2))
    buffer.write(struct.pack("<q", count) + np.arange(count, dtype="<f4").tobytes())
    raw = buffer.getvalue()
    storage = (
        module_global("torch.storage", "_load_from_bytes")
        + b"B" + struct.pack("<I", len(raw)) + raw + b"\x85R"
    )  # fmt: skip
    tensor = (
        module_global("torch._utils", "_rebuild_tensor_v2")
        + b"(" + storage + b"K" + bytes([offset]) + size + stride + b"\x89"
        + module_global("collections", "OrderedDict") + b")RtR"
    )  # fmt: skip
    state = b"}" + text("_buffers") + b"}" + text("x") + tensor + b"ss"
    module = (
        module_global("torch_utils.persistence", "_reconstruct_persistent_obj")
        + b"}(" + text("type") + text("class") + text("version") + b"K\x06"
        + text("class_name") + text("Generator") + text("state") + state + b"u\x85R"
    )  # fmt: skip
    return b"\x80\x04}" + text("G_ema") + module + b"s."


def test_strided_views_are_honoured(tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    path.write_bytes(_tensor_pickle(b"K\x02K\x02\x86", b"K\x01K\x02\x86"))
    tensor = read(path).networks["G_ema"].tensors()["x"]
    np.testing.assert_array_equal(tensor.numpy(), [[0, 2], [1, 3]])


@pytest.mark.parametrize(
    ("size", "stride", "offset", "reason"),
    [
        (b"K\x05\x85", b"K\x01\x85", 0, "past its storage"),
        (b"K\x04\x85", b"K\x01\x85", 1, "past its storage"),
        (b"K\xff\x85", b"K\x00\x85", 0, "overlap"),
        (b"K\x02K\x02\x86", b"K\x01K\x01\x86", 0, "overlap"),
        (b"K\x02\x85", b"K\x02\x85", 0, "gaps"),
        (b"K\x02K\x02\x86", b"K\x01\x85", 0, "do not match"),
        (b"J\xff\xff\xff\xff\x85", b"K\x01\x85", 0, "impossible"),
    ],
)
def test_impossible_views_are_refused(
    tmp_path: Path, size: bytes, stride: bytes, offset: int, reason: str
) -> None:
    assert reason in refuse(tmp_path, _tensor_pickle(size, stride, offset))


def test_zip_with_other_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelError, match="not one that"):
        read(path)


def test_compressed_zip_bombs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\0" * 50_000_000)
    with pytest.raises(ModelError, match="larger than the file"):
        read(path)


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.pkl cannot be read"):
        read(tmp_path / "absent.pkl")


def read_or_refusal(path: Path) -> tuple[dict[str, ModuleRecord], str]:
    """The file's networks, or the one sentence with which it is refused."""
    try:
        return read(path).networks, ""
    except ModelError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    assert len(message) < 500
    return {}, message


@functools.cache
def _instructions(path: Path) -> list[tuple[str, int, int]]:
    """Name, position and length of each instruction that holds no weights."""
    data = path.read_bytes()
    found = [(op.name, place) for op, _, place in pickletools.genops(data) if place is not None]
    ends = [place for _, place in found[1:]] + [len(data)]
    return [
        (name, at, end - at) for (name, at), end in zip(found, ends, strict=True) if end - at < 200
    ]


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_instructions_are_read_or_refused(
    data: st.DataObject, tmp_path: Path, golden_dir: Path
) -> None:
    """Instructions exchanged, doubled, dropped, or put elsewhere: never anything but a sentence."""
    name = data.draw(st.sampled_from(PICKLES))
    source = golden_dir / "pkl_nosource" / f"{name}.pkl"
    content, places = source.read_bytes(), _instructions(source)
    for _ in range(data.draw(st.integers(1, 3))):
        _, at, length = data.draw(st.sampled_from(places))
        _, other, other_length = data.draw(st.sampled_from(places))
        kind = data.draw(st.sampled_from(["drop", "double", "replace", "insert", "opcode"]))
        piece = content[at : at + length]
        taken = content[other : other + other_length]
        pieces = {
            "drop": b"",
            "double": piece * 2,
            "replace": taken,
            "insert": piece + taken,
            "opcode": bytes(
                [data.draw(st.sampled_from(list(b"abtReus\x81\x85\x86\x87\x90\x93\x94)]}(2N")))]
            ),
        }
        content = content[:at] + pieces[kind] + content[at + length :]
    path = tmp_path / "mutated.pkl"
    path.write_bytes(content)
    networks, message = read_or_refusal(path)
    assert message or all(network.tensors() for network in networks.values())


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_files_are_read_or_refused(
    data: st.DataObject, tmp_path: Path, golden_dir: Path
) -> None:
    name = data.draw(st.sampled_from(["sg2ada_u.pkl", "sg2ada_u-oldstyle.pkl", "pti_model.pt"]))
    content = bytearray((golden_dir / "pkl_nosource" / name).read_bytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "swap"]))
    # Most of a file is weights; its first kilobytes and its end hold the structure.
    position = data.draw(
        st.one_of(st.integers(0, 6000), st.integers(len(content) - 3000, len(content) - 1))
    )
    if kind == "flip":
        content[position] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del content[position:]
    elif kind == "insert":
        content[position:position] = data.draw(st.binary(min_size=1, max_size=40))
    else:
        other = data.draw(st.integers(0, len(content) - 200))
        content[position : position + 100] = content[other : other + 100]
    path = tmp_path / name
    path.write_bytes(content)
    networks, message = read_or_refusal(path)
    assert message or all(network.tensors() for network in networks.values())

"""The pickle reader: official files read exactly, hostile ones refused, no code ever run."""

from __future__ import annotations

import builtins
import io
import os
import pickle
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


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
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
    try:
        networks = read(path).networks
    except ModelError as error:
        message = str(error)
        networks = {}
    else:
        message = ""
    assert "\n" not in message
    assert all(network.tensors() for network in networks.values())

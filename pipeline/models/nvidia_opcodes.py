"""The instructions of a network pickle, followed without executing them.

A pickle is a program. Before the unpickler may run one, every instruction must be on a closed list
and have the operands that it has in networks: names from a closed table, calls of what may be
called, changes only of what may be changed, keys that are texts or small numbers. So nothing of the
table itself can be changed (BUILD sets attributes of anything, functions and classes included), and
no table can be made slow by keys of equal hash. Knows the instructions; what the names stand for is
`nvidia_stand_ins.py`'s affair.
"""

from __future__ import annotations

import pickletools
from collections.abc import Collection
from typing import IO, Any, ClassVar, NamedTuple, NoReturn, cast

from pipeline.errors import ModelError

# A 30 M-parameter pickle has about 50,000 instructions; this bounds time and memo on a hostile one.
MAX_OPCODES = 500_000
# Members of a tuple, those of the tuples in it included: a tensor has about 20. Comparing and
# releasing walk all of them, however often the memo made them share.
MAX_TUPLE_MEMBERS = 256
# The only large number in a network file marks a storage's beginning.
MAX_INTEGER_BITS = 80
# Names of modules, classes and attributes; longer texts are no names.
MAX_NAME = 200

NETWORK_OPCODES = frozenset(
    "PROTO FRAME MARK STOP EMPTY_DICT EMPTY_LIST EMPTY_SET EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "SETITEM SETITEMS APPEND APPENDS NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT "
    "SHORT_BINUNICODE BINUNICODE SHORT_BINBYTES BINBYTES BINBYTES8 GLOBAL STACK_GLOBAL REDUCE "
    "NEWOBJ BUILD MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET".split()
)
STORAGE_OPCODES = NETWORK_OPCODES | {"BINPERSID"}

Name = tuple[str, str]  # module, name

# What each call leaves, where more is done with it than to hold it.
_RESULTS: dict[Name, str] = {
    ("numpy", "dtype"): "dtype",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("collections", "OrderedDict"): "dict",
}
# Named, but never called: marks, and the one class that NEWOBJ makes.
_EASY_DICT: Name = ("dnnlib.util", "EasyDict")
_NOT_CALLED: frozenset[Name] = frozenset((_EASY_DICT, ("numpy", "ndarray")))


def scan(stream: IO[bytes], opcodes: Collection[str], names: Collection[Name], left: int) -> None:
    """Follow one pickle up to its STOP; ModelError at the first thing that no network does.

    Args:
        stream: stands at the pickle's beginning, and afterwards behind its end.
        opcodes: instructions that may occur.
        names: the globals that it may name.
        left: bytes that are left in `stream`, the bound on every length in the pickle.
    """
    machine = _Machine(names)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream), start=1):
        if count > MAX_OPCODES:
            raise ModelError("it has more instructions than any network needs.")
        if opcode.name not in opcodes:
            raise ModelError(f"it uses the pickle instruction {opcode.name}, as no network does.")
        if isinstance(argument, int):
            if opcode.name in ("BINPUT", "LONG_BINPUT") and argument > count:
                # The unpickler would grow its memo to this index.
                raise ModelError("its memo indices are not those of a network pickle.")
            if opcode.name == "FRAME" and argument > left:
                raise ModelError("a frame is longer than the file.")
            if argument.bit_length() > MAX_INTEGER_BITS:
                raise ModelError("it holds an integer that networks never hold.")
        if isinstance(argument, str | bytes) and len(argument) > left:
            raise ModelError("a string is longer than the file.")
        machine.step(opcode.name, argument)


def refuse_global(module: str, name: str) -> NoReturn:
    """ModelError about a global that is not in the table."""
    if module.startswith(("dnnlib.tflib", "training.networks_stylegan")) and name == "Network":
        raise ModelError(
            "it holds TensorFlow networks (the original StyleGAN2); convert it with the "
            "legacy.py of stylegan2-ada-pytorch or stylegan3 and import what that writes."
        )
    asked = f"{module}.{name}"[:MAX_NAME]
    raise ModelError(f"it asks for {asked}, which no network needs; it may be malicious.")


class _Item(NamedTuple):
    """What is known of one value on the unpickler's stack."""

    kind: str = ""  # text, int, tuple, list, dict, global, dtype, array; "": anything else
    size: int = 1  # of a tuple: its members, those of the tuples in it included
    text: str | None = None  # a short text
    name: Name = ("", "")  # of a global


_ANY = _Item()


class _Machine:
    """The unpickler's stack and memo, with kinds in place of values."""

    _SIMPLE: ClassVar[dict[str, _Item]] = {
        "EMPTY_DICT": _Item("dict"),
        "EMPTY_LIST": _Item("list"),
        "EMPTY_TUPLE": _Item("tuple"),
        **dict.fromkeys(("BININT", "BININT1", "BININT2"), _Item("int")),
    }
    _TUPLES: ClassVar[dict[str, int]] = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

    def __init__(self, names: Collection[Name]) -> None:
        self._names = names
        self._stack: list[_Item] = []
        self._marks: list[int] = []
        self._memo: dict[int, _Item] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Follow one instruction; ModelError if its operands are not as in a network."""
        if opcode in ("PROTO", "FRAME", "STOP"):
            return
        if opcode == "MARK":
            self._marks.append(len(self._stack))
        elif opcode in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            index = len(self._memo) if opcode == "MEMOIZE" else cast(int, argument)
            self._memo[index] = self._top()
        elif opcode in ("BINGET", "LONG_BINGET"):
            if argument not in self._memo:
                raise ModelError("it fetches from its memo what it never put there.")
            self._stack.append(self._memo[argument])
        elif opcode in ("SHORT_BINUNICODE", "BINUNICODE"):
            short = argument if len(argument) <= MAX_NAME else None
            self._stack.append(_Item("text", text=short))
        elif opcode in self._TUPLES:
            self._tuple(self._take(self._TUPLES[opcode]))
        elif opcode == "TUPLE":
            self._tuple(self._take_to_mark())
        elif opcode in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            self._fill(opcode)
        elif opcode in ("GLOBAL", "STACK_GLOBAL"):
            self._global(opcode, argument)
        elif opcode in ("REDUCE", "NEWOBJ", "BUILD", "BINPERSID"):
            self._call(opcode)
        else:
            self._stack.append(self._SIMPLE.get(opcode, _ANY))

    def _tuple(self, members: list[_Item]) -> None:
        size = 1 + sum(member.size for member in members)
        if size > MAX_TUPLE_MEMBERS:
            raise ModelError("a tuple holds more than any in a network.")
        self._stack.append(_Item("tuple", size))

    def _fill(self, opcode: str) -> None:
        single = {"APPEND": 1, "SETITEM": 2}
        members = self._take(single[opcode]) if opcode in single else self._take_to_mark()
        is_list = opcode.startswith("APPEND")
        if self._top().kind != ("list" if is_list else "dict"):
            raise ModelError("it puts members into what is no list or table.")
        if not is_list and len(members) % 2:
            raise ModelError("its instructions do not fit together.")
        if not is_list and any(key.kind not in ("text", "int") for key in members[::2]):
            raise ModelError("a table has keys that are neither texts nor numbers.")

    def _global(self, opcode: str, argument: Any) -> None:
        if opcode == "GLOBAL":
            module, _, name = str(argument).partition(" ")
        else:
            parts = [item.text for item in self._take(2)]
            if parts[0] is None or parts[1] is None:
                raise ModelError("it makes a global's name of what is no name.")
            module, name = parts[0], parts[1]
        if (module, name) not in self._names:
            refuse_global(module, name)
        self._stack.append(_Item("global", name=(module, name)))

    def _call(self, opcode: str) -> None:
        if opcode == "BINPERSID":
            self._take(1)
            self._stack.append(_ANY)
            return
        target, operand = self._take(2)
        if opcode == "BUILD":
            if target.kind not in ("dtype", "array"):
                raise ModelError("it changes a value by BUILD that is no numpy array or type.")
            self._stack.append(target)
        elif opcode == "NEWOBJ":
            if target.name != _EASY_DICT or operand != _Item("tuple"):
                raise ModelError("it makes an object by NEWOBJ that is no empty settings table.")
            self._stack.append(_Item("dict"))
        else:
            callable_ = target.kind == "global" and target.name not in _NOT_CALLED
            if not callable_ or operand.kind != "tuple":
                raise ModelError("it calls by REDUCE what networks never call.")
            self._stack.append(_Item(_RESULTS.get(target.name, "")))

    def _take(self, count: int) -> list[_Item]:
        floor = self._marks[-1] if self._marks else 0
        if len(self._stack) - count < floor:
            raise ModelError("its instructions do not fit together.")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _take_to_mark(self) -> list[_Item]:
        if not self._marks:
            raise ModelError("its instructions do not fit together.")
        position = self._marks.pop()
        taken = self._stack[position:]
        del self._stack[position:]
        return taken

    def _top(self) -> _Item:
        floor = self._marks[-1] if self._marks else 0
        if len(self._stack) <= floor:
            raise ModelError("its instructions do not fit together.")
        return self._stack[-1]

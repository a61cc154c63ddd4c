"""Reads the pickles of PyTorch without running them: they are data here, never a program.

A pickle is a list of instructions for a machine with a stack; one of them calls any function of any
module, which is how a hostile file takes a computer over. This machine knows no function at all: it
follows the instructions that build tuples, lists, dicts and plain values, and keeps a call of one
of the few names in `CALLABLES` as a record of what was asked. Anything else is an error.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from cpumix.errors import quoted

_MOST_STEPS = 3_000_000  # ten seconds; 3,000 tensors take 100,000
_SIMPLE = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    "BINUNICODE SHORT_BINUNICODE BINUNICODE8 UNICODE BINSTRING SHORT_BINSTRING STRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BININT BININT1 BININT2 INT LONG LONG1 LONG4 BINFLOAT FLOAT".split()
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
CALLABLES = frozenset(
    {
        ("collections", "OrderedDict"),
        ("torch", "Size"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_tensor_v3"),
        ("torch._utils", "_rebuild_parameter"),
    }
)


class NotPlain(Exception):
    """A pickle that is damaged, or wants more than tensors; the text says what was found."""


class Name(NamedTuple):
    """A name of a module, such as torch.HalfStorage; what it stands for is never looked up."""

    module: str
    name: str


class Call(NamedTuple):
    """A call of one of `CALLABLES`, which nobody makes."""

    function: str
    arguments: tuple[Any, ...]


class PersistentId(NamedTuple):
    """A reference to something outside the pickle: PyTorch's storages."""

    value: Any


def load(stream: BinaryIO) -> Any:
    """Return what the next pickle of a stream builds. Raises NotPlain.

    The stream must be small: a pickle may well claim that its next string is all of it.
    """
    machine = _Machine()
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if step > _MOST_STEPS:
                raise NotPlain("too many instructions")
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, struct.error, OverflowError) as e:
        raise NotPlain(f"a damaged pickle ({type(e).__name__})") from e
    raise NotPlain("a pickle without an end")


class _Machine:
    """A stack, the marks on it, and what the pickle asked to remember."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _SIMPLE:
            self.stack.append(_SIMPLE[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            if len(self.stack) < count:
                raise IndexError
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise NotPlain(f"the instruction {name}")

    def since_mark(self) -> list[Any]:
        """Take what was pushed since the last mark."""
        at = self.marks.pop()
        items, self.stack[at:] = self.stack[at:], []
        return items

    def mark(self, _: Any) -> None:
        """Remember this place of the stack."""
        self.marks.append(len(self.stack))

    def memoize(self, _: Any) -> None:
        """Remember the top of the stack under the next number."""
        self.memo[len(self.memo)] = self.stack[-1]

    def make_tuple(self, _: Any) -> None:
        """Make a tuple of what came since the mark."""
        self.stack.append(tuple(self.since_mark()))

    def make_list(self, _: Any) -> None:
        """Make a list of what came since the mark."""
        self.stack.append(self.since_mark())

    def append(self, _: Any) -> None:
        """Add one item to a list."""
        item = self.stack.pop()
        self._top(list).append(item)

    def appends(self, _: Any) -> None:
        """Add what came since the mark to a list."""
        items = self.since_mark()
        self._top(list).extend(items)

    def set_item(self, _: Any) -> None:
        """Give a dict one more value."""
        items = [self.stack.pop(), self.stack.pop()]
        self._set(items[::-1])

    def set_items(self, _: Any) -> None:
        """Give a dict the values since the mark."""
        self._set(self.since_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):  # hashing others may take for ever
                raise NotPlain(f"a dict with a {type(key).__name__} as key")
            if key in target:
                raise NotPlain(f"the name {quoted(key)} twice")
            target[key] = value

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise NotPlain(f"a {type(self.stack[-1]).__name__} in place of a {kind.__name__}")
        return self.stack[-1]

    def name(self, argument: str) -> None:
        """Push a name."""
        self._push_name(*argument.split(" ", 1))

    def stack_name(self, _: Any) -> None:
        """Push the name that lies on the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise NotPlain("a name that is no text")
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        if (module, name) not in CALLABLES and module not in ("torch", "torch.storage"):
            raise NotPlain(f"the name {quoted(f'{module}.{name}')}")
        self.stack.append(Name(module, name))

    def call(self, _: Any) -> None:
        """Keep a record of a call."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or tuple(function) not in CALLABLES:
            raise NotPlain("a call of something else than a tensor")
        if not isinstance(arguments, tuple):
            raise NotPlain("a call without arguments")
        is_dict = function.name == "OrderedDict"
        self.stack.append({} if is_dict else Call(function.name, arguments))

    def build(self, _: Any) -> None:
        """Pass over the attributes of an object, such as a state dict's _metadata."""
        self.stack.pop()

    def persistent_id(self, _: Any) -> None:
        """Wrap the reference that lies on the stack."""
        self.stack.append(PersistentId(self.stack.pop()))


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "MEMOIZE": _Machine.memoize,
    "TUPLE": _Machine.make_tuple,
    "LIST": _Machine.make_list,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_id,
}

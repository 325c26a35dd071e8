"""Arrays of Python objects in .npy files, of which plain values are read and nothing is executed.

NumPy pickles such an array, and a pickle is a program for a stack machine that may import and call
anything (https://docs.python.org/3/library/pickle.html, pickletools has its instructions). This is
another machine. It knows the instructions that an array of texts and numbers takes, imports and
calls nothing, and makes nothing but plain values: the names of NumPy's functions stand for
themselves. There is one list, which cannot be in itself, and tuples and marks are few, so that what
is made is never much larger than the file.
"""

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from xpnet.errors import DataError

__all__ = ["MAX_PICKLE", "read_objects"]

MAX_PICKLE = 2**28  # bytes; as objects they take up to some 15 times as much
MAX_TUPLES = MAX_MARKS = 64  # NumPy's own are shapes, arguments and states, about ten
PLAIN = (str, int, float, bool, bytes, type(None))


class _RefusedError(Exception):
    """Something that is not in an array of plain values; its text says what."""


class _Name:
    """A name of NAMES: what an instruction would import."""

    __slots__ = ("meaning",)

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning


RECONSTRUCT, NDARRAY, DTYPE = "reconstruct", "ndarray", "dtype"
ENCODE, BYTES = "encode", "bytes"  # how protocol 2 writes bytes, and those that are empty
NAMES = {  # as NumPy 2 and 1, and Python, write them
    ("numpy._core.multiarray", "_reconstruct"): _Name(RECONSTRUCT),
    ("numpy.core.multiarray", "_reconstruct"): _Name(RECONSTRUCT),
    ("numpy", "ndarray"): _Name(NDARRAY),
    ("numpy", "dtype"): _Name(DTYPE),
    ("_codecs", "encode"): _Name(ENCODE),
    ("__builtin__", "bytes"): _Name(BYTES),
}


class _Made:
    """What NumPy would make of an array or a dtype, with the state that BUILD gives it."""

    __slots__ = ("meaning", "state")

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning
        self.state: Any = None


def read_objects(data: bytes, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Return an array of plain values, dtype object, from its pickle.

    The values are str, bytes, int, float, bool or None. Raises DataError, which says how to save
    the array otherwise, for any other object and for a damaged pickle.
    """
    try:
        values = _values(_Machine(data).run(), shape)
    except _RefusedError as error:
        raise _refusal(where, str(error)) from None
    except (LookupError, ValueError, struct.error, TypeError, AttributeError) as error:
        raise _refusal(where, f"damaged ({type(error).__name__})") from error
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _refusal(where: str, what: str) -> DataError:
    return DataError(
        f"{where}: an array of Python objects, {what}; only texts and numbers are read, since "
        "loading any other object may run a program; if you trust the file, convert it in Python: "
        "np.save(NEW, np.load(OLD, allow_pickle=True).astype(str)), or astype(float)"
    )


def _values(made: Any, shape: tuple[int, ...]) -> list[Any]:
    """Return the values of the array, in the order of the file; raises _RefusedError."""
    if not isinstance(made, _Made) or made.meaning != NDARRAY:
        msg = "damaged (no array)"
        raise _RefusedError(msg)
    _, own_shape, dtype, _, values = made.state
    right = isinstance(dtype, _Made) and type(values) is list and own_shape == shape
    if not right or len(values) != math.prod(shape):
        msg = f"damaged (of another shape than {shape})"
        raise _RefusedError(msg)
    for value in values:
        if type(value) not in PLAIN:
            msg = f"which holds a {type(value).__name__.strip('_').lower()}"
            raise _RefusedError(msg)
    return values


class _Machine:
    """The stack, the memo and the instructions that may be in the pickle of an array."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.tuples, self.list_made = 0, False

    def run(self) -> Any:
        """Follow the instructions; return what is on the stack at the end."""
        while (code := self.data[self.at]) != STOP:
            self.at += 1
            if make := VALUES.get(code):
                self.stack.append(make(self))
            elif act := ACTIONS.get(code):
                act(self)
            else:
                msg = f"whose pickle has the instruction {chr(code)!a}"
                raise _RefusedError(msg)
        return self.stack.pop()

    def take(self, n: int) -> bytes:
        """Return the next ``n`` bytes."""
        part = self.data[self.at : self.at + n]
        if len(part) < n:
            msg = "damaged (it ends too early)"
            raise _RefusedError(msg)
        self.at += n
        return part

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def number(self, width: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def text(self, size: int) -> str:
        return self.take(size).decode("utf-8")

    def line(self) -> str:
        end = self.data.index(b"\n", self.at)
        return self.take(end + 1 - self.at)[:-1].decode("ascii")

    def tuple_of(self, values: list[Any]) -> tuple[Any, ...]:
        self.tuples += 1
        if self.tuples > MAX_TUPLES:
            msg = "which holds tuples"
            raise _RefusedError(msg)
        return tuple(values)

    def popped(self, n: int) -> list[Any]:
        """Take the last ``n`` values from the stack."""
        start = len(self.stack) - n
        values = self.stack[start:] if start >= 0 else []
        if len(values) < n:
            msg = "damaged (its stack is empty)"
            raise _RefusedError(msg)
        del self.stack[start:]
        return values

    def marked(self) -> list[Any]:
        """Take what is above the last mark from the stack."""
        return self.popped(len(self.stack) - self.marks.pop())

    def name(self, module: Any, name: Any) -> _Name:
        if not isinstance(module, str) or not isinstance(name, str):
            msg = "damaged (a name is no text)"
            raise _RefusedError(msg)
        if (module, name) not in NAMES:
            msg = f"which needs {module[:40]}.{name[:40]}"
            raise _RefusedError(ascii(msg)[1:-1])
        return NAMES[module, name]

    def new_list(self) -> list[Any]:
        if self.list_made:
            msg = "which holds lists"
            raise _RefusedError(msg)
        self.list_made = True
        return []

    def call(self) -> Any:
        """Return what a call stands for: an array, the dtype of objects, or bytes."""
        function, given = self.popped(2)
        meaning, first = function.meaning, (*given, None)[0]
        if meaning == RECONSTRUCT and isinstance(first, _Name) and first.meaning == NDARRAY:
            return _Made(NDARRAY)
        if meaning == DTYPE and first in ("O8", "O4", "O"):
            return _Made(DTYPE)
        if meaning == ENCODE and isinstance(first, str):
            return first.encode("latin-1")
        if meaning == BYTES and given == ():
            return b""
        msg = f"whose pickle calls {meaning}"  # of what? nested tuples may have endless texts
        raise _RefusedError(msg)

    def build(self) -> None:
        (state,) = self.popped(1)
        self.stack[-1].state = state

    def append(self, values: list[Any]) -> None:
        into = self.stack[-1]
        if type(into) is not list or any(value is into for value in values):
            msg = "damaged (values without a list)"
            raise _RefusedError(msg)
        into.extend(values)

    def remember(self, index: int) -> None:
        if index > len(self.memo):  # pickle numbers them as they come
            msg = "damaged (its memo has gaps)"
            raise _RefusedError(msg)
        self.memo[index : index + 1] = [self.stack[-1]]

    def mark(self) -> None:
        if len(self.marks) == MAX_MARKS:
            msg = "damaged (too many marks)"
            raise _RefusedError(msg)
        self.marks.append(len(self.stack))


STOP = ord(".")
# Instructions that put a value on the stack.
VALUES: dict[int, Callable[[_Machine], Any]] = {
    ord("h"): lambda m: m.memo[m.byte()],
    ord("j"): lambda m: m.memo[m.number(4)],
    0x8C: lambda m: m.text(m.byte()),
    ord("X"): lambda m: m.text(m.number(4)),
    0x8D: lambda m: m.text(m.number(8)),
    ord("C"): lambda m: m.take(m.byte()),
    ord("B"): lambda m: m.take(m.number(4)),
    ord("N"): lambda m: None,
    0x88: lambda m: True,
    0x89: lambda m: False,
    ord("K"): _Machine.byte,
    ord("M"): lambda m: m.number(2),
    ord("J"): lambda m: m.number(4, signed=True),
    0x8A: lambda m: m.number(m.byte(), signed=True),
    ord("G"): lambda m: struct.unpack(">d", m.take(8))[0],
    ord("]"): _Machine.new_list,
    ord(")"): lambda m: (),
    ord("t"): lambda m: m.tuple_of(m.marked()),
    0x85: lambda m: m.tuple_of(m.popped(1)),
    0x86: lambda m: m.tuple_of(m.popped(2)),
    0x87: lambda m: m.tuple_of(m.popped(3)),
    ord("c"): lambda m: m.name(m.line(), m.line()),
    0x93: lambda m: m.name(*m.popped(2)),
    ord("R"): _Machine.call,
}
# Instructions that do something else.
ACTIONS: dict[int, Callable[[_Machine], Any]] = {
    0x80: lambda m: m.take(1),  # the protocol
    0x95: lambda m: m.take(8),  # the length of a frame
    0x94: lambda m: m.remember(len(m.memo)),
    ord("q"): lambda m: m.remember(m.byte()),
    ord("r"): lambda m: m.remember(m.number(4)),
    ord("("): _Machine.mark,
    ord("a"): lambda m: m.append(m.popped(1)),
    ord("e"): lambda m: m.append(m.marked()),
    ord("b"): _Machine.build,
}

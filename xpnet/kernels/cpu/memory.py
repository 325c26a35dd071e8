"""How compiled code reads a row of a program: sizes, numbers, and addresses as pointers.

A row is the record :data:`ROW`. Kernels take its address and read it with these functions, which
are loads from memory and nothing else; Numba knows no cheaper way to hand over many arrays.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = [
    "ROW",
    "ROW_BYTES",
    "address",
    "call",
    "doubles",
    "integers",
    "number_float32",
    "number_float64",
    "real_float32",
    "real_float64",
    "size",
    "store",
    "vector_float32",
    "vector_float64",
    "word",
]

MOST_SIZES, MOST_ARRAYS, MOST_NUMBERS = 6, 32, 28
ROW = np.dtype(
    [
        ("kernel", "i8"),  # the address of its code
        ("sizes", "i8", MOST_SIZES),
        ("at", "i8", MOST_ARRAYS),  # the addresses of its arrays
        ("numbers", "f8", MOST_NUMBERS),
    ]
)
ROW_BYTES = ROW.itemsize
WORD = 8  # bytes of every entry
_I64 = ir.IntType(64)


def _load(builder: Any, row: Any, index: Any, field: str, kind: Any) -> Any:
    """Load entry ``index`` of a field of the row at an address."""
    start = builder.add(row, ir.Constant(_I64, ROW.fields[field][1]))  # type: ignore[index]
    place = builder.add(start, builder.mul(index, ir.Constant(_I64, WORD)))
    return builder.load(builder.inttoptr(place, kind.as_pointer()))


def _reader(numba_type: Any, finish: Any) -> Any:
    """Return a function ``(row, index)`` of that type; ``finish`` generates its code."""

    @intrinsic
    def read(typingctx, row, index):
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return finish(context, builder, *values)

        return numba_type(types.int64, types.int64), generate

    return read


def _pointers(element: Any) -> Any:
    def finish(context: Any, builder: Any, row: Any, index: Any) -> Any:
        place = _load(builder, row, index, "at", _I64)
        return builder.inttoptr(place, context.get_value_type(element).as_pointer())

    return _reader(types.CPointer(element), finish)


def _words(field: str) -> Any:
    return _reader(types.int64, lambda c, b, row, index: _load(b, row, index, field, _I64))


size, address = _words("sizes"), _words("at")
vector_float32, vector_float64 = _pointers(types.float32), _pointers(types.float64)
integers, doubles = _pointers(types.int32), _pointers(types.float64)
number_float64 = _reader(
    types.float64, lambda c, b, row, i: _load(b, row, i, "numbers", ir.DoubleType())
)
number_float32 = _reader(
    types.float32,
    lambda c, b, row, i: b.fptrunc(_load(b, row, i, "numbers", ir.DoubleType()), ir.FloatType()),
)
real_float32, real_float64 = np.float32, np.float64


@intrinsic
def call(typingctx, code, row):
    """Call the kernel at the address ``code`` with the address of its row."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kernel = ir.FunctionType(ir.VoidType(), [_I64])
        builder.call(builder.inttoptr(values[0], kernel.as_pointer()), [values[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def word(typingctx, place):
    """Read the int64 at an address."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.inttoptr(values[0], _I64.as_pointer()))

    return types.int64(types.int64), generate


@intrinsic
def store(typingctx, place, value):
    """Write an int64 to an address."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[1], builder.inttoptr(values[0], _I64.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate

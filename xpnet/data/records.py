"""Structured arrays and arrays of objects, which are tables: a column for each field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from xpnet.data.labels import MISSING
from xpnet.data.tables.table import RawTable, located
from xpnet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["check_texts", "is_records", "raw_table", "structured_table"]


def is_records(array: np.ndarray) -> bool:
    """Return whether the rows of an array are records: of named fields, or of plain objects."""
    return array.dtype.names is not None or (array.dtype.kind == "O" and array.ndim == 2)


def raw_table(array: np.ndarray, where: str) -> RawTable:
    """Return an array of records as a table, which errors call ``where``; raises DataError."""
    if array.dtype.names is not None:
        data = structured_table(array, where)
        names = tuple(data.schema.names)
        return RawTable(data, names, located(where, names))
    import pyarrow as pa

    columns = [_plain(list(array[:, j]), where) for j in range(array.shape[1])]
    data = pa.Table.from_arrays(columns, names=[str(j) for j in range(len(columns))])
    return RawTable(data, None, located(where, None))


def structured_table(array: np.ndarray, where: str = "array") -> pa.Table:
    """Return a structured array (N,) as a table of Arrow columns.

    A field is a column of its name; NaN, NaT and the texts that stand for what is missing are null.
    A field that is an array, or has fields itself, is a column for each of its values: "point[0]",
    "point.x". Raises DataError for a field of complex numbers or raw bytes.

    >>> rows = np.array([(1, "a"), (2, "")], [("size", "i4"), ("kind", "U1")])
    >>> structured_table(rows).to_pydict()
    {'size': [1, 2], 'kind': ['a', None]}
    """
    import pyarrow as pa

    if array.ndim != 1:
        msg = f"{where}: records must be (rows,); got shape {array.shape}"
        raise DataError(msg)
    named = dict(_fields(array, ""))
    columns = [_typed(values, f"{where}: field {name!r}") for name, values in named.items()]
    return pa.Table.from_arrays(columns, names=list(named))


def check_texts(values: np.ndarray, where: str) -> None:
    """Raise DataError for texts (dtype U) with a code that is no character of Unicode.

    NumPy takes them as they are in a file; Python and Arrow have no such texts.
    """
    native = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    codes = native.reshape(-1).view(np.uint32)
    bad = (codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))
    if bad.any():
        msg = f"{where}: a text holds {codes[bad][0]:#x}, which is no character"
        raise DataError(msg)


def _fields(array: np.ndarray, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the values (N,) of every field, also inside others."""
    if array.dtype.names is not None:
        for field in array.dtype.names:
            yield from _fields(array[field], f"{name}.{field}" if name else field)
    elif array.ndim == 1:
        yield name, array
    else:
        for index in np.ndindex(array.shape[1:]):
            yield f"{name}[{','.join(map(str, index))}]", array[:, *index]


def _typed(values: np.ndarray, where: str) -> pa.Array:
    """Return an Arrow column of the values of one field."""
    import pyarrow as pa

    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "S":
        try:
            values, kind = np.strings.decode(values, "utf-8"), "U"
        except UnicodeDecodeError as error:
            msg = f"{where}: a text is not UTF-8 ({error.reason})"
            raise DataError(msg) from None
    if kind == "U":
        check_texts(values, where)
        return pa.array([None if text.strip() in MISSING else text for text in values.tolist()])
    if kind == "M":
        return pa.array(values.astype("M8[us]"))
    if kind not in "buif":
        msg = f"{where}: holds {values.dtype}; it must hold numbers, texts or dates"
        raise DataError(msg)
    if kind == "f" and size not in (4, 8):
        values = values.astype(np.float64)
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    return pa.array(values, from_pandas=True)  # NaN is null


def _plain(values: list[Any], where: str) -> pa.Array:
    """Return an Arrow column of plain values: booleans or numbers if all are, else texts."""
    import pyarrow as pa

    found = [None if v != v or (isinstance(v, str) and v.strip() in MISSING) else v for v in values]
    kinds = {type(v) for v in found} - {type(None)}
    if kinds <= {bool}:
        return pa.array(found, pa.bool_() if kinds else pa.null())
    if kinds <= {int, float, bool}:
        try:
            return pa.array([v if v is None else float(v) for v in found], pa.float64())
        except OverflowError:
            msg = f"{where}: a whole number is too large for a float64"
            raise DataError(msg) from None
    texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in found]
    return pa.array([v if v is None else str(v) for v in texts], pa.string())

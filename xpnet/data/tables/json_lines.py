"""JSON Lines: an object a line, whose keys name the columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xpnet.data.tables.lines import Lines
from xpnet.data.tables.opened import contents
from xpnet.data.tables.table import RawTable, column_of, normalised
from xpnet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_json_lines"]

EXACT = 2**53
SCALARS = (bool, int, float, str)


def read_json_lines(path: Path) -> RawTable:
    """Read a file of JSON objects; those nested in them are left as Arrow has them.

    Arrow's C++ reads a file whose columns have one type each. In any other, and where a number has
    more digits than a double, Python's json reads the objects, and a column of several types
    becomes one of texts.
    """
    import pyarrow as pa
    from pyarrow import json as arrow

    data = contents(path)
    if not data.strip():
        msg = f"{path}: line 1: the file is empty"
        raise DataError(msg)
    try:
        options = arrow.ReadOptions(block_size=max(len(data), 1))
        data.decode()  # which Arrow does not check
        table = arrow.read_json(pa.BufferReader(data), read_options=options)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        table = None
    if table is None or _rounded(table) or not table.num_columns:
        table = _by_python(path)
    names = tuple(table.schema.names)

    def location(row: int, column: int | None = None) -> str:
        lines = Lines(path)
        for n, _ in enumerate(lines.rows()):
            if n == row:
                return lines.where + column_of(names, column)
        return f"{path}: row {row}{column_of(names, column)}"

    return RawTable(normalised(table), names, location)


def _rounded(table: pa.Table) -> bool:
    """Return whether a double may be a whole number that lost digits."""
    import pyarrow.compute as pc
    from pyarrow import types

    doubles = (c for c in table.columns if types.is_floating(c.type))
    return any((pc.max(pc.abs(c)).as_py() or 0) >= EXACT for c in doubles)


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    lines = Lines(path)
    for text in lines.rows():
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            msg = f"{lines.where}: not JSON: {error}"
            raise DataError(msg) from None
        if not isinstance(value, dict):
            msg = f"{lines.where}: expected an object, {{...}}; got {text.strip()[:40]!r}"
            raise DataError(msg)
        yield value


def _by_python(path: Path) -> pa.Table:
    import pyarrow as pa

    objects = list(_objects(path))
    names = list(dict.fromkeys(name for value in objects for name in value))
    if not names:
        msg = f"{path}: its objects have no keys; each must be a column"
        raise DataError(msg)
    columns = [_column([value.get(name) for value in objects]) for name in names]
    return pa.Table.from_arrays(columns, names=names)


def _column(values: list[Any]) -> pa.Array:
    """Return numbers, booleans or texts; of several types, or too long for a number, texts."""
    import pyarrow as pa

    kinds = {type(v) for v in values if v is not None}
    if kinds <= {int, float} or len(kinds) == 1:
        try:
            return pa.array(values, pa.float64() if kinds == {int, float} else None)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            pass  # a whole number of more than 64 bits, or objects that are not alike
    return pa.array([None if v is None else _text(v) for v in values], pa.string())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

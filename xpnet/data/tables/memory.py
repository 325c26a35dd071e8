"""Tables that are in memory already: pandas, polars, pyarrow, and all that speak Arrow in Python.

The Arrow PyCapsule interface: https://arrow.apache.org/docs/format/CDataInterface/
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xpnet.data.files import one_line
from xpnet.data.tables.binary import index_columns
from xpnet.data.tables.table import RawTable, located, normalised
from xpnet.data.values import content_of
from xpnet.errors import DataError
from xpnet.settings import did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "is_missing",
    "labelled_numbers",
    "like_input",
    "named_numbers",
    "numbers_in",
    "of_arrow",
    "only_column",
    "speaks_arrow",
]


def speaks_arrow(obj: Any) -> bool:
    """Return whether an object is a table that :func:`of_arrow` takes."""
    return _is_frame(obj) or hasattr(obj, "__arrow_c_stream__") or hasattr(obj, "__arrow_c_array__")


def of_arrow(obj: Any, name: str = "table") -> RawTable:
    """Return a table of pandas, polars, pyarrow or anything with ``__arrow_c_stream__``.

    The index of a pandas table comes last, as a column (one for each level), unless it only counts
    the rows. Raises DataError for anything else, and for a column that Arrow has no type for.
    """
    if _is_frame(obj):
        return _of_frame(obj, name)
    table = _table(obj, name)
    if not table.num_columns:
        msg = f"{name}: has no columns"
        raise DataError(msg)
    names = tuple(table.schema.names)
    return RawTable(normalised(table), names, located(name, names), index_columns(table.schema))


def like_input(table: Any, columns: Mapping[str, Any]) -> Any:
    """Return columns as a table of the library of ``table``: of pandas with its index.

    It is a pyarrow.Table where that is neither pandas nor polars.
    """
    if _is_frame(table):
        return sys.modules["pandas"].DataFrame(dict(columns), index=table.index)
    if type(table).__module__.partition(".")[0] == "polars":
        return sys.modules["polars"].DataFrame(dict(columns))
    import pyarrow as pa

    return pa.table(dict(columns))


def numbers_in(obj: Any, name: str) -> Any:
    """Return the numbers of a table as float64 (N, C), and of a column as (N,); else ``obj``.

    Raises DataError for a column of anything else than numbers, and for a masked value: a training
    of one's own, unlike :func:`xpnet.train`, encodes nothing.
    """
    if isinstance(obj, np.ma.MaskedArray):
        if np.ma.is_masked(obj):
            msg = f"{name} has masked values, and what is below a mask is no data"
            raise DataError(msg, python="leave such rows out, or fill them: .filled(...)")
        return obj.data
    if not speaks_arrow(obj):
        return obj
    if not _is_frame(obj) and not hasattr(obj, "columns"):
        return np.asarray(obj)
    raw = of_arrow(obj, name)
    return _numbers(raw, name, [j for j in range(raw.data.num_columns) if j not in raw.index])


def labelled_numbers(
    obj: Any, name: str, label: str | int, columns: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return the numbers (N, C) of a table, the values (N,) of its column ``label``, and C names.

    A whole number is a name, too, of a pandas table whose columns are numbered.

    The numbers are of all other columns, or of ``columns``, in that order. Raises DataError for a
    label that is not there, and for a value that is missing, or no number in another column.
    """
    raw = of_arrow(obj, name)
    names = [str(n) for n in raw.names or ()]
    at = _position(names, f"{label}" if isinstance(label, int) else label, name)
    if columns is None:
        columns = [n for j, n in enumerate(names) if j != at and j not in raw.index]
        if not columns:
            msg = f"{name} has no column beside {label!r}"
            raise DataError(msg)
    x = _complete(raw, name, [_position(names, c, name) for c in columns])
    return x, _values(raw, at, name), tuple(columns)


def only_column(obj: Any, name: str) -> Any:
    """Return the values (N,) of a table of one column; else ``obj``.

    Raises DataError for a value that is missing, or neither number nor text.
    """
    if not speaks_arrow(obj) or not hasattr(obj, "columns"):
        return obj
    raw = of_arrow(obj, name)
    own = [j for j in range(raw.data.num_columns) if j not in raw.index]
    return _values(raw, own[0], name) if len(own) == 1 else obj


def _values(raw: RawTable, at: int, name: str) -> np.ndarray:
    column = raw.data.column(at)
    content = content_of(column)
    if content not in ("number", "boolean", "text"):
        label = raw.data.schema.names[at]
        msg = f"{name}: column {label!r} holds neither numbers nor texts, but {column.type}"
        raise DataError(msg)
    _check_complete(raw, at)
    values = column.to_numpy()
    return values.astype(str) if content == "text" else values.astype(_plain(values.dtype, content))


def named_numbers(
    obj: Any, name: str, columns: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Return the numbers (N, C) of the C ``columns`` of a table, None for all, and their names.

    Columns that are only numbered, as by pandas, go by position and have no names, unless these are
    the ``columns``. Raises as :func:`labelled_numbers`.
    """
    raw = of_arrow(obj, name)
    names = [str(n) for n in raw.names or ()]
    own = [j for j in range(raw.data.num_columns) if j not in raw.index]
    numbered = [names[j] for j in own] == [*map(str, range(len(own)))]
    if numbered and not set(columns or ("",)) <= set(names):
        return _complete(raw, name, own), None
    if columns is None:
        return _complete(raw, name, own), tuple(names[j] for j in own)
    at = [_position(names, c, name) for c in columns]
    return _complete(raw, name, at), tuple(columns)


def _plain(dtype: np.dtype, content: str) -> np.dtype:
    return np.dtype(bool) if content == "boolean" else dtype


def _position(names: Sequence[str], wanted: str, name: str) -> int:
    found = [j for j, n in enumerate(names) if n == wanted]
    if len(found) != 1:
        problem = f"{len(found)} columns" if found else "no column"
        msg = f"{name} has {problem} {wanted!r}"
        raise DataError(msg if found else f"{msg}; {did_you_mean(str(wanted), names)}")
    return found[0]


def _complete(raw: RawTable, name: str, chosen: Sequence[int]) -> np.ndarray:
    """The numbers of columns without missing values."""
    for j in chosen:
        _check_complete(raw, j)
    return _numbers(raw, name, chosen)


def _check_complete(raw: RawTable, j: int) -> None:
    column = raw.data.column(j)
    if column.null_count:
        row = column.is_null().index(True).as_py()
        msg = f"{raw.location(row, j)}: the value is missing"
        raise DataError(msg, python="xpnet.train(table) encodes texts, dates and gaps")


def _numbers(raw: RawTable, name: str, chosen: Sequence[int]) -> np.ndarray:
    table = raw.data.select(list(chosen))
    columns = [np.asarray(column.to_numpy()) for column in table.columns]
    for column, label in zip(columns, table.schema.names, strict=True):
        if column.dtype.kind not in "buif":
            msg = f"{name}: column {label!r} does not hold numbers alone"
            raise DataError(msg, python="xpnet.train(table) encodes texts, dates and gaps")
    return np.stack(columns, axis=1).astype(np.float64)


def _is_frame(obj: Any) -> bool:
    """Return whether this is a pandas.DataFrame; pandas itself need not be there."""
    return any(
        c.__name__ == "DataFrame" and c.__module__.partition(".")[0] == "pandas"
        for c in type(obj).__mro__
    )


def _table(obj: Any, name: str) -> pa.Table:
    import pyarrow as pa

    try:
        if isinstance(obj, pa.Table):
            return obj
        if isinstance(obj, pa.RecordBatch):
            return pa.Table.from_batches([obj])
        if hasattr(obj, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(obj).read_all()
        if hasattr(obj, "__arrow_c_array__"):
            return pa.Table.from_batches([pa.record_batch(obj)])
    except (pa.ArrowException, TypeError, ValueError) as error:
        msg = f"{name}: {type(obj).__name__} is not a table: {one_line(error)}"
        raise DataError(msg) from error
    msg = f"{name}: expected a table of pandas, polars or pyarrow, or anything with "
    raise DataError(msg + f"__arrow_c_stream__; got {type(obj).__name__}")


def _of_frame(frame: Any, name: str) -> RawTable:
    """Convert a pandas.DataFrame column by column: names repeat, and need not be texts."""
    import pyarrow as pa

    width = frame.shape[1]
    if not width:
        msg = f"{name}: has no columns"
        raise DataError(msg)
    labels = [*map(_name, frame.columns)]
    columns = [frame.iloc[:, j] for j in range(width)]
    for level, values in _index(frame):
        labels.append(level)
        columns.append(values)
    arrays, notes = [], []
    for label, column in zip(labels, columns, strict=True):
        try:
            arrays.append(pa.array(column, from_pandas=True))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            texts = [None if is_missing(v) else str(v) for v in column]
            arrays.append(pa.array(texts, pa.string()))
            kinds = sorted({type(v).__name__ for v in column if not is_missing(v)})
            notes.append(f"{label}: values of several types ({', '.join(kinds[:4])}) are texts")
    table = pa.Table.from_arrays(arrays, names=labels)
    index = tuple(range(width, len(labels)))
    names = tuple(labels)
    return RawTable(normalised(table), names, located(name, names), index, tuple(notes))


def _index(frame: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and values of each level of an index that does more than count the rows."""
    index = frame.index
    if type(index).__name__ == "RangeIndex" and (index.start, index.step) == (0, 1):
        return
    for level in range(index.nlevels):
        own = index.names[level]
        number = f"_{level}" if index.nlevels > 1 else ""
        yield f"index{number}" if own is None else str(own), index.get_level_values(level)


def _name(label: Any) -> str:
    """Return the name of a column; one of several levels is joined."""
    return ".".join(map(str, label)) if isinstance(label, tuple) else str(label)


def is_missing(value: Any) -> bool:
    """Return whether a value is what pandas has for a missing one: None, NaN, NaT, NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value

"""Parquet files, read with pyarrow if it is installed."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpnet.data.columns import Columns, Wanted
from xpnet.data.files import MAX_BYTES, one_line, reading
from xpnet.data.labels import DROP, Labels, Table
from xpnet.data.row_file import Rows
from xpnet.errors import DataError, require

__all__ = ["ParquetRows", "read_parquet_table"]


class Layout(NamedTuple):
    """The columns of a file that are used."""

    columns: Columns
    names: tuple[str, ...]  # of the features
    label: str | None
    dtype: np.dtype  # of the features
    null_labels: bool  # whether a label may be missing


def read_parquet_table(path: Path, wanted: Wanted) -> Table:
    """Read columns of numbers, one of which may be labels; null values are errors."""
    pq = require("pyarrow.parquet", "parquet", "reading Parquet")
    with _readable(path), reading(path) as file:
        return _read(pq.ParquetFile(file), path, wanted)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # Arrow raises a dozen different errors for damaged files
        msg = f"{path}: cannot be read as a Parquet file: {one_line(error)}"
        raise DataError(msg) from error


def _layout(file: Any, path: Path, wanted: Wanted) -> Layout:
    schema = file.schema_arrow
    names = tuple(schema.names)
    if len(names) != file.metadata.num_columns:
        msg = f"{path}: nested columns; each feature must be a column of numbers"
        raise DataError(msg)
    if len(set(names)) < len(names):
        msg = f"{path}: several columns have the same name; the columns are {list(names)}"
        raise DataError(msg)
    few = len(names) - (wanted.label is not None)
    if file.metadata.num_rows == 0 or not few:
        msg = f"{path}: {file.metadata.num_rows} rows of {few} features; "
        raise DataError(msg + "there must be at least one of each")

    def cells(column: int) -> Iterator[Any]:
        for batch in file.iter_batches(columns=[names[column]]):
            yield from batch.column(0).to_pylist()

    columns = wanted.columns(path, names, len(names), cells, _index(schema, names))
    features = columns.feature_names or ()
    dtype = np.result_type(
        *(_dtype(schema.field(names[j]), j, path, columns) for j in columns.features)
    )
    label = None if columns.label is None else names[columns.label]
    return Layout(columns, features, label, dtype, wanted.missing_labels == "drop")


def _index(schema: Any, names: tuple[str, ...]) -> list[int]:
    """Return the columns that pandas wrote as the index of its rows; a range has none."""
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    return [names.index(name) for name in index if isinstance(name, str) and name in names]


def _read(file: Any, path: Path, wanted: Wanted) -> Table:
    rows, layout = file.metadata.num_rows, _layout(file, path, wanted)
    _check_size(
        f"{path}: the file",
        rows,
        layout,
        python="stream it, scan(open_rows(path)), or split it",
        command="--set data.stream=yes, or split it",
    )
    x, labels = _unpack(lambda name: file.read(columns=[name]), path, rows, layout)
    return Table(x, labels, lambda row: f"{path}: row {row}", layout.columns)


def _check_size(what: str, rows: int, layout: Layout, **remedy: str) -> None:
    if rows * len(layout.names) * layout.dtype.itemsize > MAX_BYTES:
        msg = f"{what} has {rows} rows of {len(layout.names)} features, more than "
        raise DataError(msg + f"{MAX_BYTES} bytes", **remedy)


def _unpack(
    read: Callable[[str], Any], path: Path, rows: int, layout: Layout, low: int = 0
) -> tuple[np.ndarray, Labels | None]:
    """Return features and labels of the rows from ``low``; ``read`` returns a one-column table."""

    def values(name: str, null: bool = False, **remedy: str) -> Any:
        return _column(read(name), name, path, rows, low, null, **remedy)

    # The first column shows whether the file holds as many rows as it declares.
    first = values(layout.names[0]).to_numpy()
    x = np.empty((rows, len(layout.names)), layout.dtype)
    x[:, 0] = first
    for j, name in enumerate(layout.names[1:], 1):
        x[:, j] = values(name).to_numpy()
    if layout.label is None:
        return x, None
    return x, _labels(values(layout.label, layout.null_labels, **DROP), path, layout.label)


class ParquetRows:
    """Rows of a Parquet file. Its blocks are its row groups, each of which is unpacked as a whole.

    Small row groups are shuffled better and take less memory.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        pq = require("pyarrow.parquet", "parquet", "reading Parquet")
        self._path = path
        with _readable(path):
            self._file = pq.ParquetFile(str(path))
            layout, groups = _layout(self._file, path, wanted), self._file.metadata
            sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
        if min(sizes) < 1:
            msg = f"{path}: a row group has {min(sizes)} rows; it must have at least one"
            raise DataError(msg)
        remedy = "write it with a row_group_size of about 10,000"
        _check_size(f"{path}: a row group", max(sizes), layout, python=remedy)
        self.bounds = np.concatenate([[0], np.cumsum(sizes)])
        self._layout, self.dtype = layout, layout.dtype
        self.columns: Columns | None = layout.columns
        self.shape: tuple[int, ...] = (int(self.bounds[-1]), len(layout.names))
        self._lock, self._stamp = threading.Lock(), self._current_stamp()
        self._unpacked: tuple[int, Rows] | None = None  # a part has at most two runs in a group

    def read(self, start: int, stop: int) -> Rows:
        group = int(np.searchsorted(self.bounds, start, side="right")) - 1
        with self._lock:
            if self._unpacked is None or self._unpacked[0] != group:
                self._unpacked = (group, self._unpack(group))
            x, y = self._unpacked[1]
        low = int(self.bounds[group])
        return Rows(x[start - low : stop - low], None if y is None else y[start - low : stop - low])

    def _unpack(self, group: int) -> Rows:
        low, high = map(int, self.bounds[group : group + 2])
        with _readable(self._path):
            if self._current_stamp() != self._stamp:
                msg = f"{self._path}: the file was changed during training; start again"
                raise DataError(msg)
            x, labels = _unpack(
                lambda name: self._file.read_row_group(group, columns=[name]),
                self._path,
                high - low,
                self._layout,
                low,
            )
        return Rows(x, None if labels is None else np.array(labels.values)[labels.codes])

    def expect(self, start: int, stop: int) -> None:
        """Do nothing: Arrow reads a row group at once."""

    def location(self, row: int) -> str:
        return f"{self._path}: row {row}"

    def _current_stamp(self) -> tuple[int, int]:
        stat = os.stat(self._path)
        return stat.st_mtime_ns, stat.st_size


def _dtype(field: Any, column: int, path: Path, columns: Columns) -> np.dtype:
    try:
        dtype = np.dtype(field.type.to_pandas_dtype())
    except NotImplementedError:  # as for categories, which Arrow calls a dictionary
        dtype = np.dtype(object)
    if dtype.kind not in "buif":
        msg = f"{path}: column {field.name!r}: features must be numbers; got {field.type}; "
        raise columns.not_numbers(column, msg + "encode texts and categories as numbers")
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype


def _labels(column: Any, path: Path, name: str) -> Labels:
    """Decode each value once: a billion equal texts take a kilobyte in the file."""
    found, values = column.combine_chunks(), [None]
    if not column.type.num_fields:  # not nested
        found = found if hasattr(found, "dictionary") else found.dictionary_encode()
        values = found.dictionary.to_pylist()
    if not all(isinstance(v, str | bytes | bool | int | float) for v in values):
        msg = f"{path}: column {name!r}: labels must be numbers or texts; got {column.type}"
        raise DataError(msg)
    texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
    codes = found.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False).astype(np.int64)
    return Labels([*texts, None] if found.null_count else texts, codes)


def _column(
    table: Any, name: str, path: Path, rows: int, low: int, null: bool, **remedy: str
) -> Any:
    column = table.column(0)
    if len(column) != rows:
        msg = f"{path}: column {name!r} has {len(column)} of {rows} rows"
        raise DataError(msg)
    if column.null_count and not null:
        row = low + int(np.argmax(column.is_null().to_numpy()))
        msg = f"{path}: row {row}, column {name!r}: the value is missing"
        raise DataError(msg, **remedy)
    return column

"""Parquet files, through pyarrow where it is installed."""

from pathlib import Path
from typing import Any

import numpy as np

from xpnet.data.files import MAX_BYTES, one_line, reading
from xpnet.data.labels import Labels, Table, find_label
from xpnet.errors import DataError, require

__all__ = ["read_parquet_table"]


def read_parquet_table(path: Path, label: str | int | None) -> Table:
    """Read columns of numbers, one of which may be labels; null values are errors."""
    pq = require("pyarrow.parquet", "parquet", "reading Parquet")
    try:
        with reading(path) as file:
            return _read(pq.ParquetFile(file), path, label)
    except DataError:
        raise
    except Exception as error:  # Arrow has a dozen kinds for a damaged file
        msg = f"{path}: not a Parquet file that can be read: {one_line(error)}"
        raise DataError(msg) from error


def _read(file: Any, path: Path, label: str | int | None) -> Table:
    schema, rows = file.schema_arrow, file.metadata.num_rows
    names = tuple(schema.names)
    if len(names) != file.metadata.num_columns:
        msg = f"{path}: nested columns; features must be one number in each column"
        raise DataError(msg)
    column = None if label is None else find_label(names, len(names), label, path)
    features = tuple(n for j, n in enumerate(names) if j != column)
    if rows == 0 or not features:
        msg = f"{path}: {rows} rows of {len(features)} features; there must be some of each"
        raise DataError(msg)
    if len(set(names)) < len(names):
        msg = f"{path}: several columns have the same name; the columns are {list(names)}"
        raise DataError(msg)
    dtype = np.result_type(*(_dtype(schema.field(n), path) for n in features))
    if rows * len(features) * dtype.itemsize > MAX_BYTES:
        msg = f"{path}: {rows} rows of {len(features)} features are more than {MAX_BYTES} bytes"
        raise DataError(msg)
    # The first column shows whether the file holds as many rows as it declares.
    first = _column(file, features[0], path).to_numpy()
    x = np.empty((rows, len(features)), dtype)
    x[:, 0] = first
    for j, name in enumerate(features[1:], 1):
        x[:, j] = _column(file, name, path).to_numpy()
    labels = None
    if column is not None:
        labels = _labels(_column(file, names[column], path), path, names[column])
    return Table(x, labels, lambda row: f"{path}: row {row}", features)


def _dtype(field: Any, path: Path) -> np.dtype:
    dtype = np.dtype(field.type.to_pandas_dtype())
    if dtype.kind not in "buif":
        msg = f"{path}: column {field.name!r}: features must be numbers; got {field.type}"
        raise DataError(msg)
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype


def _labels(column: Any, path: Path, name: str) -> Labels:
    """Each value once: a column of a billion equal texts takes a kilobyte in the file."""
    found, values = column.combine_chunks(), [None]
    if not column.type.num_fields:  # not nested
        found = found if hasattr(found, "dictionary") else found.dictionary_encode()
        values = found.dictionary.to_pylist()
    if not all(isinstance(v, str | bytes | bool | int | float) for v in values):
        msg = f"{path}: column {name!r}: labels must be numbers or texts; got {column.type}"
        raise DataError(msg)
    texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
    return Labels(texts, found.indices.to_numpy(zero_copy_only=False).astype(np.int64))


def _column(file: Any, name: str, path: Path) -> Any:
    column = file.read(columns=[name]).column(0)
    if len(column) != file.metadata.num_rows:
        msg = f"{path}: column {name!r} has {len(column)} of {file.metadata.num_rows} rows"
        raise DataError(msg)
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        msg = f"{path}: row {row}, column {name!r}: no value"
        raise DataError(msg)
    return column

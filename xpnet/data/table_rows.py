"""From the Arrow columns of a table to the rows of a data set: features, labels and weights."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from xpnet.data import files
from xpnet.data.columns import Columns, kinds_of
from xpnet.data.dataset import chunks
from xpnet.data.kinds import with_kinds
from xpnet.data.labels import Labels, Table
from xpnet.data.survey import Survey
from xpnet.data.tables.table import Location
from xpnet.data.values import coded, content_of, feature, values_of
from xpnet.data.wanted import Wanted
from xpnet.errors import DataError

__all__ = ["check_columns", "features_of", "label_values", "table_of"]


def table_of(raw: Any, name: Any, wanted: Wanted) -> Table:
    """Return the rows of a RawTable, which errors call ``name``.

    Without ``wanted.like`` the kinds of its columns are guessed; with it they are those of the run.
    """
    data, width = raw.data, raw.data.num_columns
    columns = wanted.columns(name, raw.names, width, data.column, raw.index)
    columns = columns.noting(*raw.notes)
    check_columns(columns, name, width, data.num_rows)
    if wanted.like is None:
        surveys = [Survey().add(data.column(j)) for j in range(width)]
        chosen = wanted.kept(columns.names, width, name)
        columns = with_kinds(columns, surveys, chosen, name, raw.location)
        columns = replace(columns, dates=raw.dates)
    if data.num_rows * len(columns.features) * 8 > files.MAX_BYTES:
        msg = f"{name}: {data.num_rows} rows of {len(columns.features)} features take more than "
        msg += f"{files.MAX_BYTES} bytes"
        raise DataError(
            msg,
            python="stream it, scan(open_rows(path)), or split it",
            command="--set data.stream=yes, or split it",
        )
    x = features_of(data, columns, raw.location)
    labels = label_values(data, columns, raw.location) if columns.labels else None
    weight = None
    if columns.weight is not None:
        weight = _numbers(data, columns.weight, columns, raw.location, "weights").astype(float)
    return Table(x, labels, lambda row: raw.location(row, None), columns, weight)


def check_columns(columns: Columns, name: Any, width: int, rows: int) -> None:
    """Raise DataError if a table of ``width`` columns has nothing to learn from."""
    if width == 1 and columns.labels:
        msg = f"{name}: its only column is the label; is the delimiter another?"
        python, command = "text=TextFormat(delimiter=...)", "--set data.text.delimiter=..."
        raise DataError(msg, python=python, command=command)
    if not columns.features or not rows:
        few = len(columns.features)
        msg = f"{name}: {rows} rows of {few} features; there must be at least one of each"
        raise DataError(msg)


def features_of(data: Any, columns: Columns, location: Location) -> np.ndarray:
    """Return the features (N, C), float64 unless all are narrower numbers without gaps."""
    found = []
    kinds = kinds_of(columns, len(columns.features))
    levels = columns.levels or ((),) * len(columns.features)
    for j, kind, known in zip(columns.features, kinds, levels, strict=True):
        where = partial(location, column=j)
        values = feature(data.column(j), kind, known, where, columns.dates)
        if not columns.kinds and values.dtype.kind == "f" and (gaps := np.isnan(values)).any():
            msg = f"{location(int(gaps.argmax()), j)}: the value is missing; the run was trained "
            raise DataError(msg + "on rows without missing values")
        found.append(values)
    dtype = np.result_type(*found)
    x = np.empty((data.num_rows, len(found)), dtype if dtype.itemsize < 8 else np.float64)
    for rows in chunks(x, 2**20):  # few enough to stay in the cache of a core
        np.stack([values[rows] for values in found], axis=1, out=x[rows], casting="unsafe")
    return x


def label_values(data: Any, columns: Columns, location: Location) -> Labels | np.ndarray:
    """Return the labels of each row, or numbers float64, (N,) with fractions or (N, J) of several.

    NaN, or None among the values of Labels, is a missing one.
    """
    if len(columns.labels) > 1:
        several = [_numbers(data, j, columns, location, "labels") for j in columns.labels]
        return np.stack(several, axis=1).astype(np.float64)
    (j,) = columns.labels
    column = data.column(j)
    content = content_of(column)
    if content == "number":
        values = values_of(column)
        if values.dtype.kind == "f" and (np.nan_to_num(values) % 1 != 0).any():
            return values.astype(np.float64)
    found, codes = coded(column) if _is_plain(column) else ([], None)
    if codes is None or content == "date":
        msg = f"{location(0, j)}: labels must be numbers or texts; got {column.type}"
        raise DataError(msg)
    texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in found]
    used, codes = np.unique(codes, return_inverse=True)  # a dictionary may hold more
    return Labels([[*texts, None][k] for k in used.tolist()], codes.reshape(-1))


def _is_plain(column: Any) -> bool:
    import pyarrow as pa

    return content_of(column) != "other" or pa.types.is_binary(column.type)


def _numbers(data: Any, j: int, columns: Columns, location: Location, what: str) -> np.ndarray:
    """Return the numbers in a column, of which NaN is missing; DataError for anything else."""
    column = data.column(j)
    if content_of(column) not in ("number", "boolean", "nothing"):
        several = "several " if what == "labels" else ""
        msg = f"{location(0, j)}: {several}{what} must be numbers; got {column.type}"
        raise DataError(msg)
    return feature(column, "number", (), lambda row: location(row, j))

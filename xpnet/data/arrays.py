"""NumPy's .npy files, read without pickle and without trusting their headers."""

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.data.columns import Columns
from xpnet.data.files import check_declared_size, existing, one_line, read_bytes, reading
from xpnet.data.labels import Labels, Table
from xpnet.data.object_arrays import MAX_PICKLE, read_objects
from xpnet.data.records import check_texts, is_records, raw_table
from xpnet.data.table_rows import table_of
from xpnet.data.wanted import Label, Wanted, refuse_kinds
from xpnet.errors import DataError

__all__ = [
    "array_columns",
    "guarded",
    "labels_beside",
    "labels_of",
    "npy_header",
    "read_npy",
    "read_npy_table",
    "real",
    "real_dtype",
]

MAX_HEADER = 2**16


def read_npy_table(path: Path, wanted: Wanted) -> Table:
    """Read an array (N, columns) whose column ``label``, by default the last, holds the labels.

    ``label`` may also name an .npy file of labels in the same folder.
    """
    array, beside = _read_array(path), labels_beside(path, wanted.label)
    if is_records(array):
        rows = raw_table(array, str(path))
        if beside is None:
            return table_of(rows, path, wanted)
        read = table_of(rows, path, replace(wanted, label=None))
        y = labels_of(_read_array(beside), len(array), str(beside))
        columns = read.columns and replace(read.columns, arrays=("", beside.name))
        return read._replace(labels=y, columns=columns, location=lambda n: f"{beside}: row {n}")
    refuse_kinds(path, wanted)
    table = real(array, str(path))
    if beside is not None:
        y = labels_of(_read_array(beside), len(table), str(beside))
        named = Columns((), arrays=("", beside.name))
        return Table(table, y, lambda row: f"{beside}: row {row}", named)
    columns = array_columns(path, table.shape, wanted)
    if columns is None:
        return Table(table, None, lambda row: f"{path}: row {row}")
    x = table
    if columns.features != tuple(range(table.shape[1])):
        x = table[:, columns.features]
    labels = _label_columns(table, columns)
    weight = None if columns.weight is None else table[:, columns.weight].astype(np.float64)
    return Table(x, labels, lambda row: f"{path}: row {row}", columns, weight)


def _label_columns(table: np.ndarray, columns: Columns) -> Labels | np.ndarray | None:
    if not columns.labels:
        return None
    return table[:, columns.labels] if columns.label is None else Labels.of(table[:, columns.label])


def array_columns(path: Path, shape: tuple[int, ...], wanted: Wanted) -> Columns | None:
    """Return the columns of an array, or None for rows that are more than columns of numbers."""
    if len(shape) == 2 and shape[1] >= 1 + (wanted.label is not None):
        return wanted.columns(path, None, shape[1])
    if wanted.label is None:
        return None
    msg = f"{path}: an array of shape {shape} has no label column"
    raise DataError(
        msg,
        python='pass label="labels.npy" (a file in the same folder) or label=None',
        command="--set data.label=labels.npy (a file in the same folder)",
    )


def _read_array(path: Path) -> np.ndarray:
    with reading(path) as file:
        return read_npy(file, path.stat().st_size, str(path))


def labels_beside(path: Path, label: Label) -> Path | None:
    """Return the .npy file of labels in the folder of ``path``, if ``label`` names one."""
    if isinstance(label, str) and label.endswith(".npy"):
        return existing(path.with_name(label))
    return None


def read_npy(file: io.BufferedIOBase, size: int, where: str) -> np.ndarray:
    """Read one array from ``file``, which has ``size`` bytes in all."""
    shape, fortran, dtype = npy_header(file, size, where, objects=True)
    if dtype.hasobject:
        data = read_bytes(file, size - file.tell(), where)
        return read_objects(data.tobytes(), shape, where).reshape(shape)
    data = read_bytes(file, math.prod(shape) * dtype.itemsize, where).view(dtype)
    if dtype.kind == "U":
        check_texts(data, where)
    return data.reshape(shape, order="F" if fortran else "C")


def npy_header(
    file: io.BufferedIOBase,
    size: int,
    where: str,
    *,
    in_memory: bool = True,
    objects: bool = False,
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return the shape, whether the order is Fortran's, and the dtype of an array.

    They are checked against ``size``, the bytes of the file; the values come next. An array of
    ``objects``, whose pickle comes next, or of records with named fields is refused without that.
    """
    shape, fortran, dtype = guarded(lambda: _header(file), where, "not in NumPy's .npy format")
    if objects and dtype.str == "|O" and 0 not in shape:
        if size > MAX_PICKLE:
            msg = f"{where}: an array of Python objects of {size} bytes, more than {MAX_PICKLE}"
            raise DataError(msg)
        return shape, fortran, dtype
    if dtype.hasobject:
        msg = f"{where}: an array of Python objects; save numbers or strings"
        raise DataError(msg)
    known = "V" if objects and dtype.names else "buifSU"  # of records: each field is checked later
    if dtype.kind not in known or dtype.itemsize == 0 or 0 in shape:
        msg = f"{where}: holds {dtype} of shape {shape}; it must hold real numbers or strings"
        raise DataError(msg)
    declared = math.prod(shape) * dtype.itemsize
    stored = size - file.tell()
    check_declared_size(where, declared, stored, compressed=False, in_memory=in_memory)
    return shape, fortran, dtype


def _header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    width = {(1, 0): 2, (2, 0): 4, (3, 0): 4}[version := np.lib.format.read_magic(file)]
    # From a copy of the start: NumPy allocates the header's declared length before it reads it.
    start = file.tell()
    head = file.read(MAX_HEADER)
    end = start + width + int.from_bytes(head[:width], "little")
    text = head[width : end - start]
    if len(head) < end - start:
        msg = f"EOF in a header of {end - start - width} bytes"
        raise ValueError(msg)
    if version == (3, 0):  # UTF-8, of which a Python literal can be written in ASCII
        text = text.decode("utf-8").encode("ascii", "backslashreplace")
    again = io.BytesIO(len(text).to_bytes(4, "little") + text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers written by Python 2, which it can read
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(again, MAX_HEADER)
    file.seek(end)
    if any(n < 0 for n in shape) or len(shape) > 8:
        msg = f"shape {shape}"
        raise ValueError(msg)
    return shape, fortran, dtype


def guarded(read: Callable[[], Any], where: object, problem: str) -> Any:
    """Call ``read`` on bytes that may be damaged; whatever it raises becomes a DataError.

    Parsing a zip directory or the Python literal in an .npy header can fail in a dozen undocumented
    ways, all of which mean that the file is damaged.
    """
    try:
        return read()
    except DataError:
        raise
    except Exception as error:
        msg = f"{where}: {problem}: {one_line(error)}"
        raise DataError(msg) from error


def real(x: np.ndarray, where: str) -> np.ndarray:
    """Return features in the dtype that they are kept in; DataError if they are not real."""
    return x.astype(real_dtype(x.dtype, x.shape, where), copy=False)


def real_dtype(dtype: np.dtype, shape: tuple[int, ...], where: str) -> np.dtype:
    """Return the dtype that features of ``dtype`` are kept in; DataError if they are not real."""
    if dtype.kind not in "buif":
        msg = f"{where}: features must be real numbers; got {dtype}"
        raise DataError(msg)
    if len(shape) < 2:
        msg = f"{where}: features must be (rows, features...); got shape {shape}"
        raise DataError(msg)
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    wide = dtype.kind == "f" and dtype.itemsize > 8
    return np.dtype(np.float64) if wide else dtype.newbyteorder("=")


def labels_of(y: np.ndarray, rows: int, where: str) -> Labels | np.ndarray:
    """Return the labels of ``rows`` rows, or targets (N, J); a column (N, 1) is an array (N,)."""
    if y.dtype.names is not None:
        msg = (
            f"{where}: labels must be numbers or texts; got records of {len(y.dtype.names)} fields"
        )
        raise DataError(msg)
    if y.ndim == 0 or len(y) != rows:
        msg = f"{where}: labels of shape {y.shape} for {rows} rows of features"
        raise DataError(msg)
    y = y[:, 0] if y.shape[1:] == (1,) else y
    return Labels.of(y) if y.ndim == 1 else y

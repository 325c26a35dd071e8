"""NumPy's .npy and .npz files, read without pickle and without trusting their headers."""

import io
import math
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from xpnet.data.columns import Columns, Wanted
from xpnet.data.files import check_declared_size, existing, one_line, read_bytes, reading
from xpnet.data.labels import Labels, Table
from xpnet.errors import DataError

__all__ = [
    "array_columns",
    "features_key",
    "guarded",
    "labels_beside",
    "labels_key",
    "member",
    "npy_header",
    "read_npy_table",
    "read_npz_table",
    "real_dtype",
]

X_KEYS = ("x", "X", "data", "features")
MAX_HEADER = 2**16
Y_KEYS = ("y", "labels", "label", "target", "targets")


def read_npz_table(path: Path, wanted: Wanted) -> Table:
    """Read the features and the labels (or the array that ``wanted.label`` names) of an archive."""
    with reading(path) as file:
        archive = guarded(lambda: zipfile.ZipFile(file), path, "not an .npz archive")
        names = [n.removesuffix(".npy") for n in archive.namelist()]
        x_key = features_key(names, path, wanted)
        x = _real(_read_member(archive, x_key, path), f"{path}[{x_key}]")
        if wanted.label is None:
            return Table(x, None, lambda row: f"{path}[{x_key}]: row {row}")
        y_key, guess = labels_key(names, path, wanted)
        y = _read_member(archive, y_key, path)
    where, columns = f"{path}[{y_key}]", Columns((), arrays=(x_key, y_key), guess=guess)
    return Table(x, _labels(y, len(x), where), lambda row: f"{where}: row {row}", columns)


def features_key(names: list[str], path: Path, wanted: Wanted) -> str:
    """Return which array of an archive holds the features: that of the run, if there is one."""
    ours = (wanted.like and wanted.like.arrays) or ("",)
    return _find_array(names, ours if ours[0] in names else X_KEYS, path, "features")


def labels_key(names: list[str], path: Path, wanted: Wanted) -> tuple[str, str]:
    """Return which array of an archive holds the labels, and why, where that is a guess."""
    if wanted.label != "auto":
        return _find_array(names, (str(wanted.label),), path, "labels"), ""
    if wanted.like and wanted.like.arrays and wanted.like.arrays[0]:
        return _find_array(names, (wanted.like.arrays[1],), path, "labels"), ""
    return _find_array(names, Y_KEYS, path, "labels"), "by its name"


def read_npy_table(path: Path, wanted: Wanted) -> Table:
    """Read an array (N, columns) whose column ``label``, by default the last, holds the labels.

    ``label`` may also name an .npy file of labels in the same folder.
    """
    table = _real(_read_array(path), str(path))
    if (beside := labels_beside(path, wanted.label)) is not None:
        y = _labels(_read_array(beside), len(table), str(beside))
        named = Columns((), arrays=("", beside.name))
        return Table(table, y, lambda row: f"{beside}: row {row}", named)
    columns = array_columns(path, table.shape, wanted)
    if columns is None:
        return Table(table, None, lambda row: f"{path}: row {row}")
    label, x = columns.label, table
    if columns.features != tuple(range(table.shape[1])):
        x = table[:, columns.features]
    labels = None if label is None else Labels.of(table[:, label])
    return Table(x, labels, lambda row: f"{path}: row {row}", columns)


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
        return _read_npy(file, path.stat().st_size, str(path))


def labels_beside(path: Path, label: str | int | None) -> Path | None:
    """Return the .npy file of labels in the folder of ``path``, if ``label`` names one."""
    if isinstance(label, str) and label.endswith(".npy"):
        return existing(path.with_name(label))
    return None


def _find_array(names: list[str], keys: Sequence[str], path: Path, what: str) -> str:
    """Return the first of ``keys`` that is in an archive; DataError names what is in it."""
    key = next((key for key in keys if key in names), None)
    if key is None:
        held = ", ".join(map(repr, names[:10])) or "nothing"
        msg = f"{path}: no array of {what} (any of {', '.join(keys)}); it holds {held}"
        remedy = ('pass label="NAME"', "--set data.label=NAME") if what == "labels" else ("", "")
        raise DataError(msg, python=remedy[0], command=remedy[1])
    return key


def member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Return the entry of the array that was passed to np.savez as ``name``."""
    return archive.getinfo(name + ".npy" if name + ".npy" in archive.namelist() else name)


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    where = f"{path}[{name}]"
    info = member(archive, name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        msg = f"{where}: encrypted, or compressed in another way than np.savez_compressed does"
        raise DataError(msg)
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    check_declared_size(where, info.file_size, info.compress_size, compressed=deflated)

    def read() -> np.ndarray:
        with archive.open(info) as file:
            return _read_npy(cast(io.BufferedIOBase, file), info.file_size, where)

    return guarded(read, where, "cannot be read")


def _read_npy(file: io.BufferedIOBase, size: int, where: str) -> np.ndarray:
    """Read one array from ``file``, which has ``size`` bytes in all."""
    shape, fortran, dtype = npy_header(file, size, where)
    data = read_bytes(file, math.prod(shape) * dtype.itemsize, where).view(dtype)
    return data.reshape(shape, order="F" if fortran else "C")


def npy_header(
    file: io.BufferedIOBase, size: int, where: str, in_memory: bool = True
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return the shape, whether the order is Fortran's, and the dtype of an array.

    They are checked against ``size``, the bytes of the file; the values come next.
    """
    shape, fortran, dtype = guarded(lambda: _header(file), where, "not in NumPy's .npy format")
    if dtype.hasobject:
        msg = f"{where}: an array of Python objects; save numbers or strings"
        raise DataError(msg)
    if dtype.kind not in "buifSU" or dtype.itemsize == 0 or 0 in shape:
        msg = f"{where}: holds {dtype} of shape {shape}; it must hold real numbers or strings"
        raise DataError(msg)
    declared = math.prod(shape) * dtype.itemsize
    stored = size - file.tell()
    check_declared_size(where, declared, stored, compressed=False, in_memory=in_memory)
    return shape, fortran, dtype


def _header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(file)]
    # From a copy of the start: NumPy allocates the header's declared length before it reads it.
    start = file.tell()
    head = io.BytesIO(file.read(MAX_HEADER))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers written by Python 2, which it can read
        shape, fortran, dtype = read(head)
    file.seek(start + head.tell())
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


def _real(x: np.ndarray, where: str) -> np.ndarray:
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


def _labels(y: np.ndarray, rows: int, where: str) -> Labels | np.ndarray:
    if y.ndim == 0 or len(y) != rows:
        msg = f"{where}: labels of shape {y.shape} for {rows} rows of features"
        raise DataError(msg)
    y = y[:, 0] if y.shape[1:] == (1,) else y
    return Labels.of(y) if y.ndim == 1 else y

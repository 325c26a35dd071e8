"""NumPy's .npy and .npz files, read without pickle and without trust in their headers."""

import io
import math
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np

from xpnet.data.files import check_declared, existing, one_line, read_bytes, reading
from xpnet.data.labels import Labels, Table, find_label
from xpnet.errors import DataError

__all__ = [
    "X_KEYS",
    "Y_KEYS",
    "foreseen",
    "labels_beside",
    "member",
    "npy_header",
    "pick",
    "read_npy_table",
    "read_npz_table",
    "real_dtype",
]

X_KEYS = ("x", "X", "data", "features")
MAX_HEADER = 2**16
Y_KEYS = ("y", "labels", "label", "target", "targets")


def read_npz_table(path: Path, label: str | int | None) -> Table:
    """Read the features and labels (or the array that ``label`` names) of an archive."""
    with reading(path) as file:
        archive = foreseen(lambda: zipfile.ZipFile(file), path, "not an .npz archive")
        names = [n.removesuffix(".npy") for n in archive.namelist()]
        x_key = pick(names, X_KEYS, path, "features")
        x = _real(_read_member(archive, x_key, path), f"{path}[{x_key}]")
        if label is None:
            return Table(x, None, lambda row: f"{path}[{x_key}]: row {row}")
        y_key = pick(names, Y_KEYS if label == "auto" else (str(label),), path, "labels")
        y = _read_member(archive, y_key, path)
    place = f"{path}[{y_key}]"
    return Table(x, _labels(y, len(x), place), lambda row: f"{place}: row {row}")


def read_npy_table(path: Path, label: str | int | None) -> Table:
    """Read an array (N, columns) whose column ``label``, by custom the last, holds the labels.

    The name of an .npy file beside it stands for labels that are not in a column.
    """
    table = _real(_read_array(path), str(path))
    if label is None:
        return Table(table, None, lambda row: f"{path}: row {row}")
    if (beside := labels_beside(path, label)) is not None:
        y = _labels(_read_array(beside), len(table), str(beside))
        return Table(table, y, lambda row: f"{beside}: row {row}")
    if table.ndim != 2 or table.shape[1] < 2:
        msg = f"{path}: no column of labels in shape {table.shape}; pass label=None, or use .npz"
        raise DataError(msg)
    column = find_label(None, table.shape[1], label, path)
    y = _labels(table[:, column], len(table), f"{path}: column {column}")
    return Table(np.delete(table, column, axis=1), y, lambda row: f"{path}: row {row}")


def _read_array(path: Path) -> np.ndarray:
    with reading(path) as file:
        return _read_npy(file, path.stat().st_size, str(path))


def labels_beside(path: Path, label: str | int) -> Path | None:
    """Return the .npy file beside ``path`` that ``label`` names, if it names one."""
    if isinstance(label, str) and label.endswith(".npy"):
        return existing(path.with_name(label))
    return None


def pick(names: list[str], wanted: Iterable[str], path: Path, what: str) -> str:
    """Return the first of ``wanted`` that an archive has, or raise saying what it has."""
    found = next((name for name in wanted if name in names), None)
    if found is None:
        keys = ", ".join(map(repr, names[:10])) or "nothing"
        msg = f"{path}: no array of {what} (any of {', '.join(wanted)}); it holds {keys}"
        raise DataError(msg)
    return found


def member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Return the entry of an array by the name that np.savez was given."""
    return archive.getinfo(name + ".npy" if name + ".npy" in archive.namelist() else name)


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    place = f"{path}[{name}]"
    info = member(archive, name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        msg = f"{place}: encrypted, or not compressed as np.savez does"
        raise DataError(msg)
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    check_declared(place, info.file_size, info.compress_size, compressed=deflated)

    def read() -> np.ndarray:
        with archive.open(info) as file:
            return _read_npy(cast(io.BufferedIOBase, file), info.file_size, place)

    return foreseen(read, place, "cannot be read")


def _read_npy(file: io.BufferedIOBase, size: int, place: str) -> np.ndarray:
    """Read one array from ``file``, which has ``size`` bytes in all."""
    shape, fortran, dtype = npy_header(file, size, place)
    data = read_bytes(file, math.prod(shape) * dtype.itemsize, place).view(dtype)
    return data.reshape(shape, order="F" if fortran else "C")


def npy_header(
    file: io.BufferedIOBase, size: int, place: str, at_once: bool = True
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether in Fortran's order, and dtype of the array in ``size`` bytes.

    What is declared has been checked against the size; the values come next.
    """
    shape, fortran, dtype = foreseen(lambda: _header(file), place, "not in NumPy's .npy format")
    if dtype.hasobject:
        msg = f"{place}: an array of Python objects; save numbers or strings"
        raise DataError(msg)
    if dtype.kind not in "buifSU" or dtype.itemsize == 0 or 0 in shape:
        msg = f"{place}: holds {dtype} of shape {shape}; it must hold real numbers or strings"
        raise DataError(msg)
    declared = math.prod(shape) * dtype.itemsize
    check_declared(place, declared, size - file.tell(), compressed=False, at_once=at_once)
    return shape, fortran, dtype


def _header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(file)]
    # From a copy of the start: the length that it declares is allocated before it is read.
    start = file.tell()
    head = io.BytesIO(file.read(MAX_HEADER))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers written by Python 2, which it reads
        shape, fortran, dtype = read(head)
    file.seek(start + head.tell())
    if any(n < 0 for n in shape) or len(shape) > 8:
        msg = f"shape {shape}"
        raise ValueError(msg)
    return shape, fortran, dtype


def foreseen(read: Callable[[], Any], place: object, problem: str) -> Any:
    """Call ``read`` on bytes that may be damaged.

    A zip directory and the Python literal in an .npy header can fail in a dozen ways that neither
    module documents; all of them mean that the file is damaged.
    """
    try:
        return read()
    except DataError:
        raise
    except Exception as error:
        msg = f"{place}: {problem}: {one_line(error)}"
        raise DataError(msg) from error


def _real(x: np.ndarray, place: str) -> np.ndarray:
    return x.astype(real_dtype(x.dtype, x.shape, place), copy=False)


def real_dtype(dtype: np.dtype, shape: tuple[int, ...], place: str) -> np.dtype:
    """Return the dtype in which features of this one are kept; raises where they cannot be."""
    if dtype.kind not in "buif":
        msg = f"{place}: features must be real numbers; got {dtype}"
        raise DataError(msg)
    if len(shape) < 2:
        msg = f"{place}: features must be (rows, features...); got shape {shape}"
        raise DataError(msg)
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    wide = dtype.kind == "f" and dtype.itemsize > 8
    return np.dtype(np.float64) if wide else dtype.newbyteorder("=")


def _labels(y: np.ndarray, rows: int, place: str) -> Labels | np.ndarray:
    if y.ndim == 0 or len(y) != rows:
        msg = f"{place}: labels of shape {y.shape} for {rows} rows of features"
        raise DataError(msg)
    y = y[:, 0] if y.shape[1:] == (1,) else y
    return Labels.of(y) if y.ndim == 1 else y

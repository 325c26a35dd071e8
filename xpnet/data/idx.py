"""The IDX format of MNIST: http://yann.lecun.com/exdb/mnist/.

Two zero bytes, the code of the dtype, the number of dimensions, each dimension as a big-endian
32-bit integer, and the values, big-endian and in C order.
"""

import io
import math
import re
from pathlib import Path

import numpy as np

from xpnet.data.columns import Columns
from xpnet.data.files import check_declared_size, existing, read_bytes, reading
from xpnet.data.labels import Labels, Table
from xpnet.data.wanted import Label, Wanted
from xpnet.errors import DataError

__all__ = ["idx_header", "labels_file", "read_idx", "read_idx_table"]

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> np.ndarray:
    """Return the array of an IDX file (.gz or not) in the machine's byte order."""
    path = existing(path)
    with reading(path) as file:
        shape, dtype = idx_header(file, path)
        data = read_bytes(file, math.prod(shape) * dtype.itemsize, str(path))
    return data.view(dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def idx_header(
    file: io.BufferedIOBase, path: Path, in_memory: bool = True
) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and the dtype, checked against the file's size; the values come next."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES:
        msg = f"{path}: byte 0: not an IDX file; it starts with {magic.hex(' ') or 'nothing'}"
        raise DataError(msg)
    header = file.read(4 * magic[3])
    shape = tuple(int(n) for n in np.frombuffer(header[: len(header) // 4 * 4], ">u4"))
    if len(shape) != magic[3] or not 0 < len(shape) <= 8 or 0 in shape:
        msg = f"{path}: byte 3: {magic[3]} dimensions of {shape}; expected 1 to 8, none of them 0"
        raise DataError(msg)
    dtype = np.dtype(DTYPES[magic[2]])
    compressed = path.suffix == ".gz"
    stored = path.stat().st_size - (0 if compressed else 4 + len(header))
    size = math.prod(shape) * dtype.itemsize
    check_declared_size(str(path), size, stored, compressed=compressed, in_memory=in_memory)
    return shape, dtype


def read_idx_table(path: Path, wanted: Wanted) -> Table:
    """Read the images and, from another file in the same folder, their labels.

    ``wanted.label`` names the file of labels; by default it is the name of the images with "labels"
    instead of "images" and idx1 instead of idx3.
    """
    x = read_idx(path)
    if wanted.label is None:
        return Table(x, None, lambda row: f"{path}: row {row}")
    labels = labels_file(path, wanted.label)
    y = read_idx(labels)
    if y.shape != x.shape[:1]:
        msg = f"{labels}: labels of shape {y.shape} for the {len(x)} rows of {path.name}"
        raise DataError(msg)
    columns = Columns((), arrays=("", labels.name))
    return Table(x, Labels.of(y), lambda row: f"{labels}: row {row}", columns)


def labels_file(path: Path, label: Label) -> Path:
    """Return the file with the labels of the images in ``path``."""
    if label != "auto":
        return path.with_name(str(label))
    name = re.sub(r"idx\d", "idx1", path.name.replace("images", "labels"))
    if name == path.name or not path.with_name(name).is_file():
        msg = f"{path}: no file of labels ({name}) in the same folder"
        remedy = 'pass label="FILE", or label=None'
        raise DataError(msg, python=remedy, command="--set data.label=FILE")
    return path.with_name(name)

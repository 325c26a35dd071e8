"""Arrays that stay in their file: rows are read on demand."""

import itertools
import os
import struct
import threading
import weakref
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.data.archive import Archive
from xpnet.data.arrays import array_columns, guarded, labels_beside, npy_header, real_dtype
from xpnet.data.columns import Columns
from xpnet.data.files import check_same, digest_of, existing, reading
from xpnet.data.idx import idx_header, labels_file
from xpnet.data.records import check_texts
from xpnet.data.row_file import BLOCK_BYTES, BLOCKS, Rows
from xpnet.data.wanted import Wanted
from xpnet.errors import DataError

__all__ = ["StoredArray", "StoredRows", "open_stored"]

NEAR = 2**14  # bytes between two rows that are read faster than it is to seek
LOCAL_HEADER, LOCAL_LENGTHS = 30, "<26xHH"  # APPNOTE.TXT of the .zip format, 4.3.7


class StoredArray:
    """An array (N, ...) in C order in a file, starting at byte ``offset``.

    The file stays open while the object lives, so that replacing the file does no harm. Raises
    DataError if the file is modified or truncated between two reads, or where it is unpickled and
    its file is another one.
    """

    def __init__(self, path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self.path, self.offset, self.dtype, self.shape = path, offset, dtype, shape
        self.row_bytes = np.dtype((dtype, shape[1:])).itemsize
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            msg = f"{path}: cannot be read: {error.strerror}"
            raise DataError(msg) from error
        weakref.finalize(self, self._file.close)
        self._lock, self._stamp = threading.Lock(), self._current_stamp()

    def __reduce__(self) -> tuple[Any, ...]:
        how = self.path, self.offset, self.dtype, self.shape
        return _opened_again, (digest_of(self.path), *how)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop``, in the dtype of the file."""
        rows = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self._read_into(rows, start)
        return rows

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return rows by their numbers (n,), in ascending order, in the dtype of the file.

        What lies between them is skipped where it is long enough for that.
        """
        taken = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for begin, end in self._spans(rows):
            low, high = int(rows[begin]), int(rows[end - 1]) + 1
            if high - low == end - begin:
                self._read_into(taken[begin:end], low)
            else:
                taken[begin:end] = self.read(low, high)[rows[begin:end] - low]
        return taken

    def _spans(self, rows: range | np.ndarray) -> Iterator[tuple[int, int]]:
        """Yield which ones of some rows are read at once."""
        if isinstance(rows, range):
            return iter([(0, len(rows))])
        far = np.flatnonzero((np.diff(rows) - 1) * self.row_bytes > NEAR) + 1
        return itertools.pairwise([0, *far.tolist(), len(rows)])

    def _read_into(self, rows: np.ndarray, start: int) -> None:
        view, done = rows.reshape(-1).view(np.uint8).data, 0
        try:
            with self._lock:
                if self._current_stamp() != self._stamp:
                    msg = f"{self.path}: the file was changed during training; start again"
                    raise DataError(msg)
                self._file.seek(self.offset + start * self.row_bytes)
                while done < len(view) and (n := self._file.readinto(view[done:])):
                    done += n
        except OSError as error:
            msg = f"{self.path}: cannot be read: {error.strerror}"
            raise DataError(msg) from error
        if done < len(view):
            msg = f"{self.path}: ends within row {start + done // self.row_bytes}; is it truncated?"
            raise DataError(msg)

    def expect(self, rows: range | np.ndarray) -> None:
        """Tell the operating system to read these rows, in ascending order, if it can."""
        if not hasattr(os, "posix_fadvise"):
            return
        for begin, end in self._spans(rows):
            low, high = int(rows[begin]), int(rows[end - 1]) + 1
            at, size = self.offset + low * self.row_bytes, (high - low) * self.row_bytes
            os.posix_fadvise(self._file.fileno(), at, size, os.POSIX_FADV_WILLNEED)

    def _current_stamp(self) -> tuple[int, int]:
        """Return the time of the last change and the size, which differ once the file changes."""
        stat = os.fstat(self._file.fileno())
        return stat.st_mtime_ns, stat.st_size


def _opened_again(digest: str, path: Path, *how: Any) -> StoredArray:
    check_same(path, digest)
    return StoredArray(path, *how)


class StoredRows:
    """Rows of an array in a file; labels are a column of it, or another array."""

    def __init__(
        self, x: StoredArray, y: StoredArray | None, columns: Columns | None = None
    ) -> None:
        self._x, self._y, self.columns = x, y, columns
        self.dtype = real_dtype(x.dtype, x.shape, str(x.path))
        self.shape = x.shape
        # None: each row is taken as it is, for all of its entries are features, in order.
        self._taken: Columns | None = None
        if columns is not None and columns.features not in ((), tuple(range(x.shape[1]))):
            self._taken, self.shape = columns, (x.shape[0], len(columns.features))
        if y is not None and y.shape[:1] != x.shape[:1]:
            msg = f"{y.path}: labels of shape {y.shape} for {len(x)} rows of features"
            raise DataError(msg)
        rows = max(1, min(BLOCK_BYTES // x.row_bytes, len(x) // BLOCKS))
        self.bounds = np.append(np.arange(0, len(x), rows), len(x))

    def read(self, start: int, stop: int) -> Rows:
        return self._rows(lambda array: array.read(start, stop))

    def take(self, rows: np.ndarray) -> Rows:
        return self._rows(lambda array: array.take(rows))

    def _rows(self, of: Callable[[StoredArray], np.ndarray]) -> Rows:
        x, y = of(self._x), None
        if self._taken is not None:
            y = x[:, self._taken.labels] if self._taken.labels else None
            y = y[:, 0] if y is not None and y.shape[1] == 1 else y
            x = x[:, self._taken.features]
        elif self._y is not None:
            y = of(self._y)
            y = y[:, 0] if y.shape[1:] == (1,) else y
            y = y.astype(y.dtype.newbyteorder("="), copy=False)
            if y.dtype.kind == "U":
                check_texts(y, str(self._y.path))
        return Rows(x.astype(self.dtype, copy=False), y)

    def expect(self, rows: range | np.ndarray) -> None:
        self._x.expect(rows)

    def location(self, row: int) -> str:
        return f"{(self._y or self._x).path}: row {row}"


def _open_npy(path: Path) -> StoredArray:
    """Open the array of an .npy file."""
    with reading(path) as file:
        return _stored(path, file, path.stat().st_size, str(path))


def _open_npz(path: Path, wanted: Wanted) -> StoredRows:
    """Open the features and the labels of an archive that np.savez wrote."""
    with reading(path) as file:
        archive = Archive(file, path)
        arrays, columns = archive.find(wanted)
        x = _member(archive, file, arrays.x)
        y = None if arrays.y is None else _member(archive, file, arrays.y)
        return StoredRows(x, y, columns)


def _member(archive: Archive, file, name: str) -> StoredArray:  # type: ignore[no-untyped-def]
    path, info, where = archive.path, archive.entry(name), f"{archive.path}[{name}]"
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        msg = f"{where}: compressed, so it cannot be streamed; save it with np.savez, or as .npy"
        raise DataError(msg)
    file.seek(info.header_offset)
    header = file.read(LOCAL_HEADER)
    lengths = guarded(lambda: struct.unpack(LOCAL_LENGTHS, header), where, "a damaged archive")
    begin = info.header_offset + LOCAL_HEADER + sum(lengths)
    end = begin + info.file_size
    if end > path.stat().st_size:
        msg = f"{where}: its entry ends at byte {end}, after the end of the file; is it truncated?"
        raise DataError(msg)
    file.seek(begin)
    return _stored(path, file, end, where)


def _stored(path: Path, file, size: int, where: str) -> StoredArray:  # type: ignore[no-untyped-def]
    shape, fortran, dtype = npy_header(file, size, where, in_memory=False)
    if fortran:
        msg = f"{where}: in Fortran order, so its rows cannot be streamed; save it in C order"
        raise DataError(msg)
    return StoredArray(path, file.tell(), dtype, shape)


def _open_images(path: Path, wanted: Wanted) -> StoredRows:
    """Open the images and the labels of uncompressed IDX files."""
    x = _open_idx(path)
    if wanted.label is None:
        return StoredRows(x, None)
    labels = existing(labels_file(path, wanted.label))
    return StoredRows(x, _open_idx(labels), Columns((), arrays=("", labels.name)))


def _open_idx(path: Path) -> StoredArray:
    with reading(path) as file:
        shape, dtype = idx_header(file, path, in_memory=False)
        return StoredArray(path, file.tell(), dtype, shape)


def open_stored(path: Path, wanted: Wanted) -> StoredRows:
    """Open an .npy, .npz or IDX file of rows."""
    name = path.name.lower()
    if name.endswith(".npz"):
        return _open_npz(path, wanted)
    if not name.endswith(".npy"):
        return _open_images(path, wanted)
    x = _open_npy(path)
    if (beside := labels_beside(path, wanted.label)) is not None:
        return StoredRows(x, _open_npy(beside), Columns((), arrays=("", beside.name)))
    return StoredRows(x, None, array_columns(path, x.shape, wanted))

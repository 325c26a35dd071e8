"""Tables whose rows stay in their file, and are read block by block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from xpnet.data.files import existing
from xpnet.data.tables.binary import check_rows, index_columns, open_parquet
from xpnet.data.tables.blocks import SIZE, NotUtf8Error
from xpnet.data.tables.dialect import TextFormat
from xpnet.data.tables.header import Header, IsHeader
from xpnet.data.tables.opened import FORMATS, Unchanged, is_compressed, suffix_of
from xpnet.data.tables.table import Location, located, normalised, readable
from xpnet.data.tables.text import TextRows
from xpnet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from xpnet.data.columns import DateOrder

__all__ = ["STREAMABLE", "TableFile", "open_stream"]

STREAMABLE = tuple(s for name in ("text", "parquet", "arrow") for s in FORMATS[name])
LEAST, BLOCKS = 2**16, 64  # bytes in a block of text, and blocks, so that small files are mixed


class TableFile(Protocol):
    """A table that is read block by block, every block with the same types.

    Raises DataError where the file is changed meanwhile.
    """

    names: tuple[str, ...] | None
    index: tuple[int, ...]
    notes: tuple[str, ...]
    dates: DateOrder
    bounds: np.ndarray  # (blocks + 1,) int64: the first row of each block, and the end
    location: Location

    def block(self, i: int) -> pa.Table:
        """Return the rows ``bounds[i]`` to ``bounds[i + 1]``, as in RawTable."""
        ...

    def batches(self) -> Iterator[pa.Table]:
        """Yield all blocks in order."""
        ...


class TextFile:
    """A text file: one pass finds its rows and the types of its columns."""

    index: tuple[int, ...] = ()

    def __init__(self, rows: TextRows) -> None:
        self._rows, self.names = rows, rows.names
        self.location: Location = rows.location
        for _ in rows.scan():
            pass  # what it holds is not kept
        self.notes, self.dates = rows.said(), rows.dates
        self.bounds = np.array([0, *np.cumsum([m.rows for m in rows.marks])], np.int64)

    def block(self, i: int) -> pa.Table:
        return self._rows.block(i)

    def batches(self) -> Iterator[pa.Table]:
        return map(self.block, range(len(self.bounds) - 1))


class ArrowFile:
    """A Parquet file, whose blocks are its row groups, or an Arrow file with its record batches."""

    notes: tuple[str, ...] = ()
    dates: DateOrder = "auto"

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what
        self._unchanged, self._lock = Unchanged(path), threading.Lock()
        with readable(path, what):
            self._open()
            sizes = [self._rows_of(i) for i in range(self._count)]
        self._blocks = [i for i, size in enumerate(sizes) if size]
        if not self._blocks:
            msg = f"{path}: 0 rows of {len(self._schema)} columns; there must be at least one"
            raise DataError(msg)
        self.names: tuple[str, ...] | None = tuple(self._schema.names)
        self.index = index_columns(self._schema)
        self.location: Location = located(path, self.names)
        self.bounds = np.array([0, *np.cumsum([sizes[i] for i in self._blocks])], np.int64)

    def __getstate__(self) -> dict[str, Any]:
        opened = ("_lock", "_file", "_schema", "_count", "_counted")
        return {k: v for k, v in vars(self).items() if k not in opened}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()
        with readable(self._path, self._what):
            self._open()

    _schema: pa.Schema
    _count: int

    def _open(self) -> None:
        raise NotImplementedError

    def _rows_of(self, i: int) -> int:
        raise NotImplementedError

    def _read(self, i: int) -> pa.Table:
        raise NotImplementedError

    def block(self, i: int) -> pa.Table:
        with self._unchanged, self._lock, readable(self._path, self._what):
            table = self._read(self._blocks[i])
            rows = int(self.bounds[i + 1] - self.bounds[i])
            if len(table) != rows:
                msg = f"{self._path}: a block declares {rows} rows but holds {len(table)}"
                raise DataError(msg)
            return normalised(table)

    def batches(self) -> Iterator[pa.Table]:
        return map(self.block, range(len(self._blocks)))


class ParquetFile(ArrowFile):
    """A Parquet file. Small row groups are shuffled better and take less memory."""

    def _open(self) -> None:
        self._file = open_parquet(str(self._path))
        self._schema = self._file.schema_arrow
        self._count = self._file.metadata.num_row_groups

    def _rows_of(self, i: int) -> int:
        group = self._file.metadata.row_group(i)
        remedy = "write it with a row_group_size of about 10,000"
        check_rows(f"{self._path}: row group {i}", group.num_rows, group.num_columns, remedy)
        return group.num_rows

    def _read(self, i: int) -> pa.Table:
        return self._file.read_row_group(i)


class IpcFile(ArrowFile):
    """A Feather file of version 2, which is an Arrow IPC file."""

    def _open(self) -> None:
        import pyarrow as pa

        self._file: Any = pa.ipc.open_file(pa.OSFile(str(self._path)))
        self._schema, self._count = self._file.schema, self._file.num_record_batches
        one = pa.ipc.IpcReadOptions(included_fields=[0])
        self._counted: Any = pa.ipc.open_file(pa.OSFile(str(self._path)), options=one)

    def _rows_of(self, i: int) -> int:
        return self._counted.get_batch(i).num_rows

    def _read(self, i: int) -> pa.Table:
        import pyarrow as pa

        batch = self._file.get_batch(i)
        batch.validate(full=True)
        return pa.Table.from_batches([batch])


def open_stream(path: Path, text: TextFormat, header: Header, is_header: IsHeader) -> TableFile:
    """Open a table to read it block by block; see :func:`xpnet.data.tables.open_table`."""
    path = existing(path)
    suffix = suffix_of(path, inside=False)
    if is_compressed(path) or suffix not in STREAMABLE:
        msg = f"{path}: cannot be streamed; known: {' '.join(STREAMABLE)}, not compressed"
        raise _instead(msg)
    if suffix in FORMATS["parquet"]:
        return ParquetFile(path, "a Parquet file")
    if suffix in FORMATS["arrow"]:
        return IpcFile(path, "an Arrow file, the only kind of Feather that can be streamed")
    size = max(LEAST, min(SIZE, path.stat().st_size // BLOCKS))
    try:
        rows = TextRows(path, text, header, is_header, tabs=suffix == ".tsv", size=size)
        if rows.encoding == "utf-8":
            return TextFile(rows)
        msg = f"{path}: is {rows.encoding}, and only UTF-8 can be streamed"
        raise _instead(msg)
    except NotUtf8Error as error:
        raise _instead(error.message) from None


def _instead(msg: str) -> DataError:
    return DataError(
        msg,
        python="save it as one of them in UTF-8, or read it as a whole, read(path)",
        command="save it as one of them in UTF-8, or --set data.stream=no",
    )

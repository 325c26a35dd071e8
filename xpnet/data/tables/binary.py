"""Parquet, Feather and Arrow IPC: what a file of them declares is checked before it is believed."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xpnet.data import files
from xpnet.data.tables.opened import contents, is_compressed, opened
from xpnet.data.tables.table import RawTable, located, normalised, readable
from xpnet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["checked", "check_rows", "index_columns", "open_parquet", "read_arrow", "read_parquet"]

FEATHER_1, ARROW_FILE = b"FEA1", b"ARROW1"


def read_parquet(path: Path) -> RawTable:
    """Read a Parquet file; texts stay dictionaries, so that many equal ones take little memory."""
    with readable(path, "a Parquet file"), _file(path) as file:
        parquet = open_parquet(file)
        rows, width = parquet.metadata.num_rows, parquet.metadata.num_columns
        check_rows(str(path), rows, width)
        table = parquet.read()
        if len(table) != rows:
            msg = f"{path}: declares {rows} rows but holds {len(table)}; is it truncated?"
            raise DataError(msg)
        return _raw(path, table)


def read_arrow(path: Path) -> RawTable:
    """Read a Feather or Arrow IPC file, or an Arrow stream."""
    import pyarrow as pa

    with readable(path, "a Feather or Arrow file"), _file(path) as file:
        magic = file.read(len(ARROW_FILE))
        file.seek(0)
        if magic.startswith(FEATHER_1):
            return _raw(path, _feather_1(file))
        if magic == ARROW_FILE:
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            reader = pa.ipc.open_stream(file)
            batches = iter(reader)
        table = pa.Table.from_batches(checked(path, batches), reader.schema)
        return _raw(path, table)


def open_parquet(file: Any) -> pq.ParquetFile:
    """Open a Parquet file so that columns of texts are read as dictionaries."""
    import pyarrow.parquet as pq
    from pyarrow import types

    parquet = pq.ParquetFile(file)
    texts = [f.name for f in parquet.schema_arrow if types.is_string(f.type)]
    return pq.ParquetFile(file, read_dictionary=texts) if texts else parquet


def checked(path: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield record batches whose values are what they say they are, and not too many."""
    size = 0
    for batch in batches:
        batch.validate(full=True)  # offsets in a damaged file point anywhere
        size += batch.nbytes
        if size > files.MAX_BYTES:
            raise _too_large(str(path), "its values take")
        yield batch


def check_rows(what: str, rows: int, width: int, remedy: str = "") -> None:
    """Raise DataError, with the ``remedy``, for more values than MAX_BYTES of doubles."""
    if rows * width * 8 > files.MAX_BYTES:
        raise _too_large(what, f"{rows} rows of {width} columns are", remedy)


def index_columns(schema: pa.Schema) -> tuple[int, ...]:
    """Return the columns that pandas wrote as the index of its rows; a range has none."""
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    return tuple(j for j, name in enumerate(schema.names) if name in index)


def _too_large(where: str, what: str, remedy: str = "") -> DataError:
    return DataError(
        f"{where}: {what} more than {files.MAX_BYTES} bytes",
        python=remedy or "stream it, scan(open_rows(path)), or split it",
        command=remedy or "--set data.stream=yes, or split it",
    )


@contextmanager
def _file(path: Path) -> Iterator[Any]:
    """Open a file whose end is read first, which one that is compressed does not allow."""
    if is_compressed(path):
        yield io.BytesIO(contents(path))
        return
    with opened(path) as file:
        yield file


def _feather_1(file: Any) -> pa.Table:
    """Read what Arrow calls deprecated, and R and pandas once wrote."""
    from pyarrow import feather

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        table = feather.read_table(file)
    table.validate(full=True)
    return table


def _raw(path: Path, table: pa.Table) -> RawTable:
    if not table.num_columns or not table.num_rows:
        msg = f"{path}: {table.num_rows} rows of {table.num_columns} columns; there must be at "
        raise DataError(msg + "least one of each")
    names = tuple(table.schema.names)
    index = index_columns(table.schema)
    return RawTable(normalised(table), names, located(path, names), index)

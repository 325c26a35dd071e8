"""Binary tables: Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xpnet.data.files import reading
from xpnet.data.tables.table import RawTable, located, normalised, readable

__all__ = ["read_parquet"]


def read_parquet(path: Path) -> RawTable:
    """Read a Parquet file."""
    import pyarrow.parquet as pq

    with readable(path, "a Parquet file"), reading(path) as file:
        table = pq.ParquetFile(file).read()
        return of_table(path, table)


def index_columns(schema: Any) -> tuple[int, ...]:
    """Return the columns that pandas wrote as the index of its rows; a range has none."""
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    return tuple(j for j, name in enumerate(schema.names) if name in index)


def of_table(path: Any, table: Any) -> RawTable:
    names = tuple(table.schema.names)
    return RawTable(normalised(table), names, located(path, names), index_columns(table.schema))

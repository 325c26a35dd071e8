"""Tables of any format, as Arrow columns."""

from __future__ import annotations

import re
from pathlib import Path

from xpnet.data.tables.binary import read_parquet
from xpnet.data.tables.dialect import TextFormat
from xpnet.data.tables.header import Header, IsHeader
from xpnet.data.tables.table import RawTable
from xpnet.data.tables.text import read_text
from xpnet.errors import DataError

__all__ = ["Header", "RawTable", "TextFormat", "is_table", "read_table"]

TEXT = (".csv", ".tsv", ".txt", ".data", ".dat")
PARQUET = (".parquet", ".pq")
AUTO = TextFormat()
COMPRESSED = re.compile(r"\.(gz|bz2|xz|zst|zip)$")


def is_table(path: str | Path) -> bool:
    """Return whether a file of this name is a table.

    >>> is_table("a.csv.gz"), is_table("a.PARQUET"), is_table("a.npy")
    (True, True, False)
    """
    return _suffix(path) in (*TEXT, *PARQUET)


def _suffix(path: str | Path) -> str:
    return Path(COMPRESSED.sub("", Path(path).name.lower())).suffix


def read_table(
    path: Path,
    text: TextFormat = AUTO,
    header: Header = "auto",
    is_header: IsHeader = lambda first: None,
) -> RawTable:
    """Read a table."""
    suffix = _suffix(path)
    if suffix in TEXT:
        return read_text(path, text, header, is_header)
    if suffix in PARQUET:
        return read_parquet(path)
    msg = f"{path}: unknown format; known: {' '.join((*TEXT, *PARQUET))}"
    raise DataError(msg)

"""Tables of any format, as Arrow columns: which format it is, and what reads it."""

from __future__ import annotations

from pathlib import Path

from xpnet.data.files import existing, memory_errors
from xpnet.data.tables.arff import read_arff
from xpnet.data.tables.binary import read_arrow, read_parquet
from xpnet.data.tables.dialect import TextFormat
from xpnet.data.tables.header import Header, IsHeader
from xpnet.data.tables.json_lines import read_json_lines
from xpnet.data.tables.libsvm import read_libsvm
from xpnet.data.tables.memory import of_arrow, speaks_arrow
from xpnet.data.tables.opened import FORMATS, suffix_of
from xpnet.data.tables.stream import STREAMABLE, TableFile, open_stream
from xpnet.data.tables.table import RawTable
from xpnet.data.tables.text import read_text
from xpnet.errors import DataError

__all__ = [
    "FORMATS",
    "STREAMABLE",
    "Header",
    "IsHeader",
    "RawTable",
    "TableFile",
    "TextFormat",
    "is_table",
    "of_arrow",
    "open_table",
    "read_table",
    "speaks_arrow",
]

AUTO = TextFormat()


def is_table(path: str | Path) -> bool:
    """Return whether a file of this name is a table, compressed or not.

    >>> is_table("a.csv.gz"), is_table("a.PARQUET"), is_table("a.zip"), is_table("a.npy")
    (True, True, True, False)
    """
    suffix = suffix_of(Path(path), inside=False)
    return _format(suffix) is not None or Path(path).suffix.lower() == ".zip"


def _format(suffix: str) -> str | None:
    return next((name for name, suffixes in FORMATS.items() if suffix in suffixes), None)


def _unknown(first: list[str]) -> None:
    """Know nothing of the columns."""


def read_table(
    path: Path,
    text: TextFormat = AUTO,
    header: Header = "auto",
    is_header: IsHeader = _unknown,
) -> RawTable:
    """Read a table as a whole; its suffix determines the format.

    ======================== =====================================================================
    .csv .tsv .txt .data     text in any common dialect, as :class:`TextFormat` and ``header`` say;
    .dat                     ``is_header`` is what the caller knows of a first row (None: nothing)
    .parquet .pq             Parquet
    .feather .arrow .ipc     Feather, Arrow IPC file or stream
    .jsonl .ndjson           JSON Lines
    .arff                    ARFF of Weka and OpenML
    .libsvm .svm             LIBSVM and SVMlight; the first column is the label
    ======================== =====================================================================

    each also with .gz .bz2 .xz .zst, or in a .zip with no other table. Raises DataError that names
    the file and the place in it.
    """
    path = existing(path)
    with memory_errors(path):
        suffix = suffix_of(path)
        match _format(suffix):
            case "text":
                return read_text(path, text, header, is_header, tabs=suffix == ".tsv")
            case "parquet":
                return read_parquet(path)
            case "arrow":
                return read_arrow(path)
            case "json":
                return read_json_lines(path)
            case "arff":
                return read_arff(path)
            case "libsvm":
                return read_libsvm(path)
    known = " ".join(suffix for suffixes in FORMATS.values() for suffix in suffixes)
    msg = f"{path}: unknown format of a table; known: {known}"
    raise DataError(msg)


def open_table(
    path: Path,
    text: TextFormat = AUTO,
    header: Header = "auto",
    is_header: IsHeader = _unknown,
) -> TableFile:
    """Open a text file, Parquet, Feather or Arrow IPC file to read it block by block.

    A text file is read through once, so that the types are those of all its rows. Raises DataError
    for a format, an encoding or a compression that can only be read as a whole.
    """
    return open_stream(path, text, header, is_header)

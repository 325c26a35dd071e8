"""Comma-, semicolon- or tab-separated text.

A well-formed file is parsed by NumPy's C code. Any other is parsed again row by row, which either
succeeds (with a quoted line break, for example) or finds the line and column of the error.
"""

import csv
import itertools
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from xpnet.data import files
from xpnet.data.dataset import chunks
from xpnet.data.files import read_lines
from xpnet.data.labels import LABEL_NAMES, Labels, Table, find_label, number
from xpnet.errors import DataError

__all__ = ["Header", "read_csv_table"]

Header = bool | Literal["auto"]


class Layout(NamedTuple):
    """The structure of a file, as inferred from its first two rows."""

    path: Path
    delimiter: str
    names: tuple[str, ...] | None  # of all columns
    skip: int  # lines up to the end of the header
    width: int  # columns
    label: int | None  # the label column

    def location(self, line: int, column: int) -> str:
        name = f" ({self.names[column]!r})" if self.names else ""
        return f"{self.path}: line {line}, column {column}{name}"


def read_csv_table(
    path: Path, label: str | int | None, header: Header = "auto", delimiter: str | None = None
) -> Table:
    """Read a table of numbers, one column of which may be labels of any kind.

    ``header`` says whether the first row names the columns; "auto" looks for numbers in it. The
    default ``delimiter`` is the most frequent of ``,`` ``;`` and tab in the first row. Lines are
    counted from 1, columns from 0. Features are float64.
    """
    layout = _layout(path, label, header, delimiter)
    parsed = _parse_fast(layout)
    table, labels = _parse_slowly(layout) if parsed is None else parsed
    if len(table) == 0:
        msg = f"{path}: no rows are left; was the file changed while it was being read?"
        raise DataError(msg)
    names = layout.names
    if layout.label is not None:
        names = names and names[: layout.label] + names[layout.label + 1 :]
        if layout.label == 0:  # views if possible: a table may take half of the memory
            table = table[:, 1:]
        elif layout.label == layout.width - 1:
            table = table[:, :-1]
        else:
            table = np.delete(table, layout.label, axis=1)
    return Table(table, labels, lambda row: _line_of(layout, row), names)


def _rows(path: Path, delimiter: str, skip: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of its last line and the fields of each row that is not blank."""
    reader = csv.reader(read_lines(path, skip=skip), delimiter=delimiter)
    try:
        for fields in reader:
            if len(fields) > 1 or any(map(str.strip, fields)):
                yield skip + reader.line_num, fields
    except csv.Error as error:
        msg = f"{path}: line {skip + reader.line_num}: {error}"
        raise DataError(msg) from None


def _layout(path: Path, label: str | int | None, header: Header, delimiter: str | None) -> Layout:
    if delimiter is None:
        delimiter = max(",;\t", key=lambda d: len(next(_rows(path, d), (0, []))[1]))
    head = list(islice(_rows(path, delimiter), 2))
    if not head:
        msg = f"{path}: line 1: the file is empty"
        raise DataError(msg)
    (line, first_row), rest = head[0], head[1:]
    has_header = _is_header(path, head) if header == "auto" else header
    if has_header and not rest:
        msg = f"{path}: line {line}: a header but no rows"
        raise DataError(msg)
    width = len(first_row)
    names = tuple(n.strip() for n in first_row) if has_header else None
    column = None if label is None else find_label(names, width, label, path)
    if column is not None and width < 2:
        msg = f"{path}: line {line}: only a label column; is {delimiter!r} the delimiter?"
        raise DataError(msg)
    return Layout(path, delimiter, names, line if has_header else 0, width, column)


def _is_header(path: Path, head: list[tuple[int, list[str]]]) -> bool:
    """Return whether the first row is a header; DataError rather than drop a row with a typo.

    A header contains no number, or one of the usual names of a label column. In any other row a
    text above another text is a label, and a text above a number is ambiguous.
    """
    line, first = head[0]
    texts = [j for j, field in enumerate(first) if number(field) is None]
    if not texts:
        return False
    if len(texts) == len(first) or any(f.strip().lower() in LABEL_NAMES[:-1] for f in first):
        return True
    second = head[-1][1]
    for j in texts:
        if len(second) == len(first) and number(second[j]) is not None:
            either = f"{{}} if line {line} is a header, else {{}}"
            msg = f"{path}: line {line}, column {j}: {first[j][:40]!r} is not a number"
            raise DataError(
                msg,
                python="pass " + either.format("header=True", "header=False"),
                command=either.format("--set data.header=yes", "--set data.header=no"),
            )
    return False


def _parse_fast(layout: Layout) -> tuple[np.ndarray, Labels | None] | None:
    """Return all columns (N, columns) and the labels, or None if NumPy cannot parse the file."""
    codes: dict[str, int] = {}

    def code(text: str) -> int:
        if not text.strip():
            raise ValueError
        return codes.setdefault(text.strip(), len(codes))

    try:
        lines = _bounded(read_lines(layout.path, skip=layout.skip), layout)
        if (first := next(lines, None)) is None:
            return None
        table = np.loadtxt(
            itertools.chain([first], lines),
            delimiter=layout.delimiter,
            comments=None,
            quotechar='"',
            ndmin=2,
            converters=None if layout.label is None else {layout.label: code},
        )
    except DataError:
        raise
    except ValueError:
        return None
    finite = all(np.isfinite(table[rows]).all() for rows in chunks(table))
    if table.shape[1] != layout.width or not finite:
        return None
    if layout.label is None:
        return table, None
    return table, Labels(list(codes), table[:, layout.label].astype(np.int64))


def _bounded(lines: Iterator[str], layout: Layout) -> Iterator[str]:
    """Yield lines while their numbers fit in memory: a short text becomes 8 bytes."""
    for n, line in enumerate(lines):
        if n * layout.width * 8 > files.MAX_BYTES:
            raise _too_large(layout)
        yield line


def _too_large(layout: Layout) -> DataError:
    msg = f"{layout.path}: its numbers take more than {files.MAX_BYTES} bytes; split the file"
    return DataError(msg)


def _parse_slowly(layout: Layout) -> tuple[np.ndarray, Labels | None]:
    """Return what :func:`_parse_fast` does, or raise DataError that names the bad field."""
    values, codes = array("d"), dict[str, int]()
    for line, fields in _rows(layout.path, layout.delimiter, layout.skip):
        if len(fields) != layout.width:
            msg = f"{layout.path}: line {line}: {len(fields)} columns; the first row has "
            raise DataError(msg + str(layout.width))
        for column, field in enumerate(fields):
            text = field.strip()
            value: float | None = number(text)
            if column == layout.label:
                value = codes.setdefault(text, len(codes))
            if not text:
                msg = f"{layout.location(line, column)}: empty field"
                raise DataError(msg)
            if value is None or not np.isfinite(value):
                msg = f"{layout.location(line, column)}: {text[:40]!r} is not a finite number"
                raise DataError(msg)
            values.append(value)
        if len(values) * 8 > files.MAX_BYTES:
            raise _too_large(layout)
    table = np.asarray(values).reshape(-1, layout.width)
    if layout.label is None:
        return table, None
    return table, Labels(list(codes), table[:, layout.label].astype(np.int64))


def _line_of(layout: Layout, row: int) -> str:
    rows = _rows(layout.path, layout.delimiter, layout.skip)
    line, _ = next(islice(rows, row, None), (None, None))  # None: the file was changed meanwhile
    return f"{layout.path}: line {line}" if line else f"{layout.path}: row {row}"

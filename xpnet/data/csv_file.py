"""Comma-, semicolon- or tab-separated text.

A well-formed file is parsed by NumPy's C code. Any other is parsed again row by row, which either
succeeds (with a quoted line break, for example) or finds the line and column of the error.
"""

import csv
import itertools
from array import array
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from xpnet.data import files
from xpnet.data.columns import LABEL_NAMES, Columns, Wanted, counts_up, number
from xpnet.data.dataset import chunks
from xpnet.data.files import read_lines
from xpnet.data.labels import DROP, MISSING, Labels, Table
from xpnet.errors import DataError

__all__ = ["Header", "read_csv_table"]

Header = bool | Literal["auto"]


class Layout(NamedTuple):
    """The structure of a file, as inferred from its first two rows and its row numbers."""

    path: Path
    delimiter: str
    skip: int  # lines up to the end of the header
    width: int  # columns
    columns: Columns
    empty_labels: bool  # whether a label may be missing

    def location(self, line: int, column: int) -> str:
        names = self.columns.names
        name = f" ({names[column]!r})" if names else ""
        return f"{self.path}: line {line}, column {column}{name}"


def read_csv_table(
    path: Path, wanted: Wanted, header: Header = "auto", delimiter: str | None = None
) -> Table:
    """Read a table of numbers, one column of which may be labels of any kind.

    ``header`` says whether the first row names the columns; "auto" looks for numbers in it. The
    default ``delimiter`` is the most frequent of ``,`` ``;`` and tab in the first row. Lines are
    counted from 1, columns from 0. Features are float64.
    """
    layout = _layout(path, wanted, header, delimiter)
    parsed = _parse_fast(layout)
    table, labels = _parse_slowly(layout) if parsed is None else parsed
    if len(table) == 0:
        msg = f"{path}: no rows are left; was the file changed while it was being read?"
        raise DataError(msg)
    x = _select(table, layout.columns.features)
    return Table(x, labels, lambda row: _line_of(layout, row), layout.columns)


def _select(table: np.ndarray, columns: tuple[int, ...]) -> np.ndarray:
    """Return columns of a table, as a view if possible: it may take half of the memory."""
    first = columns[0]
    if columns == tuple(range(first, first + len(columns))):
        return table[:, first : first + len(columns)]
    return table[:, columns]


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


def _layout(path: Path, wanted: Wanted, header: Header, delimiter: str | None) -> Layout:
    if delimiter is None:
        delimiter = max(",;\t", key=lambda d: len(next(_rows(path, d), (0, []))[1]))
    head = list(islice(_rows(path, delimiter), 2))
    if not head:
        msg = f"{path}: line 1: the file is empty"
        raise DataError(msg)
    (line, first_row), rest = head[0], head[1:]

    def cells(column: int, skip: int = line) -> Iterator[str]:
        rows = _rows(path, delimiter, skip)
        return (fields[column].strip() for _, fields in rows if len(fields) > column)

    has_header = _is_header(path, head, wanted, cells) if header == "auto" else header
    if has_header and not rest:
        msg = f"{path}: line {line}: a header but no rows"
        raise DataError(msg)
    width = len(first_row)
    if wanted.label is not None and width < 2:
        msg = f"{path}: line {line}: only a label column; is {delimiter!r} the delimiter?"
        raise DataError(msg)
    names, skip = ([n.strip() for n in first_row], line) if has_header else (None, 0)
    columns = wanted.columns(path, names, width, lambda column: cells(column, skip))
    numbers = [name for name in names or () if number(name) is not None]
    if header == "auto" and wanted.like is None and len(numbers) > 1:
        note = f"line {line} ({numbers[0]}, {numbers[1]}, ...) is taken for a header: "
        columns = columns.noting(note + "data.header = 'no' reads it as values")
    return Layout(path, delimiter, skip, width, columns, wanted.missing_labels == "drop")


def _is_header(
    path: Path,
    head: list[tuple[int, list[str]]],
    wanted: Wanted,
    cells: Callable[[int], Iterator[str]],
) -> bool:
    """Return whether the first row is a header; DataError rather than drop a row with a typo.

    A header contains no number, or the names of the run's columns, or one of the usual names of a
    label column, or it counts the columns from 0. In any other row a text above another text is a
    label, and a text above a number is ambiguous.
    """
    line, first = head[0]
    try:
        known = wanted.is_header(first)
    except DataError as error:
        where = f"{path}: line {line}"
        raise error.within(where) from None
    if known is not None:
        return known
    texts = [j for j, field in enumerate(first) if number(field) is None]
    if not texts:
        return False
    if len(texts) == len(first) or any(f.strip().lower() in LABEL_NAMES[:-1] for f in first):
        return True
    counted = counts_up([f.strip() for j, f in enumerate(first) if j not in texts])
    if counted and len(first) - len(texts) > 1:  # as pandas writes it: names, if they occur once
        return all(first[j].strip() not in cells(j) for j in texts)
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

    def code(text: str) -> float:
        if not text.strip() and not layout.empty_labels:
            raise ValueError
        return codes.setdefault(text.strip(), len(codes))

    def zero(text: str) -> float:
        return 0.0

    converters: dict[int | str, Callable[[str], float]] = {
        j: zero for j, _ in layout.columns.left_out
    }
    if layout.columns.label is not None:
        converters[layout.columns.label] = code
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
            converters=converters or None,
        )
    except DataError:
        raise
    except ValueError:
        return None
    finite = all(np.isfinite(table[rows]).all() for rows in chunks(table))
    if table.shape[1] != layout.width or not finite:
        return None
    return table, _labels_of(table, layout, codes)


def _labels_of(table: np.ndarray, layout: Layout, codes: dict[str, int]) -> Labels | None:
    label = layout.columns.label
    return None if label is None else Labels(list(codes), table[:, label].astype(np.int64))


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
    left_out = {j for j, _ in layout.columns.left_out}
    for line, fields in _rows(layout.path, layout.delimiter, layout.skip):
        if len(fields) != layout.width:
            msg = f"{layout.path}: line {line}: {len(fields)} columns; the first row has "
            raise DataError(msg + str(layout.width))
        for column, field in enumerate(fields):
            text = field.strip()
            if column in left_out:
                values.append(0.0)
            elif column == layout.columns.label and (text or layout.empty_labels):
                values.append(codes.setdefault(text, len(codes)))
            else:
                values.append(_feature(text, layout, line, column, first=len(values) == column))
        if len(values) * 8 > files.MAX_BYTES:
            raise _too_large(layout)
    table = np.asarray(values).reshape(-1, layout.width)
    return table, _labels_of(table, layout, codes)


def _feature(text: str, layout: Layout, line: int, column: int, *, first: bool) -> float:
    """Return the number in a field; a text in the first row may be a label."""
    where, value = layout.location(line, column), number(text)
    if not text:
        msg = f"{where}: empty field"
        raise DataError(msg, **(DROP if column == layout.columns.label else {}))
    if value is None or not np.isfinite(value):
        problem = f"{where}: {text[:40]!r} is not a finite number"
        if first and value is None and text not in MISSING:
            raise layout.columns.not_numbers(column, problem)
        raise DataError(problem)
    return value


def _line_of(layout: Layout, row: int) -> str:
    rows = _rows(layout.path, layout.delimiter, layout.skip)
    line, _ = next(islice(rows, row, None), (None, None))  # None: the file was changed meanwhile
    return f"{layout.path}: line {line}" if line else f"{layout.path}: row {row}"

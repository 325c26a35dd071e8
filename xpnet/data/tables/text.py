"""Text files: delimited values in any common dialect, the type of each column that of all rows."""

from __future__ import annotations

import csv
import io
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from xpnet.data import files
from xpnet.data.tables import blocks
from xpnet.data.tables.blocks import Block, Cutter, NotUtf8Error, source
from xpnet.data.tables.dialect import TextFormat, names_in_comment, sniffed, top_comments
from xpnet.data.tables.header import Header, IsHeader, Rest, has_header
from xpnet.data.tables.opened import Unchanged
from xpnet.data.tables.parse import Parsed, Parser
from xpnet.data.tables.table import RawTable, column_of
from xpnet.data.tables.values import NUMBERS, arrow_type, date_order, join, notes_of, settled
from xpnet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from xpnet.data.columns import DateOrder

__all__ = ["TextRows", "read_text"]

MAX_COLUMNS = 2**18
LEAST_ROWS, LARGEST = 1000, 2**24  # in a block of wide rows; its bytes
A = TypeVar("A")
B = TypeVar("B")


class Mark(NamedTuple):
    """Where a block is: rows and bytes before it, and how many it has."""

    row: int
    offset: int
    rows: int
    size: int


def read_text(
    path: Path, form: TextFormat, header: Header, is_header: IsHeader, *, tabs: bool = False
) -> RawTable:
    """Read a text file as a whole; DataError names line and column."""
    try:
        return TextRows(path, form, header, is_header, tabs=tabs).table()
    except NotUtf8Error:
        if form.encoding != "auto":
            raise
    form = replace(form, encoding="cp1252")
    table = TextRows(path, form, header, is_header, tabs=tabs).table()
    return replace(table, notes=("encoding cp1252, as it is not UTF-8", *table.notes))


class TextRows:
    """The rows of a text file: how it is written, and the blocks in which it is read."""

    def __init__(
        self,
        path: Path,
        form: TextFormat,
        header: Header,
        is_header: IsHeader,
        *,
        tabs: bool = False,
        size: int = 0,
    ) -> None:
        self.path, self.notes = path, list[str]()
        self.names: tuple[str, ...] | None = None
        self._unchanged = Unchanged(path)
        self._source = source(path, form.encoding)._replace(size=size)
        self.encoding = self._source.encoding
        if self._source.encoding != "utf-8" and form.encoding == "auto":
            self.notes.append(f"encoding {self._source.encoding}")
        head = self._source.head()
        skip = top_comments(head) if form.comment == "auto" else b""
        self._start = self._source.mark + len(skip)
        sample = head[len(skip) :].decode("utf-8", "replace")
        self.dialect, guesses = sniffed(sample, form, tabs)
        self.notes += guesses
        self._cutter = Cutter(self.dialect.delimiter, self.dialect.quote)
        self._begin(header, is_header, skip.decode("utf-8", "replace"))
        self.kinds, self.marks = ["null"] * self.width, list[Mark]()

    def _begin(self, header: Header, is_header: IsHeader, comment: str) -> None:
        """Read the first rows: the width, whether there is a header, probable types."""
        where, first, rest = self._first_rows()
        self.width = len(first)
        row = max(1, rest.offset - self._start)
        if not self._source.size:
            size = min(max(blocks.SIZE, LEAST_ROWS * row), LARGEST)
            self._source = self._source._replace(size=size)
        if self.width > MAX_COLUMNS:
            msg = f"{where}: {self.width} columns, more than {MAX_COLUMNS}; is the file transposed?"
            raise DataError(msg)
        self._parser = Parser(self._source, self.dialect, self.width)
        first = [cell.strip() for cell in first]
        kinds = [self.dialect.kind(cell) for cell in first]
        sample = self._parser.parsed(rest, self._parser.probable(rest))
        self._asked = sample.kinds if sample.rows else self._parser.types_in(first)
        if header == "auto":
            import pyarrow.compute as pc

            def recurs(j: int, text: str) -> bool:
                column = sample.columns[j]
                return sample.kinds[j] == "text" and pc.any(pc.equal(column, text)).as_py()

            after = Rest(sample.kinds, recurs) if sample.rows else None
            header, note = has_header(where, first, kinds, after, is_header)
            self.notes += [note] if note else []
        if header and not sample.rows:
            msg = f"{where}: a header but no rows"
            raise DataError(msg)
        elif header:
            self.names = tuple(first)
            self._start = rest.offset
        elif comment and (names := names_in_comment(comment, self.dialect, self.width)):
            self.names = tuple(names)
            self.notes.append(
                f"the comment above the rows has their names ({', '.join(names[:3])}"
                + (", ...)" if len(names) > 3 else ")")
            )

    def _first_rows(self) -> tuple[str, list[str], Block]:
        """Return place and fields of the first row, and the rows after it that are read with it."""
        data = b""
        for block in self._blocks(self._start):
            data += block.data
            lines = io.StringIO(data.decode(), newline="")
            try:
                line, fields = next(self.dialect.fields(lines), (0, []))
            except csv.Error as error:
                msg = f"{self._source.where(self._start)} or later: {error}"
                raise DataError(msg) from None
            end = len(data.decode()[: lines.tell()].encode())
            if fields and data[end:].strip():
                break
        if not data.strip() or not fields:
            msg = f"{self.path}: line 1: the file is empty"
            raise DataError(msg)
        where = self._source.where(self._start, line - 1)
        return where, fields, Block(data[end:], self._start + end)

    def scan(self) -> Iterator[Parsed]:
        """Yield all blocks in order, and find the types of the columns and where the blocks are."""
        import pyarrow as pa

        row, self.kinds, self.marks = 0, ["null"] * self.width, []
        with ThreadPoolExecutor(min(8, pa.cpu_count())) as pool:
            for parsed in _ahead(pool, self._parsed, self._blocks(self._start)):
                block = parsed.block
                self.marks.append(Mark(row, block.offset, parsed.rows, len(block.data)))
                row += parsed.rows
                self.kinds = [join(a, b) for a, b in zip(self.kinds, parsed.kinds, strict=True)]
                self._asked = self.kinds
                yield parsed
        self.kinds = settled(self.kinds)

    def _parsed(self, block: Block) -> Parsed:
        return self._parser.parsed(block, self._asked)

    def table(self) -> RawTable:
        """Read all rows."""
        import pyarrow as pa

        parts, size = [], 0
        for parsed in self.scan():
            size += sum(column.nbytes for column in parsed.columns)
            if size > files.MAX_BYTES:
                msg = f"{self.path}: its values take more than {files.MAX_BYTES} bytes"
                raise DataError(
                    msg,
                    python="stream it, scan(open_rows(path)), or split the file",
                    command="--set data.stream=yes, or split the file",
                )
            parts.append(parsed._replace(block=parsed.block._replace(data=b"")))
        types = [arrow_type(kind) for kind in self.kinds]
        chunks = zip(self._settled(parts), types, strict=True)
        data = self._named([pa.chunked_array(c, t) for c, t in chunks])
        return RawTable(data, self.names, self.location, notes=self.said(), dates=self.dates)

    def _named(self, columns: list[Any]) -> pa.Table:
        import pyarrow as pa

        names = self.names or [str(j) for j in range(self.width)]
        return pa.Table.from_arrays(columns, names=list(names))

    @property
    def dates(self) -> DateOrder:
        """In what order the dates of a file that was scanned are."""
        return date_order(self.kinds)

    def said(self) -> tuple[str, ...]:
        """Return what was guessed of the format and the values, in words."""
        return (*self.notes, *notes_of(self.kinds, self.names))

    def block(self, i: int) -> pa.Table:
        """Return one block of a file that was scanned, in UTF-8 and not compressed."""
        mark = self.marks[i]
        with self._unchanged:
            block = self._source.block(mark.offset, mark.size)
            return self._named(self._parser.values(block, self.kinds))

    def _settled(self, parts: list[Parsed]) -> list[list[pa.Array]]:
        """Return the chunks of all columns in their final types; some are read again for that."""
        columns: list[list[Any]] = [
            [_as_type(part.columns[j], part.kinds[j], kind) for part in parts]
            for j, kind in enumerate(self.kinds)
        ]
        again = [[j for j, c in enumerate(columns) if c[i] is None] for i in range(len(parts))]
        if not any(again):
            return columns
        with self._unchanged:
            for i, block in enumerate(self._blocks(self._start)):
                for j in again[i]:
                    columns[j][i] = self._parser.column(block, j, self.kinds[j])
        return columns

    def _blocks(self, start: int) -> Iterator[Block]:
        return self._source.blocks(self._cutter, start)

    def location(self, row: int, column: int | None = None) -> str:
        """Name the line of a row, which is found by reading its block again."""
        i = bisect_right(self.marks, row, key=lambda mark: mark.row) - 1
        place, count = f"{self.path}: row {row}", row - self.marks[i].row
        for block in self._blocks(self.marks[i].offset):
            found = next(islice(self._parser.rows(block), count, None), None)
            if found is not None:
                place = self._source.where(block.offset, found[0] - 1)
                break
            count -= sum(1 for _ in self._parser.rows(block))
        return place + column_of(self.names, column)


def _as_type(column: pa.Array, kind: str, target: str) -> pa.Array | None:
    """Return a column of one type as another; None where its texts are needed for that."""
    import pyarrow as pa

    type_ = arrow_type(target)
    if kind == "null":
        return pa.nulls(len(column), type_)
    if column.type == type_:
        return column
    return column.cast(type_, safe=False) if {kind, target} <= {*NUMBERS} else None


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[A], B], items: Iterable[A], depth: int = 12
) -> Iterator[B]:
    """Yield the results of ``work`` in order, while the next few are being worked on."""
    waiting = deque[Future[B]]()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()

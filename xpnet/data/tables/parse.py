"""One block of a text file to Arrow columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from xpnet.data.tables.blocks import Block, Source
from xpnet.data.tables.dialect import Dialect
from xpnet.data.tables.values import NUMBERS, arrow_type, converted, inferred, number_type
from xpnet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Parsed", "Parser"]


class Parsed(NamedTuple):
    """The columns of a block; a type is one of :data:`xpnet.data.tables.values.ABOVE`."""

    block: Block
    kinds: list[str]
    columns: list[pa.Array]
    rows: int


class Parser:
    """Parses blocks of rows of ``width`` fields.

    Arrow's C++ does nearly all of it. Rows that it cannot read are split by Python's csv, which
    either succeeds or finds the line of the error.
    """

    def __init__(self, source: Source, dialect: Dialect, width: int) -> None:
        self.source, self.dialect, self.width = source, dialect, width

    def parsed(self, block: Block, asked: Sequence[str]) -> Parsed:
        """Return the columns of a block, which probably have the types ``asked``."""
        import pyarrow as pa

        if block.data.isspace() or not block.data:
            return Parsed(block, ["null"] * self.width, [pa.nulls(0)] * self.width, 0)
        numeric = [kind in NUMBERS for kind in asked]
        columns = self._arrow(block.data, range(self.width), numeric) if any(numeric) else None
        if columns is None:
            columns, numeric = self.strings(block), [False] * self.width
        kinds = []
        for j, column in enumerate(columns):
            if not numeric[j]:
                kind = "text" if asked[j] == "text" else inferred(column, self.dialect)
                columns[j] = converted(column, kind, self.dialect)
            else:
                kind = number_type(column, partial(self._texts, block, j))
                if kind in ("int", "wide"):
                    columns[j] = self.column(block, j, kind)
                elif kind == "null":
                    columns[j] = pa.nulls(len(column))
            kinds.append(kind)
        return Parsed(block, kinds, columns, len(columns[0]))

    def probable(self, block: Block) -> list[str]:
        """Return the types that the columns of a block have in its first row."""
        _, fields = next(self.rows(block), (0, []))
        return self.types_in(fields) or ["null"] * self.width

    def types_in(self, fields: list[str]) -> list[str]:
        """Return the types of the cells of a row, "null" where they are not known to be numbers."""
        kinds = (self.dialect.kind(cell.strip()) for cell in fields)
        return ["whole" if kind == "number" else "null" for kind in kinds]

    def values(self, block: Block, kinds: Sequence[str]) -> list[pa.Array]:
        """Return the columns of a block, which are known to have these types."""
        numeric = [kind in NUMBERS and kind != "int" for kind in kinds]
        columns = self._arrow(block.data, range(self.width), numeric) if any(numeric) else None
        if columns is None:
            columns, numeric = self.strings(block), [False] * self.width
        return [
            c.cast(arrow_type(kind), safe=False) if direct else converted(c, kind, self.dialect)
            for c, kind, direct in zip(columns, kinds, numeric, strict=True)
        ]

    def column(self, block: Block, j: int, kind: str) -> pa.Array:
        """Return one column of a block, which has this type."""
        return converted(self._texts(block, j), kind, self.dialect)

    def _texts(self, block: Block, j: int) -> pa.Array:
        return self.strings(block, [j])[0]

    def strings(self, block: Block, chosen: Sequence[int] | None = None) -> list[pa.Array]:
        """Return columns of texts as they are written; DataError names a row that is wrong."""
        chosen = range(self.width) if chosen is None else chosen
        columns = self._arrow(block.data, chosen, [False] * self.width)
        return self._python(block, chosen) if columns is None else columns

    def _arrow(
        self, data: bytes, chosen: Sequence[int], numeric: Sequence[bool]
    ) -> list[pa.Array] | None:
        """Return columns, doubles where they are ``numeric``; None if Arrow cannot read them."""
        import pyarrow as pa
        from pyarrow import csv as arrow

        dialect = self.dialect
        data = self._plain(data) if self.width > 1 else b""
        if not data:
            return None
        names = [str(j) for j in chosen]
        types = {str(j): pa.float64() if numeric[j] else pa.string() for j in chosen}
        try:
            table = arrow.read_csv(
                pa.BufferReader(data),
                read_options=arrow.ReadOptions(
                    column_names=[str(j) for j in range(self.width)],
                    use_threads=False,
                    block_size=len(data),
                ),
                parse_options=arrow.ParseOptions(
                    delimiter=" " if dialect.delimiter == "space" else dialect.delimiter,
                    quote_char=dialect.quote or False,
                    newlines_in_values=bool(dialect.quote) and dialect.quote.encode() in data,
                    invalid_row_handler=_blank,
                ),
                convert_options=arrow.ConvertOptions(
                    include_columns=names,
                    column_types=types,
                    null_values=sorted(dialect.missing),
                    strings_can_be_null=False,
                    decimal_point=dialect.decimal,
                    check_utf8=False,
                ),
            )
        except pa.ArrowInvalid:
            return None
        return [column.chunk(0) for column in table.columns]

    def _plain(self, data: bytes) -> bytes:
        """Return a block as Arrow can read it, or nothing if there is no simple way."""
        dialect = self.dialect
        quoted = bool(dialect.quote) and dialect.quote.encode() in data
        if quoted and (dialect.blanks or dialect.comment or dialect.delimiter == "space"):
            return b""
        if dialect.comment:
            data = re.sub(rb"(?m)^%s.*$" % re.escape(dialect.comment.encode()), b"", data)
        if dialect.delimiter == "space":
            data = re.sub(rb"[ \t]+", b" ", data)
            data = re.sub(rb"(?m)^ | (?=\r?$)", b"", data)
        return b"" if data.isspace() else data

    def rows(self, block: Block) -> Iterator[tuple[int, list[str]]]:
        """Yield fields of each row and the lines up to it; DataError names one of another width."""
        lines, line = io.StringIO(block.data.decode(), newline=""), 0
        try:
            for line, fields in self.dialect.fields(lines):
                if len(fields) != self.width:
                    msg = f"{self.source.where(block.offset, line - 1)}: {len(fields)} columns; "
                    raise DataError(msg + f"the first row has {self.width}")
                yield line, fields
        except csv.Error as error:
            msg = f"{self.source.where(block.offset, line)}: {error}"
            raise DataError(msg) from None

    def _python(self, block: Block, chosen: Sequence[int]) -> list[pa.Array]:
        import pyarrow as pa

        rows = [fields for _, fields in self.rows(block)]
        return [pa.array([fields[j] for fields in rows], pa.string()) for j in chosen]


def _blank(row: pa.csv.InvalidRow) -> str:
    return "error" if row.text.strip() else "skip"

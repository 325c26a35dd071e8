"""What every reader of tables returns: Arrow columns of a few types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from xpnet.data.files import one_line
from xpnet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from xpnet.data.columns import DateOrder

__all__ = ["Location", "RawTable", "located", "normalised", "readable"]


class Location(Protocol):
    """Names a row, or a value of it: "a.csv: line 7, column 3 ('age')"."""

    def __call__(self, row: int, column: int | None = None) -> str: ...


YEAR_1, YEAR_9999 = -62_135_596_800_000_000, 253_402_300_799_999_999  # in µs since 1970


@dataclass(frozen=True, eq=False)
class RawTable:
    """A table as its file holds it: Arrow columns, null where a value is missing.

    A column is bool, any integer, float or double, string or a dictionary of strings,
    timestamp("us") without a zone (UTC), or null; any other type is one that Arrow has no plain
    values for, such as a list, and is left as it is.
    """

    data: pa.Table  # column j by position; names may repeat
    names: tuple[str, ...] | None  # None: the file names no columns
    location: Location
    index: tuple[int, ...] = ()  # columns that the file itself calls the index of its rows
    notes: tuple[str, ...] = ()  # what was guessed of the format, in words
    dates: DateOrder = "auto"  # of the texts that were read as dates


def located(where: Any, names: tuple[str, ...] | None, base: str = "row") -> Location:
    """Return the location of rows that are only counted.

    >>> located("a.feather", ("age",))(6, 0)
    "a.feather: row 6, column 0 ('age')"
    """

    return partial(_place, where, names, base)


def _place(
    where: Any, names: tuple[str, ...] | None, base: str, row: int, column: int | None = None
) -> str:
    return f"{where}: {base} {row}{column_of(names, column)}"


def column_of(names: tuple[str, ...] | None, column: int | None) -> str:
    """Return the end of a location: the column by position and name."""
    if column is None:
        return ""
    name = f" ({names[column][:40]!r})" if names and names[column] else ""
    return f", column {column}{name}"


@contextmanager
def readable(path: Any, what: str) -> Iterator[None]:
    """Turn whatever Arrow raises for a damaged file (a dozen errors) into a DataError."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        msg = f"{path}: cannot be read as {what}: {one_line(error)}"
        raise DataError(msg) from error


def normalised(data: pa.Table) -> pa.Table:
    """Return a table with the types of :class:`RawTable`; raises ArrowInvalid if it is damaged."""
    import pyarrow as pa

    data.validate(full=True)  # texts that are no UTF-8 would be found out much later
    columns = [_normal(column) for column in data.columns]
    return pa.Table.from_arrays(columns, names=list(data.schema.names))


def _normal(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _normal(_storage(column))
    if types.is_decimal(kind) or types.is_float16(kind):
        return column.cast(pa.float64())
    if types.is_large_string(kind) or types.is_string_view(kind):
        return column.cast(pa.string())
    if types.is_run_end_encoded(kind):
        return _normal(
            pa.chunked_array([pc.run_end_decode(c) for c in column.chunks], kind.value_type)
        )
    if types.is_date(kind) or types.is_timestamp(kind):
        zone = getattr(kind, "tz", None)
        return _in_calendar(column.cast(pa.timestamp("us", zone), safe=False))
    if types.is_dictionary(kind):
        return _dictionary(column)
    return column


def _in_calendar(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return dates without their zone; raises DataError for years that no calendar has."""
    import pyarrow as pa
    import pyarrow.compute as pc

    extremes = pc.min_max(column.cast(pa.int64()))
    low, high = (extremes[end].as_py() for end in ("min", "max"))
    if low is not None and not YEAR_1 <= low <= high <= YEAR_9999:
        msg = "a date is before the year 1 or after 9999"
        raise DataError(msg)
    return column.cast(pa.timestamp("us"))


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return what an extension type, such as a UUID or JSON, is stored as."""
    import pyarrow as pa

    return pa.chunked_array([c.storage for c in column.chunks], column.type.storage_type)


def _dictionary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a dictionary of strings with indices of 32 bits, or the plain values of any other."""
    import pyarrow as pa
    from pyarrow import types

    values = column.type.value_type
    if types.is_string(values) or types.is_large_string(values) or types.is_string_view(values):
        return column.cast(pa.dictionary(pa.int32(), pa.string()))
    return _normal(column.cast(values))

"""From an Arrow column to the numbers of a feature: as they are, codes of levels, or seconds.

NaN is a missing value. A value that the levels of a category lack is -1; anything else that the
kind of a column does not allow is an error with its place.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, time
from typing import Any, Literal

import numpy as np

from xpnet.data.columns import MISSING, DateOrder, Kind, number
from xpnet.data.tables.values import year_first
from xpnet.errors import DataError

__all__ = [
    "UNSEEN",
    "Content",
    "Where",
    "coded",
    "content_of",
    "encoded",
    "feature",
    "level_text",
    "spellings",
    "values_of",
]

# What Arrow's type says; "other" are lists, structures and so on.
Content = Literal["number", "boolean", "date", "text", "nothing", "other"]
Where = Callable[[int], str]  # from a row to the place of its value, for a message

UNSEEN = -1
TEXT_REMEDY = {
    "python": "call it missing, TextFormat(missing=...), or correct it",
    "command": "call it missing, --set data.text.missing=[...], or correct it",
}


def content_of(column: Any) -> Content:
    """Return what an Arrow column holds."""
    import pyarrow as pa

    types, kind = pa.types, column.type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_boolean(kind):
        return "boolean"
    if types.is_integer(kind) or types.is_floating(kind):
        return "number"
    if types.is_timestamp(kind):
        return "date"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    return "nothing" if types.is_null(kind) else "other"


def level_text(value: Any) -> str:
    """Return the text of a value as a level of a category or the name of a class.

    >>> level_text(" a "), level_text(3.0), level_text(True), level_text(0.5)
    ('a', '3', 'True', '0.5')
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def values_of(column: Any) -> np.ndarray:
    """Return numbers in their own dtype, booleans as uint8, dates as seconds since 1970, float64.

    Where values are missing, all are float64, and these are NaN.
    """
    import pyarrow as pa

    content = content_of(column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if content == "boolean":
        column = column.cast(pa.uint8())
    elif content == "date":
        column = column.cast(pa.timestamp("us")).cast(pa.int64())
    if column.null_count:
        column = column.cast(pa.float64(), safe=False)
    values = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(False)
    return values / 1e6 if content == "date" else values


def feature(
    column: Any, kind: Kind, levels: Sequence[str], where: Where, dates: DateOrder = "auto"
) -> np.ndarray:
    """Return the numbers (N,) of a feature whose kind and levels are known.

    ``dates`` says what comes first in a text such as 3/2/2020, "day" or "month".

    Raises DataError for an infinite number, and for a value of another kind.
    """
    content = content_of(column)
    if content == "nothing":
        return np.full(len(column), np.nan)
    if kind in ("category", "boolean") and content != "other":
        return encoded(column, levels)
    if content == "text":
        return _spelled(column, kind, where, dates)
    if kind == content or (kind, content) == ("number", "boolean"):
        return _finite(values_of(column), where)
    row = int(np.argmax(column.is_valid()))
    raise _another_kind(column[row].as_py(), kind, where(row))


def coded(column: Any) -> tuple[list[Any], np.ndarray]:
    """Return the different values of an Arrow column, and the position of each row's among them.

    That of a missing value is their number, one after the last.
    """
    import pyarrow as pa

    if pa.types.is_null(column.type):
        return [], np.zeros(len(column), np.int64)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    if isinstance(column, pa.ChunkedArray):
        column = column.unify_dictionaries()
        parts = [chunk.indices for chunk in column.chunks]
        found = column.chunk(0).dictionary.to_pylist() if parts else []
        indices = pa.chunked_array(parts, pa.int32() if not parts else parts[0].type)
    else:
        found, indices = column.dictionary.to_pylist(), column.indices
    indices = indices.cast(pa.int64())
    if indices.null_count:
        indices = indices.fill_null(len(found))
    return found, indices.to_numpy()


def encoded(column: Any, levels: Sequence[str]) -> np.ndarray:
    """Return the code in ``levels`` of each value, float64; UNSEEN for one that is not in them.

    A number is also found by its value: 1 and 1.0 are the level "01", if no other spells it.
    """
    found, indices = coded(column)
    return np.array([*_lookup(found, levels), np.nan])[indices]


def spellings(levels: Sequence[str]) -> dict[str, int]:
    """Return the code in ``levels`` of each text that stands for one of them.

    >>> spellings(["1", "no"])
    {'1': 0, 'no': 1, '1.0': 0}
    """
    import pyarrow as pa

    texts = [t for level in levels for t in (level, level.lower(), level.upper())]
    codes = encoded(pa.array(texts, pa.string()), levels)
    found = {text: int(k) for text, k in zip(texts, codes, strict=True) if k >= 0}
    # The number that a level spells may be spelled otherwise.
    numbers = [n for level in levels if (n := number(level)) is not None and np.isfinite(n)]
    for n, k in zip(numbers, encoded(pa.array(numbers, pa.float64()), levels), strict=True):
        for text in (repr(n), f"{n:g}", *([str(int(n))] if n == int(n) else [])):
            if k >= 0:
                found.setdefault(text, int(k))
    return found


def _lookup(values: Sequence[Any], levels: Sequence[str]) -> list[float]:
    by_text = {level: k for k, level in enumerate(levels)}
    by_number, folded = dict[float, int](), dict[str, int]()
    boolean = {level.lower() for level in levels} <= {"true", "false"}
    for k, level in enumerate(levels):
        if (n := number(level)) is not None:
            by_number[n] = UNSEEN if n in by_number else k
        if boolean:
            folded[level.lower()] = by_number[float(level.lower() == "true")] = k

    def code(value: Any) -> float:
        if value is None or value != value:
            return np.nan
        text = level_text(value)
        if text in MISSING:
            return np.nan
        for spelled in (text, *_otherwise(value)):
            if spelled in by_text:
                return by_text[spelled]
        if boolean and text.lower() in folded:
            return folded[text.lower()]
        n = float(value) if isinstance(value, int | float) else None
        return UNSEEN if n is None else by_number.get(n, UNSEEN)

    return [code(value) for value in values]


def _otherwise(value: Any) -> list[str]:
    """Return how a boolean or a date may be written, too, among the texts of a category."""
    if isinstance(value, bool):
        return [str(value).lower(), str(value).upper()]
    if not isinstance(value, datetime):
        return []
    return [value.isoformat(), *([value.date().isoformat()] if value.time() == time() else [])]


def _finite(values: np.ndarray, where: Where) -> np.ndarray:
    if values.dtype.kind == "f" and (bad := np.isinf(values)).any():
        row = int(bad.argmax())
        msg = f"{where(row)}: {_shown(values[row])} is not a finite number"
        raise DataError(msg)
    return values


def _spelled(column: Any, kind: Kind, where: Where, dates: DateOrder) -> np.ndarray:
    """Return the numbers, or the dates, that texts spell."""
    import pyarrow as pa

    texts, indices = coded(column)
    spelled = [None if t is None else t.strip() for t in texts]
    if kind == "date":
        spelled = year_first(pa.array(spelled, pa.string()), dates).to_pylist()
    parse = number if kind == "number" else _seconds
    values = [np.nan if t is None or t in MISSING else parse(t) for t in spelled]
    bad = np.array([*(v is None or np.isinf(v) for v in values), False])[indices]
    if bad.any():
        row = int(bad.argmax())
        raise _another_kind(texts[indices[row]], kind, where(row), dates)
    return np.array([*(0.0 if v is None else v for v in values), np.nan])[indices]


def _seconds(text: str) -> float | None:
    """Return the seconds since 1970 of a date that is written as ISO 8601 says."""
    try:
        return float(np.datetime64(text, "us").astype(np.int64)) / 1e6
    except ValueError:
        return None


def _another_kind(value: Any, kind: Kind, where: str, dates: DateOrder = "auto") -> DataError:
    order = {"day": " as in the run, day, month, year", "month": " as in the run, month, day, year"}
    kinds = {"number": "a finite number", "date": "a date" + order.get(dates, "")}
    msg = f"{where}: {_shown(value)} is not {kinds.get(kind, 'a value of a category')}"
    return DataError(msg, **(TEXT_REMEDY if isinstance(value, str) else {}))


def _shown(value: Any) -> str:
    return repr(str(value)[:40])

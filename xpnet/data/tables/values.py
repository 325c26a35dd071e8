"""Texts to values: what type the cells of a text column have, and their conversion.

The type of a column is found block by block; :func:`join` gives the type of two blocks together, so
that the result is that of all rows, wherever the first surprise is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

    from xpnet.data.columns import DateOrder
    from xpnet.data.tables.dialect import Dialect

__all__ = [
    "NOTES",
    "arrow_type",
    "converted",
    "date_order",
    "inferred",
    "join",
    "notes_of",
    "number_type",
    "settled",
    "year_first",
]

# type -> the types that hold its values as well, narrowest first. "whole" are whole numbers that a
# double holds, "int" those that take 64 bits and "wide" more, which stay texts; in "rounded" some
# lose digits. Of "either" it is not known whether the day or the month comes first.
ABOVE = {
    "null": "bool whole int wide float rounded date either day month text",
    "bool": "text",
    "whole": "int wide float rounded text",
    "int": "wide rounded text",
    "wide": "rounded text",
    "float": "rounded text",
    "rounded": "text",
    "date": "text",
    "either": "day month text",
    "day": "text",
    "month": "text",
    "text": "",
}
NOTES = {
    "wide": "whole numbers of more than 18 digits are kept as text",
    "rounded": "whole numbers beyond 2^53 are rounded",
    "day": "dates are read as day, month, year",
    "month": "dates are read as month, day, year",
    "either": "these may be dates, day or month first, which the values do not show: kept as text; "
    "--set data.text.dates=day or month reads them",
}
NUMBERS = ("whole", "int", "float", "rounded")
EXACT = 2.0**53
TIME = r"(?:[ T]\d{2}:\d{2}(?::\d{2}(?:[.]\d+)?)?)?"
ZONE = r"(?:Z|[+-]\d{2}:?\d{2})"
YEAR_FIRST = rf"^\d{{4}}[-/.]\d{{2}}[-/.]\d{{2}}{TIME}$"
ZONED = rf"^\d{{4}}[-/.]\d{{2}}[-/.]\d{{2}}{TIME}{ZONE}$"
YEAR_LAST = (
    rf"^(?P<a>\d{{1,2}})(?P<mark>[/.-])(?P<b>\d{{1,2}})[/.-](?P<year>\d{{4}})(?P<time>{TIME})$"
)


def join(a: str, b: str) -> str:
    """Return the narrowest type that holds the values of both.

    >>> join("whole", "float"), join("null", "day"), join("int", "float"), join("bool", "whole")
    ('float', 'day', 'rounded', 'text')
    """
    theirs = {b, *ABOVE[b].split()}
    return next(t for t in (a, *ABOVE[a].split()) if t in theirs)


@cache
def arrow_type(kind: str) -> pa.DataType:
    """Return the Arrow type of the values of a column."""
    import pyarrow as pa

    if kind in ("date", "day", "month"):
        return pa.timestamp("us")
    plain = {"null": pa.null(), "bool": pa.bool_(), "whole": pa.int64(), "int": pa.int64()}
    numbers = {"float": pa.float64(), "rounded": pa.float64()}
    return {**plain, **numbers}.get(kind) or pa.string()


@cache
def _missing(texts: frozenset[str]) -> pa.compute.SetLookupOptions:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.SetLookupOptions(pa.array(sorted(texts), pa.string()))


def present(cells: pa.Array, dialect: Dialect) -> pa.Array:
    """Return texts without the blanks around them, null where they stand for a missing value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(cells)
    gone = pc.is_in(texts, options=_missing(dialect.missing))
    return pc.if_else(gone, pa.scalar(None, pa.string()), texts)


def inferred(cells: pa.Array, dialect: Dialect) -> str:
    """Return the type of the cells of one block of a column."""
    texts = present(cells, dialect).drop_null()
    if not len(texts):
        return "null"
    first = texts[0].as_py()
    if dialect.kind(first) == "number":
        values = _numbers(texts, dialect)
        return "text" if values is None else number_type(values, lambda: texts)
    if first.lower() in ("true", "false"):
        return "bool" if _all(texts, r"^(?i:true|false)$") else "text"
    return _date_type(texts, dialect.dates) if first[0].isdigit() else "text"


def number_type(values: pa.Array, texts: Callable[[], pa.Array]) -> str:
    """Return which numbers these doubles are; ``texts`` returns what spells them."""
    v = (values.drop_null() if values.null_count else values).to_numpy()
    if not len(v):
        return "null"
    whole = _whole(v[:64]) and (len(v) <= 64 or _whole(v))
    if v.min() > -EXACT and v.max() < EXACT:  # not of a NaN
        return "whole" if whole else "float"
    if not whole and not (np.abs(v[np.isfinite(v)]) >= EXACT).any():
        return "float"
    spelled = [t.strip() for t in texts().to_pylist() if t is not None]
    digits = [t for t in spelled if t.lstrip("+-").isdigit()]
    ints = [int(t) for t in digits if len(t) > 15]
    if len(digits) < len(spelled):
        return "rounded" if any(float(n) != n for n in ints) else "float"
    return "int" if all(-(2**63) <= n < 2**63 for n in ints) else "wide"


def _whole(v: np.ndarray) -> bool:
    return bool((np.isfinite(v) & (v == np.floor(v))).all())


def converted(cells: pa.Array, kind: str, dialect: Dialect) -> pa.Array:
    """Return the values of cells that are known to have this type."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = present(cells, dialect)
    if kind == "null":
        return pa.nulls(len(texts))
    if kind == "bool":
        return pc.equal(pc.ascii_lower(texts), "true")
    if kind == "int":
        return pa.array([None if t is None else int(t) for t in texts.to_pylist()], pa.int64())
    if kind in NUMBERS:
        values = _numbers(texts, dialect)
        assert values is not None
        return values.cast(arrow_type(kind), safe=False)
    if kind in ("date", "day", "month"):
        return _dates(texts, kind)
    return texts


def _all(texts: pa.Array, pattern: str) -> bool:
    import pyarrow.compute as pc

    return bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


def _numbers(texts: pa.Array, dialect: Dialect) -> pa.Array | None:
    """Return doubles, or None if one of the texts is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not dialect.thousands and dialect.decimal == ".":
        try:
            return texts.cast(pa.float64())  # takes what the pattern of a number does
        except pa.ArrowInvalid:
            return None
    if not _all(texts, dialect.number):
        return None
    if dialect.thousands:
        texts = pc.replace_substring(texts, dialect.thousands, "")
    if dialect.decimal != ".":
        texts = pc.replace_substring(texts, dialect.decimal, ".")
    return pc.replace_substring_regex(texts, r"^\+", "").cast(pa.float64())


def _date_type(texts: pa.Array, order: DateOrder) -> str:
    import pyarrow as pa
    import pyarrow.compute as pc

    if _all(texts, YEAR_FIRST) or _all(texts, ZONED):
        kind = "date"
    elif order == "text" or not _all(texts, YEAR_LAST):
        return "text"
    elif order != "auto":
        kind = order
    else:
        parts = pc.extract_regex(texts, YEAR_LAST)
        a, b = (pc.max(parts.field(j).cast(pa.int64())).as_py() for j in (0, 2))
        if min(a, b) <= 12 < max(a, b):
            kind = "day" if a > 12 else "month"
        elif max(a, b) <= 12 and pc.all(pc.equal(parts.field(1), ".")).as_py():
            kind = "day"  # 1.12.2020 is written with points where the day comes first
        else:
            return "either" if max(a, b) <= 12 else "text"
    try:
        _dates(texts, kind)
    except pa.ArrowInvalid:  # such as the 30th of February
        return "text"
    return kind


def _dates(texts: pa.Array, kind: str) -> pa.Array:
    """Return timestamps; raises ArrowInvalid for a day that does not exist."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = year_first(texts, kind)
    texts = pc.replace_substring_regex(texts, r"^(\d{4})[/.](\d{2})[/.](\d{2})", r"\1-\2-\3")
    texts = pc.replace_substring_regex(texts, r"([.]\d{6})\d+", r"\1")
    stamp = pa.timestamp("us")
    if len(present := texts.drop_null()) and _all(present, ZONED):
        return texts.cast(pa.timestamp("us", "UTC")).cast(stamp)
    return texts.cast(stamp)


def year_first(texts: pa.Array, kind: str) -> pa.Array:
    """Return dates, whose "day" or "month" comes first, as ISO 8601 writes them.

    What is no such date stays as it is, and so do all texts where ``kind`` is another.
    """
    import pyarrow.compute as pc

    if kind not in ("day", "month"):
        return texts
    parts = pc.extract_regex(texts, YEAR_LAST)
    a, _, b, year, time = (pc.struct_field(parts, [j]) for j in range(5))
    a, b = (pc.utf8_lpad(part, 2, "0") for part in (a, b))
    day, month = (a, b) if kind == "day" else (b, a)
    date = pc.binary_join_element_wise(year, month, day, "-")
    return pc.coalesce(pc.binary_join_element_wise(date, time, ""), texts)


def settled(kinds: Sequence[str]) -> list[str]:
    """Return the types of columns with dates of which it is not known what comes first decided.

    They are as those of the same file that do show it, if these agree.

    >>> settled(["either", "day", "text"]), settled(["either", "day", "month"])
    (['day', 'day', 'text'], ['either', 'day', 'month'])
    """
    order = date_order(kinds)
    return [order if kind == "either" and order in ("day", "month") else kind for kind in kinds]


def date_order(kinds: Sequence[str]) -> DateOrder:
    """Return in what order the dates of a file are, by the types of its columns.

    >>> date_order(["day", "whole"]), date_order(["either"]), date_order(["day", "month"])
    ('day', 'text', 'auto')
    """
    day, month = "day" in kinds, "month" in kinds
    if day != month:
        return "day" if day else "month"
    return "text" if "either" in kinds and not day else "auto"


def notes_of(kinds: Sequence[str], names: Sequence[Any] | None) -> list[str]:
    """Say in words what was decided about the values of columns."""
    said = []
    for kind, words in NOTES.items():
        columns = [names[j] if names else f"column {j}" for j, k in enumerate(kinds) if k == kind]
        if columns:
            more = f" and {len(columns) - 5} more" if len(columns) > 5 else ""
            said.append(f"{', '.join(map(str, columns[:5]))}{more}: {words}")
    return said

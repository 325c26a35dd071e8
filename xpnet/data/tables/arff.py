"""ARFF, the format of Weka and OpenML (Hall et al., SIGKDD Explorations 11, 2009), sparse too."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xpnet.data import files
from xpnet.data.tables.dialect import Dialect
from xpnet.data.tables.lines import Lines
from xpnet.data.tables.table import RawTable
from xpnet.data.tables.values import converted, inferred
from xpnet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_arff"]

QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
ATTRIBUTE = re.compile(rf"\s*@attribute\s+({QUOTED}|[^\s{{]+)\s*(.+)", re.IGNORECASE)
CELL = rf"(?:({QUOTED})\s*+|((?!['\"])[^,]*+))(?:,|$)"
VALUE = re.compile(rf"\s*+{CELL}")
SPARSE = re.compile(rf"\s*+(\d+)\s++{CELL}")
ISO = "yyyy-MM-dd'T'HH:mm:ss"
# Java's letters of a date format, which ARFF uses, and Python's.
DATES = {"yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S", "yy": "%y"}
NUMERIC = ("numeric", "real", "integer")


class Attribute(NamedTuple):
    """A column: its kind is numeric, nominal, string or date."""

    name: str
    kind: str
    levels: tuple[str, ...] = ()
    date: str = ""


def read_arff(path: Path) -> RawTable:
    """Read an ARFF file; nominal columns are dictionaries of their declared values, in order."""
    import pyarrow as pa

    lines = Lines(path)
    attributes = _header(lines)
    rows, size = [], 0
    for text in lines.rows("%"):
        rows.append(_row(text, attributes, lines))
        size += len(attributes)
        if size * 8 > files.MAX_BYTES:
            msg = f"{lines.where}: its values take more than {files.MAX_BYTES} bytes; split "
            raise DataError(msg + "the file")
    columns = zip(*rows, strict=True)
    data = [_column(a, list(c), lines) for a, c in zip(attributes, columns, strict=True)]
    names = tuple(a.name for a in attributes)
    table = pa.Table.from_arrays(data, names=list(names))
    return RawTable(table, names, lines.location(names))


def _header(lines: Lines) -> list[Attribute]:
    found: list[Attribute] = []
    for text in lines:
        word = text.strip().split(None, 1)
        if not word or text.lstrip().startswith("%"):
            continue
        match word[0].lower():
            case "@relation":
                continue
            case "@attribute":
                found.append(_attribute(text, lines))
            case "@data" if found:
                return found
            case _:
                msg = f"{lines.where}: expected @attribute or @data; got {text.strip()[:40]!r}"
                raise DataError(msg)
    msg = f"{lines.path}: no @data; is it an ARFF file?"
    raise DataError(msg)


def _attribute(text: str, lines: Lines) -> Attribute:
    match = ATTRIBUTE.match(text)
    name, kind = (_plain(match[1]), match[2].strip()) if match else ("", "")
    word = kind.lower().split(None, 1)[0] if kind else ""
    if kind.startswith("{") and kind.endswith("}"):
        try:
            values = tuple(_plain(v) for v in _values(kind[1:-1]))
        except ValueError:
            msg = f"{lines.where}: the values of {name!r} are quoted wrongly"
            raise DataError(msg) from None
        return Attribute(name, "nominal", values)
    if word in NUMERIC:
        return Attribute(name, "numeric")
    if word == "string":
        return Attribute(name, "string")
    if word == "date":
        return Attribute(name, "date", date=_format(_plain(kind[4:].strip()) or ISO, lines))
    msg = f"{lines.where}: unknown type of an attribute: {text.strip()[:60]!r}; known: numeric, "
    raise DataError(msg + "{a, b}, string, date")


def _format(java: str, lines: Lines) -> str:
    """Return the format of a date as Python writes it."""
    parts = re.findall(r"'([^']*)'|([A-Za-z]+)|([^A-Za-z']+)", java)
    if bad := [letters for _, letters, _ in parts if letters and letters not in DATES]:
        msg = f"{lines.where}: unknown letters {bad[0]!r} in the format of a date, {java!r}"
        raise DataError(msg)
    return "".join(DATES[w] if w else (a or b).replace("%", "%%") for a, w, b in parts)


def _values(text: str) -> list[str]:
    """Split a row at the commas outside of quotes."""
    if "'" not in text and '"' not in text:
        return [value.strip() for value in text.split(",")]
    values, at = [], 0
    while at < len(text):
        match = VALUE.match(text, at)
        if match is None:
            raise ValueError
        values.append(match[1] or match[2].strip())
        at = match.end()
    return [*values, ""] if text.rstrip().endswith(",") else values


def _plain(value: str) -> str:
    """Return a value without its quotes."""
    if value[:1] in ("'", '"') and value[-1:] == value[:1] and len(value) > 1:
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value


def _row(text: str, attributes: list[Attribute], lines: Lines) -> list[str | None]:
    """Return the cells of a row, None where "?" stands for a missing value."""
    try:
        if text.lstrip().startswith("{"):
            return _sparse(text.strip(), attributes)
        values = _values(text.strip())
    except (ValueError, IndexError):
        msg = f"{lines.where}: cannot be split into values: {text.strip()[:60]!r}"
        raise DataError(msg) from None
    if len(values) != len(attributes):
        msg = f"{lines.where}: {len(values)} columns; the header has {len(attributes)}"
        raise DataError(msg)
    return [None if v == "?" else _plain(v) for v in values]


def _sparse(text: str, attributes: list[Attribute]) -> list[str | None]:
    """Return a row of which only the values other than zero (the first level) are written."""
    row: list[str | None] = [a.levels[0] if a.levels else "0" for a in attributes]
    if not text.endswith("}"):
        raise ValueError
    at, inner = 0, text[1:-1].strip()
    while at < len(inner):
        match = SPARSE.match(inner, at)
        if match is None:
            raise ValueError
        value = match[2] or match[3].strip()
        row[int(match[1])] = None if value == "?" else _plain(value)
        at = match.end()
    return row


def _column(attribute: Attribute, cells: list[str | None], lines: Lines) -> pa.Array:
    import pyarrow as pa

    texts = pa.array(cells, pa.string())
    if attribute.kind == "string":
        return texts
    if attribute.kind == "numeric":
        plain = Dialect(missing=frozenset())
        _known(attribute, cells, lines, lambda cell: {"number": cell}[plain.kind(cell)])
        kind = inferred(texts, plain)
        return converted(texts, "rounded" if kind == "wide" else kind, plain)
    if attribute.kind == "date":
        dates = _known(attribute, cells, lines, lambda c: datetime.strptime(c, attribute.date))
        return pa.array([c and dates[c] for c in cells], pa.timestamp("us"))
    at = {level: k for k, level in enumerate(attribute.levels)}
    _known(attribute, cells, lines, at.__getitem__)
    codes = pa.array([None if c is None else at[c] for c in cells], pa.int32())
    return pa.DictionaryArray.from_arrays(codes, pa.array(attribute.levels, pa.string()))


def _known(
    attribute: Attribute, cells: list[str | None], lines: Lines, convert: Callable[[str], Any]
) -> dict[str, Any]:
    """Return each cell converted; raises DataError that names the first that cannot be."""
    known = dict[str, Any]()
    for row, cell in enumerate(cells):
        if cell is not None and cell not in known:
            try:
                known[cell] = convert(cell)
            except (ValueError, KeyError):
                where = f"{lines.line_of(row)}, column {attribute.name!r}"
                msg = f"{where}: {cell[:40]!r} is not a value of its type, {attribute.kind}"
                raise DataError(msg) from None
    return known

"""How a text file is written: delimiter, quotes, decimal comma, sniffed from its first rows."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from xpnet.data.columns import MISSING, DateOrder
from xpnet.errors import ConfigError
from xpnet.settings import Checked

__all__ = ["Dialect", "TextFormat", "names_in_comment", "sniffed", "top_comments"]

DELIMITERS = (",", "\t", ";", "|", "space")
SAMPLE = 200  # rows
FIELD = r"(?:^|[,;\t|])[ ]*{}"


@dataclass(frozen=True)
class TextFormat(Checked):
    """How a text file is written; what is "auto" is found out and said.

    ``delimiter`` is any character, or "space" for runs of blanks; ``thousands`` is never guessed.
    Lines that begin with ``comment`` are skipped; "auto" skips those with # or % at the top of the
    file. ``encoding`` "auto" is UTF-8, or UTF-16 by its byte order mark, else cp1252.
    ``missing`` are more texts that stand for a missing value, such as "-999". ``dates`` says what
    comes first in 3/2/2020: "day" or "month"; "auto" is what the values show, such as 13/2/2020.
    """

    delimiter: str = "auto"
    decimal: Literal["auto", ".", ","] = "auto"
    thousands: str = ""
    encoding: str = "auto"
    comment: str = "auto"
    quote: Literal["auto", '"', "'", "none"] = "auto"
    missing: tuple[str, ...] = ()
    dates: DateOrder = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delimiter not in ("auto", "space") and not _is_mark(self.delimiter):
            msg = "TextFormat.delimiter must be 'auto', 'space' or one character; got "
            raise ConfigError(msg + repr(self.delimiter))
        if self.thousands and not _is_mark(self.thousands):
            msg = f"TextFormat.thousands must be one character; got {self.thousands!r}"
            raise ConfigError(msg)
        if self.encoding != "auto":
            try:
                "".encode(self.encoding)
            except LookupError:
                msg = f"TextFormat.encoding is {self.encoding!r}, which is unknown"
                raise ConfigError(msg) from None


def _is_mark(text: str) -> bool:
    return len(text) == 1 and text not in '\r\n"0123456789+-' and text.isascii()


class Dialect(NamedTuple):
    """How a text file is written."""

    delimiter: str = ","  # a character, or "space"
    quote: str = '"'  # or "" for none
    decimal: str = "."
    thousands: str = ""
    comment: str = ""  # lines that begin with it are skipped, "" for none
    blanks: bool = False  # whether blanks precede a quote
    missing: frozenset[str] = frozenset(MISSING)
    dates: DateOrder = "auto"

    @property
    def number(self) -> str:
        """The regular expression of a number."""
        point, mark = re.escape(self.decimal), re.escape(self.thousands)
        digits = rf"(\d{{1,3}}({mark}\d{{3}})+|\d+)" if mark else r"\d+"
        return rf"^[+-]?(({digits}({point}\d*)?|{point}\d+)([eE][+-]?\d+)?|(?i:inf|infinity|nan))$"

    def kind(self, cell: str) -> Literal["null", "number", "text"]:
        """Return what a cell spells."""
        if cell in self.missing:
            return "null"
        return "number" if re.match(self.number, cell, re.ASCII) else "text"

    def fields(self, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of its last line, from 1, and the fields of each row that is not blank.

        Raises csv.Error.
        """
        space = self.delimiter == "space"
        reader = csv.reader(
            self._lines(lines),
            delimiter=" " if space else self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            skipinitialspace=space or self.blanks,
        )
        for fields in reader:
            if len(fields) > 1 or any(map(str.strip, fields)):
                yield reader.line_num, fields

    def _lines(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            if self.comment and line.startswith(self.comment):
                yield "\n"  # counts as a line
            elif self.delimiter == "space":
                yield line.replace("\t", " ").rstrip() + "\n"
            else:
                yield line


def sniffed(sample: str, form: TextFormat, tabs: bool) -> tuple[Dialect, list[str]]:
    """Return how a text is written, judged by its first rows, and what was guessed, in words.

    Of the delimiters that give all rows the same number of fields it is the one that makes most of
    them numbers.
    """
    missing = frozenset(MISSING).union(form.missing)
    comment = "" if form.comment == "auto" else form.comment
    quote = _quote(sample) if form.quote == "auto" else form.quote.replace("none", "")
    given = "\t" if tabs and form.delimiter == "auto" else form.delimiter
    found = []
    for delimiter in DELIMITERS if given == "auto" else (given,):
        decimals = (".", ",") if form.decimal == "auto" else (form.decimal,)
        for decimal in decimals:
            if len({delimiter, decimal, form.thousands}) == 3:
                blanks = bool(quote) and re.search(f"{re.escape(delimiter)} +{quote}", sample)
                marks = delimiter, quote, decimal, form.thousands, comment
                found.append(Dialect(*marks, bool(blanks), missing, form.dates))
    if not found:
        msg = f"TextFormat: delimiter {given!r}, decimal {form.decimal!r} and thousands "
        raise ConfigError(msg + f"{form.thousands!r} must be different characters")
    best = max(found, key=lambda dialect: _score(sample, dialect))
    said = []
    if given == "auto" and best.delimiter != ",":
        said.append(f"delimiter {best.delimiter!r}")
    if form.decimal == "auto" and best.decimal == ",":
        said.append("decimal comma")
    if form.quote == "auto" and best.quote == "'":
        said.append('quotes "\'"')
    return best, said


def top_comments(text: bytes) -> bytes:
    """Return the lines at the top of a text that are comments."""
    match = re.match(rb"(?:[ \t]*(?:[#%][^\r\n]*)?(?:\r\n|\r|\n))*", text)
    assert match is not None
    return match[0] if re.search(b"[#%]", match[0]) else b""


def names_in_comment(comment: str, dialect: Dialect, width: int) -> list[str] | None:
    """Return the names of columns that the last of the comments has, as NumPy writes them.

    >>> names_in_comment("# made by hand\\n# a,b\\n", Dialect(), 2)
    ['a', 'b']
    >>> names_in_comment("#,name\\n", Dialect(), 2)
    ['#', 'name']
    """
    line = [line for line in comment.splitlines() if line.strip()][-1]
    for text in (line, line.strip().lstrip("#%")):
        _, fields = next(dialect.fields([text.strip()]), (0, []))
        names = [name.strip() for name in fields]
        if len(names) == width > 1 and all(dialect.kind(name) == "text" for name in names):
            return [names[0].lstrip("#% ") or names[0], *names[1:]]
    return None


def _quote(sample: str) -> str:
    """Return "'" where every field that begins with it ends with it, too, and none with \"."""
    ends = r"[^'\n]*'[ ]*(?=[,;\t|\r\n]|$)"
    begun = len(re.findall(FIELD.format("'"), sample, re.MULTILINE))
    whole = len(re.findall(FIELD.format("'") + ends, sample, re.MULTILINE))
    double = re.search(FIELD.format('"'), sample, re.MULTILINE)
    return "'" if begun == whole > 0 and not double else '"'


def _score(sample: str, dialect: Dialect) -> tuple[float, float, float]:
    """Return how well a dialect fits: rows alike, fields that are numbers, plain fields."""
    rows = []
    try:
        for _, fields in dialect.fields(io.StringIO(sample, newline="")):
            rows.append(fields)
            if len(rows) > SAMPLE:
                break
    except csv.Error:
        return (0.0, 0.0, 0.0)
    if not rows:
        return (0.0, 0.0, 0.0)
    width, alike = Counter(map(len, rows)).most_common(1)[0]
    if width < 2:
        return (0.0, 0.0, 0.0)
    cells = [c.strip() for row in rows for c in row]
    kinds = Counter(map(dialect.kind, cells))
    texts, numbers = len(cells) - kinds["null"], kinds["number"]
    if dialect.delimiter == "space" and 2 * numbers < texts:
        return (0.0, 0.0, 0.0)
    others = re.compile(r"[,;\t|]".replace(dialect.delimiter, ""))
    plain = sum(not others.search(c) for c in cells) / len(cells)
    total = max(1, texts)
    return (alike / len(rows), round(numbers / total, 3), round(plain, 3))

"""What a page is made of: sections of cards, each with a chart or a table and a sentence on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = [
    "Card",
    "Cell",
    "Section",
    "Table",
    "Tile",
    "called",
    "listed",
    "number",
    "percent",
    "plural",
]


class Cell(NamedTuple):
    """A cell of a table with a bar or a shade of ``share``, from 0 to 1, behind its text."""

    text: str
    share: float = 0.0
    tone: str = "pos"  # or "neg"
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of texts or cells below a header; "<" or ">" of ``align`` for each column."""

    header: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    align: str
    name: str  # read to who cannot see it
    more: str = ""  # what is not shown
    dense: bool = False  # a matrix


class Tile(NamedTuple):
    """A number to see at a glance."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Card:
    """A chart, a table or markup, and a sentence that says what it shows on this run."""

    title: str
    parts: tuple[Any, ...]
    note: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page; ``lead`` is its message, ``per_row`` how many cards are side by side."""

    key: str
    title: str
    lead: str
    cards: tuple[Card, ...]
    per_row: int = 2


def number(value: float, digits: int = 3) -> str:
    r"""Return a number for people: so many significant digits, thousands grouped.

    >>> number(0.01234), number(1234567.0), number(2.5e-9), number(math.nan), number(98.0)
    ('0.0123', '1,234,567', '2.5e-9', 'not a number', '98')
    >>> number(-0.5) == "\u22120.5"
    True
    """
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    size = abs(value)
    if size >= 10**digits and size < 1e12:
        return f"{value:,.0f}".replace("-", "\u2212")
    text = f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return text.replace("-", "\u2212", 1) if value < 0 else text


def percent(share: float, digits: int = 1) -> str:
    r"""Return a share in percent; one that is not 0 or 1 is not rounded to it.

    The space does not break.

    >>> [percent(p).replace("\u202f", " ") for p in (0.9833, 1.0, 0.99999, 0.00001)]
    ['98.3 %', '100 %', 'over 99.9 %', 'under 0.1 %']
    """
    if not math.isfinite(share):
        return number(share)
    step = 10**-digits
    text = f"{100 * share:.{digits}f}"
    if share < 1 and float(text) >= 100:
        return f"over {100 - step:.{digits}f}\u202f%"
    if share > 0 and float(text) <= 0:
        return f"under {step:.{digits}f}\u202f%"
    return f"{100 * share:.0f}\u202f%" if share in (0, 1) else f"{text}\u202f%"


def called(name: str) -> str:
    """Return a class in a sentence, where a bare number would be read as a count.

    >>> called("setosa"), called("8")
    ('setosa', 'class 8')
    """
    return f"class {name}" if name.replace(".", "").lstrip("-").isdigit() else name


def plural(count: int, what: str, several: str = "") -> str:
    """Return a count with its noun.

    >>> plural(1, "row"), plural(2000, "row"), plural(2, "class", "classes")
    ('1 row', '2,000 rows', '2 classes')
    """
    return f"{count:,} {what if count == 1 else several or f'{what}s'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names as part of a sentence.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed(list("abcdefg"), 3)
    ('a, b and c', 'a', 'a, b, c and 4 more')
    """
    shown = list(names[:most])
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return " and ".join([*([", ".join(shown[:-1])] if shown[1:] else []), *shown[-1:]])

"""What the columns of a table are: features in their order, labels, a weight, what is left out.

A run keeps the :class:`Columns` of the table that it was trained on. Which columns these are is
decided in xpnet/data/wanted.py, their kinds in xpnet/data/kinds.py, and which columns of a later
file are the same in xpnet/data/matching.py.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, cast, get_args

from xpnet.errors import CheckpointError

__all__ = [
    "BOOLEAN",
    "LABEL_NAMES",
    "MISSING",
    "ROW_NUMBERS",
    "Columns",
    "DateOrder",
    "Described",
    "Kind",
    "MissingLabels",
    "RowNumbers",
    "counts_up",
    "kinds_of",
    "listed",
    "number",
]

RowNumbers = Literal["drop", "keep"]
MissingLabels = Literal["refuse", "drop"]
# What comes first in a date such as 3/2/2020; "text": nothing says so, and such dates stay texts.
DateOrder = Literal["auto", "day", "month", "text"]

Kind = Literal["number", "category", "boolean", "date", "text", "id", "constant"]
FEATURE_KINDS: tuple[Kind, ...] = ("number", "category", "boolean", "date")
BOOLEAN = ("False", "True")  # the levels of a boolean
# By default, a column of this name (in upper or lower case) holds the labels.
LABEL_NAMES = ("label", "class", "target", "y")
# Why a column that numbers the rows is left out.
ROW_NUMBERS = ("the index of pandas", "an index", "row numbers")
# What stands for a value that is not there: pandas' texts (its `read_csv`), and the ? of UCI.
MISSING = {
    *("", "?", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND"),
    *("1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "NAN", "NaT", "None", "n/a", "nan", "null"),
}
SHOWN = 10  # names in a line


def number(text: Any) -> float | None:
    """Return the number that ``text`` spells in ASCII, or None.

    >>> number(" 1e3 "), number("1_000"), number("")
    (1000.0, None, None)
    """
    if isinstance(text, str) and ("_" in text or not text.isascii()):
        return None
    try:
        return float(text)
    except (ValueError, OverflowError, TypeError):
        return None


def counts_up(names: Sequence[str]) -> bool:
    """Return whether these are 0, 1, 2, ..., as pandas names columns that have no names.

    >>> counts_up(["0", "1", "2"]), counts_up(["1", "2"])
    (True, False)
    """
    return list(names) == [str(j) for j in range(len(names))]


def listed(names: Sequence[Any]) -> str:
    """Return names for a message, the first of many."""
    return ", ".join(map(str, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")


class Described(NamedTuple):
    """A column of a table, for people: a row of the table that ``xpnet show FILE`` prints."""

    column: str
    kind: Kind
    missing: int
    distinct: str  # values, "10,000+" where nobody counted on
    values: str  # the range of numbers and dates, or examples
    use: str  # "feature", "label", "weight", or why it is left out


@dataclass(frozen=True)
class Columns:
    """The columns of a table, counted from 0."""

    features: tuple[int, ...]  # in the order in which the model takes them
    labels: tuple[int, ...] = ()
    names: tuple[str, ...] | None = None  # of all columns
    left_out: tuple[tuple[int, str], ...] = ()  # and why
    guess: str = ""  # why this column is the label, where nobody chose it
    notes: tuple[str, ...] = ()  # what else was decided, in words
    arrays: tuple[str, str] | None = None  # names, where the labels are an array of their own
    weight: int | None = None
    kinds: tuple[Kind, ...] = ()  # of the features; () of arrays, which are numbers without gaps
    levels: tuple[tuple[str, ...], ...] = ()  # of each feature: the values of a category, in order
    dates: DateOrder = "auto"  # what came first in the file's dates, such as 13/2/2020
    described: tuple[Described, ...] = ()  # every column, for people; not kept with a run

    @property
    def label(self) -> int | None:
        """The column of the labels, if there is just one."""
        return self.labels[0] if len(self.labels) == 1 else None

    @property
    def width(self) -> int:
        """The number of columns of the table."""
        return len(self._used)

    @property
    def _used(self) -> list[int]:
        weight = () if self.weight is None else (self.weight,)
        return [*self.features, *(j for j, _ in self.left_out), *self.labels, *weight]

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the features, in order, if the columns have names."""
        return None if self.names is None else tuple(self.names[j] for j in self.features)

    def noting(self, *notes: str) -> "Columns":
        """Return the same columns with more lines for the user."""
        return replace(self, notes=(*self.notes, *notes))

    def shown(self, column: int) -> str:
        """Return the name of a column on one line, or its position where it has none."""
        name = " ".join(self.names[column].split()) if self.names else ""
        return name or f"column {column}"

    def given(self, column: int) -> str | int:
        """Return what a setting names a column by."""
        return (self.names and self.names[column]) or column

    def lines(self, classes: Sequence[str] | None) -> list[str]:
        """Say in words which column is the label, what was guessed, and what is left out."""
        said = []
        names = [self.arrays[1]] if self.arrays else [self.shown(j) for j in self.labels]
        if any(names):
            why = f", {self.guess}" if self.guess else ""
            guess = ", a guess: --label chooses another" if self.guess else ""
            count = f"; {_count(len(self.features), 'feature')}" if self.labels else ""
            label = "label" if len(names) == 1 else "labels"
            said.append(f"{label}: {listed(names)}{why} ({_outcomes(classes)}){guess}{count}")
        if self.weight is not None:
            said.append(f"weight: {self.shown(self.weight)}")
        said += self.notes
        numbering = [(j, why) for j, why in self.left_out if why in ROW_NUMBERS]
        others = [(j, why) for j, why in self.left_out if why not in ROW_NUMBERS]
        if numbering:
            said.append(f"left out: {self._gone(numbering)}: data.row_numbers = 'keep' keeps it")
        if others:
            said.append(f"left out: {self._gone(others)}")
        return said + _alike(classes)

    def _gone(self, columns: list[tuple[int, str]]) -> str:
        return listed([f"{self.shown(j)} ({why})" for j, why in columns])

    def meta(self) -> dict[str, Any]:
        """Return it as JSON data, for :meth:`of`."""
        meta = asdict(self)
        del meta["described"]
        return meta

    @classmethod
    def of(cls, meta: Any) -> "Columns":
        """Build it from its :meth:`meta`, also of an earlier version, which had one label.

        Raises CheckpointError if that is invalid.
        """
        try:
            label = meta["labels"] if "labels" in meta else _one(meta["label"])
            columns = cls(
                tuple(meta["features"]),
                tuple(label),
                _texts(meta["names"]),
                tuple((j, str(why)) for j, why in meta["left_out"]),
                str(meta["guess"]),
                _texts(meta["notes"]) or (),
                cast(Any, _texts(meta["arrays"])),
                meta.get("weight"),
                cast(Any, _texts(meta.get("kinds", ()))),
                tuple(_texts(levels) or () for levels in meta.get("levels", ())),
                meta.get("dates", "auto"),
            )
            problem: object = columns._problem()
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            problem = error
        if problem:
            msg = f"the checkpoint's columns are invalid: {problem}"
            raise CheckpointError(msg)
        return columns

    def _problem(self) -> str:
        """Say what contradicts itself, or ""."""
        used, count = self._used, len(self.features)
        whole = all(type(j) is int for j in used) and sorted(used) == [*range(len(used))]
        if not whole or len(self.names or used) != len(used):
            return f"columns {listed(used)} of {len(self.names or used)}"
        if {*self.kinds} - {*FEATURE_KINDS} or len(self.kinds) not in (0, count):
            return f"kinds {listed(self.kinds)} of {count} features"
        if self.dates not in get_args(DateOrder):
            return f"dates {self.dates!r}"
        if len(self.levels) != len(self.kinds):
            return f"levels of {len(self.levels)} features"
        for kind, levels in zip(self.kinds, self.levels, strict=True):
            bad = {"category": len({*levels}) < len(levels), "boolean": levels != BOOLEAN}
            if bad.get(kind, bool(levels)):
                return f"{kind} of levels {listed(levels)}"
        return ""


def kinds_of(columns: Columns, features: int) -> tuple[Kind, ...]:
    """Return the kind of each feature; those of arrays are numbers."""
    plain: Kind = "number"
    return columns.kinds or (plain,) * features


def _one(label: int | None) -> tuple[int, ...]:
    return () if label is None else (label,)


def _outcomes(classes: Sequence[str] | None) -> str:
    return f"{_count(len(classes), 'class')}: {listed(classes)}" if classes else "numbers"


def _count(n: int, what: str) -> str:
    return f"1 {what}" if n == 1 else f"{n:,} {what}{'es' if what[-1] == 's' else 's'}"


def _alike(classes: Sequence[str] | None) -> list[str]:
    """Return a line for classes that may be one, spelled in two ways."""
    folded = dict[str, list[str]]()
    for name in classes or ():
        folded.setdefault(" ".join(name.casefold().split()), []).append(name)
    same = [names for names in folded.values() if len(names) > 1]
    return [f"classes that differ in their capitals alone: {listed(same[0])}"] if same else []


def _texts(value: Any) -> tuple[str, ...] | None:
    return None if value is None else tuple(str(v) for v in value)

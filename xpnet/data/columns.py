"""What the columns of a table are: features in their order, the label, and what is left out.

A run keeps the :class:`Columns` of the table that it was trained on, and every later table is
matched by them: by name first, by position where one of the two has no header. What is missing or
ambiguous is an error; the label is guessed once, in training, and said.

A reader knows nothing of this. It asks :meth:`Wanted.columns`, with the names of its columns and
with the cells of those that may be row numbers.
"""

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from xpnet.errors import CheckpointError, DataError
from xpnet.settings import did_you_mean

__all__ = ["LABEL_NAMES", "Columns", "MissingLabels", "RowNumbers", "Wanted", "counts_up", "number"]

RowNumbers = Literal["drop", "keep"]
MissingLabels = Literal["refuse", "drop"]
Cells = Callable[[int], Iterable[Any]]

# By default, a column of this name (in upper or lower case) holds the labels.
LABEL_NAMES = ("label", "class", "target", "y")
# As pandas and R write an index, as pandas reads that, and as R's own tables name it.
UNNAMED = re.compile(r"(Unnamed: \d+|row[._]?names?)?")
PANDAS_INDEX = re.compile(r"__index_level_\d+__")
COUNTERS = re.compile(
    r"(?i:id|index|idx|no\.?|nr\.?|row|row[_ ]?(names?|num|number|no))|.*(Id|ID|_id)"
)
MIN_COUNTED = 10  # rows without a header whose first column counts them
SHOWN = 10  # names in a line
LAST = "the last column"


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


@dataclass(frozen=True)
class Columns:
    """The columns of a table, counted from 0."""

    features: tuple[int, ...]  # in the order in which the model takes them
    label: int | None = None
    names: tuple[str, ...] | None = None  # of all columns
    left_out: tuple[tuple[int, str], ...] = ()  # and why
    guess: str = ""  # why this column is the label, where nobody chose it
    notes: tuple[str, ...] = ()  # what else was decided, in words
    arrays: tuple[str, str] | None = None  # names, where the labels are an array of their own

    @property
    def width(self) -> int:
        """The number of columns of the table."""
        return len(self.features) + len(self.left_out) + (self.label is not None)

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the features, in order, if the columns have names."""
        return None if self.names is None else tuple(self.names[j] for j in self.features)

    def noting(self, note: str) -> "Columns":
        """Return the same columns with one more line for the user."""
        return replace(self, notes=(*self.notes, note))

    def shown(self, column: int) -> str:
        """Return the name of a column, or its position where it has none."""
        return (self.names and self.names[column]) or f"column {column}"

    def lines(self, classes: Sequence[str] | None) -> list[str]:
        """Say in words which column is the label, what was guessed, and what is left out."""
        said = []
        name = self.arrays[1] if self.arrays else ""
        if name or self.label is not None:
            why = f", {self.guess}" if self.guess else ""
            guess = ", a guess: --label chooses another" if self.guess else ""
            count = f"; {_count(len(self.features), 'feature')}" if self.label is not None else ""
            name = name if self.label is None else self.shown(self.label)
            said.append(f"label: {name}{why} ({_kinds(classes)}){guess}{count}")
        said += self.notes
        if self.left_out:
            gone = ", ".join(f"{self.shown(j)} ({why})" for j, why in self.left_out)
            said.append(f"left out: {gone}: data.row_numbers = 'keep' keeps it")
        return said + _alike(classes)

    def not_numbers(self, column: int, problem: str) -> DataError:
        """Return the error for a feature that has no numbers: it may be the label."""
        if self.guess != LAST:
            return DataError(problem)
        given = self.names[column] if self.names else column
        return DataError(
            f"{problem}; is it the label?", python=f"label={given!r}", command=f"--label {given}"
        )

    def match(
        self,
        path: Any,
        names: tuple[str, ...] | None,
        width: int,
        label: str | int | None = "auto",
        index: Sequence[int] = (),
    ) -> "Columns":
        """Return which columns of another table are these, in this order.

        ``label`` is None for rows to predict, "auto" for the same label, else the column that holds
        the labels in that table; ``index`` are columns that count rows. Raises DataError for a
        column that is missing or ambiguous.
        """
        chosen = _stand_in(self, names) if label in (None, "auto") else None
        if label not in (None, "auto"):
            chosen = find_label(names, width, label, path)
        if names and self.names:
            features, found = self._by_name(path, names)
        else:
            usable = [j for j in range(width) if j not in index and j != chosen]
            features, found = self._by_position(path, usable, label is not None and chosen is None)
            self._check_header(path, names, found)
        column = found if chosen is None else chosen
        if column in features:
            msg = f"{path}: {label!r} is a feature of the run, and cannot be the label, too"
            raise DataError(msg)
        if label is None:
            found, column = column, None
        elif column is None:
            raise self._no_labels(path)
        rest = sorted({*range(width)} - {*features, column})
        return Columns(
            features,
            column,
            names,
            tuple((j, "not a column of the run") for j in rest),
            notes=self._notes(names, [j for j in rest if j != found]),
        )

    def _notes(self, names: tuple[str, ...] | None, rest: list[int]) -> tuple[str, ...]:
        """Say what was decided about a table of these names, of which ``rest`` is left out."""
        if not names or not self.names:
            one_sided = "columns are found by position: the run and this file do not both name them"
            return () if names == self.names else (one_sided,)
        known = {self.names[j] for j, _ in self.left_out}
        new = [repr(names[j]) for j in rest if names[j] not in known]
        return (f"left out, because the run was not trained on it: {_listed(new)}",) if new else ()

    def _by_name(self, path: Any, names: tuple[str, ...]) -> tuple[tuple[int, ...], int | None]:
        """Find the features and the label, which is None where it is missing."""
        assert self.names is not None
        if names == self.names:
            return self.features, self.label
        features = [self.names[j] for j in self.features]
        label = None if self.label is None else self.names[self.label]
        ours, theirs = Counter([*features, *([] if label is None else [label])]), Counter(names)
        if twice := [name for name in ours if max(ours[name], theirs[name]) > 1]:
            msg = f"{path}: several columns are named {twice[0]!r}; give each a name of its own"
            raise DataError(msg)
        at = {name: j for j, name in enumerate(names)}
        if missing := [name for name in features if name not in at]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            msg = f"{path}: no column {missing[0]!r}{more}; {did_you_mean(missing[0], names[:99])}"
            raise DataError(msg)
        return tuple(at[name] for name in features), None if label is None else at.get(label)

    def _by_position(
        self, path: Any, usable: list[int], labelled: bool
    ) -> tuple[tuple[int, ...], int | None]:
        """Find them in a table without names, whose width says what it holds."""
        label = () if self.label is None else (self.label,)
        bare = {self.features, (*self.features, *(j for j, _ in self.left_out))}
        whole = {(*some, *label) for some in bare}
        fits = [some for some in (whole if labelled else whole | bare) if len(some) == len(usable)]
        if len(fits) == 1:
            at = dict(zip(sorted(fits[0]), usable, strict=True))
            return tuple(at[j] for j in self.features), at.get(*label) if label else None
        if fits:
            msg = f"{path}: {len(usable)} columns without names, with or without the label? "
            raise DataError(msg + "write the header of the file that the run was trained on")
        if labelled and len(usable) in map(len, bare):
            raise self._no_labels(path)
        msg = f"{path}: features have shape ({len(usable)},); the run was trained on "
        raise DataError(msg + f"({len(self.features)},)")

    def _check_header(self, path: Any, names: tuple[str, ...] | None, label: int | None) -> None:
        """Refuse a header that contradicts the position at which the label is expected."""
        named = [j for j, name in enumerate(names or ()) if name.lower() in LABEL_NAMES[:-1]]
        if names and label is not None and named and label not in named:
            msg = f"{path}: column {named[0]} is {names[named[0]]!r}, but the run, which was "
            raise DataError(msg + f"trained on rows without a header, had its label at {label}")

    def _no_labels(self, path: Any) -> DataError:
        msg = f"{path}: has no labels to score against, only the features"
        if self.label is None:
            msg = f"{path}: which column holds the labels? the run does not know"
        elif self.names:
            msg += f" (no column {self.names[self.label]!r})"
        return DataError(msg, python="label= names another column", command="--label names another")

    def meta(self) -> dict[str, Any]:
        """Return it as JSON data, for :meth:`of`."""
        return asdict(self)

    @classmethod
    def of(cls, meta: Any) -> "Columns":
        """Build it from its :meth:`meta`; raises CheckpointError if that is invalid."""
        try:
            left_out = tuple((j, str(why)) for j, why in meta["left_out"])
            columns = cls(
                tuple(meta["features"]),
                meta["label"],
                _texts(meta["names"]),
                left_out,
                str(meta["guess"]),
                _texts(meta["notes"]) or (),
                cast(Any, _texts(meta["arrays"])),
            )
            label = () if columns.label is None else (columns.label,)
            used = [*columns.features, *(j for j, _ in left_out), *label]
            counted = all(type(j) is int for j in used) and sorted(used) == [*range(len(used))]
            if counted and len(columns.names or used) == len(used):
                return columns
            problem: object = f"columns {sorted(used)[:SHOWN]} of {columns.width}"
        except (LookupError, TypeError, ValueError) as error:
            problem = error
        msg = f"the checkpoint's columns are invalid: {problem}"
        raise CheckpointError(msg)


@dataclass(frozen=True)
class Wanted:
    """What is asked of a table, whatever its format.

    ``label`` is a column by name or position, "auto", or None for rows without labels; with
    ``like``, the columns of a run, "auto" is the label of that run.
    """

    label: str | int | None = "auto"
    like: Columns | None = None
    row_numbers: RowNumbers = "drop"
    missing_labels: MissingLabels = "refuse"

    def columns(
        self,
        path: Any,
        names: Sequence[str] | None,
        width: int,
        cells: Cells | None = None,
        index: Sequence[int] = (),
    ) -> Columns:
        """Return which of a table's columns are what; raises DataError that names ``path``.

        ``cells`` returns the values of a column, for those that may be row numbers; ``index`` are
        those that the file itself calls its index.
        """
        names = None if names is None else tuple(names)
        if self.like is not None:
            return self.like.match(path, names, width, self.label, index)
        auto = self.label in (None, "auto")
        label = None if auto else find_label(names, width, cast(Any, self.label), path)
        counted = {} if self.row_numbers == "keep" else _counted(names, width, cells, index)
        counted = {j: why for j, why in counted.items() if j != label}
        if len(counted) + (self.label is not None) >= width:
            counted = {}  # there is nothing else to learn from
        rest, guess = [j for j in range(width) if j not in counted], ""
        if self.label == "auto" and rest:
            label, guess = _guess(names, rest)
        features = tuple(j for j in rest if j != label)
        return Columns(features, label, names, tuple(counted.items()), guess)

    def is_header(self, first: Sequence[str]) -> bool | None:
        """Say whether the first row of a text file names columns; None if that is not certain."""
        names = [text.strip() for text in first]
        if self.label not in (None, "auto") and self.label in names and number(self.label) is None:
            return True
        ours = (self.like and self.like.names) or ()
        known = set((self.like and self.like.feature_names) or ())
        if known and known <= {*names}:
            here, there = {*names}, {*ours}
            theirs = [n for n in names if n in there or not UNNAMED.fullmatch(n)]
            if theirs == [n for n in ours if n in here] or None in map(number, known):
                return True
            msg = f"the first row, {_listed(names)}, may be a header or values; "
            raise DataError(msg + "write the columns in the order of the file trained on")
        unnamed = names[1:] if UNNAMED.fullmatch(names[0]) else names
        return True if len(unnamed) > 1 and counts_up(unnamed) else None


def counts_up(names: Sequence[str]) -> bool:
    """Return whether these are 0, 1, 2, ..., as pandas names columns that have no names.

    >>> counts_up(["0", "1", "2"]), counts_up(["1", "2"])
    (True, False)
    """
    return list(names) == [str(j) for j in range(len(names))]


def find_label(names: Sequence[str] | None, width: int, label: str | int, path: Any) -> int:
    """Return the column with the name, or else at the position, ``label``; DataError if none."""
    found = [j for j, name in enumerate(names or ()) if name == str(label)]
    if len(found) > 1:
        msg = f"{path}: line 1: several columns are named {label!r}"
        raise DataError(
            msg,
            python=f"pass a position, such as label={found[0]}",
            command=f"name it by its position, such as --set data.label={found[0]}",
        )
    if found:
        return found[0]
    try:
        column = int(label)
    except ValueError:
        raise _unknown_column(names, width, label, path) from None
    if not -width <= column < width:
        msg = f"{path}: no column {column}; its {width} columns are 0 to {width - 1}"
        raise DataError(msg)
    return column % width


def _unknown_column(
    names: Sequence[str] | None, width: int, label: str | int, path: Any
) -> DataError:
    if names:
        known = _listed([repr(name) for name in names])
        return DataError(f"{path}: no column {label!r}; its columns are {known}")
    return DataError(
        f"{path}: no column {label!r}; it has no header",
        python=f"pass a position, label=0 to label={width - 1}",
        command=f"name it by its position, --set data.label=0 to {width - 1}",
    )


def _guess(names: Sequence[str] | None, columns: Sequence[int]) -> tuple[int, str]:
    """Return which of these columns is taken for the label, and why."""
    lower = {j: names[j].strip().lower() for j in columns} if names else {}
    for name in LABEL_NAMES:
        for j in columns:
            if lower.get(j) == name:
                return j, "by its name"
    return columns[-1], LAST


def _stand_in(ours: Columns, names: Sequence[str] | None) -> int | None:
    """Return the column that is named as a label, where the run does not know its own."""
    if ours.label is not None:
        return None
    others = [j for j, name in enumerate(names or ()) if name not in (ours.feature_names or ())]
    named = [j for j in others if names and names[j].lower() in LABEL_NAMES]
    return named[0] if len(named) == 1 else None


def _counted(
    names: Sequence[str] | None, width: int, cells: Cells | None, index: Sequence[int]
) -> dict[int, str]:
    """Return the columns that number the rows, and why that is said of them."""
    found = dict.fromkeys(index, "the index of pandas")
    for j in range(width) if cells and names else ():
        if PANDAS_INDEX.fullmatch(names[j]):  # type: ignore[index]
            found[j] = "the index of pandas"
        elif UNNAMED.fullmatch(names[j]) and _is_index(cells(j)):  # type: ignore[index,misc]
            found[j] = "an index"
        elif COUNTERS.fullmatch(names[j]) and _counts(cells(j)):  # type: ignore[index,misc]
            found[j] = "row numbers"
    if cells and names is None and _counts(cells(0), in_order=True, least=MIN_COUNTED):
        found[0] = "row numbers"
    return found


def _counts(values: Iterable[Any], *, in_order: bool = False, least: int = 2) -> bool:
    """Return whether the values are 0 to n - 1 or 1 to n, in any order unless ``in_order``."""
    found = array("q")
    for value in values:
        n = number(value)
        if n is None or not 0 <= n < 2**53 or n != int(n):
            return False
        if in_order and n - len(found) != (found[0] if found else min(n, 1)):
            return False
        found.append(int(n))
    ordered = np.sort(np.array(found, np.int64))
    return len(found) >= least and ordered[0] < 2 and bool((np.diff(ordered) == 1).all())


def _is_index(values: Iterable[Any]) -> bool:
    """Return whether each value is another whole number or text, as the index of a table is."""
    seen = set()
    for value in values:
        n = number(value)
        if value in seen or (n is not None and n != n // 1):
            return False
        seen.add(value)
    return len(seen) > 1


def _listed(names: Sequence[Any]) -> str:
    """Return names for a message, the first of many."""
    return ", ".join(map(str, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")


def _kinds(classes: Sequence[str] | None) -> str:
    return f"{_count(len(classes), 'class')}: {_listed(classes)}" if classes else "numbers"


def _count(n: int, what: str) -> str:
    return f"1 {what}" if n == 1 else f"{n:,} {what}{'es' if what[-1] == 's' else 's'}"


def _alike(classes: Sequence[str] | None) -> list[str]:
    """Return a line for classes that may be one, spelled in two ways."""
    folded = dict[str, list[str]]()
    for name in classes or ():
        folded.setdefault(" ".join(name.casefold().split()), []).append(name)
    same = [names for names in folded.values() if len(names) > 1]
    return [f"classes that differ in their capitals alone: {_listed(same[0])}"] if same else []


def _texts(value: Any) -> tuple[str, ...] | None:
    return None if value is None else tuple(str(v) for v in value)

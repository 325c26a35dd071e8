"""What is asked of a table, whatever its format: which columns are labels, weight, features.

The label is guessed once, in training, and said; a later table is matched to the run's columns
(xpnet/data/matching.py). A reader knows nothing of this. It asks :meth:`Wanted.is_header`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xpnet.data.columns import (
    LABEL_NAMES,
    Columns,
    MissingLabels,
    RowNumbers,
    counts_up,
    listed,
    number,
)
from xpnet.data.matching import matched
from xpnet.data.parts import Part
from xpnet.data.row_numbers import UNNAMED, Cells, row_numbers
from xpnet.errors import DataError
from xpnet.settings import did_you_mean

__all__ = ["Column", "Label", "Task", "Wanted", "find_column", "only_train", "refuse_kinds"]

Task = Literal["classification", "regression", "multilabel"]
Column = str | int  # its name, or else its position
Label = Column | Sequence[Column] | None

LAST = "the last column"


@dataclass(frozen=True)
class Wanted:
    """What is asked of a table.

    ``label`` is a column by name or position, or several, "auto", or None for rows without labels;
    with ``like``, the columns of a run, "auto" is the label of that run. ``numeric`` and
    ``category`` name columns whose kind is not to be guessed, ``ignore`` those to leave out.
    """

    label: Label = "auto"
    like: Columns | None = None
    row_numbers: RowNumbers = "drop"
    missing_labels: MissingLabels = "refuse"
    ignore: tuple[Column, ...] = ()
    numeric: tuple[Column, ...] = ()
    category: tuple[Column, ...] = ()
    weight: Column | None = None
    array: str | None = None  # of an .npz file: the features
    part: Part = "train"  # of an archive or a folder that is divided into parts
    image_size: Sequence[int] | None = None  # height and width, to which images are resized

    @property
    def chosen(self) -> tuple[Column, ...]:
        """The labels that somebody chose, by name or position."""
        if self.label in (None, "auto"):
            return ()
        several = isinstance(self.label, Sequence) and not isinstance(self.label, str)
        return tuple(self.label) if several else (self.label,)  # type: ignore[arg-type,return-value]

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
        labels = [find_column(names, width, label, path, "label") for label in self.chosen]
        if len({*labels}) < len(labels):
            msg = f"{path}: a label is named twice: {listed([repr(n) for n in self.chosen])}"
            raise DataError(msg)
        if self.like is not None:
            labelled, chosen = self.label is not None, labels or None
            return matched(
                self.like, path, names, width, labelled=labelled, chosen=chosen, index=index
            )
        weight = None if self.weight is None else self._find(names, width, path, "weight")[0]
        left_out = dict.fromkeys(self._find(names, width, path, "ignore"), "ignored")
        if clash := {*labels, weight} & {*left_out} or {*labels} & {weight}:
            name = self._name(names, clash)
            msg = f"{path}: column {name!r} is to be two of these: label, weight, ignored"
            raise DataError(msg)
        if self.row_numbers == "drop":
            kept = {*labels, weight, *self.kept(names, width, path)}
            found = row_numbers(names, width, cells, index)
            numbering = {j: why for j, why in found.items() if j not in {*left_out, *kept}}
            used = len(left_out) + (weight is not None) + max(len(labels), self.label is not None)
            if len(numbering) + used < width:  # else there is nothing else to learn from
                left_out = numbering | left_out
        rest, guess = [j for j in range(width) if j not in left_out and j != weight], ""
        if self.label == "auto" and rest:
            label, guess = _guess(names, rest)
            labels = [label]
        features = tuple(j for j in rest if j not in labels)
        ordered = tuple(sorted(left_out.items()))
        return Columns(features, tuple(labels), names, ordered, guess, weight=weight)

    def _find(self, names: Sequence[str] | None, width: int, path: Any, setting: str) -> list[int]:
        """Return the columns that a setting names."""
        given = getattr(self, setting)
        several = given if isinstance(given, tuple) else (given,)
        return [find_column(names, width, column, path, setting) for column in several]

    def kept(self, names: Sequence[str] | None, width: int, path: Any) -> dict[int, Any]:
        """Return the columns whose kind somebody chose, "number" or "category"."""
        kinds = dict.fromkeys(self._find(names, width, path, "numeric"), "number")
        categories = dict.fromkeys(self._find(names, width, path, "category"), "category")
        if clash := kinds.keys() & categories:
            name = self._name(names, clash)
            msg = f"{path}: column {name!r} is to be numeric and a category, too"
            raise DataError(msg)
        return kinds | categories

    def _name(self, names: Sequence[str] | None, columns: Any) -> str | int:
        column: int = min(j for j in columns if j is not None)
        return names[column] if names else column

    def is_header(self, first: Sequence[str]) -> bool | None:
        """Say whether the first row of a text file names columns; None if that is not certain."""
        names = [text.strip() for text in first]
        asked = (*self.chosen, *self.ignore, *self.numeric, *self.category, self.weight)
        if any(name in names and number(name) is None for name in asked if name is not None):
            return True
        ours = (self.like and self.like.names) or ()
        known = set((self.like and self.like.feature_names) or ())
        if known and known <= {*names}:
            here, there = {*names}, {*ours}
            theirs = [n for n in names if n in there or not UNNAMED.fullmatch(n)]
            if theirs == [n for n in ours if n in here] or None in map(number, known):
                return True
            msg = f"the first row, {listed(names)}, may be a header or values; "
            raise DataError(msg + "write the columns in the order of the file trained on")
        unnamed = names[1:] if UNNAMED.fullmatch(names[0]) else names
        return True if len(unnamed) > 1 and counts_up(unnamed) else None


def refuse_kinds(path: Path, wanted: Wanted) -> None:
    """Raise DataError where something is asked of the columns of an array that is for tables."""
    is_table = path.suffix.lower() == ".npy" and not str(wanted.label).endswith(".npy")
    asked: dict[str, object] = {"numeric": wanted.numeric, "category": wanted.category}
    asked |= {} if is_table else {"ignore": wanted.ignore, "weight": wanted.weight is not None}
    if given := [name for name, value in asked.items() if value]:
        msg = f"{path}: {given[0]} is for tables, which have columns of several kinds"
        raise DataError(msg)


def only_train(wanted: Wanted) -> str:
    """Say, for a file that a run reads later, that of its parts the first is read."""
    return "; of them, train is read" if wanted.like is not None else ""


# How a column is chosen: the setting, as an argument and as an option of the command line.
OPTIONS = {
    "label": ("label={}", "--label {}"),
    "weight": ("weight={}", "--weight {}"),
    "ignore": ("ignore=[{}]", "--ignore {}"),
    "numeric": ("numeric=[{}]", "--numeric {}"),
    "category": ("category=[{}]", "--category {}"),
}


def find_column(
    names: Sequence[str] | None, width: int, column: Column, path: Any, setting: str
) -> int:
    """Return the column with the name, or else at the position, ``column``; DataError if none.

    ``setting`` names the argument that says so: label, weight, ignore, numeric or category.
    """
    python, command = OPTIONS[setting]
    found = [j for j, name in enumerate(names or ()) if name == str(column)]
    if len(found) > 1:
        msg = f"{path}: line 1: several columns are named {column!r}"
        raise DataError(
            msg,
            python=f"pass a position, such as {python.format(found[0])}",
            command=f"name it by its position, such as {command.format(found[0])}",
        )
    if found:
        return found[0]
    try:
        position = int(column)
    except ValueError:
        pass
    else:
        if -width <= position < width:
            return position % width
        msg = f"{path}: no column {position}; its {width} columns are 0 to {width - 1}"
        raise DataError(msg)
    if names:
        msg = f"{path}: no column {column!r}; {did_you_mean(str(column), [*map(str, names[:99])])}"
        raise DataError(msg)
    positions = python.format(0), python.format(width - 1)
    msg = f"{path}: no column {column!r}; it has no header"
    raise DataError(
        msg,
        python=f"pass a position, {' to '.join(positions)}",
        command=f"name it by its position, {command.format(0)} to {width - 1}",
    )


def _guess(names: Sequence[str] | None, columns: Sequence[int]) -> tuple[int, str]:
    """Return which of these columns is taken for the label, and why."""
    lower = {j: names[j].strip().lower() for j in columns} if names else {}
    for name in LABEL_NAMES:
        for j in columns:
            if lower.get(j) == name:
                return j, "by its name"
    return columns[-1], LAST

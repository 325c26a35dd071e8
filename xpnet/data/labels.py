"""Conversion of the labels in a file to class indices or regression targets."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpnet.data.columns import MISSING, Columns, number
from xpnet.data.dataset import chunks
from xpnet.errors import DataError

__all__ = [
    "DROP",
    "MISSING",
    "REGRESSION",
    "Labels",
    "Table",
    "check_finite",
    "check_weights",
    "encode",
    "targets",
    "without_missing",
]

# The remedy, for DataError, where labels look like regression targets.
REGRESSION = {
    "python": 'pass task="regression" and train with MeanSquaredError()',
    "command": "--set data.task=regression --set loss.name=mean_squared_error",
}
OTHER_LABEL = {
    "python": "; if another column is the label, name it: label=...",
    "command": "; if another column is the label, name it: --label",
}
DROP = {
    "python": 'missing_labels="drop" leaves such rows out',
    "command": "--set data.missing_labels=drop leaves such rows out",
}


class Labels(NamedTuple):
    """Labels of N rows: that of row n is ``values[codes[n]]``, a text or a number."""

    values: Sequence[Any]
    codes: np.ndarray  # (N,)

    @classmethod
    def of(cls, labels: np.ndarray) -> "Labels":
        """Encode an array (N,) of numbers, strings or UTF-8 bytes, or of such objects."""
        if labels.dtype.kind == "O":
            return cls.of_objects(labels)
        values, codes = np.unique(labels, return_inverse=True)
        if labels.dtype.kind == "S":
            values = np.char.decode(values, "utf-8", "replace")
        return cls(values.tolist(), codes.reshape(-1))

    @classmethod
    def of_objects(cls, labels: np.ndarray) -> "Labels":
        """Encode plain values of any type; 1, 1.0 and True are three, and NaN is None."""
        values = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in labels]
        values = [None if v != v else v for v in values]
        known: dict[tuple[type, Any], int] = {}
        codes = [known.setdefault((type(v), v), len(known)) for v in values]
        return cls([value for _, value in known], np.asarray(codes, np.intp))


class Table(NamedTuple):
    """What the reader of a file format returns."""

    x: np.ndarray  # (N, ...)
    labels: Labels | np.ndarray | None  # an array only for targets (N, J)
    location: Callable[[int], str]  # names a row in an error
    columns: Columns | None = None
    weight: np.ndarray | None = None  # (N,) float64


def check_weights(weight: np.ndarray, location: Callable[[int], str]) -> None:
    """Raise DataError that names the first weight that is missing, negative or infinite."""
    bad = ~(np.isfinite(weight) & (weight >= 0))
    if bad.any():
        row = int(bad.argmax())
        got = "missing" if np.isnan(weight[row]) else f"{weight[row]:g}"
        msg = f"{location(row)}: the weight is {got}; weights are finite and at least 0"
        raise DataError(msg)
    if not weight.any():
        msg = f"{location(0)}: all weights are 0"
        raise DataError(msg)


def check_finite(table: Table) -> None:
    """Raise DataError that names the first feature that is not a finite number."""
    x = table.x
    for rows in chunks(x) if x.dtype.kind == "f" else ():
        good = np.isfinite(x[rows]).reshape(len(x[rows]), -1)
        if not good.all():
            row, column = (int(i) for i in np.argwhere(~good)[0])
            value = x[rows].reshape(len(good), -1)[row, column]
            names = table.columns and table.columns.feature_names
            name = f" ({names[column]!r})" if names else ""
            msg = f"{table.location(rows.start + row)}, feature {column}{name}: "
            raise DataError(msg + f"{value} is not a finite number")


def encode(
    labels: Labels,
    classes: Sequence[str] | None,
    location: Callable[[int], str],
    columns: Columns | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return class indices int32 (N,) and the names of the classes.

    Classes are sorted, as numbers if all labels are whole numbers, else as texts. Labels are looked
    up among ``classes`` if these are given. True and false are the same in any capitals. Raises
    DataError that names the first row whose label is missing, unknown or a fraction, which asks
    whether the label is another of the ``columns`` where it was guessed.
    """
    raw = [_text(v) for v in labels.values]
    numbers = [number(v) for v in labels.values]
    boolean = {v.lower() for v in (*raw, *(classes or ()))} <= {"true", "false"}
    numeric = not boolean and all(n is not None for n in numbers)
    key = str.lower if boolean else str

    def refuse(bad: list[bool], problem: str, **remedy: str) -> None:
        rows = np.asarray(bad, bool)[labels.codes]
        if rows.any():
            row = int(rows.argmax())
            value = labels.values[labels.codes[row]]
            label = "the label" if value is None else f"label {_shown(_text(value))}"
            msg = f"{location(row)}: {label} {problem}"
            raise DataError(msg, **remedy)

    refuse([v in MISSING for v in raw], "is missing", **(DROP if classes is None else {}))
    names = raw
    if boolean and len(set(map(key, raw))) < len(set(raw)):
        names = [key(v) for v in raw]
    if numeric:
        whole = [math.isfinite(n) and n == int(n) for n in numbers if n is not None]
        ask = classes is None  # a model with known classes is no regression
        problem = "is not a whole number" + ("; is this a regression?" if ask else "")
        other = OTHER_LABEL if columns and columns.guess else dict.fromkeys(REGRESSION, "")
        remedy = {key: REGRESSION[key] + other[key] for key in REGRESSION}
        refuse([not w for w in whole], problem, **(remedy if ask else {}))
        names = [_integer(v) for v in labels.values]
    if classes is None:
        classes = sorted(set(names), key=int if numeric else str)
    index = {key(name): k for k, name in enumerate(classes)}
    codes = [index.get(key(a), index.get(b, -1)) for a, b in zip(raw, names, strict=True)]
    known = ", ".join(map(_shown, classes[:10])) + (", ..." if len(classes) > 10 else "")
    refuse([c < 0 for c in codes], f"is not among the {len(classes)} known classes ({known})")
    return np.asarray(codes, np.int32)[labels.codes], tuple(classes)


def without_missing(table: Table) -> Table:
    """Return the rows of a table that have a label, with a note that counts the others."""
    labels = table.labels
    if isinstance(labels, Labels):
        gone = np.asarray([_text(v) in MISSING for v in labels.values], bool)[labels.codes]
    elif labels is not None and labels.dtype.kind == "f":
        gone = np.isnan(labels).reshape(len(labels), -1).any(axis=1)
    else:
        return table
    rows = np.flatnonzero(~gone)
    if len(rows) == len(gone):
        return table
    if not len(rows):
        msg = f"{table.location(0)}: no row has a label"
        raise DataError(msg)
    kept: Labels | np.ndarray = labels[rows] if isinstance(labels, np.ndarray) else labels
    if isinstance(kept, Labels):
        used, codes = np.unique(kept.codes[rows], return_inverse=True)
        kept = Labels([kept.values[k] for k in used], codes)
    note = f"dropped {len(gone) - len(rows):,} of {len(gone):,} rows, which have no label"
    return Table(
        table.x[rows],
        kept,
        lambda row: table.location(int(rows[row])),
        table.columns and table.columns.noting(note),
        None if table.weight is None else table.weight[rows],
    )


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else str(value)


def _shown(value: Any) -> str:
    """Return ``value`` for a message: short, quoted and on one line."""
    return repr(str(value)[:40])


def _integer(value: Any) -> str:
    try:
        return str(int(value))
    except ValueError:  # a text such as "3.0"
        return str(int(float(value)))


def targets(labels: Labels | np.ndarray, location: Callable[[int], str]) -> np.ndarray:
    """Return regression targets, float64 (N,) or (N, J); DataError names the first bad row."""
    if isinstance(labels, Labels):
        numbers = [number(v) for v in labels.values]
        values = np.asarray([np.nan if n is None else n for n in numbers])[labels.codes]
    elif labels.dtype.kind in "fiub":
        values = labels.astype(np.float64)
    else:
        msg = f"{location(0)}: regression targets must be numbers; got {labels.dtype}"
        raise DataError(msg)
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not bad.any():
        return values
    row = int(bad.argmax())
    if isinstance(labels, Labels):
        shown = labels.values[labels.codes[row]]
        gone = _text(shown) in MISSING
    else:
        shown, gone = values[row], bool(np.isnan(values[row]).any())
    if gone:
        msg = f"{location(row)}: the target is missing"
        raise DataError(msg, **DROP)
    msg = f"{location(row)}: target {_shown(shown)} is not a finite number"
    raise DataError(msg)

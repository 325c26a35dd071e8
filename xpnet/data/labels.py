"""Conversion of the labels in a file to class indices or regression targets."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpnet.data.dataset import chunks
from xpnet.errors import DataError

__all__ = [
    "LABEL_NAMES",
    "REGRESSION",
    "Labels",
    "Table",
    "check_finite",
    "encode",
    "find_label",
    "number",
    "targets",
]

# By default, a column of this name (in upper or lower case) holds the labels.
LABEL_NAMES = ("label", "class", "target", "y")
# The remedy, for DataError, where labels look like regression targets.
REGRESSION = {
    "python": 'pass task="regression" and train with MeanSquaredError()',
    "command": "--set data.task=regression --set loss.name=mean_squared_error",
}


class Labels(NamedTuple):
    """Labels of N rows: that of row n is ``values[codes[n]]``, a text or a number."""

    values: Sequence[Any]
    codes: np.ndarray  # (N,)

    @classmethod
    def of(cls, labels: np.ndarray) -> "Labels":
        """Encode an array (N,) of numbers, strings or UTF-8 bytes."""
        values, codes = np.unique(labels, return_inverse=True)
        if labels.dtype.kind == "S":
            values = np.char.decode(values, "utf-8", "replace")
        return cls(values.tolist(), codes.reshape(-1))


class Table(NamedTuple):
    """What the reader of a file format returns."""

    x: np.ndarray  # (N, ...)
    labels: Labels | np.ndarray | None  # an array only for targets (N, J)
    location: Callable[[int], str]  # names a row in an error
    feature_names: tuple[str, ...] | None = None


def check_finite(table: Table) -> None:
    """Raise DataError that names the first feature that is not a finite number."""
    x = table.x
    for rows in chunks(x) if x.dtype.kind == "f" else ():
        good = np.isfinite(x[rows]).reshape(len(x[rows]), -1)
        if not good.all():
            row, column = (int(i) for i in np.argwhere(~good)[0])
            value = x[rows].reshape(len(good), -1)[row, column]
            name = f" ({table.feature_names[column]!r})" if table.feature_names else ""
            msg = f"{table.location(rows.start + row)}, feature {column}{name}: "
            raise DataError(msg + f"{value} is not a finite number")


def number(text: Any) -> float | None:
    """Return the number that ``text`` spells in ASCII, or None.

    >>> number(" 1e3 "), number("1_000"), number("")
    (1000.0, None, None)
    """
    if isinstance(text, str) and ("_" in text or not text.isascii()):
        return None
    try:
        return float(text)
    except (ValueError, OverflowError):
        return None


def find_label(names: Sequence[str] | None, width: int, label: str | int, path: Any) -> int:
    """Return the label column by its name or position, or (``"auto"``) the default one."""
    if label == "auto":
        lower = [n.strip().lower() for n in names or ()]
        named = [lower.index(n) for n in LABEL_NAMES if n in lower]
        return named[0] if named else width - 1
    if names and label in names:
        found = [j for j, name in enumerate(names) if name == label]
        if len(found) > 1:
            msg = f"{path}: line 1: several columns are named {label!r}"
            raise DataError(
                msg,
                python=f"pass a position, such as label={found[0]}",
                command=f"name it by its position, such as --set data.label={found[0]}",
            )
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
        known = ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")
        return DataError(f"{path}: no column {label!r}; its columns are {known}")
    return DataError(
        f"{path}: no column {label!r}; it has no header",
        python=f"pass a position, label=0 to label={width - 1}",
        command=f"name it by its position, --set data.label=0 to {width - 1}",
    )


def encode(
    labels: Labels, classes: Sequence[str] | None, location: Callable[[int], str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return class indices int32 (N,) and the names of the classes.

    Classes are sorted, as numbers if all labels are whole numbers, else as texts. Labels are looked
    up among ``classes`` if these are given. Raises DataError that names the first row whose label
    is missing, unknown or a fraction.
    """
    raw = [v.strip() if isinstance(v, str) else str(v) for v in labels.values]
    numbers = [number(v) for v in labels.values]
    numeric = all(n is not None for n in numbers)

    def refuse(bad: list[bool], problem: str, **remedy: str) -> None:
        rows = np.asarray(bad, bool)[labels.codes]
        if rows.any():
            row = int(rows.argmax())
            msg = f"{location(row)}: label {_shown(raw[labels.codes[row]])} {problem}"
            raise DataError(msg, **remedy)

    refuse([v == "" or v.lower() == "nan" for v in raw], "is missing")
    names = raw
    if numeric:
        whole = [math.isfinite(n) and n == int(n) for n in numbers if n is not None]
        ask = classes is None  # a model with known classes is no regression
        problem = "is not a whole number" + ("; is this a regression?" if ask else "")
        refuse([not w for w in whole], problem, **(REGRESSION if ask else {}))
        names = [_integer(v) for v in labels.values]
    if classes is None:
        classes = sorted(set(names), key=int if numeric else str)
    index = {name: k for k, name in enumerate(classes)}
    codes = [index.get(a, index.get(b, -1)) for a, b in zip(raw, names, strict=True)]
    known = ", ".join(map(_shown, classes[:10])) + (", ..." if len(classes) > 10 else "")
    refuse([c < 0 for c in codes], f"is not among the {len(classes)} known classes ({known})")
    return np.asarray(codes, np.int32)[labels.codes], tuple(classes)


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
    if bad.any():
        row = int(bad.argmax())
        shown = labels.values[labels.codes[row]] if isinstance(labels, Labels) else values[row]
        msg = f"{location(row)}: target {_shown(shown)} is not a finite number"
        raise DataError(msg)
    return values

"""From labels as files hold them to class indices or regression targets."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpnet.data.dataset import chunks
from xpnet.errors import DataError

__all__ = [
    "LABEL_NAMES",
    "Labels",
    "Table",
    "check_finite",
    "encode",
    "find_label",
    "number",
    "targets",
]

# Without other orders, a column of this name (in any case) holds the labels.
LABEL_NAMES = ("label", "class", "target", "y")


class Labels(NamedTuple):
    """Labels of N rows: row n has ``values[codes[n]]``, a text or a number."""

    values: Sequence[Any]
    codes: np.ndarray  # (N,)

    @classmethod
    def of(cls, labels: np.ndarray) -> "Labels":
        """Take apart an array (N,) of numbers, strings or UTF-8 bytes."""
        values, codes = np.unique(labels, return_inverse=True)
        if labels.dtype.kind == "S":
            values = np.char.decode(values, "utf-8", "replace")
        return cls(values.tolist(), codes.reshape(-1))


class Table(NamedTuple):
    """What a reader of one file format found."""

    x: np.ndarray  # (N, ...)
    labels: Labels | np.ndarray | None  # an array for targets (N, J) only
    place: Callable[[int], str]  # names a row in an error
    feature_names: tuple[str, ...] | None = None


def check_finite(table: Table) -> None:
    """Raise DataError at the first feature that is no finite number."""
    x = table.x
    for rows in chunks(x) if x.dtype.kind == "f" else ():
        good = np.isfinite(x[rows]).reshape(len(x[rows]), -1)
        if not good.all():
            row, column = (int(i) for i in np.argwhere(~good)[0])
            value = x[rows].reshape(len(good), -1)[row, column]
            name = f" ({table.feature_names[column]!r})" if table.feature_names else ""
            msg = f"{table.place(rows.start + row)}, feature {column}{name}: "
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
    """Return the column that holds the labels, by name, by position or (``"auto"``) by custom."""
    if label == "auto":
        lower = [n.strip().lower() for n in names or ()]
        named = [lower.index(n) for n in LABEL_NAMES if n in lower]
        return named[0] if named else width - 1
    if names and label in names:
        if list(names).count(str(label)) > 1:
            msg = f"{path}: line 1: several columns are named {label!r}; name it by its position"
            raise DataError(msg)
        return list(names).index(str(label))
    try:
        column = int(label)
    except ValueError:
        known = ", ".join(map(repr, (names or ())[:8])) + (", ..." if len(names or ()) > 8 else "")
        msg = f"{path}: no column {label!r}; " + (
            f"it has {known}" if names else "it has no header"
        )
        raise DataError(msg) from None
    if not -width <= column < width:
        msg = f"{path}: no column {column}; its {width} columns are 0 to {width - 1}"
        raise DataError(msg)
    return column % width


def encode(
    labels: Labels, classes: Sequence[str] | None, place: Callable[[int], str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return class indices int32 (N,) and the names of the classes.

    Classes are sorted: as numbers where all labels are whole numbers, else as texts. With known
    ``classes`` a label is looked up among them. Raises DataError at the first row whose label is
    empty, unknown or a fraction.
    """
    raw = [v.strip() if isinstance(v, str) else str(v) for v in labels.values]
    numbers = [number(v) for v in labels.values]
    numeric = all(n is not None for n in numbers)

    def fail(bad: list[bool], problem: str) -> None:
        rows = np.asarray(bad, bool)[labels.codes]
        if rows.any():
            row = int(rows.argmax())
            msg = f"{place(row)}: label {_shown(raw[labels.codes[row]])} {problem}"
            raise DataError(msg)

    fail([v == "" or v.lower() == "nan" for v in raw], "is missing")
    names = raw
    if numeric:
        whole = [math.isfinite(n) and n == int(n) for n in numbers if n is not None]
        fail([not w for w in whole], 'is not a whole number; for a regression, task="regression"')
        names = [_integer(v) for v in labels.values]
    if classes is None:
        classes = sorted(set(names), key=int if numeric else str)
    index = {name: k for k, name in enumerate(classes)}
    codes = [index.get(a, index.get(b, -1)) for a, b in zip(raw, names, strict=True)]
    known = ", ".join(map(_shown, classes[:10])) + (", ..." if len(classes) > 10 else "")
    fail([c < 0 for c in codes], f"is not among the {len(classes)} known classes ({known})")
    return np.asarray(codes, np.int32)[labels.codes], tuple(classes)


def _shown(value: Any) -> str:
    """Return ``value`` as a message can hold it: short and on one line."""
    return repr(str(value)[:40])


def _integer(value: Any) -> str:
    try:
        return str(int(value))
    except ValueError:  # a text such as "3.0"
        return str(int(float(value)))


def targets(labels: Labels | np.ndarray, place: Callable[[int], str]) -> np.ndarray:
    """Return regression targets, float64 (N,) or (N, J); DataError names the first bad row."""
    if isinstance(labels, Labels):
        numbers = [number(v) for v in labels.values]
        values = np.asarray([np.nan if n is None else n for n in numbers])[labels.codes]
    elif labels.dtype.kind in "fiub":
        values = labels.astype(np.float64)
    else:
        msg = f"{place(0)}: targets of a regression must be numbers; got {labels.dtype}"
        raise DataError(msg)
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        shown = labels.values[labels.codes[row]] if isinstance(labels, Labels) else values[row]
        msg = f"{place(row)}: target {_shown(shown)} is not a finite number"
        raise DataError(msg)
    return values

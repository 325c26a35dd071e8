"""What the labels of a table are for: classes, the targets of a regression, or several labels.

It is decided here for all formats, by what the labels are.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from xpnet.data.columns import Columns, listed
from xpnet.data.labels import DROP, REGRESSION, Labels, Table, encode, targets
from xpnet.data.wanted import Task
from xpnet.errors import DataError

__all__ = ["Outcomes", "outcomes", "task_of_values"]

MANY = 20  # more whole numbers than these may be regression targets


class Outcomes(NamedTuple):
    """What a model learns to predict."""

    y: np.ndarray  # int32 (N,) classes, or float64 (N,) or (N, J)
    classes: tuple[str, ...] | None
    targets: tuple[str, ...] | None  # the names of J columns
    task: Task
    notes: tuple[str, ...] = ()  # what was guessed, in words


def outcomes(table: Table, task: Task | Literal["auto"], classes: Sequence[str] | None) -> Outcomes:
    """Return the labels of a table as what they are, or as the ``task`` says.

    ``classes`` are those of a trained model, among which labels are looked up. Raises DataError
    that names the first row whose label does not fit.
    """
    labels, location, columns = table.labels, table.location, table.columns
    assert labels is not None
    task, note = _task_of(table, classes) if task == "auto" else (task, "")
    notes = (note,) if note else ()
    if not isinstance(labels, Labels) and labels.ndim > 1:
        return _of_several(labels, task, classes, table)
    if task == "regression":
        return Outcomes(targets(labels, location), None, None, task, notes)
    if task == "multilabel":
        msg = f"{location(0)}: there is one label; multilabel takes several columns of 0 and 1"
        raise DataError(msg, python="label=[...]", command="--label A --label B")
    labels = labels if isinstance(labels, Labels) else Labels.of(labels)
    if classes is None:
        _check_guess(labels, table)
    y, names = encode(labels, classes, location, columns)
    return Outcomes(y, names, None, task, notes)


def _check_guess(labels: Labels, table: Table) -> None:
    """Refuse a column of varied texts that is taken for the label because it is the last one."""
    columns, rows, count = table.columns, len(labels.codes), len(labels.values)
    texts = any(isinstance(v, str) for v in labels.values)
    if (
        columns
        and columns.guess
        and columns.label is not None
        and texts
        and count > max(MANY, rows / 2)
    ):
        msg = f"{table.location(0)}: {columns.shown(columns.label)!r} is taken for the label, "
        msg += f"{columns.guess}, but its {count:,} texts in {rows:,} rows are too many classes"
        raise DataError(msg, python="label=... names another", command="--label names another")


def _task_of(table: Table, classes: Sequence[str] | None) -> tuple[Task, str]:
    """Return what labels are by themselves, and what is to be said where that is a guess.

    Several columns of 0 and 1 are a one-hot class, or labels of which any number may be true; for
    one column see :func:`task_of_values`.
    """
    labels, columns = table.labels, table.columns
    if classes is not None:
        return "classification", ""
    if isinstance(labels, np.ndarray) and labels.ndim > 1:
        return _task_of_several(labels, columns)
    if isinstance(labels, np.ndarray):
        labels = Labels.of(labels)
    assert labels is not None
    return task_of_values(labels.values, columns, images=table.x.ndim > 2)


def task_of_values(
    values: Sequence[Any], columns: Columns | None, *, images: bool = False
) -> tuple[Task, str]:
    """Return what labels of these values are, and a question to the user where that is a guess.

    Texts and booleans are classes, numbers with fractions are regression targets. Whole numbers are
    classes if they are few, or labels of images.
    """
    values = [v for v in values if not (v is None or v != v)]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return "classification", ""
    if any(math.isfinite(v) and v != int(v) for v in values):
        return "regression", ""
    if len(values) <= MANY or images:
        return "classification", ""
    name = columns.shown(columns.label) if columns and columns.label is not None else "they"
    question = (
        f"label: {name} ({len(values):,} whole numbers, {min(values):g} to {max(values):g}) is "
        "taken for a regression; are they classes? --task classification"
    )
    return "regression", question


def _task_of_several(labels: np.ndarray, columns: Columns | None) -> tuple[Task, str]:
    if not _is_binary(labels):
        return "regression", ""
    names = listed([columns.shown(j) for j in columns.labels]) if columns else ""
    what = f"labels: {names}" if names else f"{labels.shape[1]} labels"
    if _is_one_hot(labels):
        return "classification", f"{what}: each row has one 1, so they are taken for classes"
    return "multilabel", f"{what}: columns of 0 and 1, any number of which may be 1 in a row"


def _is_binary(labels: np.ndarray) -> bool:
    return labels.dtype.kind in "buif" and bool(((labels == 0) | (labels == 1)).all())


def _is_one_hot(labels: np.ndarray) -> bool:
    return _is_binary(labels) and bool(((labels != 0).sum(axis=1) == 1).all())


def _of_several(
    labels: np.ndarray, task: Task, classes: Sequence[str] | None, table: Table
) -> Outcomes:
    """Return the outcomes of labels (N, J)."""
    columns, location, note = table.columns, table.location, _task_of_several(labels, table.columns)
    named = columns.labels if columns and columns.labels else range(labels.shape[1])
    shown = columns.shown if columns and columns.labels else str
    names = tuple(shown(j) for j in named)
    if task == "regression":
        return Outcomes(targets(labels, location), None, names, task)
    if not _is_binary(labels):
        row = 0
        if labels.dtype.kind in "buif":
            row = int(((labels != 0) & (labels != 1)).any(axis=1).argmax())
        if labels.dtype.kind == "f" and np.isnan(labels[row]).any():
            msg = f"{location(row)}: a label is missing"
            raise DataError(msg, **DROP)
        what = "class labels must be (N,), or (N, K) of 0 and 1"
        what = what if task == "classification" else "several labels must be 0 or 1"
        msg = f"{location(row)}: {what}; got {labels.shape} with {str(labels[row])[:40]}"
        raise DataError(msg, **REGRESSION)
    if task == "multilabel":
        return Outcomes(labels.astype(np.float64), None, names, task, (note[1],))
    ones = (labels != 0).sum(axis=1)
    if (ones != 1).any():
        row = int((ones != 1).argmax())
        msg = f"{location(row)}: class labels must be (N,), or (N, K) with one 1 in each row; "
        msg += f"got {ones[row]} of {labels.shape[1]}"
        raise DataError(msg, python='task="multilabel"', command="--task multilabel")
    if classes is not None and tuple(classes) != names:
        msg = f"{location(0)}: the labels are {listed(names)}; the classes of the run are "
        raise DataError(msg + listed(classes))
    y = labels.argmax(axis=1).astype(np.int32)
    return Outcomes(y, names, names, task, (note[1],))

"""Predictions as named columns: for CSV files, and for the tables of other libraries."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xpnet.run.preprocessing import Preprocessing

__all__ = ["answer_columns", "answer_names", "class_names"]


def answer_names(preprocessing: Preprocessing, outputs: int) -> list[str]:
    """Return the names of the columns that predictions with so many numbers a row are written in.

    For classes the class, and p_NAME, its probability, of each; for several labels p_NAME of each;
    for a regression the names of its targets, or value.
    """
    classes, targets = preprocessing.classes, preprocessing.targets
    if classes is not None:
        return ["class", *(f"p_{name}" for name in classes)]
    names: Sequence[str] = targets or [f"{j}" for j in range(outputs)]
    if preprocessing.task == "multilabel":
        return [f"p_{name}" for name in names]
    if outputs == 1:
        return ["value"]
    return list(names) if targets else [f"value_{name}" for name in names]


def class_names(classes: Sequence[str], rows: np.ndarray) -> list[str]:
    """Return the name of the most probable class of each row of probabilities (N, K)."""
    return [classes[k] for k in rows.argmax(axis=1)]


def answer_columns(preprocessing: Preprocessing, answers: np.ndarray) -> dict[str, Any]:
    """Return predictions (N, J) or (N,) as columns: the names of classes, and arrays (N,)."""
    rows = answers.reshape(len(answers), -1)
    columns: list[Any] = list(rows.T)
    if preprocessing.classes is not None:
        columns.insert(0, class_names(preprocessing.classes, rows))
    return dict(zip(answer_names(preprocessing, rows.shape[1]), columns, strict=True))

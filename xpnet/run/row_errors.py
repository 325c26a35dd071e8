"""The error of a run on each row, for comparisons on the same rows."""

from typing import Any

import numpy as np

from xpnet.data import Dataset
from xpnet.run.trained_run import Run
from xpnet.step import Batch
from xpnet.typing import Array

__all__ = ["row_errors"]


def row_errors(run: Run, dataset: Dataset) -> np.ndarray:
    """Return the error of each row, (N,), in their order; NaN for rows that the loss ignores.

    It is 0 or 1 for a class, the share of wrong labels of several, and for a regression the squared
    error over the variance of the target, meant over the targets: 1 - R² is its mean. Of a target
    that is constant it is the squared error.
    """
    preprocessing, backend = run.preprocessing, run.trainer.engine.backend
    ignored = getattr(run.trainer.loss, "ignore_label", None)
    found: list[np.ndarray] = []

    def to_host(array: Array) -> Any:
        return np.asarray(backend.to_host(array))

    def add(batch: Batch, output: Array, predicted: Array) -> None:
        if preprocessing.classes is not None:
            labels = to_host(batch.y).reshape(-1)
            ranked = preprocessing.ranked(to_host(output))
            wrong = (ranked.argmax(axis=1) != labels).astype(np.float64)
            wrong[(labels == ignored) | (labels < 0) | (labels >= ranked.shape[1])] = np.nan
            found.append(wrong)
            return
        targets, answers = (preprocessing.answers(to_host(a)) for a in (batch.y, predicted))
        y, values = (a.reshape(len(a), -1).astype(np.float64) for a in (targets, answers))
        labelled = preprocessing.task == "multilabel"
        errors = (y > 0.5) != (values > 0.5) if labelled else np.square(y - values)
        found.append(errors.astype(np.float64))

    run.trainer.score(preprocessing.loader(backend, dataset), add)
    errors = np.concatenate(found)
    if preprocessing.task == "regression" and dataset.y is not None:
        y = dataset.y.reshape(len(dataset), -1).astype(np.float64)
        spread = np.average(np.square(y - np.average(y, 0, dataset.weight)), 0, dataset.weight)
        errors = errors / np.where(spread > 0, spread, 1.0)
    return errors if errors.ndim == 1 else errors.mean(axis=1)

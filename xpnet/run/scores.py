"""The metrics of a run on labelled rows."""

import itertools
from typing import Any

import numpy as np

from xpnet.data import Dataset, StreamedDataset
from xpnet.data.metrics import ClassScores, LabelScores, RegressionScores
from xpnet.errors import DataError
from xpnet.run.trained_run import Run
from xpnet.step import Batch
from xpnet.typing import Array

__all__ = ["scores"]


def scores(
    run: Run, dataset: Dataset | StreamedDataset, top: int = 3, tally: Any = None
) -> dict[str, Any]:
    """Return loss and metrics of ``run`` on ``dataset`` as JSON data.

    For classes: accuracy, accuracy among the ``top`` (of more classes than that), precision, recall
    and F1 by class and their means, and the confusion matrix; without the rows that the loss
    ignores. For several labels: accuracy over all of them, the share of rows where all are right,
    precision, recall and F1 by label. For a regression: mse, mae and, of more rows than one, R², by
    target and their means. Rows count by their weights, if they have some.
    ``tally`` is given the numbers of the rows, labels, answers and weights of each batch.
    """
    preprocessing, trainer = run.preprocessing, run.trainer
    backend, classes = trainer.engine.backend, preprocessing.classes

    def to_host(array: Array | None) -> Any:
        return None if array is None else backend.to_host(array)

    if not dataset.labelled:
        msg = f"{dataset.name} has no labels to score against"
        raise DataError(msg)
    loader, seen = preprocessing.loader(backend, dataset), itertools.count()

    def rows_of(batch: Batch) -> np.ndarray:
        return np.fromiter(itertools.islice(seen, int(batch.x.shape[0])), np.int64)

    if classes is None:
        multilabel = preprocessing.task == "multilabel"
        values = LabelScores() if multilabel else RegressionScores()

        def add(batch: Batch, output: Array, predicted: Array) -> None:
            targets, answers = (preprocessing.answers(to_host(a)) for a in (batch.y, predicted))
            weight = _flat(to_host(batch.weight))
            values.add(targets, answers, weight)
            if tally is not None:
                margins = multilabel and not tally.probable
                found = to_host(output) if margins else answers
                tally.add(rows_of(batch), targets, found, weight)

        metrics = trainer.score(loader, add)
        names = preprocessing.targets or [str(j) for j in range(preprocessing.outputs)]
        several = {"targets": list(names)} if len(names) > 1 else {}
        return {"rows": len(dataset), "loss": metrics.loss, **values.result(), **several}
    counted, ignored = ClassScores(len(classes), top), getattr(trainer.loss, "ignore_label", None)

    def count(batch: Batch, output: Array, predicted: Array) -> None:
        labels, ranked = to_host(batch.y).reshape(-1), preprocessing.ranked(to_host(output))
        counts, weight = labels != ignored, _flat(to_host(batch.weight))
        weight = None if weight is None else weight[counts]
        counted.add(labels[counts], ranked[counts], weight)
        if tally is not None:
            p = preprocessing.answers(to_host(predicted)) if tally.probable else ranked
            tally.add(rows_of(batch)[counts], labels[counts], p[counts], weight)

    metrics = trainer.score(loader, count)
    found = {"rows": len(dataset), "loss": metrics.loss, **counted.result()}
    return {**found, "classes": list(classes)}


def _flat(weight: np.ndarray | None) -> np.ndarray | None:
    return None if weight is None else weight.reshape(-1)

"""The metrics of a run on labelled rows."""

from typing import Any

import numpy as np

from xpnet.data import Dataset, StreamedDataset
from xpnet.data.metrics import ClassScores, RegressionScores
from xpnet.errors import DataError
from xpnet.run.trained_run import Run

__all__ = ["scores"]


def scores(run: Run, dataset: Dataset | StreamedDataset, top: int = 3) -> dict[str, Any]:
    """Return loss and metrics of ``run`` on ``dataset`` as JSON data.

    For classes: accuracy, accuracy among the ``top`` (of more classes than that), precision, recall
    and F1 by class and their means, and the confusion matrix. For a regression: mse, mae and R².
    """
    preprocessing, trainer = run.preprocessing, run.trainer
    if not dataset.labelled:
        msg = f"{dataset.name} has no labels to score against"
        raise DataError(msg)
    classes = preprocessing.classes
    counted = RegressionScores() if classes is None else ClassScores(len(classes), top)

    def each(y: np.ndarray, predicted: np.ndarray) -> None:
        targets = preprocessing.answers(y) if classes is None else y.reshape(-1)
        counted.add(targets, preprocessing.answers(predicted))

    metrics = trainer.score(preprocessing.loader(trainer.engine.backend, dataset), each)
    result = {"rows": len(dataset), "loss": metrics.loss, **counted.result()}
    return result if classes is None else {**result, "classes": list(classes)}

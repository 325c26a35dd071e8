"""The metrics of a run on labelled rows."""

from typing import Any

from xpnet.data import Dataset, StreamedDataset
from xpnet.data.metrics import ClassScores, RegressionScores
from xpnet.errors import DataError
from xpnet.run.trained_run import Run
from xpnet.step import Batch
from xpnet.typing import Array

__all__ = ["scores"]


def scores(run: Run, dataset: Dataset | StreamedDataset, top: int = 3) -> dict[str, Any]:
    """Return loss and metrics of ``run`` on ``dataset`` as JSON data.

    For classes: accuracy, accuracy among the ``top`` (of more classes than that), precision, recall
    and F1 by class and their means, and the confusion matrix; without the rows that the loss
    ignores. For a regression: mse, mae and, of more rows than one, R², by target and their means.
    """
    preprocessing, trainer = run.preprocessing, run.trainer
    to_host, classes = trainer.engine.backend.to_host, preprocessing.classes
    if not dataset.labelled:
        msg = f"{dataset.name} has no labels to score against"
        raise DataError(msg)
    loader = preprocessing.loader(trainer.engine.backend, dataset)
    if classes is None:
        values = RegressionScores()

        def add(batch: Batch, output: Array, predicted: Array) -> None:
            targets, answers = (preprocessing.answers(to_host(a)) for a in (batch.y, predicted))
            values.add(targets, answers)

        metrics = trainer.score(loader, add)
        return {"rows": len(dataset), "loss": metrics.loss, **values.result()}
    counted, ignored = ClassScores(len(classes), top), getattr(trainer.loss, "ignore_label", None)

    def count(batch: Batch, output: Array, predicted: Array) -> None:
        labels, ranked = to_host(batch.y).reshape(-1), preprocessing.ranked(to_host(output))
        counts = labels != ignored
        counted.add(labels[counts], ranked[counts])

    metrics = trainer.score(loader, count)
    found = {"rows": len(dataset), "loss": metrics.loss, **counted.result()}
    return {**found, "classes": list(classes)}

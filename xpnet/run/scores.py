"""What a run is worth on labelled rows."""

from typing import Any

import numpy as np

from xpnet.data import Dataset
from xpnet.errors import DataError
from xpnet.metrics import class_scores, confusion_matrix, regression_scores, top_k_accuracy
from xpnet.run.folder import Run

__all__ = ["scores"]


def scores(run: Run, dataset: Dataset, top: int = 3) -> dict[str, Any]:
    """Return loss and metrics of ``run`` on ``dataset`` as JSON data.

    For classes: accuracy, accuracy among the ``top`` (of more classes than that), precision, recall
    and F1 by class and their means, and the confusion matrix. For a regression: mse, mae and R².
    """
    preparation, trainer = run.preparation, run.trainer
    if dataset.y is None:
        msg = f"{dataset.name} has no labels to compare with"
        raise DataError(msg)
    loss, _, out = trainer.evaluate(preparation.feed(trainer.engine.backend, dataset))
    result: dict[str, Any] = {"rows": len(dataset), "loss": loss}
    out = preparation.answers(out)
    if preparation.classes is None:
        return {**result, **regression_scores(dataset.y, out)}
    matrix = confusion_matrix(dataset.y, np.argmax(out, axis=1), len(preparation.classes))
    result.update(class_scores(matrix))
    if len(preparation.classes) > top:
        result[f"top_{top}_accuracy"] = top_k_accuracy(out, dataset.y, top)
    return {**result, "classes": list(preparation.classes), "confusion": matrix.tolist()}

"""Metrics of predictions, accumulated on the host batch by batch."""

from typing import Any

import numpy as np

from xpnet.data.running_stats import RunningStats

__all__ = ["ClassScores", "RegressionScores", "class_scores", "confusion_matrix", "top_k_correct"]


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Count the rows of class i (down) predicted as class j (across): (K, K) int64.

    Labels outside 0..K-1 (ignored ones) are not counted.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    array([[1, 0],
           [1, 1]])
    """
    valid = (labels >= 0) & (labels < n_classes)
    cells = labels[valid].astype(np.int64) * n_classes + predicted[valid]
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def class_scores(matrix: np.ndarray) -> dict[str, Any]:
    """Return precision, recall and F1 of each class, their unweighted means, and accuracy.

    precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN), or 0 if the
    denominator is 0. The unweighted means are named "macro".

    >>> class_scores(np.array([[1, 0], [1, 1]]))["recall"]
    [1.0, 0.5]
    """
    true = np.diag(matrix).astype(float)
    predicted, actual = matrix.sum(axis=0), matrix.sum(axis=1)
    precision, recall = _ratio(true, predicted), _ratio(true, actual)
    f1 = _ratio(2 * true, predicted + actual)
    return {
        "accuracy": float(true.sum() / max(matrix.sum(), 1)),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "macro_f1": float(f1.mean()),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "support": actual.tolist(),
    }


class ClassScores:
    """Classification scores, accumulated from batches of labels and probabilities.

    >>> scores = ClassScores(2)
    >>> scores.add(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]))
    >>> scores.result()["confusion"]
    [[1, 0], [1, 1]]
    """

    def __init__(self, n_classes: int, top: int = 3) -> None:
        self.top = top if n_classes > top else 0
        self._matrix = np.zeros((n_classes, n_classes), np.int64)
        self._top_correct = 0

    def add(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        """Count the rows of a batch: labels (N,), probabilities (N, K)."""
        predicted = np.argmax(probabilities, axis=1)
        self._matrix += confusion_matrix(labels, predicted, len(self._matrix))
        if self.top:
            self._top_correct += top_k_correct(probabilities, labels, self.top)

    def result(self) -> dict[str, Any]:
        """Return :func:`class_scores`, the ``top``-k accuracy and the confusion matrix."""
        result = class_scores(self._matrix)
        if self.top:
            result[f"top_{self.top}_accuracy"] = self._top_correct / max(int(self._matrix.sum()), 1)
        return {**result, "confusion": self._matrix.tolist()}


def top_k_correct(probabilities: np.ndarray, labels: np.ndarray, k: int) -> int:
    """Count the rows whose class is among the k most probable; ties count as correct.

    >>> top_k_correct(np.array([[0.5, 0.3, 0.2]]), np.array([1]), 2)
    1
    """
    valid = (labels >= 0) & (labels < probabilities.shape[1])
    p, rows = probabilities[valid], labels[valid]
    own = p[np.arange(len(p)), rows]
    return int(((p > own[:, None]).sum(axis=1) < k).sum())


class RegressionScores:
    """Mean squared and mean absolute error, and R² = 1 - Σ r² / Σ (y - mean y)², by batches.

    >>> scores = RegressionScores()
    >>> scores.add(np.array([0.0, 2.0]), np.array([0.0, 1.0]))
    >>> scores.result()
    {'mse': 0.5, 'mae': 0.5, 'r2': 0.5}
    """

    def __init__(self) -> None:
        self._targets, self._squares, self._magnitudes, self._count = RunningStats(), 0.0, 0.0, 0

    def add(self, targets: np.ndarray, values: np.ndarray) -> None:
        """Add a batch: targets and predicted values (N,) or (N, J)."""
        y = targets.reshape(values.shape).astype(np.float64)
        r = y - values
        self._targets.add(y)
        self._squares += float((r**2).sum())
        self._magnitudes += float(np.abs(r).sum())
        self._count += r.size

    def result(self) -> dict[str, float]:
        """Return the scores of all batches so far."""
        total, count = float(self._targets.squares.sum()), max(self._count, 1)
        r2 = 1.0 - self._squares / total if total else 0.0
        return {"mse": self._squares / count, "mae": self._magnitudes / count, "r2": r2}


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    zeros = np.zeros_like(numerator)
    return np.divide(numerator, denominator, out=zeros, where=denominator != 0)

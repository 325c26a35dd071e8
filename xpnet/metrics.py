"""What predictions are worth, computed on the host from whole arrays of them."""

from typing import Any

import numpy as np

__all__ = ["class_scores", "confusion_matrix", "regression_scores", "top_k_accuracy"]


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Count the rows of class i (down) predicted as class j (across): (K, K) int64.

    Labels outside 0..K-1 (ignored ones) are left out.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    array([[1, 0],
           [1, 1]])
    """
    valid = (labels >= 0) & (labels < n_classes)
    cells = labels[valid].astype(np.int64) * n_classes + predicted[valid]
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def class_scores(matrix: np.ndarray) -> dict[str, Any]:
    """Precision, recall and F1 of each class, their unweighted means ("macro"), and accuracy.

    precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN); 0 where a
    denominator is 0.

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


def top_k_accuracy(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The share of rows whose class has fewer than k classes above it; ties count for the row.

    >>> top_k_accuracy(np.array([[0.5, 0.3, 0.2]]), np.array([1]), 2)
    1.0
    """
    valid = (labels >= 0) & (labels < probabilities.shape[1])
    p, rows = probabilities[valid], labels[valid]
    own = p[np.arange(len(p)), rows]
    return float(np.mean((p > own[:, None]).sum(axis=1) < k)) if len(p) else 0.0


def regression_scores(targets: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Mean squared and mean absolute error, and R² = 1 - Σ r² / Σ (y - mean y)².

    >>> regression_scores(np.array([0.0, 2.0]), np.array([0.0, 1.0]))
    {'mse': 0.5, 'mae': 0.5, 'r2': 0.5}
    """
    y = targets.reshape(values.shape).astype(np.float64)
    r = y - values
    spread = ((y - y.mean(axis=0)) ** 2).sum()
    r2 = 1.0 - (r**2).sum() / spread if spread else 0.0
    return {"mse": float((r**2).mean()), "mae": float(np.abs(r).mean()), "r2": float(r2)}


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.zeros_like(over), where=under != 0)

"""Metrics of predictions, accumulated on the host batch by batch.

Each is scikit-learn's of that name for the same rows and sample weights (``zero_division=0``):
accuracy, precision, recall, F1 and top-k accuracy of classes; the mean squared and mean absolute
error and R² of targets. A test holds them to it.
"""

import math
from typing import Any

import numpy as np

from xpnet.data.running_stats import RunningStats

__all__ = [
    "ClassScores",
    "LabelScores",
    "RegressionScores",
    "among_top",
    "class_scores",
    "confusion_matrix",
]


def confusion_matrix(
    labels: np.ndarray, predicted: np.ndarray, n_classes: int, weight: np.ndarray | None = None
) -> np.ndarray:
    """Count the rows of class i (down) predicted as class j (across): (K, K) int64.

    With weights (N,), add those up instead: float64. Labels outside 0..K-1 are not counted.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    array([[1, 0],
           [1, 1]])
    """
    valid = _valid(labels, n_classes)
    cells = labels[valid].astype(np.int64) * n_classes + predicted[valid]
    weight = None if weight is None else weight[valid]
    return np.bincount(cells, weight, n_classes**2).reshape(n_classes, n_classes)


def class_scores(matrix: np.ndarray, present: np.ndarray | None = None) -> dict[str, Any]:
    """Return precision, recall and F1 of each class, their unweighted means, and accuracy.

    precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN), or 0 if the
    denominator is 0. The means are named "macro", and are over the classes that are ``present``
    (K,), which are those that occur as a label or as a prediction; the others are nobody's mistake.

    >>> scores = class_scores(np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]]))
    >>> scores["recall"], scores["macro_recall"]
    ([1.0, 0.5, 0.0], 0.75)
    """
    true = np.diag(matrix).astype(float)
    predicted, actual = matrix.sum(axis=0), matrix.sum(axis=1)
    present = predicted + actual > 0 if present is None else present
    by_class = {
        "precision": _ratio(true, predicted),
        "recall": _ratio(true, actual),
        "f1": _ratio(2 * true, predicted + actual),
    }
    means = {k: float(_ratio(v[present].sum(), present.sum())) for k, v in by_class.items()}
    return {
        "accuracy": float(_ratio(true.sum(), matrix.sum())),
        **{f"macro_{k}": v for k, v in means.items()},
        **{k: v.tolist() for k, v in by_class.items()},
        "support": actual.tolist(),
    }


class ClassScores:
    """Classification scores, accumulated from batches of labels and scores of the classes.

    The scores of a row are what its classes are ranked by, best logits: probabilities that have
    been rounded to 0 or 1 have no order. The predicted class is the first of the largest.

    >>> scores = ClassScores(2)
    >>> scores.add(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]))
    >>> scores.result()["confusion"]
    [[1, 0], [1, 1]]
    """

    def __init__(self, n_classes: int, top: int = 3) -> None:
        self.top = top if n_classes > top else 0
        self._matrix = np.zeros((n_classes, n_classes), np.int64)
        self._present = np.zeros(n_classes, bool)
        self._top_correct = 0.0

    def add(self, labels: np.ndarray, ranked: np.ndarray, weight: np.ndarray | None = None) -> None:
        """Count a batch: labels (N,), scores (N, K) and sample weights (N,).

        Rows with labels outside 0..K-1 are not counted.
        """
        valid = _valid(labels, len(self._matrix))
        labels, ranked = labels[valid].astype(np.int64), ranked[valid]
        weight = None if weight is None else weight[valid]
        predicted = np.argmax(ranked, axis=1)
        self._present[labels] = self._present[predicted] = True
        self._matrix = self._matrix + confusion_matrix(labels, predicted, len(self._matrix), weight)
        if self.top:
            correct = among_top(ranked, labels, self.top)
            self._top_correct += float(correct.sum() if weight is None else correct @ weight)

    def result(self) -> dict[str, Any]:
        """Return :func:`class_scores`, the ``top``-k accuracy and the confusion matrix."""
        result = class_scores(self._matrix, self._present)
        if self.top:
            share = _ratio(self._top_correct, self._matrix.sum())
            result[f"top_{self.top}_accuracy"] = float(share)
        return {**result, "confusion": self._matrix.tolist()}


def _valid(labels: np.ndarray, n_classes: int) -> np.ndarray:
    return (labels >= 0) & (labels < n_classes)


def among_top(ranked: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Say of each row (N,) whether its label is among the k classes of the largest scores (N, K).

    Of equal scores that of the later class is the larger, as in scikit-learn: k classes are among
    the top k, not more.

    >>> among_top(np.array([[0.5, 0.3, 0.2], [1.0, 1.0, 1.0]]), np.array([1, 0]), 2)
    array([ True, False])
    """
    own = np.take_along_axis(ranked, labels[:, None], axis=1)
    later = np.arange(ranked.shape[1]) > labels[:, None]
    return ((ranked > own) | ((ranked == own) & later)).sum(axis=1) < k


class LabelScores:
    """Scores of several labels, each yes or no, accumulated from targets and probabilities (N, J).

    A label is predicted where its probability is above 1/2. ``accuracy`` is over all labels,
    ``exact`` the share of the rows of which every label is right (scikit-learn's accuracy of
    multilabel targets).

    >>> scores = LabelScores()
    >>> scores.add(np.array([[1, 0], [1, 1]]), np.array([[0.9, 0.2], [0.8, 0.4]]))
    >>> result = scores.result()
    >>> result["accuracy"], result["exact"], result["by_target"]["f1"]
    (0.75, 0.5, [1.0, 0.0])
    """

    def __init__(self) -> None:
        self._counts: Any = 0.0  # (4, J): predicted rightly, predicted, true, and rightly denied
        self._exact = self._rows = 0.0

    def add(
        self, targets: np.ndarray, values: np.ndarray, weight: np.ndarray | None = None
    ) -> None:
        """Add a batch: targets and probabilities (N, J), and sample weights (N,)."""
        true, yes = targets > 0.5, values > 0.5
        weight = np.ones(len(true)) if weight is None else weight.reshape(-1)
        self._counts = self._counts + np.stack(
            [weight @ f.astype(np.float64) for f in (true & yes, yes, true, ~true & ~yes)]
        )
        self._exact += float(weight @ (true == yes).all(axis=1))
        self._rows += float(weight.sum())

    def result(self) -> dict[str, Any]:
        """Return the scores of all batches so far."""
        hits, predicted, actual, denied = self._counts
        by_target = {
            "accuracy": _ratio(hits + denied, np.full(len(hits), self._rows)),
            "precision": _ratio(hits, predicted),
            "recall": _ratio(hits, actual),
            "f1": _ratio(2 * hits, predicted + actual),
        }
        return {
            "accuracy": float(by_target["accuracy"].mean()),
            "exact": float(_ratio(self._exact, self._rows)),
            "macro_f1": float(by_target["f1"].mean()),
            "by_target": {name: each.tolist() for name, each in by_target.items()},
        }


class RegressionScores:
    """Mean squared and mean absolute error, and R² = 1 - Σ r² / Σ (y - mean y)², by batches.

    Each is the mean of those of the J targets, which ``by_target`` has if there are several. R² of
    a target that is constant is 1 if all predictions are exact, else 0. A single row has none.

    >>> scores = RegressionScores()
    >>> scores.add(np.array([0.0, 2.0]), np.array([0.0, 1.0]))
    >>> scores.result()
    {'mse': 0.5, 'mae': 0.5, 'r2': 0.5}
    """

    def __init__(self) -> None:
        self._rows = 0
        self._targets, self._squares, self._sizes = RunningStats(), RunningStats(), RunningStats()

    def add(
        self, targets: np.ndarray, values: np.ndarray, weight: np.ndarray | None = None
    ) -> None:
        """Add a batch: targets and predicted values (N,) or (N, J), and sample weights (N,)."""
        y = targets.reshape(len(targets), math.prod(targets.shape[1:])).astype(np.float64)
        r = y - values.reshape(y.shape)
        self._rows += len(y)
        if weight is not None:  # a row that does not count makes no target vary
            y, r, weight = y[weight > 0], r[weight > 0], weight[weight > 0]
        self._targets.add(y, weight)
        self._squares.add(r * r, weight)
        self._sizes.add(np.abs(r), weight)

    def result(self) -> dict[str, Any]:
        """Return the scores of all batches so far."""
        squares, targets = self._squares, self._targets
        total = np.where(targets.low == targets.high, 0.0, targets.squares)
        # Of a constant target, what is left over by rounding is not its variance.
        exact = (squares.high == 0).astype(float)
        unexplained = _ratio(squares.mean * squares.count, total)
        r2 = np.where(total == 0, exact, 1.0 - unexplained)
        by_target = {"mse": squares.mean, "mae": self._sizes.mean}
        if self._rows > 1:
            by_target["r2"] = r2
        result: dict[str, Any] = {name: float(np.mean(each)) for name, each in by_target.items()}
        if r2.size > 1:
            result["by_target"] = {name: each.tolist() for name, each in by_target.items()}
        return result


def _ratio(numerator: Any, denominator: Any) -> np.ndarray:
    zeros = np.zeros(np.shape(numerator))
    return np.divide(numerator, denominator, out=zeros, where=np.asarray(denominator) != 0)
